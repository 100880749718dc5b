//! Theory of operation: everything tunbridge asks of, or is told by, the Linux kernel outside the
//! packet path. Nothing here knows what a container or a published port is; nothing here imports
//! another module of ours.
//!
//! | module | what it does |
//! |---|---|
//! | [`netns`] | named network namespaces, opening them by path or pid, running code inside one |
//! | [`netlink`] | one rtnetlink connection: dumps and small changes |
//! | [`dump`] | links, addresses, routes as plain structs |
//! | [`bridge`] | creates or adopts a network's bridge |
//! | [`veth`] | a container's interface as a whole: both ends, addresses, default route |
//! | [`container`] | what interfaces a container has, which network is its way out |
//! | [`container_route`] | routes of a container beside its default one |
//! | [`announce`] | tells a container's neighbours its addresses: gratuitous ARP, unsolicited advertisements |
//! | [`ndp_proxy`] | answers on an uplink who has a container's IPv6 address |
//! | [`endpoint_sysctl`] | parameters of an interface that has no name yet |
//! | [`sysctl`] | `/proc/sys` by path segments |
//! | [`watch`] | kernel notifications as a short list of events |
//! | [`forwarding`] | `--ip-forward`: sets and re-asserts the forwarding sysctls |
//! | [`route`] | "where would a packet to X leave, with which source, how large?" for packet workers |
//! | [`host_ports`] | the TCP and UDP ports that sockets of the host use |
//! | [`port_owners`] | which processes have a port |
//! | [`qdisc`] | how fast an interface sends: token bucket filters |
//! | [`inherited`] | sockets that the service manager has opened for us |
//! | [`pidfd`] | waiting for a process that is not our child |
//! | [`doctor`] | what on this host will hurt, why, and the command that fixes it |
//!
//! **Namespaces.** A network namespace belongs to a thread. Nothing here ever changes the namespace
//! of a thread it did not start: work inside another namespace runs on a thread made for it, which
//! ends with it ([`netns::run_in`]). A netlink socket stays in the namespace it was made in and keeps
//! that namespace alive, so connections into containers are closed as soon as the work is done.
//!
//! **Keeping current.** Subscribe first ([`watch::Watcher`]), then dump ([`netlink::Netlink`]): what
//! changes between the two is then seen twice instead of not at all. On [`watch::Event::Overrun`]
//! notifications were lost: dump everything again.
//!
//! **Kernels.** Written for 5.10 and later; `tests/kernel_layer.rs` exercises every assumption.

pub mod announce;
pub mod bridge;
pub mod container;
pub mod container_route;
pub mod doctor;
pub mod dump;
pub mod endpoint_sysctl;
pub mod forwarding;
pub mod host_ports;
pub mod inherited;
mod links;
mod ndisc;
pub mod ndp_proxy;
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod port_owners;
pub mod qdisc;
pub mod route;
mod socket;
pub mod sysctl;
pub mod veth;
pub mod watch;
mod wire;

pub use announce::{Announcement, announce};
pub use bridge::{Bridge, BridgeSpec};
pub use container::ContainerInterface;
pub use container_route::ContainerRoute;
pub use dump::{Address, Ipv6Settings, Link, NextHop, Route, RouteKind};
pub use endpoint_sysctl::{EndpointSysctl, EndpointSysctlError};
pub use ndp_proxy::{NdpCounts, NdpProxy};
pub use netlink::{Netlink, NetlinkError};
pub use qdisc::{Limits, TokenBucket};
pub use route::{Resolved, RouteResolver};
pub use veth::VethSpec;
pub use watch::{Event, Watcher};
