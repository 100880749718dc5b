//! What the programs know, and how it is encoded.
//!
//! Keys and values are byte arrays laid out by hand like the structs of `maps.bpf.h`: addresses
//! and ports big-endian, interface indexes in native order. This process alone writes the maps, so
//! what is in them is remembered here, and only differences are written.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use ipnet::IpNet;

use super::mirror::Mirror;
use super::{ContainerPort, LocalAddress, Policer, SteeringError, Subnet};

/// Names of the counters, in the order of `enum counter` in `maps.bpf.h`.
const COUNTERS: [&str; 26] = [
    "diverted_container",
    "diverted_uplink",
    "diverted_loopback",
    "delivered_container",
    "delivered_host",
    "delivered_uplink",
    "peer_redirect",
    "host_socket_won",
    "spoof_mac",
    "spoof_ip",
    "spoof_arp",
    "spoof_nd",
    "rogue_ra",
    "ipv6_disabled",
    "vlan_tagged",
    "other_ethertype",
    "malformed",
    "icc_drop",
    "internal_drop",
    "rate_exceeded",
    "martian_container",
    "martian_uplink",
    "direct_access",
    "no_endpoint",
    "no_egress",
    "tun_malformed",
];

type AddressKey = [u8; 16];
type EndpointValue = [u8; 60];
type NeighbourKey = [u8; 12];
type PolicerValue = [u8; 24];
type LocalValue = [u8; 12];
type SubnetValue = [u8; 12];
type PublishedKey = [u8; 20];

/// `struct settings`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    pub(super) tun: u32,
    pub(super) loopback: u32,
    pub(super) default_uplink: u32,
    pub(super) default_uplink_ipv6: u32,
}

/// Every map that user space writes or reads, except the bitmap of external ports.
pub(super) struct Maps {
    containers: Mirror<HashMap<MapData, u32, EndpointValue>, u32, EndpointValue>,
    endpoints: Mirror<HashMap<MapData, AddressKey, EndpointValue>, AddressKey, EndpointValue>,
    neighbours: Mirror<HashMap<MapData, NeighbourKey, u32>, NeighbourKey, u32>,
    policers: Mirror<HashMap<MapData, u32, PolicerValue>, u32, PolicerValue>,
    locals: Mirror<HashMap<MapData, AddressKey, LocalValue>, AddressKey, LocalValue>,
    local_macs: Mirror<HashMap<MapData, [u8; 6], u8>, [u8; 6], u8>,
    subnets: Mirror<LpmTrie<MapData, AddressKey, SubnetValue>, (u32, AddressKey), SubnetValue>,
    uplinks: Mirror<HashMap<MapData, u32, u32>, u32, u32>,
    published: HashMap<MapData, PublishedKey, u8>,
    published_ports: u64,
    settings: Settings,
    settings_map: Array<MapData, [u32; 4]>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps")
            .field("containers", &self.containers.known.len())
            .field("locals", &self.locals.known.len())
            .field("subnets", &self.subnets.known.len())
            .field("uplinks", &self.uplinks.known.len())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, SteeringError> {
        Ok(Self {
            containers: Mirror::new("containers", typed(object, "containers")?),
            endpoints: Mirror::new("endpoints", typed(object, "endpoints")?),
            neighbours: Mirror::new("neighbours", typed(object, "neighbours")?),
            policers: Mirror::new("policers", typed(object, "policers")?),
            locals: Mirror::new("locals", typed(object, "locals")?),
            local_macs: Mirror::new("local_macs", typed(object, "local_macs")?),
            subnets: Mirror::new("subnets", typed(object, "subnets")?),
            uplinks: Mirror::new("uplinks", typed(object, "uplinks")?),
            published: typed(object, "published")?,
            published_ports: 0,
            settings: Settings::default(),
            settings_map: typed(object, "settings")?,
            counters: typed(object, "counters")?,
        })
    }

    pub(super) fn change_settings(
        &mut self,
        change: impl FnOnce(&mut Settings),
    ) -> Result<(), SteeringError> {
        let mut settings = self.settings;
        change(&mut settings);
        let value = [
            settings.tun,
            settings.loopback,
            settings.default_uplink,
            settings.default_uplink_ipv6,
        ];
        self.settings_map
            .set(0, value, 0)
            .map_err(map_error("settings"))?;
        self.settings = settings;
        Ok(())
    }

    pub(super) fn set_uplink(
        &mut self,
        if_index: u32,
        ethernet: bool,
    ) -> Result<(), SteeringError> {
        self.uplinks.insert(if_index, u32::from(ethernet))
    }

    pub(super) fn remove_uplink(&mut self, if_index: u32) {
        self.uplinks.forget(&if_index);
    }

    pub(super) fn set_container(&mut self, port: &ContainerPort) -> Result<(), SteeringError> {
        let value = endpoint_value(port);
        let old = self.containers.known.get(&port.if_index).copied();
        match port.policer {
            // Written only if it is another one: that fills it.
            Some(policer) => self
                .policers
                .insert(port.if_index, policer_value(policer))?,
            None => self.policers.forget(&port.if_index),
        }
        if let Err(error) = self.containers.insert(port.if_index, value) {
            if old.is_none() {
                self.policers.forget(&port.if_index);
            }
            return Err(error);
        }
        let mut result = self.neighbours.insert(neighbour_key(&value), port.if_index);
        for address in addresses(&value) {
            result = result.and_then(|()| self.endpoints.insert(address, value));
        }
        if result.is_err() {
            self.remove_container(port.if_index);
        }
        // What led to the veth before leads nowhere now.
        let failed = result.is_err();
        for address in old.iter().flat_map(addresses) {
            if failed || !addresses(&value).any(|new| new == address) {
                self.remove_endpoint(&address, port.if_index);
            }
        }
        if let Some(key) = old.as_ref().map(neighbour_key)
            && (failed || key != neighbour_key(&value))
        {
            self.remove_neighbour(&key, port.if_index);
        }
        result
    }

    pub(super) fn remove_container(&mut self, if_index: u32) {
        if let Some(value) = self.containers.known.get(&if_index).copied() {
            for address in addresses(&value) {
                self.remove_endpoint(&address, if_index);
            }
            self.remove_neighbour(&neighbour_key(&value), if_index);
            self.containers.forget(&if_index);
        }
        self.policers.forget(&if_index);
    }

    /// Removes the way to an address, unless another veth has taken the address over.
    fn remove_endpoint(&mut self, address: &AddressKey, veth: u32) {
        let now = self.endpoints.known.get(address);
        if now.is_some_and(|now| now[32..36] == veth.to_ne_bytes()) {
            self.endpoints.forget(address);
        }
    }

    /// The same for a MAC address on a bridge.
    fn remove_neighbour(&mut self, key: &NeighbourKey, veth: u32) {
        if self.neighbours.known.get(key) == Some(&veth) {
            self.neighbours.forget(key);
        }
    }

    pub(super) fn set_local_addresses(
        &mut self,
        addresses: &[LocalAddress],
    ) -> Result<(), SteeringError> {
        self.locals.replace(
            addresses
                .iter()
                .map(|a| (address_key(a.address), local_value(a)))
                .collect(),
        )
    }

    pub(super) fn set_local_macs(&mut self, macs: &[[u8; 6]]) -> Result<(), SteeringError> {
        self.local_macs
            .replace(macs.iter().map(|&mac| (mac, 1)).collect())
    }

    pub(super) fn set_subnets(&mut self, subnets: &[Subnet]) -> Result<(), SteeringError> {
        self.subnets.replace(
            subnets
                .iter()
                .map(|s| (prefix_key(s.prefix), subnet_value(s)))
                .collect(),
        )
    }

    pub(super) fn publish(
        &mut self,
        protocol: u8,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    ) -> Result<(), SteeringError> {
        const NO_EXIST: u64 = 1; // BPF_NOEXIST
        let mut added = Vec::new();
        for port in ports {
            let key = published_key(protocol, address, port);
            match self.published.insert(key, 1, NO_EXIST) {
                Ok(()) => added.push(key),
                Err(error) if has_errno(&error, libc::EEXIST) => {}
                Err(error) => {
                    for key in added {
                        // Best effort: the first error is the one to report.
                        let _ = self.published.remove(&key);
                    }
                    return Err(map_error("published")(error));
                }
            }
        }
        self.published_ports += count(added.len());
        Ok(())
    }

    pub(super) fn unpublish(
        &mut self,
        protocol: u8,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    ) -> Result<(), SteeringError> {
        for port in ports {
            match self
                .published
                .remove(&published_key(protocol, address, port))
            {
                Ok(()) => self.published_ports = self.published_ports.saturating_sub(1),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(map_error("published")(error)),
            }
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> BTreeMap<String, u64> {
        [
            ("containers", count(self.containers.known.len())),
            ("endpoints", count(self.endpoints.known.len())),
            ("local_addresses", count(self.locals.known.len())),
            ("local_macs", count(self.local_macs.known.len())),
            ("neighbours", count(self.neighbours.known.len())),
            ("policers", count(self.policers.known.len())),
            ("published_ports", self.published_ports),
            ("subnets", count(self.subnets.known.len())),
            ("uplinks", count(self.uplinks.known.len())),
        ]
        .map(|(name, size)| (name.to_owned(), size))
        .into()
    }

    pub(super) fn counters(&self) -> Result<BTreeMap<String, u64>, SteeringError> {
        (0..)
            .zip(COUNTERS)
            .map(|(index, name)| {
                let per_cpu = self
                    .counters
                    .get(&index, 0)
                    .map_err(map_error("counters"))?;
                Ok((name.to_owned(), per_cpu.iter().sum()))
            })
            .collect()
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, SteeringError> {
    let map = object.take_map(name).ok_or(SteeringError::Missing(name))?;
    T::try_from(map).map_err(map_error(name))
}

/// Takes an array map out of the object as it is.
pub(super) fn take(object: &mut Ebpf, name: &'static str) -> Result<MapData, SteeringError> {
    match object.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(SteeringError::Missing(name)),
    }
}

pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> SteeringError {
    move |error| {
        if has_errno(&error, libc::E2BIG) || has_errno(&error, libc::ENOSPC) {
            return SteeringError::Full { map };
        }
        SteeringError::Map {
            map,
            source: Box::new(error),
        }
    }
}

fn has_errno(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(errno))
}

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || has_errno(error, libc::ENOENT)
}

/// `struct address`: IPv4 as `::ffff:a.b.c.d`.
fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct prefix`, length and address.
fn prefix_key(prefix: IpNet) -> (u32, AddressKey) {
    let length = u32::from(prefix.prefix_len());
    let mapped = match prefix {
        IpNet::V4(_) => 96 + length,
        IpNet::V6(_) => length,
    };
    (mapped, address_key(prefix.network()))
}

/// `struct endpoint`.
fn endpoint_value(port: &ContainerPort) -> EndpointValue {
    let mut value = [0; size_of::<EndpointValue>()];
    for address in &port.addresses {
        let at = if address.is_ipv4() { 0 } else { 16 };
        value[at..at + 16].copy_from_slice(&address_key(*address));
    }
    value[32..36].copy_from_slice(&port.if_index.to_ne_bytes());
    value[36..40].copy_from_slice(&port.bridge_if_index.to_ne_bytes());
    value[40..46].copy_from_slice(&port.mac);
    value[46..52].copy_from_slice(&port.bridge_mac);
    let flags = [
        port.icc,
        port.linked,
        port.internal,
        port.ipv6,
        port.queued,
        port.policer.is_some(),
    ];
    let flags = (0..).zip(flags).map(|(bit, set)| u32::from(set) << bit);
    value[52..56].copy_from_slice(&flags.sum::<u32>().to_ne_bytes());
    value[56..].copy_from_slice(&port.container.to_ne_bytes());
    value
}

/// `struct policer`, full.
fn policer_value(policer: Policer) -> PolicerValue {
    // Half of what there is, so that the program can add to it.
    const MOST: u64 = u64::MAX / 2;
    let rate = policer.rate.max(1);
    let burst = u128::from(policer.burst) * 1_000_000_000 / u128::from(rate);
    let burst = u64::try_from(burst).unwrap_or(MOST).min(MOST);
    let mut value = PolicerValue::default();
    value[..8].copy_from_slice(&rate.to_ne_bytes());
    value[8..16].copy_from_slice(&burst.to_ne_bytes());
    value
}

/// The keys under which a `struct endpoint` is found.
fn addresses(value: &EndpointValue) -> impl Iterator<Item = AddressKey> {
    let (keys, _) = value[..32].as_chunks();
    let keys: Vec<AddressKey> = keys.to_vec();
    keys.into_iter().filter(|key| *key != AddressKey::default())
}

/// `struct neighbour`, of a `struct endpoint`.
fn neighbour_key(value: &EndpointValue) -> NeighbourKey {
    let mut key = NeighbourKey::default();
    key[..10].copy_from_slice(&value[36..46]);
    key
}

/// `struct local`.
fn local_value(local: &LocalAddress) -> LocalValue {
    let mut value = LocalValue::default();
    value[..4].copy_from_slice(&local.if_index.to_ne_bytes());
    value[4..10].copy_from_slice(&local.mac);
    value[10] = u8::from(local.ethernet);
    value
}

/// `struct subnet`.
fn subnet_value(subnet: &Subnet) -> SubnetValue {
    let mut value = SubnetValue::default();
    value[..4].copy_from_slice(&subnet.bridge_if_index.to_ne_bytes());
    value[4..10].copy_from_slice(&subnet.bridge_mac);
    value[10] = u8::from(subnet.routed);
    value
}

/// `struct published_port`.
fn published_key(protocol: u8, address: IpAddr, port: u16) -> PublishedKey {
    let mut key = PublishedKey::default();
    key[..16].copy_from_slice(&address_key(address));
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol;
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_names_match_the_enum_of_the_programs() {
        let source = include_str!("maps.bpf.h");
        let body = source
            .split("enum counter {")
            .nth(1)
            .unwrap()
            .split('}')
            .next()
            .unwrap();
        let names: Vec<String> = body
            .lines()
            .filter_map(|line| {
                line.trim()
                    .split_once(',')
                    .map(|(name, _)| name.to_lowercase())
            })
            .collect();
        assert_eq!(names[..names.len() - 1], COUNTERS);
        assert_eq!(names.last().unwrap(), "counters");
    }

    #[test]
    fn ipv4_keys_are_mapped_into_ipv6() {
        let key = address_key("172.17.0.2".parse().unwrap());
        assert_eq!(
            key,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 17, 0, 2]
        );
        assert_eq!(prefix_key("172.17.3.4/16".parse().unwrap()).0, 112);
        assert_eq!(
            prefix_key("172.17.3.4/16".parse().unwrap()).1[12..],
            [172, 17, 0, 0]
        );
        assert_eq!(prefix_key("fd00::/64".parse().unwrap()).0, 64);
    }

    #[test]
    fn structs_have_the_offsets_of_the_header() {
        let port = ContainerPort {
            if_index: 0x0102_0304,
            addresses: vec!["fd00::2".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            ipv6: true,
            mac: [1; 6],
            bridge_if_index: 0x0506_0708,
            bridge_mac: [2; 6],
            icc: true,
            linked: false,
            internal: true,
            container: 0x090a_0b0c,
            queued: true,
            policer: None,
        };
        let value = endpoint_value(&port);
        assert_eq!(value[10..16], [0xff, 0xff, 10, 0, 0, 2]);
        assert_eq!(value[16..18], [0xfd, 0]);
        assert_eq!(addresses(&value).count(), 2);
        assert_eq!(value[32..36], 0x0102_0304_u32.to_ne_bytes());
        assert_eq!(value[36..40], 0x0506_0708_u32.to_ne_bytes());
        assert_eq!((&value[40..46], &value[46..52]), (&[1; 6][..], &[2; 6][..]));
        assert_eq!(value[52..56], 29_u32.to_ne_bytes());
        assert_eq!(value[56..], 0x090a_0b0c_u32.to_ne_bytes());
        let policer = Policer {
            rate: 1000,
            burst: 5,
        };
        let limited = ContainerPort {
            policer: Some(policer),
            ..port
        };
        assert_eq!(
            endpoint_value(&limited)[52..56],
            (29_u32 + 32).to_ne_bytes()
        );
        let value_of_policer = policer_value(policer);
        assert_eq!(value_of_policer[..8], 1000_u64.to_ne_bytes());
        assert_eq!(value_of_policer[8..16], 5_000_000_u64.to_ne_bytes());
        let slow = Policer {
            rate: 1,
            burst: u64::MAX,
        };
        assert_eq!(policer_value(slow)[8..16], (u64::MAX / 2).to_ne_bytes());
        let key = neighbour_key(&value);
        assert_eq!(key[..4], 0x0506_0708_u32.to_ne_bytes());
        assert_eq!(key[4..], [1, 1, 1, 1, 1, 1, 0, 0]);
        let key = published_key(17, "0.0.0.0".parse().unwrap(), 0x1234);
        assert_eq!(key[12..], [0, 0, 0, 0, 0x12, 0x34, 17, 0]);
    }
}
