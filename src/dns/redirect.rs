//! The eBPF program on a container's `lo` that lets the resolver listen at another port than 53.
//!
//! The port is a constant of the program. All containers use the same port as long as it is free
//! there, so one loaded program serves them all; a container where it is taken gets a copy of its
//! own, which lives as long as it is attached.

use std::io;

use aya::programs::links::LinkOrder;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError,
};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};
use parking_lot::Mutex;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// As `bpftool net` shows it.
const PROGRAM: &str = "tb_dns_redirect";

/// Every network namespace's `lo` has this index, whatever its name.
const LOOPBACK_INDEX: u32 = 1;

/// Of the clsact filters of `lo`, ours is asked first.
const CLSACT_PRIORITY: u16 = 1;

/// How a program hangs on `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// A tcx link (Linux 6.6): gone when its last descriptor is closed, however that happens.
    Tcx,
    /// A filter of the `clsact` qdisc: stays until the next one replaces it, or the namespace goes.
    /// Without a resolver behind it, it changes nothing that would have been answered.
    Clsact,
}

impl AttachMode {
    /// The better one that the running kernel has.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }
}

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
}

/// Loads the program when it is first needed, and attaches it.
#[derive(Debug)]
pub(super) struct Redirect {
    mode: AttachMode,
    shared: Mutex<Option<(u16, Ebpf)>>,
}

/// The program on one `lo`. Dropping it takes a tcx link away.
#[derive(Debug)]
pub(super) struct Redirection {
    link: Option<SchedClassifierLink>,
    mode: AttachMode,
}

impl Redirect {
    pub(super) const fn new(mode: AttachMode) -> Self {
        Self {
            mode,
            shared: Mutex::new(None),
        }
    }

    /// The port that costs nothing to redirect to; `None` before the first container.
    pub(super) fn shared_port(&self) -> Option<u16> {
        self.shared.lock().as_ref().map(|&(port, _)| port)
    }

    /// Redirects 127.0.0.11:53 to `port` in the calling thread's network namespace.
    pub(super) fn attach(&self, port: u16) -> Result<Redirection, RedirectError> {
        let lo = nix::net::if_::if_indextoname(LOOPBACK_INDEX)
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty())
            .ok_or(RedirectError::NoLoopback)?;
        let mut shared = self.shared.lock();
        let link = match &mut *shared {
            Some((shared_port, object)) if *shared_port == port => self.link(object, &lo)?,
            Some(_) => self.link(&mut load(port)?, &lo)?,
            none => {
                let (_, object) = none.insert((port, load(port)?));
                self.link(object, &lo)?
            }
        };
        Ok(Redirection {
            link: Some(link),
            mode: self.mode,
        })
    }

    fn link(&self, object: &mut Ebpf, lo: &str) -> Result<SchedClassifierLink, RedirectError> {
        let mut attach = || {
            let options = match self.mode {
                AttachMode::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
                AttachMode::Clsact => {
                    prepare_clsact(lo)?;
                    TcAttachOptions::Netlink(NlOptions {
                        priority: CLSACT_PRIORITY,
                        ..NlOptions::default()
                    })
                }
            };
            let program = classifier(object)?;
            let id = program.attach_with_options(lo, TcAttachType::Egress, options)?;
            program.take_link(id)
        };
        attach().map_err(|error| RedirectError::Attach(Box::new(error)))
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        if self.mode == AttachMode::Clsact {
            // aya would detach from the `lo` of the namespace that this thread happens to be in.
            std::mem::forget(self.link.take());
        }
    }
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

/// Makes sure of the qdisc, and removes the filter of a resolver before this one.
fn prepare_clsact(lo: &str) -> Result<(), TcError> {
    match tc::qdisc_add_clsact(lo) {
        Err(error) if !is_existing(&error) => return Err(error),
        _ => {}
    }
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
