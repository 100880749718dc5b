//! One rtnetlink connection: what links, addresses and routes there are, as plain structs, and the
//! small changes that bridges, veth pairs and the TUN device are made of.
//!
//! A connection belongs to the namespace its socket was made in. [`Netlink::new`] makes it in the
//! caller's, [`Netlink::in_namespace`] in another one, from a thread that is gone afterwards.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::packet_core::Parseable;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::dump::{Address, Link, Route, read_address, read_route};

use super::endpoint_sysctl::EndpointSysctlError;
use super::links::{self, LinkQuestions};
use super::netns::{self, NetnsError};
use super::socket::QuestionSocket;
use super::sysctl::SysctlError;

/// Packets that a TUN queue holds while its reader is busy. The kernel's 500 are fewer than one
/// burst of small datagrams.
const TUN_QUEUE_LEN: u32 = 4096;

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
    /// A network with IPv6 on a bridge that cannot have it.
    #[error("Cannot read IPv6 setup for bridge {bridge}: {reason}")]
    NoIpv6 {
        /// The bridge.
        bridge: String,
        /// Why not.
        reason: String,
    },
    /// IPv6 is off on a bridge and cannot be switched on.
    #[error("Unable to enable IPv6 addresses on bridge: {0}")]
    EnableIpv6(#[source] SysctlError),
    /// IPv6 cannot be switched on or off on a container's interface.
    #[error("failed to {} IPv6 on container's interface {interface}: {source}", if *.on { "enable" } else { "disable" })]
    SwitchIpv6 {
        /// The interface.
        interface: String,
        /// It was to be on.
        on: bool,
        /// What the kernel said.
        #[source]
        source: SysctlError,
    },
    /// The kernel would refuse the name, or take it for a template.
    #[error(
        "invalid interface name {0:?}: use 1 to 15 characters without white space, '/', ':' or '%'"
    )]
    InvalidName(String),
    /// The name is taken.
    #[error("interface {0} already exists")]
    InterfaceExists(String),
    /// The name is taken inside the container.
    #[error(
        "interface {0} already exists in the container's network namespace: choose another name with com.docker.network.endpoint.ifname"
    )]
    ContainerInterfaceExists(String),
    /// The container's namespace already routes the address elsewhere.
    #[error(
        "cannot program address {address} in sandbox interface because it conflicts with existing route {route}"
    )]
    AddressConflict {
        /// The address that was to be set.
        address: IpNet,
        /// The route that is there, as `ip route` prints it.
        route: String,
    },
    /// The default route could not be set.
    #[error("failed to set gateway: {0}")]
    Gateway(String),
    /// The kernel cannot limit bandwidth.
    #[error(
        "cannot limit bandwidth: this kernel has no queueing discipline tbf: load the module sch_tbf (CONFIG_NET_SCH_TBF), or leave the limits (bandwidth) out"
    )]
    NoTokenBucket,
    /// A parameter that the user wants for the container's interface cannot be set.
    #[error(transparent)]
    EndpointSysctl(#[from] EndpointSysctlError),
    /// A sysctl that belongs to the task failed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// For each part of a list of routes; other changes to the network come first.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of a container's routing tables. (The main table's default route is the first of that table; other tables
/// than it are few, or the container's own affair.)
const MOST_ROUTES: usize = 8192;

fn first_routes(ipv4: bool) -> io::Result<Vec<RouteMessage>> {
    let socket = QuestionSocket::new(NETLINK_ROUTE, ROUTES_TIMEOUT)?;
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let mut routes = Vec::new();
    socket.ask_for_some(
        libc::RTM_GETROUTE,
        |request| {
            // struct rtmsg
            request.push(u8::try_from(family).unwrap_or_default());
            request.extend_from_slice(&[0; 11]);
        },
        |message| {
            routes.extend(RouteMessage::parse(message.payload).ok());
            match routes.len() {
                MOST_ROUTES.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        },
    )?;
    Ok(routes)
}

/// A connection to the kernel's routing interface; clones share it.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    questions: LinkQuestions,
    /// The namespace, unless it is that of the process.
    namespace: Option<Arc<OwnedFd>>,
    /// Held while a list is read: the kernel refuses a second one on the same socket (EBUSY).
    listing: Arc<tokio::sync::Mutex<()>>,
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
        let open = || Ok((rtnetlink::new_connection()?, LinkQuestions::new()?));
        let ((connection, handle, _), questions) =
            open().map_err(|e| request_error("open netlink socket", e))?;
        // The task owns the socket and ends with the last handle.
        tokio::spawn(connection);
        Ok(Self {
            handle,
            questions,
            namespace: None,
            listing: Arc::default(),
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
        let ((connection, handle, _), questions) = netns::run_in(namespace, || {
            let _entered = runtime.enter();
            Ok((rtnetlink::new_connection()?, LinkQuestions::new()?))
        })?
        .map_err(|e| request_error("open netlink socket", e))?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            questions,
            namespace: Some(Arc::new(owned)),
            listing: Arc::default(),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs something short in this connection's namespace.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let Some(namespace) = &self.namespace else {
            return Ok(work());
        };
        let namespace = namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| request_error("duplicate namespace descriptor", e))?;
        Ok(netns::run_in_async(namespace, work).await?)
    }

    /// Runs something in this connection's namespace that waits for the kernel.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>, NetlinkError> {
        if self.namespace.is_some() {
            return self.run(work).await;
        }
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The request failed.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.questions
            .all(None)
            .await
            .map_err(|e| request_error("list interfaces", e))
    }

    /// All bridges.
    ///
    /// # Errors
    /// The request failed.
    pub async fn bridges(&self) -> Result<Vec<Link>, NetlinkError> {
        self.questions
            .all(Some("bridge"))
            .await
            .map_err(|e| request_error("list bridges", e))
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
        self.questions
            .named(name)
            .await
            .map_err(|e| request_error(format!("look up interface {name}"), e))
    }

    /// The interface with an index, if there is one.
    pub(super) async fn link_numbered(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.questions
            .numbered(index)
            .await
            .map_err(|e| request_error(format!("look up interface {index}"), e))
    }

    /// All addresses of both families.
    ///
    /// # Errors
    /// The request failed.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let _one = self.listing.lock().await;
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

    /// All routes of all tables, those of table `local` included; IPv4 first.
    ///
    /// # Errors
    /// The request failed.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut messages = self.route_messages(true).await?;
        messages.extend(self.route_messages(false).await?);
        Ok(messages.iter().filter_map(read_route).collect())
    }

    /// The routes of one family, as the kernel describes them. In a namespace that is not the process's own the first
    /// [`MOST_ROUTES`]: a container may make millions.
    pub(super) async fn route_messages(
        &self,
        ipv4: bool,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        if self.namespace.is_some() {
            let some = self.run(move || first_routes(ipv4)).await?;
            return some.map_err(|e| request_error("list routes", e));
        }
        let _one = self.listing.lock().await;
        let request = if ipv4 {
            RouteMessageBuilder::<Ipv4Addr>::new().build()
        } else {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        };
        let listed = self.handle.route().get(request).execute();
        listed
            .try_collect()
            .await
            .map_err(|e| failed("list routes", e))
    }

    /// Deletes an interface; one that is not there is no error. Says whether it was there. Other requests do not wait for
    /// this one.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(false);
        }
        let owned = name.to_owned();
        let deleted = self.blocking(move || links::delete(&owned)).await?;
        deleted.map_err(|e| request_error(format!("delete interface {name}"), e))
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
        self.set_address_mode(if_index, In6AddrGenMode::None)
            .await?;
        let message = LinkUnspec::new_with_index(if_index)
            .mtu(mtu)
            .txqueuelen(TUN_QUEUE_LEN)
            .up()
            .build();
        self.set_link(
            message,
            format!("bring TUN interface {if_index} up with MTU {mtu}"),
        )
        .await
    }

    /// What link-local address the kernel is to give an interface when it comes up.
    pub(super) async fn set_address_mode(
        &self,
        if_index: u32,
        mode: In6AddrGenMode,
    ) -> Result<(), NetlinkError> {
        let mode = vec![AfSpecInet6::AddrGenMode(mode)];
        let message = LinkUnspec::new_with_index(if_index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]))
            .build();
        match self.handle.link().set(message).execute().await {
            Ok(()) => Ok(()),
            // A kernel without IPv6, or with IPv6 disabled: no link-local address either way.
            Err(e) if matches!(errno(&e), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Ok(()),
            Err(error) => {
                let doing = format!("set link-local address mode of interface {if_index}");
                Err(failed(doing, error))
            }
        }
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

    /// An IPv6 address is usable at once: nobody is asked whether it is taken.
    pub(super) async fn add_address(
        &self,
        if_index: u32,
        address: IpNet,
    ) -> Result<(), NetlinkError> {
        let mut request = self
            .handle
            .address()
            .add(if_index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request
            .execute()
            .await
            .map_err(|e| failed(format!("set address {address} on interface {if_index}"), e))
    }

    /// Adds an address; one that is there already is no error.
    pub(super) async fn ensure_address(
        &self,
        if_index: u32,
        address: IpNet,
    ) -> Result<(), NetlinkError> {
        match self.add_address(if_index, address).await {
            Err(NetlinkError::Request { source, .. })
                if source.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Removes an address; one that is not there is no error.
    pub(super) async fn remove_address(
        &self,
        if_index: u32,
        address: IpNet,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        let local = address.addr();
        message.header.family = match local {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.index = if_index;
        message.header.prefix_len = address.prefix_len();
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

/// Checks a name for a new interface.
pub(super) fn check_name(name: &str) -> Result<(), NetlinkError> {
    let valid = !matches!(name, "" | "." | "..")
        && name.len() < libc::IFNAMSIZ
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "/:%".contains(c));
    if valid {
        Ok(())
    } else {
        Err(NetlinkError::InvalidName(name.to_owned()))
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

pub(super) fn request_error(doing: impl Into<String>, source: io::Error) -> NetlinkError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_or_expand() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "br%d",
            "a b",
            "a\n",
            "sixteen-octets-x",
        ] {
            assert!(
                matches!(check_name(bad), Err(NetlinkError::InvalidName(_))),
                "{bad:?}"
            );
        }
        for good in ["tb0", "eth0.100", "br-5f3a9c", "fifteen-octets-"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
