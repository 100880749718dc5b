//! A network's bridge: made if it is missing, adopted if it is there, brought to what the network
//! needs either way.
//!
//! A bridge without an address of its own takes the lowest MAC address of its ports and so changes
//! it when containers come and go; neighbours would keep the old one for minutes. Setting the MAC
//! explicitly pins it. A bridge that already exists keeps the MAC it has. One of the user's may have none, while it
//! has no port: it gets its own from our first one.
//!
//! Steps, in Docker's order: device, MAC, MTU, `accept_ra=0`, IPv6 on if the network has it and off otherwise,
//! addresses, up. Multicast snooping, STP and forward delay are left alone.
//!
//! **IPv6.** Besides the gateway address the bridge has `fe80::1`, which can be a network's gateway too, and what the
//! kernel makes of its Ethernet address. Nobody asks whether an address of ours is taken: a bridge without ports would
//! never know, and a container must not wait for it.
//!
//! A bridge without an address (`inhibit_ipv4`, gateway mode `isolated`) is a wire between containers:
//! the host has no part in its subnet.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::dump::{Address, Ipv6Settings, Link};
use super::netlink::{Netlink, NetlinkError, check_name, errno, failed};
use super::sysctl;

/// The address of every bridge of a network with IPv6, on its link.
const LINK_LOCAL: IpNet = IpNet::V6(Ipv6Net::new_assert(
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    64,
));

/// What IPv6 needs (RFC 8200).
const IPV6_MIN_MTU: u32 = 1280;

/// What a network wants of its bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Interface name, at most 15 octets.
    pub name: String,
    /// The gateway addresses with the networks' prefix lengths, one per family at most; none: the bridge bears no
    /// address.
    pub addresses: Vec<IpNet>,
    /// The network has IPv6: it is on, and the bridge has `fe80::1` too. Otherwise it is off, on a bridge of ours.
    pub ipv6: bool,
    /// Largest IP packet in octets.
    pub mtu: u32,
    /// Ethernet address for a bridge that has to be made, or has none. One that has an address keeps it.
    pub mac: [u8; 6],
    /// The user made the bridge (`--bridge NAME`): it must exist, keeps its MTU, its MAC handling
    /// and other addresses, and only gets the addresses that it lacks.
    pub user_managed: bool,
}

/// A bridge that is up and has the network's address, if that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Interface index.
    pub if_index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// It did not exist before.
    pub created: bool,
}

impl Netlink {
    /// Makes the bridge what `spec` says; calling it again changes nothing. A bridge that this call
    /// created is removed again if a later step fails.
    ///
    /// # Errors
    /// [`NetlinkError::NotABridge`], [`NetlinkError::BridgeMissing`], or a step failed.
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Bridge, NetlinkError> {
        let link = self.link(&spec.name).await?;
        self.ensure(spec, link, &self.addresses().await?).await
    }

    /// [`Netlink::ensure_bridge`] for many, with one look at what there is: the result of each, in the
    /// order of `specs`.
    ///
    /// # Errors
    /// Bridges or addresses cannot be listed. What fails for one bridge does not concern the others.
    pub async fn ensure_bridges(
        &self,
        specs: &[BridgeSpec],
    ) -> Result<Vec<Result<Bridge, NetlinkError>>, NetlinkError> {
        let bridges = self.bridges().await?;
        let addresses = self.addresses().await?;
        let mut results = Vec::with_capacity(specs.len());
        for spec in specs {
            let found = match bridges.iter().find(|link| link.name == spec.name) {
                Some(bridge) => Ok(Some(bridge.clone())),
                // It may be there and something else.
                None => self.link(&spec.name).await,
            };
            results.push(match found {
                Ok(link) => self.ensure(spec, link, &addresses).await,
                Err(error) => Err(error),
            });
        }
        Ok(results)
    }

    /// Deletes a bridge; its ports stay, without a bridge. Says whether it was there: an interface of
    /// the name that is something else belongs to somebody else and stays.
    ///
    /// # Errors
    /// A request failed.
    pub async fn delete_bridge(&self, name: &str) -> Result<bool, NetlinkError> {
        match self.link(name).await? {
            Some(link) if is_bridge(&link) => self.delete_link_index(link.index).await,
            _ => Ok(false),
        }
    }

    /// Deletes a bridge unless an interface is on it that is not in `ours`; the names of such ones, with which it stays.
    ///
    /// # Errors
    /// A request failed.
    pub async fn delete_bridge_without(
        &self,
        name: &str,
        ours: &BTreeSet<String>,
        links: &[Link],
    ) -> Result<Vec<String>, NetlinkError> {
        let bridge = links.iter().find(|link| link.name == name);
        let is_port = |link: &&Link| bridge.is_some_and(|bridge| link.master == Some(bridge.index));
        let ports = links.iter().filter(is_port);
        let strangers = ports.filter(|port| !ours.contains(&port.name));
        let strangers: Vec<String> = strangers.map(|port| port.name.clone()).collect();
        if strangers.is_empty() {
            self.delete_bridge(name).await?;
        }
        Ok(strangers)
    }

    /// `existing` is the interface of the bridge's name; `addresses` are those of all interfaces.
    async fn ensure(
        &self,
        spec: &BridgeSpec,
        existing: Option<Link>,
        addresses: &[Address],
    ) -> Result<Bridge, NetlinkError> {
        check_name(&spec.name)?;
        let (link, created) = match existing {
            Some(link) if !is_bridge(&link) => return Err(NetlinkError::NotABridge(link.name)),
            Some(link) => (link, false),
            None if spec.user_managed => {
                return Err(NetlinkError::BridgeMissing(spec.name.clone()));
            }
            None => self.create_bridge(&spec.name, spec.mac).await?,
        };
        match self.configure_bridge(&link, created, spec, addresses).await {
            Ok(mac) => Ok(Bridge {
                if_index: link.index,
                mac,
                created,
            }),
            Err(error) => {
                if created {
                    self.delete_link_index(link.index).await.ok();
                }
                Err(error)
            }
        }
    }

    /// The bridge, and whether it is we who made it.
    async fn create_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(Link, bool), NetlinkError> {
        let doing = format!("create bridge {name}");
        // `LinkBridge::new` would bring it up before IPv6 is off.
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.to_vec())
            .build();
        let created = match self.handle().link().add(message).execute().await {
            Ok(()) => true,
            // Somebody made it at the same time.
            Err(error) if errno(&error) == Some(libc::EEXIST) => false,
            Err(error) => return Err(failed(doing, error)),
        };
        match self.link(name).await? {
            Some(link) if !is_bridge(&link) => Err(NetlinkError::NotABridge(link.name)),
            Some(link) => Ok((link, created)),
            None => Err(NetlinkError::Request {
                doing,
                source: std::io::ErrorKind::NotFound.into(),
            }),
        }
    }

    async fn configure_bridge(
        &self,
        link: &Link,
        created: bool,
        spec: &BridgeSpec,
        addresses: &[Address],
    ) -> Result<[u8; 6], NetlinkError> {
        let found = link
            .mac
            .ok_or_else(|| NetlinkError::NotABridge(link.name.clone()))?;
        // With its last port a bridge loses an address that nobody has set explicitly. It takes that of its next
        // port, which will be a container's and bears the one that is returned here.
        let none = found == [0; 6];
        let mac = if none { spec.mac } else { found };
        let mut ipv6 = link.ipv6;
        if !spec.user_managed {
            // The same address again: from now on it is an explicit one. Not if it is the one that was
            // asked for: this call notifies, and whoever follows notifications would call for ever.
            if !created && (none || spec.mac != mac) {
                self.set_mac(link.index, mac).await?;
            }
            if link.mtu != spec.mtu {
                let message = LinkUnspec::new_with_index(link.index).mtu(spec.mtu).build();
                let doing = format!("set MTU {} on bridge {}", spec.mtu, link.name);
                self.set_link(message, doing).await?;
                // The kernel takes IPv6 off an interface whose MTU becomes too small, and brings it back with its
                // own defaults.
                ipv6 = self.existing_link(&link.name).await?.ipv6;
            }
            if ipv6.is_some_and(|ipv6| ipv6.accepts_advertisements) {
                self.set_ipv6_parameter(link, "accept_ra", "0").await?;
            }
        }
        if spec.ipv6 {
            self.enable_ipv6(link, ipv6, spec.mtu).await?;
        } else if !spec.user_managed && ipv6.is_some_and(|ipv6| !ipv6.disabled) {
            self.set_ipv6_parameter(link, "disable_ipv6", "1").await?;
        }
        self.reconcile_addresses(link, spec, addresses).await?;
        if !link.up {
            self.set_up(link.index).await?;
        }
        Ok(mac)
    }

    /// Docker's words where it has some.
    async fn enable_ipv6(
        &self,
        link: &Link,
        now: Option<Ipv6Settings>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let Some(now) = now else {
            return Err(NetlinkError::NoIpv6 {
                bridge: link.name.clone(),
                reason: if mtu < IPV6_MIN_MTU {
                    format!("its MTU is {mtu}, and IPv6 needs {IPV6_MIN_MTU} at least")
                } else {
                    "this kernel has no IPv6, or was started with ipv6.disable=1".to_owned()
                },
            });
        };
        if !now.disabled {
            return Ok(());
        }
        match self.set_ipv6_parameter(link, "disable_ipv6", "0").await {
            Err(NetlinkError::Sysctl(error)) => Err(NetlinkError::EnableIpv6(error)),
            result => result,
        }
    }

    async fn set_ipv6_parameter(
        &self,
        link: &Link,
        parameter: &'static str,
        value: &'static str,
    ) -> Result<(), NetlinkError> {
        let name = link.name.clone();
        let set = move || sysctl::set_if_present(&["net", "ipv6", "conf", &name, parameter], value);
        Ok(self.run(set).await??)
    }

    async fn reconcile_addresses(
        &self,
        link: &Link,
        spec: &BridgeSpec,
        addresses: &[Address],
    ) -> Result<(), NetlinkError> {
        let present: Vec<&Address> = addresses
            .iter()
            .filter(|address| address.if_index == link.index)
            .collect();
        for ipv4 in [true, false] {
            let of_family = |address: &IpNet| address.addr().is_ipv4() == ipv4;
            let mut wanted: Vec<IpNet> = spec.addresses.iter().copied().filter(of_family).collect();
            if !ipv4 {
                if !spec.ipv6 {
                    continue;
                }
                if !wanted.contains(&LINK_LOCAL) {
                    wanted.push(LINK_LOCAL);
                }
            }
            // What the kernel has made of the bridge's own Ethernet address is not ours to remove. What nobody can
            // use is put there again, without detection of duplicates.
            let is_stale = |address: &&&Address| {
                if wanted.contains(&address.address) {
                    address.tentative || address.dad_failed
                } else {
                    ipv4 || !address.link_scope
                }
            };
            let present = || {
                let mut all = present.iter();
                std::iter::from_fn(move || all.find(|address| of_family(&address.address)))
            };
            let stale: Vec<IpNet> = present()
                .filter(is_stale)
                .map(|address| address.address)
                .collect();
            // Wrong ones first: removing a primary address takes its secondaries along, which the right
            // one would be if it were added before.
            if !spec.user_managed {
                for address in &stale {
                    self.remove_address(link.index, *address).await?;
                }
            }
            for address in wanted {
                // One of IPv6 can be there once only, with whatever prefix length.
                let is_there = present().any(|other| match address {
                    IpNet::V4(_) => other.address == address,
                    IpNet::V6(_) => other.address.addr() == address.addr(),
                });
                if !is_there || (!spec.user_managed && !stale.is_empty()) {
                    self.ensure_address(link.index, address).await?;
                }
            }
        }
        Ok(())
    }
}

fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
}
