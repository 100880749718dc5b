//! Giving a container what it has on a network: addresses, MAC, gateways, names of both ends of its
//! interface. Nothing is stored here; [`State::release_addresses`] takes everything back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::ControlError;
use super::gateway;
use super::ipam::{IpamError, Pool, TAKEN};
use super::ipv6_address;
use super::mac::MacAddress;
use super::names;
use super::random;
use super::records::{Attachment, Container, Counters, Endpoint, FamilyConfig, Network};
use super::state::{NetworkEntry, State};
use crate::api::types::AddressRange;

impl State {
    /// Gives every attachment an endpoint, in the order of gateways: `eth0` is the first to be the
    /// default route. None is left after an error.
    pub(super) fn make_endpoints(
        &mut self,
        record: &mut Container,
        counters: &mut Counters,
    ) -> Result<(), ControlError> {
        for index in self.order_of_attachments(record)? {
            if let Err(error) = self.make_endpoint(record, index, &[], counters) {
                self.release_addresses(record);
                for attachment in &mut record.attachments {
                    attachment.endpoint = None;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn order_of_attachments(&self, record: &Container) -> Result<Vec<usize>, ControlError> {
        let attachments = record.attachments.iter().enumerate();
        let mut order = attachments
            .map(|(index, attachment)| {
                let network = self.network_of(attachment)?;
                let key = gateway::key(attachment, network, gateways(network, attachment).len());
                Ok((key, index))
            })
            .collect::<Result<Vec<_>, ControlError>>()?;
        order.sort();
        Ok(order.into_iter().map(|(_, index)| index).collect())
    }

    /// Gives the attachment at `index` an endpoint. Addresses that nobody has asked for come from `ranges`, if there
    /// is one of their family.
    pub(super) fn make_endpoint(
        &mut self,
        record: &mut Container,
        index: usize,
        ranges: &[AddressRange],
        counters: &mut Counters,
    ) -> Result<(), ControlError> {
        let Some(attachment) = record.attachments.get(index) else {
            return Ok(());
        };
        let network = self.network_of(attachment)?.clone();
        if let Some(mac) = attachment.requested_mac {
            self.check_mac(&network, mac)?;
        }
        let id = names::new_id().map_err(ControlError::Random)?;
        let host_interface = self
            .new_interface_name(record, "")
            .map_err(ControlError::Random)?;
        let interface = match &attachment.requested_interface {
            // It is among the host's interfaces until the runtime takes it.
            None if record.is_delegated() => self
                .new_interface_name(record, &host_interface)
                .map_err(ControlError::Random)?,
            _ => interface_name(record, attachment, &network)?,
        };
        let allowed = self.allow_leases(record, attachment);
        let taken = self.take_addresses(&network, &record.name, attachment, ranges);
        if taken.is_err() {
            self.refuse_leases(&network.id, &allowed);
        }
        let (addresses, mac) = taken?;
        counters.endpoint += 1;
        let endpoint = Endpoint {
            id,
            number: counters.endpoint,
            addresses,
            gateways: gateways(&network, attachment),
            mac,
            host_interface,
            interface,
            former_ipv6: None,
        };
        if let Some(attachment) = record.attachments.get_mut(index) {
            attachment.endpoint = Some(endpoint);
        }
        Ok(())
    }

    /// The network that an attachment is on.
    pub(super) fn network_of(&self, attachment: &Attachment) -> Result<&Network, ControlError> {
        self.network_by_id(&attachment.network)
            .ok_or_else(|| ControlError::NoSuchNetwork(attachment.network_name.clone()))
    }

    /// Two interfaces with one MAC on a bridge would take each other's frames.
    fn check_mac(&self, network: &Network, mac: MacAddress) -> Result<(), ControlError> {
        let in_use = |owner: String| {
            Err(ControlError::MacInUse {
                mac: mac.to_string(),
                owner,
            })
        };
        if mac == network.bridge_mac {
            return in_use(format!("bridge {}", network.config.bridge));
        }
        let other = self.containers().find(|container| {
            let mut endpoints = container.endpoints();
            endpoints.any(|(place, endpoint)| place.network == network.id && endpoint.mac == mac)
        });
        other.map_or(Ok(()), |other| in_use(format!("container {}", other.name)))
    }

    /// One address of each family of the network: the requested one, or one by the network's rules. And the MAC: the
    /// requested one, or one that follows from the IPv4 address; the IPv6 address may follow from it.
    fn take_addresses(
        &mut self,
        network: &Network,
        container: &str,
        attachment: &Attachment,
        ranges: &[AddressRange],
    ) -> Result<(Vec<IpNet>, MacAddress), ControlError> {
        let mut taken: Vec<IpNet> = Vec::new();
        let outcome = self.take_each(network, container, attachment, ranges, &mut taken);
        if outcome.is_err()
            && let Some(entry) = self.networks.get_mut(&network.id)
        {
            taken.iter().for_each(|net| entry.release(net.addr()));
        }
        outcome.map(|mac| (taken, mac))
    }

    fn take_each(
        &mut self,
        network: &Network,
        container: &str,
        attachment: &Attachment,
        ranges: &[AddressRange],
        taken: &mut Vec<IpNet>,
    ) -> Result<MacAddress, ControlError> {
        taken.extend(self.take_ipv4(network, container, attachment, ranges)?);
        let mac = match attachment.requested_mac {
            Some(mac) => mac,
            None => self.new_mac(network, taken)?,
        };
        let requested = attachment.requested_address(false);
        taken.extend(self.take_ipv6(network, container, requested, mac, ranges)?);
        Ok(mac)
    }

    /// The MAC that belongs to the IPv4 address; a random one if there is no such address, or if somebody has asked for
    /// that MAC.
    fn new_mac(&self, network: &Network, taken: &[IpNet]) -> Result<MacAddress, ControlError> {
        let mut wanted = generated_mac(taken);
        loop {
            let mac = match wanted.take() {
                Some(mac) => mac,
                None => MacAddress::random_container().map_err(ControlError::Random)?,
            };
            if self.check_mac(network, mac).is_ok() {
                return Ok(mac);
            }
        }
    }

    fn take_ipv4(
        &mut self,
        network: &Network,
        container: &str,
        attachment: &Attachment,
        ranges: &[AddressRange],
    ) -> Result<Option<IpNet>, ControlError> {
        let requested = attachment.requested_address(true);
        self.take_from_pool(network, container, true, requested, ranges, Pool::allocate)
    }

    /// An IPv6 address for a container whose interface has this MAC; none if the network has no IPv6.
    pub(super) fn take_ipv6(
        &mut self,
        network: &Network,
        container: &str,
        requested: Option<IpAddr>,
        mac: MacAddress,
        ranges: &[AddressRange],
    ) -> Result<Option<IpNet>, ControlError> {
        let secret = self.identity.secret.clone();
        let owner = ipv6_address::Owner {
            network: &network.name,
            container,
            mac,
            secret: &secret,
        };
        let allocation = network.config.ipv6_address;
        self.take_from_pool(network, container, false, requested, ranges, |pool| {
            ipv6_address::choose(pool, allocation, &owner)
        })
    }

    /// The name of the container that has an address.
    pub(super) fn holder_of(&self, network: &str, address: IpAddr) -> Option<String> {
        let has_it = |(attachment, endpoint): (&Attachment, &Endpoint)| {
            attachment.network == network
                && endpoint.addresses.iter().any(|net| net.addr() == address)
        };
        let mut containers = self.containers();
        let found = containers.find(|container| container.endpoints().any(has_it));
        found.map(|container| container.name.clone())
    }

    /// The requested address, or one of the ranges of its family, or what `choose` finds.
    fn take_from_pool(
        &mut self,
        network: &Network,
        container: &str,
        ipv4: bool,
        requested: Option<IpAddr>,
        ranges: &[AddressRange],
        choose: impl FnOnce(&mut Pool) -> Result<IpAddr, IpamError>,
    ) -> Result<Option<IpNet>, ControlError> {
        let holder = requested.and_then(|address| self.holder_of(&network.id, address));
        let entry = self
            .networks
            .get_mut(&network.id)
            .ok_or_else(|| ControlError::NoSuchNetwork(network.name.clone()))?;
        let Some(pool) = entry.pool(ipv4) else {
            return Ok(None);
        };
        let ranges = ranges.iter().copied();
        let ranges: Vec<AddressRange> = ranges
            .filter(|range| range.first.is_ipv4() == ipv4)
            .collect();
        let outcome = match requested {
            Some(address) => pool.reserve(address).map(|()| address),
            None if !ranges.is_empty() => pool.allocate_from(&ranges),
            None => choose(pool),
        };
        let address = outcome.map_err(|source| {
            // It did belong to the network when it was asked for.
            if let IpamError::OutOfRange { address, subnet } = source {
                return ControlError::AddressGone {
                    address,
                    flag: if ipv4 { "--ip" } else { "--ip6" },
                    network: network.name.clone(),
                    subnet,
                    container: container.to_owned(),
                };
            }
            let exhausted = matches!(
                source,
                IpamError::Exhausted { .. } | IpamError::RangesExhausted { .. }
            );
            if !exhausted {
                return address_error(source, holder);
            }
            ControlError::NoAddress {
                family: if ipv4 { 4 } else { 6 },
                network: network.name.clone(),
                id: network.id.clone(),
                source,
            }
        })?;
        let net = IpNet::new(address, pool.subnet().prefix_len());
        Ok(Some(net.unwrap_or_else(|_| address.into())))
    }

    /// Gives back the addresses of all endpoints in a record.
    pub(super) fn release_addresses(&mut self, record: &Container) {
        for (attachment, endpoint) in record.endpoints() {
            self.release_endpoint(&attachment.network, endpoint);
        }
    }

    /// Gives back the addresses of an endpoint.
    pub(super) fn release_endpoint(&mut self, network: &str, endpoint: &Endpoint) {
        if let Some(entry) = self.networks.get_mut(network) {
            let addresses = endpoint.addresses.iter();
            addresses.for_each(|net| NetworkEntry::release(entry, net.addr()));
        }
    }

    /// A name for the host's end of a veth pair: `veth` and seven digits, as Docker's.
    fn new_interface_name(&self, record: &Container, other: &str) -> std::io::Result<String> {
        let own = record.endpoints().map(|(_, endpoint)| endpoint);
        let all = self.endpoints().map(|(_, _, endpoint)| endpoint);
        let taken: BTreeSet<&str> = own
            .chain(all)
            .flat_map(|endpoint| [&endpoint.host_interface, &endpoint.interface])
            .map(String::as_str)
            .chain([other])
            .collect();
        loop {
            let name = format!("veth{}", &random::hex::<4>()?[..7]);
            if !taken.contains(name.as_str()) {
                return Ok(name);
            }
        }
    }
}

/// Why an address is not to be had, with the container that has it.
pub(super) fn address_error(source: IpamError, holder: Option<String>) -> ControlError {
    match (source, holder) {
        (
            IpamError::InUse {
                address,
                by: TAKEN,
                subnet,
            },
            Some(container),
        ) => ControlError::AddressTaken {
            address,
            container,
            subnet,
        },
        (source, _) => ControlError::Address(source),
    }
}

/// The wanted name, or the network's prefix and the lowest number that no interface of the container has.
fn interface_name(
    record: &Container,
    attachment: &Attachment,
    network: &Network,
) -> Result<String, ControlError> {
    let others = record
        .attachments
        .iter()
        .filter(|other| other.network != attachment.network);
    let taken: BTreeSet<&str> = others
        .filter_map(|other| match &other.endpoint {
            Some(endpoint) => Some(endpoint.interface.as_str()),
            None => other.requested_interface.as_deref(),
        })
        .collect();
    if let Some(wanted) = &attachment.requested_interface {
        return if taken.contains(wanted.as_str()) {
            Err(ControlError::InterfaceInUse {
                interface: wanted.clone(),
                container: record.name.clone(),
            })
        } else {
            Ok(wanted.clone())
        };
    }
    let prefix = &network.config.interface_prefix;
    let mut number = 0_u32;
    loop {
        let name = format!("{prefix}{}", number);
        if !taken.contains(name.as_str()) {
            return Ok(name);
        }
        number += 1;
    }
}

/// Where an endpoint's default routes go; an internal network has none.
pub(super) fn gateways(network: &Network, attachment: &Attachment) -> Vec<IpAddr> {
    if network.config.internal || !attachment.default_route {
        return Vec::new();
    }
    let families = network.config.families.iter();
    families.filter_map(FamilyConfig::default_gateway).collect()
}

/// `02:42:` and the IPv4 address; none without one.
fn generated_mac(addresses: &[IpNet]) -> Option<MacAddress> {
    addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(MacAddress::from_ipv4(address)),
        IpAddr::V6(_) => None,
    })
}
