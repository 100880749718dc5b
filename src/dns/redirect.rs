//! The eBPF program on a container's `lo` that lets the resolver listen at another port than 53.
//!
//! The port is a constant of the program. All containers use the same port as long as it is free
//! there, so one loaded program serves them all; a container where it is taken gets a copy of its
//! own, which lives as long as it is attached.
//!
//! It is a filter of the `clsact` qdisc, so it stays when the daemon is killed. That hurts nobody: it is on a `lo` that
//! only the container has, it leads to a port where nobody listens, so a query is refused as it would be without it, and
//! the next daemon replaces it. A tcx link would go with the daemon, but costs 15 ms to attach where clsact costs
//! less than 1 ms: the kernel waits for its readers.

use std::io;

use aya::programs::tc::{self, NlOptions, TcAttachOptions, TcAttachType, TcError};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use parking_lot::Mutex;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// As `bpftool net` shows it.
const PROGRAM: &str = "tb_dns_redirect";

/// Every network namespace's `lo` has this index, whatever its name.
const LOOPBACK_INDEX: u32 = 1;

/// Of the filters of `lo`, ours is asked first.
const PRIORITY: u16 = 1;

/// Why the program is not on `lo`.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The kernel refuses the program.
    #[error("cannot load the program that redirects DNS")]
    Load(#[source] Box<EbpfError>),
    /// The namespace has no loopback interface.
    #[error("no loopback interface")]
    NoLoopback,
    /// The kernel refuses to attach it.
    #[error("cannot attach the program that redirects DNS to the loopback interface")]
    Attach(#[source] Box<ProgramError>),
    /// The kernel refuses to let it go.
    #[error("cannot detach the program that redirects DNS from the loopback interface")]
    Detach(#[source] Box<TcError>),
}

/// Loads the program when it is first needed, and attaches it.
#[derive(Debug, Default)]
pub(super) struct Redirect {
    shared: Mutex<Option<(u16, Ebpf)>>,
}

impl Redirect {
    /// The port that costs nothing to redirect to; `None` before the first container.
    pub(super) fn shared_port(&self) -> Option<u16> {
        self.shared.lock().as_ref().map(|&(port, _)| port)
    }

    /// Redirects 127.0.0.11:53 to `port` in the calling thread's network namespace, and no longer to where a
    /// resolver before this one was.
    pub(super) fn attach(&self, port: u16) -> Result<(), RedirectError> {
        let lo = loopback()?;
        let mut shared = self.shared.lock();
        match &mut *shared {
            Some((shared_port, object)) if *shared_port == port => attach(object, &lo),
            Some(_) => attach(&mut load(port)?, &lo),
            none => {
                let (_, object) = none.insert((port, load(port)?));
                attach(object, &lo)
            }
        }
    }
}

/// Takes the program off the `lo` of the calling thread's network namespace.
pub(super) fn detach() -> Result<(), RedirectError> {
    remove_filter(&loopback()?).map_err(|error| RedirectError::Detach(Box::new(error)))
}

fn loopback() -> Result<String, RedirectError> {
    nix::net::if_::if_indextoname(LOOPBACK_INDEX)
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .ok_or(RedirectError::NoLoopback)
}

fn attach(object: &mut Ebpf, lo: &str) -> Result<(), RedirectError> {
    let mut attach = || {
        match tc::qdisc_add_clsact(lo) {
            Err(error) if !is_existing(&error) => return Err(error.into()),
            _ => {}
        }
        remove_filter(lo)?;
        let program = classifier(object)?;
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            ..NlOptions::default()
        });
        let id = program.attach_with_options(lo, TcAttachType::Egress, options)?;
        // Dropped, it would detach from the `lo` of the namespace that the thread happens to be in.
        std::mem::forget(program.take_link(id)?);
        Ok(())
    };
    attach().map_err(|error: ProgramError| RedirectError::Attach(Box::new(error)))
}

fn load(port: u16) -> Result<Ebpf, RedirectError> {
    let fail = |error| RedirectError::Load(Box::new(error));
    let mut object = EbpfLoader::new()
        .override_global("port", &port.to_be(), true)
        .load(OBJECT)
        .map_err(fail)?;
    classifier(&mut object)
        .and_then(SchedClassifier::load)
        .map_err(|error| fail(EbpfError::ProgramError(error)))?;
    Ok(object)
}

fn classifier(object: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    object
        .program_mut(PROGRAM)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// Removes the filter, whoever attached it.
fn remove_filter(lo: &str) -> Result<(), TcError> {
    match tc::qdisc_detach_program(lo, TcAttachType::Egress, PROGRAM) {
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_existing(error: &TcError) -> bool {
    if let TcError::NetlinkError(error) = error {
        return error.raw_os_error() == Some(libc::EEXIST);
    }
    matches!(error, TcError::AlreadyAttached)
}
