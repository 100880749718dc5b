//! # Steering: which packets go to the forwarder, and where its packets go
//!
//! Four tc eBPF programs (`steering.bpf.c`) take packets out of the kernel's path and put them
//! back. They replace what others do with netfilter rules and policy routing, so neither a flushed
//! rule set, nor a FORWARD chain that drops, nor `ip_forward=0` reaches the containers' traffic.
//!
//! ```text
//!  container A ── veth ─► tb_container ─┬─ to a neighbour ──────────────► container B
//!                                       ├─ spoofed, tagged, as a router,
//!                                       │  or off an internal network ──► dropped, counted
//!                                       ├─ to a plain host port, ARP ───► bridge, kernel
//!                                       └─ the rest ──┐
//!  outside ── uplink ───► tb_uplink ──── ours ────────┤
//!  host process ── lo ──► tb_loopback ── published ───┤
//!                                                     ▼
//!                                                    TUN ⇄ forwarder
//!                                                     │
//!                                      tb_tun ◄───────┘   sorted by destination:
//!                                       ├─ endpoint ──────► into its namespace
//!                                       ├─ local address ─► the host's stack
//!                                       └─ the rest ──────► route, neighbour, uplink
//! ```
//!
//! **Limits of bandwidth.** What is delivered into a namespace (`bpf_redirect_peer`) never meets the queueing discipline of the
//! veth's host end. A container whose ingress is limited there is delivered to through it. What a container sends waits
//! in its own namespace, where its user may take the limit away: a container that is limited so is policed, too.
//!
//! *In*: what the control plane wants (containers, subnets, local addresses, published ports) and
//! the forwarder's live external ports. *Out*: counters. Nothing here is on the packet path: the
//! maps are plain kernel memory that the programs read.
//!
//! **Order of operations.** [`Steering::load`], then the maps, then [`Steering::attach_tun`] (once
//! someone reads the TUN), then the other interfaces. Until the TUN is attached, uplinks and `lo`
//! are left alone. The programs on interfaces of the host are attached with tcx links where the kernel has them
//! (6.6): those vanish with the last descriptor, so a daemon that dies leaves no host behind that
//! diverts packets to nobody. On older kernels, and on containers' interfaces always, they are clsact
//! filters, which a killed process leaves behind; the next one replaces them (`attach.rs` says why).
//!
//! **Assumptions** about the kernel are tested one by one in `tests/kernel_assumptions.rs`. Three
//! settings belong to whoever makes the interfaces: `accept_local=1` on `lo` (the forwarder's
//! packets to the host have a local source address), `route_localnet=1` on `lo` (for ports
//! published on 127.0.0.1; on any other interface it would be a hole, CVE-2020-8558), and, of each
//! family, `forwarding=1` on the TUN alone (only to let the programs ask for routes; without it they fall
//! back to the interface that owns the source address, then to the default uplink). IPv6 needs no counterpart
//! of the first two: `lo` takes any local source, and ::1.
//!
//! **Limits**: 16,384 containers, 4,096 subnets, 4,096 local addresses, 4,096 local MAC
//! addresses, 4,096 uplinks, 131,072
//! published ports. Addresses are 128 bits wide everywhere (IPv4 as `::ffff:a.b.c.d`).
//!
//! **IPv6** goes the same ways. Link-local addresses stay on their link: between neighbours, and between a
//! container and the host, but never to the forwarder. So a port published on every address is not diverted at an
//! uplink's link-local one, nor for a client that has no other address; such packets are left to the host. Neighbour
//! Discovery is guarded (`discovery.bpf.h`).

mod attach;
mod bitmap;
mod load;
mod maps;
mod mirror;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use aya::Ebpf;
use aya::maps::MapError;
use aya::programs::ProgramError;
use ipnet::IpNet;

pub use attach::{AttachMode, Attachment};
pub use bitmap::ExternalPorts;

use attach::{Links, Program};
use maps::Maps;

/// The oldest kernel that has every helper the programs call (`bpf_redirect_neigh`,
/// `bpf_redirect_peer`).
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Why steering could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel lacks helpers that the programs need.
    #[error("Linux {running} is too old: tunbridge needs {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    KernelTooOld {
        /// The running kernel's release.
        running: String,
    },
    /// The kernel refuses eBPF to this process.
    #[error("not permitted to load eBPF programs: run as root (CAP_BPF and CAP_NET_ADMIN)")]
    NoPermission,
    /// No interface has this index in the current network namespace.
    #[error("no interface has the index {0}")]
    NoSuchInterface(u32),
    /// The object as a whole was refused.
    #[error("cannot load the steering programs")]
    Load(#[source] Box<aya::EbpfError>),
    /// The embedded object lacks something this module names.
    #[error("the steering object has no {0}")]
    Missing(&'static str),
    /// A program was refused by the verifier.
    #[error("the kernel refuses the steering program {program}")]
    Verifier {
        /// Its name.
        program: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to the interface with index {if_index}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface.
        if_index: u32,
        /// The kernel's answer.
        #[source]
        source: Box<ProgramError>,
    },
    /// A map is full.
    #[error("the map `{map}` is full")]
    Full {
        /// Its name.
        map: &'static str,
    },
    /// A map could not be read or changed.
    #[error("cannot access the map `{map}`")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<MapError>,
    },
    /// The bitmap of external ports could not be mapped into memory.
    #[error("cannot map the external ports into memory")]
    Mmap(#[source] io::Error),
}

/// An address of the host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that owns it.
    pub if_index: u32,
    /// That interface's MAC address; zeros if it has none.
    pub mac: [u8; 6],
    /// Whether its frames have an Ethernet header.
    pub ethernet: bool,
}

/// A prefix that containers live in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix.
    pub prefix: IpNet,
    /// The bridge it is on.
    pub bridge_if_index: u32,
    /// The bridge's MAC address.
    pub bridge_mac: [u8; 6],
    /// Whether its containers' addresses are known outside, because they are not masqueraded or may
    /// be addressed directly (gateway modes `routed`, `nat-unprotected`). What the outside sends to
    /// them is then diverted for the forwarder to judge; otherwise it is dropped at once.
    pub routed: bool,
}

/// The host's end of a container's veth pair, and who may speak through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// The host-side interface.
    pub if_index: u32,
    /// The container's addresses, one of each family at most: the only IP sources it may use, besides its
    /// link-local one.
    pub addresses: Vec<IpAddr>,
    /// Whether its network has IPv6. If not, no IPv6 packet of the container passes.
    pub ipv6: bool,
    /// The container's MAC address: the only Ethernet source it may use.
    pub mac: [u8; 6],
    /// The bridge it is a port of.
    pub bridge_if_index: u32,
    /// The bridge's MAC address: the containers' gateway.
    pub bridge_mac: [u8; 6],
    /// Whether containers of this network may talk to each other.
    pub icc: bool,
    /// Without `icc`: whether some link may let it talk to another linked container. What the two
    /// send to each other is then diverted, for the forwarder to judge.
    pub linked: bool,
    /// Whether its network has no way out: nothing to an address outside its subnet passes.
    pub internal: bool,
    /// A number that all ports of one container share, and no other's: it may also send with the
    /// address of another one of its ports. 0 is nobody's.
    pub container: u32,
    /// Whether what it gets goes through the queueing discipline of `if_index`, which is limited.
    pub queued: bool,
    /// How fast it may send at most; what is more is dropped.
    pub policer: Option<Policer>,
}

/// A token bucket without a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policer {
    /// Octets per second, frame headers included; not 0.
    pub rate: u64,
    /// Octets that it holds.
    pub burst: u64,
}

/// The loaded programs, their maps and where they are attached. Dropping it detaches everything.
#[derive(Debug)]
pub struct Steering {
    // Declared first so that the programs are detached before the maps go.
    links: Links,
    object: Ebpf,
    maps: Maps,
    ports: ExternalPorts,
}

impl Steering {
    /// Loads the programs in the current network namespace; nothing is attached yet.
    ///
    /// # Errors
    /// [`SteeringError::KernelTooOld`], [`SteeringError::NoPermission`], or whatever the kernel
    /// has against the programs.
    pub fn load() -> Result<Self, SteeringError> {
        Self::load_with(AttachMode::of_this_kernel())
    }

    /// Like [`load`](Self::load), with a given way of attaching: clsact works on every kernel.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_with(mode: AttachMode) -> Result<Self, SteeringError> {
        let mut object = load::load()?;
        let maps = Maps::take(&mut object)?;
        let ports = ExternalPorts::map(maps::take(&mut object, "external_ports")?)?;
        Ok(Self {
            links: Links::new(mode),
            object,
            maps,
            ports,
        })
    }

    /// Attaches to the TUN and starts diverting into it.
    ///
    /// # Errors
    /// [`SteeringError::NoSuchInterface`], [`SteeringError::Attach`], [`SteeringError::Map`].
    pub fn attach_tun(&mut self, if_index: u32) -> Result<(), SteeringError> {
        self.links
            .attach(&mut self.object, Program::Tun, if_index)?;
        self.maps
            .change_settings(|settings| settings.tun = if_index)
    }

    /// Attaches to `lo`.
    ///
    /// # Errors
    /// [`SteeringError::NoSuchInterface`], [`SteeringError::Attach`], [`SteeringError::Map`].
    pub fn attach_loopback(&mut self, if_index: u32) -> Result<(), SteeringError> {
        self.maps
            .change_settings(|settings| settings.loopback = if_index)?;
        self.links
            .attach(&mut self.object, Program::Loopback, if_index)
    }

    /// Attaches to an interface that leads outside; `ethernet` says whether its frames have an
    /// Ethernet header. Attaching twice changes nothing but that.
    ///
    /// # Errors
    /// [`SteeringError::NoSuchInterface`], [`SteeringError::Attach`], [`SteeringError::Full`],
    /// [`SteeringError::Map`].
    pub fn attach_uplink(&mut self, if_index: u32, ethernet: bool) -> Result<(), SteeringError> {
        self.links
            .attach(&mut self.object, Program::Uplink, if_index)?;
        self.maps.set_uplink(if_index, ethernet)
    }

    /// Leaves an uplink alone again. No error if it was not attached or is gone.
    pub fn detach_uplink(&mut self, if_index: u32) {
        self.maps.remove_uplink(if_index);
        self.links.detach(Program::Uplink, if_index);
    }

    /// Attaches to a container's host-side veth, or changes what is known of it.
    ///
    /// # Errors
    /// [`SteeringError::NoSuchInterface`], [`SteeringError::Attach`], [`SteeringError::Full`],
    /// [`SteeringError::Map`]. After an error the interface is as before the first call.
    pub fn attach_container(&mut self, port: &ContainerPort) -> Result<(), SteeringError> {
        // What may pass must be known before the first frame is judged.
        self.maps.set_container(port)?;
        self.links
            .attach(&mut self.object, Program::Container, port.if_index)
            .inspect_err(|_| self.maps.remove_container(port.if_index))
    }

    /// Forgets a container's veth. No error if it was not attached or is gone.
    pub fn detach_container(&mut self, if_index: u32) {
        self.maps.remove_container(if_index);
        self.links.detach(Program::Container, if_index);
    }

    /// Replaces the host's local addresses, loopback and bridges included, link-local ones too.
    ///
    /// # Errors
    /// [`SteeringError::Full`], [`SteeringError::Map`].
    pub fn set_local_addresses(&mut self, addresses: &[LocalAddress]) -> Result<(), SteeringError> {
        self.maps.set_local_addresses(addresses)
    }

    /// Replaces the MAC addresses of the host's own interfaces. What a container sends to one of
    /// them is treated as if it were sent to its bridge's: a bridge gives its host what is addressed
    /// to one of its ports, and the host would route it.
    ///
    /// # Errors
    /// [`SteeringError::Full`], [`SteeringError::Map`].
    pub fn set_local_macs(&mut self, macs: &[[u8; 6]]) -> Result<(), SteeringError> {
        self.maps.set_local_macs(macs)
    }

    /// Replaces the containers' subnets.
    ///
    /// # Errors
    /// [`SteeringError::Full`], [`SteeringError::Map`].
    pub fn set_subnets(&mut self, subnets: &[Subnet]) -> Result<(), SteeringError> {
        self.maps.set_subnets(subnets)
    }

    /// Sets the uplinks of last resort, of each family, for when neither a route lookup nor the
    /// source address says where a packet should leave.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn set_default_uplinks(
        &mut self,
        ipv4: Option<u32>,
        ipv6: Option<u32>,
    ) -> Result<(), SteeringError> {
        self.maps.change_settings(|settings| {
            settings.default_uplink = ipv4.unwrap_or(0);
            settings.default_uplink_ipv6 = ipv6.unwrap_or(0);
        })
    }

    /// Diverts `ports` of `address` (unspecified: every address of its family) to the forwarder.
    /// `protocol` is an IP protocol number. Publishing a port twice is the same as once.
    ///
    /// # Errors
    /// [`SteeringError::Full`], [`SteeringError::Map`]; none of the ports is published then that
    /// was not before.
    pub fn publish(
        &mut self,
        protocol: u8,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    ) -> Result<(), SteeringError> {
        self.maps.publish(protocol, address, ports)
    }

    /// Takes back [`publish`](Self::publish). Ports that are not published are skipped.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn unpublish(
        &mut self,
        protocol: u8,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    ) -> Result<(), SteeringError> {
        self.maps.unpublish(protocol, address, ports)
    }

    /// A handle on the external ports in use, for the forwarder's threads.
    #[must_use]
    pub fn external_ports(&self) -> ExternalPorts {
        self.ports.clone()
    }

    /// How many entries each map has, by name.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, u64> {
        self.maps.entries()
    }

    /// How often each thing happened since [`load`](Self::load), by name.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, SteeringError> {
        self.maps.counters()
    }

    /// Where the programs are attached, by interface index.
    #[must_use]
    pub fn attached(&self) -> Vec<Attachment> {
        self.links.list()
    }
}
