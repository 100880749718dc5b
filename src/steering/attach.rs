//! Attaching the programs to interfaces, and knowing where they are.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError,
};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;

use super::SteeringError;

/// Of the clsact filters of an interface, ours is asked first.
const CLSACT_PRIORITY: u16 = 1;

/// How programs hang on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// A tcx link (Linux 6.6): gone when its last descriptor is closed, however that happens.
    Tcx,
    /// A filter of the `clsact` qdisc: stays until it is deleted or the interface is. The qdisc
    /// itself is left in place on detaching, for others may use it.
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

impl std::fmt::Display for AttachMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub if_index: u32,
    /// The program's name, as `bpftool net` shows it.
    pub program: &'static str,
    /// How it is attached.
    pub mode: AttachMode,
}

/// The programs of `steering.bpf.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    Container,
    Uplink,
    Loopback,
    Tun,
}

impl Program {
    pub(super) const ALL: [Self; 4] = [Self::Container, Self::Uplink, Self::Loopback, Self::Tun];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Container => "tb_container",
            Self::Uplink => "tb_uplink",
            Self::Loopback => "tb_loopback",
            Self::Tun => "tb_tun",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Loopback => TcAttachType::Egress,
            Self::Container | Self::Uplink | Self::Tun => TcAttachType::Ingress,
        }
    }
}

/// Every attachment of one loaded object. Dropping a link detaches it.
#[derive(Debug)]
pub(super) struct Links {
    mode: AttachMode,
    links: BTreeMap<(u32, Program), SchedClassifierLink>,
}

impl Links {
    pub(super) const fn new(mode: AttachMode) -> Self {
        Self {
            mode,
            links: BTreeMap::new(),
        }
    }

    /// Attaches `program` to `if_index`, once.
    pub(super) fn attach(
        &mut self,
        object: &mut Ebpf,
        program: Program,
        if_index: u32,
    ) -> Result<(), SteeringError> {
        if self.links.contains_key(&(if_index, program)) {
            return Ok(());
        }
        // aya attaches by name. The name is looked up anew each time: interfaces are renamed.
        let name = interface_name(if_index)?;
        let link = link(program.of(object)?, program, &name, self.mode).map_err(|source| {
            SteeringError::Attach {
                program: program.name(),
                if_index,
                source: Box::new(source),
            }
        })?;
        self.links.insert((if_index, program), link);
        Ok(())
    }

    /// Detaches `program` from `if_index`, if it is attached.
    pub(super) fn detach(&mut self, program: Program, if_index: u32) {
        self.links.remove(&(if_index, program));
    }

    pub(super) fn list(&self) -> Vec<Attachment> {
        self.links
            .keys()
            .map(|&(if_index, program)| Attachment {
                if_index,
                program: program.name(),
                mode: self.mode,
            })
            .collect()
    }
}

fn interface_name(if_index: u32) -> Result<String, SteeringError> {
    nix::net::if_::if_indextoname(if_index)
        .ok()
        .and_then(|name| name.into_string().ok())
        // nix takes the null pointer that says "no such index" for success.
        .filter(|name| !name.is_empty())
        .ok_or(SteeringError::NoSuchInterface(if_index))
}

/// Attaches in front of everybody else, so that no other program's verdict hides a packet.
fn link(
    classifier: &mut SchedClassifier,
    program: Program,
    interface: &str,
    mode: AttachMode,
) -> Result<SchedClassifierLink, ProgramError> {
    let options = match mode {
        AttachMode::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        AttachMode::Clsact => {
            prepare_clsact(interface, program)?;
            TcAttachOptions::Netlink(NlOptions {
                priority: CLSACT_PRIORITY,
                ..NlOptions::default()
            })
        }
    };
    let id = classifier.attach_with_options(interface, program.direction(), options)?;
    classifier.take_link(id)
}

/// Makes sure of the qdisc, and removes filters that a killed predecessor left behind: they would
/// still divert packets into a TUN that is gone.
fn prepare_clsact(interface: &str, program: Program) -> Result<(), TcError> {
    match tc::qdisc_add_clsact(interface) {
        Err(error) if !is_existing(&error) => return Err(error),
        _ => {}
    }
    match tc::qdisc_detach_program(interface, program.direction(), program.name()) {
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
