//! One rtnetlink connection: what links, addresses and routes there are, as plain structs, and the
//! small changes that bridges, veth pairs and the TUN device are made of.
//!
//! A connection belongs to the namespace its socket was made in. [`Netlink::new`] makes it in the
//! caller's, [`Netlink::in_namespace`] in another one, from a thread that is gone afterwards.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::task::AbortHandle;

use super::netns::{self, NetnsError};
use super::sysctl::{self, SysctlError};

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// Why something could not be arranged; the text names the object.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A request failed.
    #[error("{doing}: {source}")]
    Request {
        /// What was being done, naming the object.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An interface of the bridge's name exists but is something else.
    #[error("existing interface {0} is not a bridge")]
    NotABridge(String),
    /// A bridge that the user is to manage does not exist.
    #[error("bridge device with non default name {0} must be created manually")]
    BridgeMissing(String),
    /// The name is taken.
    #[error("interface {0} already exists")]
    InterfaceExists(String),
    /// The name is taken inside the container.
    #[error("interface {0} already exists in the container's network namespace")]
    ContainerInterfaceExists(String),
    /// The container's namespace already routes the address elsewhere.
    #[error(
        "cannot program address {address} in sandbox interface because it conflicts with existing route {route}"
    )]
    AddressConflict {
        /// The address that was to be set.
        address: Ipv4Net,
        /// The route that is there, as `ip route` prints it.
        route: String,
    },
    /// The default route could not be set.
    #[error("failed to set gateway: {0}")]
    Gateway(String),
    /// A sysctl that belongs to the task failed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `bridge`, `veth`, `tun`, …; `None` for hardware and `lo`.
    pub kind: Option<String>,
    /// Largest IP packet in octets.
    pub mtu: u32,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// Up and with a carrier.
    pub running: bool,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Frames have an Ethernet header (so not WireGuard, PPP, TUN, nor `lo`).
    pub ethernet: bool,
    /// It is a loopback interface.
    pub loopback: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface that has it.
    pub if_index: u32,
    /// The local address with its prefix length (host bits kept).
    pub address: IpNet,
    /// Valid on the link only (`fe80::/64`, 169.254/16).
    pub link_scope: bool,
}

/// One way a route may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Outgoing interface.
    pub if_index: u32,
    /// Router, unless the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Refuses it: unreachable, prohibit, blackhole.
    Refuse,
    /// Broadcast, multicast, and what else there is.
    Other,
}

/// An IPv4 route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route4 {
    /// Destination; `0.0.0.0/0` is the default route.
    pub destination: Ipv4Net,
    /// What it does.
    pub kind: RouteKind,
    /// Routing table, [`TABLE_MAIN`] for ordinary ones.
    pub table: u32,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    /// Metric: the lowest wins.
    pub priority: u32,
    /// Largest packet in octets, if the route limits it.
    pub mtu: Option<u32>,
    /// Where to; several for a multipath route, none for routes that refuse.
    pub next_hops: Vec<NextHop>,
}

impl Route4 {
    /// The route in the words of `ip route`; `links` gives the interface names.
    #[must_use]
    pub fn describe(&self, links: &[Link]) -> String {
        let mut text = if self.destination.prefix_len() == 0 {
            "default".to_owned()
        } else {
            self.destination.to_string()
        };
        for hop in &self.next_hops {
            if let Some(gateway) = hop.gateway {
                text.push_str(&format!(" via {gateway}"));
            }
            match links.iter().find(|link| link.index == hop.if_index) {
                Some(link) => text.push_str(&format!(" dev {}", link.name)),
                None => text.push_str(&format!(" dev interface {}", hop.if_index)),
            }
        }
        text
    }
}

/// A connection to the kernel's routing interface; clones share it.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    /// The namespace, unless it is that of the process.
    namespace: Option<Arc<OwnedFd>>,
    /// Ends the task that owns the socket, with the last clone.
    _connection: Arc<Connection>,
}

struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Netlink {
    /// Connects in the calling thread's network namespace.
    ///
    /// # Errors
    /// No socket could be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| request_error("open netlink socket", e))?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self {
            handle,
            namespace: None,
            _connection: Arc::new(Connection(task)),
        })
    }

    /// Connects in another network namespace. Dropping the last clone closes the socket, which
    /// otherwise would keep the namespace alive.
    ///
    /// # Errors
    /// The namespace cannot be entered or no socket could be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        let owned = namespace
            .try_clone_to_owned()
            .map_err(|e| request_error("duplicate namespace descriptor", e))?;
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = netns::run_in(namespace, || {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        })?
        .map_err(|e| request_error("open netlink socket", e))?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self {
            handle,
            namespace: Some(Arc::new(owned)),
            _connection: Arc::new(Connection(task)),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Sets a sysctl in this connection's namespace if it exists there; says whether it changed.
    pub(super) async fn ensure_sysctl(
        &self,
        segments: &[&str],
        value: &'static str,
    ) -> Result<bool, NetlinkError> {
        let Some(namespace) = &self.namespace else {
            return Ok(sysctl::ensure_if_present(segments, value)?);
        };
        let namespace = namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| request_error("duplicate namespace descriptor", e))?;
        let segments: Vec<String> = segments.iter().map(|s| (*s).to_owned()).collect();
        let result = netns::run_in_async(namespace, move || {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            sysctl::ensure_if_present(&segments, value)
        })
        .await?;
        Ok(result?)
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The request failed.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = self
            .handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let messages: Vec<LinkMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list interfaces", e))?;
        Ok(messages.iter().filter_map(read_link).collect())
    }

    /// The interfaces whose names start with `prefix`: for finding what an earlier run left.
    ///
    /// # Errors
    /// The request failed.
    pub async fn links_with_prefix(&self, prefix: &str) -> Result<Vec<Link>, NetlinkError> {
        let mut links = self.links().await?;
        links.retain(|link| link.name.starts_with(prefix));
        Ok(links)
    }

    /// The interface called `name`, if there is one.
    ///
    /// # Errors
    /// The request failed.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // The kernel answers over-long names with ERANGE, and no interface can have one.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut answers = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match answers.next().await {
            Some(Ok(message)) => Ok(read_link(&message)),
            Some(Err(error)) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Some(Err(error)) => Err(failed(format!("look up interface {name}"), error)),
            None => Ok(None),
        }
    }

    /// All addresses of both families.
    ///
    /// # Errors
    /// The request failed.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list addresses", e))?;
        Ok(messages.iter().filter_map(read_address).collect())
    }

    /// All IPv4 routes of all tables, those of table `local` included.
    ///
    /// # Errors
    /// The request failed.
    pub async fn routes4(&self) -> Result<Vec<Route4>, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list routes", e))?;
        Ok(messages.iter().filter_map(read_route).collect())
    }

    /// Deletes an interface; one that is not there is no error. Says whether it was there.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(false);
        }
        let message = LinkUnspec::new_with_name(name).build();
        let result = self.handle.link().del_with_message(message).execute().await;
        deleted(result, format!("delete interface {name}"))
    }

    /// Deletes an interface by index; one that is not there is no error. Says whether it was there.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_link_index(&self, if_index: u32) -> Result<bool, NetlinkError> {
        let result = self.handle.link().del(if_index).execute().await;
        deleted(result, format!("delete interface {if_index}"))
    }

    /// Brings the TUN device up with this MTU and without an IPv6 link-local address.
    ///
    /// # Errors
    /// A request failed.
    pub async fn set_tun_up(&self, if_index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let no_address =
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])]);
        let message = LinkUnspec::new_with_index(if_index)
            .append_extra_attribute(no_address)
            .build();
        match self.handle.link().set(message).execute().await {
            Ok(()) => {}
            // A kernel without IPv6, or with IPv6 disabled: no link-local address either way.
            Err(e) if matches!(errno(&e), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(failed("disable IPv6 link-local address of TUN", error)),
        }
        let message = LinkUnspec::new_with_index(if_index).mtu(mtu).up().build();
        self.set_link(
            message,
            format!("bring TUN interface {if_index} up with MTU {mtu}"),
        )
        .await
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The request failed.
    pub async fn set_up(&self, if_index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(if_index).up().build();
        self.set_link(message, format!("bring interface {if_index} up"))
            .await
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// The request failed.
    pub async fn set_master(&self, if_index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(if_index)
            .controller(bridge)
            .build();
        self.set_link(
            message,
            format!("make interface {if_index} a port of bridge {bridge}"),
        )
        .await
    }

    pub(super) async fn set_link(
        &self,
        message: LinkMessage,
        doing: String,
    ) -> Result<(), NetlinkError> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|e| failed(doing, e))
    }

    /// Sets the Ethernet address explicitly; a bridge then keeps it whatever its ports do.
    pub(super) async fn set_mac(&self, if_index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .index(if_index)
            .address(mac.to_vec())
            .build();
        self.set_link(message, format!("set MAC address of interface {if_index}"))
            .await
    }

    pub(super) async fn add_address4(
        &self,
        if_index: u32,
        address: Ipv4Net,
    ) -> Result<(), NetlinkError> {
        self.handle
            .address()
            .add(if_index, IpAddr::V4(address.addr()), address.prefix_len())
            .execute()
            .await
            .map_err(|e| failed(format!("set address {address} on interface {if_index}"), e))
    }

    /// Removes an address; one that is not there is no error.
    pub(super) async fn remove_address4(
        &self,
        if_index: u32,
        address: Ipv4Net,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = if_index;
        message.header.prefix_len = address.prefix_len();
        let local = IpAddr::V4(address.addr());
        message.attributes = vec![
            AddressAttribute::Local(local),
            AddressAttribute::Address(local),
        ];
        match self.handle.address().del(message).execute().await {
            Err(error) if errno(&error) != Some(libc::EADDRNOTAVAIL) => {
                let doing = format!("remove address {address} from interface {if_index}");
                Err(failed(doing, error))
            }
            _ => Ok(()),
        }
    }
}

/// The kernel's error number, if the kernel answered with one.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().raw_os_error()
    } else {
        None
    }
}

pub(super) fn failed(doing: impl Into<String>, error: rtnetlink::Error) -> NetlinkError {
    let source = if let rtnetlink::Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error)
    };
    request_error(doing, source)
}

fn request_error(doing: impl Into<String>, source: io::Error) -> NetlinkError {
    NetlinkError::Request {
        doing: doing.into(),
        source,
    }
}

fn deleted(result: Result<(), rtnetlink::Error>, doing: String) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(failed(doing, error)),
    }
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: None,
        mtu: 0,
        mac: None,
        up: header.flags.contains(LinkFlags::Up),
        running: header.flags.contains(LinkFlags::LowerUp),
        master: None,
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        loopback: header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Address(mac) = attribute {
            link.mac = mac.as_slice().try_into().ok().filter(|_| link.ethernet);
        } else if let LinkAttribute::Controller(master) = attribute {
            link.master = Some(*master);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.kind = infos.iter().find_map(|info| {
                if let LinkInfo::Kind(kind) = info {
                    Some(kind.to_string())
                } else {
                    None
                }
            });
        } else if let LinkAttribute::OperState(state) = attribute {
            link.running &= matches!(state, State::Up | State::Unknown);
        }
    }
    Some(link).filter(|link| !link.name.is_empty())
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is the address itself; IFA_ADDRESS is the peer's on point-to-point links, and the
    // only one of the two that IPv6 uses.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute {
            Some(*address)
        } else {
            None
        }
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute {
                Some(*address)
            } else {
                None
            }
        })
    })?;
    Some(Address {
        if_index: message.header.index,
        address: IpNet::new(address, message.header.prefix_len).ok()?,
        link_scope: message.header.scope == AddressScope::Link,
    })
}

fn read_route(message: &RouteMessage) -> Option<Route4> {
    if message.header.address_family != AddressFamily::Inet {
        return None;
    }
    let kind = if message.header.kind == RouteType::Unicast {
        RouteKind::Unicast
    } else if message.header.kind == RouteType::Local {
        RouteKind::Local
    } else if matches!(
        message.header.kind,
        RouteType::Unreachable | RouteType::Prohibit | RouteType::BlackHole
    ) {
        RouteKind::Refuse
    } else {
        RouteKind::Other
    };
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut route = Route4 {
        destination: Ipv4Net::default(),
        kind,
        table: u32::from(message.header.table),
        source: None,
        priority: 0,
        mtu: None,
        next_hops: Vec::new(),
    };
    let mut out = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            destination = *address;
        } else if let RouteAttribute::Table(table) = attribute {
            route.table = *table;
        } else if let RouteAttribute::PrefSource(RouteAddress::Inet(address)) = attribute {
            route.source = Some(*address);
        } else if let RouteAttribute::Priority(priority) = attribute {
            route.priority = *priority;
        } else if let RouteAttribute::Oif(if_index) = attribute {
            out = Some(*if_index);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            route.mtu = metrics.iter().find_map(|metric| {
                if let RouteMetric::Mtu(mtu) = metric {
                    Some(*mtu)
                } else {
                    None
                }
            });
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            route.next_hops.extend(hops.iter().map(|hop| NextHop {
                if_index: hop.interface_index,
                gateway: gateway(&hop.attributes),
            }));
        }
    }
    if let Some(if_index) = out {
        route.next_hops.push(NextHop {
            if_index,
            gateway: gateway(&message.attributes),
        });
    }
    route.destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(route)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            Some(IpAddr::V4(*address))
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(address)) = attribute {
            Some(IpAddr::V6(*address))
        } else if let RouteAttribute::Via(via) = attribute {
            via_address(via)
        } else {
            None
        }
    })
}

fn via_address(via: &netlink_packet_route::route::RouteVia) -> Option<IpAddr> {
    if let netlink_packet_route::route::RouteVia::Inet6(address) = via {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}
