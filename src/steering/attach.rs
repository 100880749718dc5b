//! Attaching the programs to interfaces, and knowing where they are.
//!
//! The kernel waits for its readers whenever a tcx link comes or goes: 14 ms each, one after the other, also when
//! a process ends that has many. So tcx is for the few interfaces of the host, where a filter that outlives the daemon
//! would divert the host's packets to nobody. Containers' interfaces have clsact filters: what one that is left
//! diverts, nobody could have carried anyway, and its container stays as separated from others as it was. The next
//! daemon puts its own program in the old one's place, so that no frame passes in between.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;

use super::SteeringError;

/// Of the clsact filters of an interface, ours is asked first.
const CLSACT_PRIORITY: u16 = 1;

/// The handle by which the next daemon finds the filter: "tb".
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x7462);

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

    /// How it is attached where `best` is what the kernel has.
    const fn mode(self, best: AttachMode) -> AttachMode {
        match self {
            Self::Container => AttachMode::Clsact,
            Self::Uplink | Self::Loopback | Self::Tun => best,
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
        let classifier = program.of(object)?;
        let link = match program.mode(self.mode) {
            AttachMode::Tcx => tcx(classifier, program, &name),
            AttachMode::Clsact => clsact(classifier, program, &name),
        };
        let link = link.map_err(|source| SteeringError::Attach {
            program: program.name(),
            if_index,
            source: Box::new(source),
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
                mode: program.mode(self.mode),
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
fn tcx(
    classifier: &mut SchedClassifier,
    program: Program,
    interface: &str,
) -> Result<SchedClassifierLink, ProgramError> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = classifier.attach_with_options(interface, program.direction(), first)?;
    classifier.take_link(id)
}

/// The same as a filter, in the place of one that a predecessor left: that would still divert packets into a
/// TUN that is gone.
fn clsact(
    classifier: &mut SchedClassifier,
    program: Program,
    interface: &str,
) -> Result<SchedClassifierLink, ProgramError> {
    let direction = program.direction();
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(error) if is_existing(&error) => {
            let left = SchedClassifierLink::attached(
                interface,
                direction,
                CLSACT_PRIORITY,
                CLSACT_HANDLE,
                None,
            );
            let replaced = left.map_err(|error| TcError::from(error).into());
            if let Ok(id) = replaced.and_then(|left| classifier.attach_to_link(left)) {
                return classifier.take_link(id);
            }
        }
        Err(error) => return Err(error.into()),
    }
    let filter = TcAttachOptions::Netlink(NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        ..NlOptions::default()
    });
    let id = classifier.attach_with_options(interface, direction, filter)?;
    classifier.take_link(id)
}

fn is_existing(error: &TcError) -> bool {
    if let TcError::NetlinkError(error) = error {
        return error.raw_os_error() == Some(libc::EEXIST);
    }
    matches!(error, TcError::AlreadyAttached)
}
