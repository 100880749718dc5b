//! Addresses within a subnet, by Docker's rules.
//!
//! The lowest free address is given out, so that a freed one is used again by the next container.
//! Reserved are: the network address (for IPv6 the subnet-router anycast address), the IPv4 broadcast
//! address, the gateway if the network has one, and auxiliary addresses (`--aux-address`, the daemon's
//! `--default-gateway`). In an IPv4 /31 and /32 (IPv6 /127 and /128) nothing but the gateway and auxiliary
//! addresses is reserved. With an allocation range (`--ip-range`, `--fixed-cidr`) dynamic addresses come only
//! from it, while a requested one may be anywhere in the subnet. Of an IPv6 subnet with more than 2⁶³
//! addresses only the first 2⁶³ are given out dynamically.
//!
//! Taken addresses are a set of disjoint, non-adjacent intervals of offsets: finding the lowest free
//! address, taking and releasing one cost O(log n) in the number of *gaps*, whatever the subnet's size.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::mac::MacAddress;
use super::network_config::FamilyConfig;
use crate::api::types::AddressRange;

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// Where dynamic addresses come from; `None`: the whole subnet.
    pub range: Option<IpNet>,
    /// Whether an address is set aside for the gateway, and which.
    pub gateway: Gateway,
    /// Addresses that are never given out, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl From<&FamilyConfig> for PoolConfig {
    fn from(family: &FamilyConfig) -> Self {
        Self {
            subnet: family.subnet,
            range: family.allocation_range,
            gateway: family.gateway.map_or(Gateway::Absent, Gateway::At),
            auxiliary: family.auxiliary.clone(),
        }
    }
}

/// Which address of a pool is the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// None: the network has no gateway, so containers may have every address.
    Absent,
    /// The first free address (of the range, if there is one).
    First,
    /// This one; it may lie outside the range.
    At(IpAddr),
}

/// By what an address of a container is used.
pub(super) const TAKEN: &str = "taken by another container";

/// Why an address cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// `subnet` has bits set below its prefix.
    #[error("invalid subnet {given}: it should be {expected}")]
    HostBits {
        /// As given.
        given: IpNet,
        /// Without host bits.
        expected: IpNet,
    },
    /// The allocation range has bits set below its prefix.
    #[error("invalid ip-range {given}: it should be {expected}")]
    RangeHostBits {
        /// As given.
        given: IpNet,
        /// Without host bits.
        expected: IpNet,
    },
    /// The allocation range is of the other address family.
    #[error(
        "invalid ip-range {range}: parent subnet is an IPv{family} block: choose a part of {subnet}"
    )]
    RangeFamily {
        /// The range.
        range: IpNet,
        /// 4 or 6: the subnet's family.
        family: u8,
        /// The subnet.
        subnet: IpNet,
    },
    /// The allocation range reaches beyond the subnet.
    #[error(
        "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}: choose a part of it"
    )]
    RangeTooBig {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// The allocation range is elsewhere.
    #[error(
        "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range: choose a part of it"
    )]
    RangeOutside {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// The gateway is elsewhere.
    #[error(
        "invalid gateway {gateway}: parent subnet {subnet} doesn't contain this address: choose one in it"
    )]
    GatewayOutside {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// The gateway is the network's or the broadcast address, or an auxiliary one.
    #[error(
        "failed to allocate gateway ({gateway}): Address already in use: it is {by}; choose another in {subnet}"
    )]
    GatewayInUse {
        /// The gateway.
        gateway: IpAddr,
        /// What the address is.
        by: &'static str,
        /// The subnet.
        subnet: IpNet,
    },
    /// An auxiliary address is the network's or the broadcast address, or given twice.
    #[error(
        "failed to allocate secondary ip address ({name}:{address}): Address already in use: choose another in {subnet}"
    )]
    AuxiliaryInUse {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// An auxiliary address is elsewhere.
    #[error(
        "invalid auxiliary address {name}: parent subnet {subnet} doesn't contain this address: choose one in it, not {address}"
    )]
    AuxiliaryOutside {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// A requested address is not in the subnet.
    #[error(
        "invalid address {address}: It does not belong to any of this network's subnets: choose one in {subnet}"
    )]
    OutOfRange {
        /// As requested.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// A requested address is in use or reserved.
    #[error("Address already in use: {address} is {by}: choose another {} in {subnet}", if address.is_ipv4() { "--ip" } else { "--ip6" })]
    InUse {
        /// As requested.
        address: IpAddr,
        /// By what it is used.
        by: &'static str,
        /// The subnet.
        subnet: IpNet,
    },
    /// The address that follows from a MAC is in use or reserved.
    #[error(
        "Address already in use: {address}, which follows from MAC {mac}, is {by}: choose another --mac-address, or an --ip6 in {subnet}"
    )]
    MacInUse {
        /// The address.
        address: IpAddr,
        /// The MAC.
        mac: MacAddress,
        /// By what it is used.
        by: &'static str,
        /// The subnet.
        subnet: IpNet,
    },
    /// Nothing is left.
    #[error(
        "no available addresses on this pool: all of {range} are in use; remove containers or choose a larger subnet"
    )]
    Exhausted {
        /// Where dynamic addresses come from.
        range: IpNet,
    },
    /// Nothing is left of the ranges that were asked for.
    #[error(
        "no available addresses in the given ranges: all of {ranges} are in use; remove containers or give a larger range"
    )]
    RangesExhausted {
        /// The ranges.
        ranges: String,
    },
}

/// The addresses of one subnet.
#[derive(Clone, Debug)]
pub struct Pool {
    subnet: IpNet,
    range: Option<IpNet>,
    gateway: Option<IpAddr>,
    /// Never given out and never released.
    reserved: BTreeSet<u128>,
    taken: IntervalSet,
    /// Among the taken ones, those that are leased; true: a container has it.
    leased: BTreeMap<u128, bool>,
}

impl Pool {
    /// A pool in which only the reserved addresses are taken, the gateway among them.
    ///
    /// # Errors
    /// Docker's messages if the parts of `config` contradict each other, or no address is left for the gateway.
    pub fn new(config: &PoolConfig) -> Result<Self, IpamError> {
        let subnet = config.subnet.trunc();
        if subnet != config.subnet {
            return Err(IpamError::HostBits {
                given: config.subnet,
                expected: subnet,
            });
        }
        if let Some(range) = config.range {
            check_range(range, subnet)?;
        }
        let mut pool = Self {
            subnet,
            range: config.range,
            gateway: None,
            reserved: BTreeSet::new(),
            taken: IntervalSet::default(),
            leased: BTreeMap::new(),
        };
        if subnet.prefix_len() + 2 <= subnet.max_prefix_len() {
            pool.set_aside(subnet.network());
            if matches!(subnet, IpNet::V4(_)) {
                pool.set_aside(subnet.broadcast());
            }
        }
        for (name, &address) in &config.auxiliary {
            let name = name.clone();
            if !subnet.contains(&address) {
                return Err(IpamError::AuxiliaryOutside {
                    name,
                    address,
                    subnet,
                });
            }
            if !pool.set_aside(address) {
                return Err(IpamError::AuxiliaryInUse {
                    name,
                    address,
                    subnet,
                });
            }
        }
        pool.gateway = match config.gateway {
            Gateway::Absent => None,
            Gateway::First => Some(pool.allocate()?),
            Gateway::At(gateway) if !subnet.contains(&gateway) => {
                return Err(IpamError::GatewayOutside { gateway, subnet });
            }
            Gateway::At(gateway) => Some(gateway),
        };
        if let Some(gateway) = pool.gateway {
            let fresh = pool.set_aside(gateway);
            if !fresh && config.gateway == Gateway::At(gateway) {
                let by = if config.auxiliary.values().any(|other| *other == gateway) {
                    "an auxiliary address"
                } else {
                    "the network's or the broadcast address"
                };
                return Err(IpamError::GatewayInUse {
                    gateway,
                    by,
                    subnet,
                });
            }
        }
        Ok(pool)
    }

    /// The subnet.
    pub const fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// Where dynamic addresses come from, if not the whole subnet.
    pub const fn range(&self) -> Option<IpNet> {
        self.range
    }

    /// The gateway, if an address is set aside for one.
    pub const fn gateway(&self) -> Option<IpAddr> {
        self.gateway
    }

    /// Takes the lowest free address.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self) -> Result<IpAddr, IpamError> {
        let range = self.range.unwrap_or(self.subnet);
        let first = self.offset(range.network());
        let last = self
            .offset(range.broadcast())
            .min(first.saturating_add(MAX_DYNAMIC - 1));
        let offset = self
            .taken
            .first_gap(first, last)
            .ok_or(IpamError::Exhausted { range })?;
        self.taken.insert(offset);
        Ok(self.address(offset))
    }

    /// Takes the lowest free address of some ranges, which lie in the subnet.
    ///
    /// # Errors
    /// [`IpamError::RangesExhausted`].
    pub fn allocate_from(&mut self, ranges: &[AddressRange]) -> Result<IpAddr, IpamError> {
        let mut sorted: Vec<&AddressRange> = ranges.iter().collect();
        sorted.sort_by_key(|range| range.first);
        for range in sorted {
            let (first, last) = (self.offset(range.first), self.offset(range.last));
            if let Some(offset) = self.taken.first_gap(first, last) {
                self.taken.insert(offset);
                return Ok(self.address(offset));
            }
        }
        let texts = ranges.iter();
        let texts: Vec<String> = texts
            .map(|range| format!("{}-{}", range.first, range.last))
            .collect();
        Err(IpamError::RangesExhausted {
            ranges: texts.join(", "),
        })
    }

    /// Takes a requested address.
    ///
    /// # Errors
    /// If it is outside the subnet, reserved or taken.
    pub fn reserve(&mut self, address: IpAddr) -> Result<(), IpamError> {
        let subnet = self.subnet;
        if !subnet.contains(&address) {
            return Err(IpamError::OutOfRange { address, subnet });
        }
        let offset = self.offset(address);
        if self.taken.insert(offset) {
            if let Some(in_use) = self.leased.get_mut(&offset) {
                *in_use = true;
            }
            return Ok(());
        }
        let by = if self.gateway == Some(address) {
            "the gateway"
        } else if self.reserved.contains(&offset) {
            "reserved"
        } else if self.leased.contains_key(&offset) {
            "leased to docker"
        } else {
            TAKEN
        };
        Err(IpamError::InUse {
            address,
            by,
            subnet,
        })
    }

    /// Gives an address back; reserved and foreign ones are left alone. True if it was taken.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && {
            let offset = self.offset(address);
            match self.leased.get_mut(&offset) {
                Some(in_use) => std::mem::replace(in_use, false),
                None => !self.reserved.contains(&offset) && self.taken.remove(offset),
            }
        }
    }

    /// Leases an address: no container gets it for which [`Pool::lend`] was not called.
    ///
    /// # Errors
    /// As [`Pool::reserve`] and [`Pool::allocate`].
    pub fn lease(&mut self, address: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        let address = match address {
            Some(address) => self.reserve(address).map(|()| address)?,
            None => self.allocate()?,
        };
        self.leased.insert(self.offset(address), false);
        Ok(address)
    }

    /// Leases the lowest free address of a range; `None`: of the pool's own.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn lease_from(&mut self, range: Option<IpNet>) -> Result<IpAddr, IpamError> {
        let own = self.range;
        self.range = range.or(own);
        let leased = self.lease(None);
        self.range = own;
        leased
    }

    /// Ends a lease. The address is free, unless a container has it: then with its end.
    pub fn unlease(&mut self, address: IpAddr) {
        if self.subnet.contains(&address) {
            let offset = self.offset(address);
            if self.leased.remove(&offset) == Some(false) {
                self.taken.remove(offset);
            }
        }
    }

    /// Makes a leased address that no container has one that can be reserved once. True if it was one.
    pub fn lend(&mut self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && {
            let offset = self.offset(address);
            self.leased.get(&offset) == Some(&false) && self.taken.remove(offset)
        }
    }

    /// Undoes [`Pool::lend`], if nobody has reserved the address since.
    pub fn take_back(&mut self, address: IpAddr) {
        if self.subnet.contains(&address) {
            let offset = self.offset(address);
            if self.leased.contains_key(&offset) {
                self.taken.insert(offset);
            }
        }
    }

    /// It is never given out: the network's own, the gateway's, or an auxiliary one.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && self.reserved.contains(&self.offset(address))
    }

    /// How many addresses are taken, reserved ones included: Docker's `IPsInUse`.
    pub fn in_use(&self) -> u128 {
        self.taken.len()
    }

    /// How many addresses can still be given out dynamically, `u64::MAX` if they are more: Docker's
    /// `DynamicIPsAvailable`.
    pub fn available(&self) -> u64 {
        let range = self.range.unwrap_or(self.subnet);
        let (first, last) = (self.offset(range.network()), self.offset(range.broadcast()));
        let size = (last - first).saturating_add(1);
        u64::try_from(size - self.taken.count(first, last)).unwrap_or(u64::MAX)
    }

    /// False if it was set aside before.
    fn set_aside(&mut self, address: IpAddr) -> bool {
        let offset = self.offset(address);
        self.taken.insert(offset);
        self.reserved.insert(offset)
    }

    fn offset(&self, address: IpAddr) -> u128 {
        bits(address) - bits(self.subnet.network())
    }

    fn address(&self, offset: u128) -> IpAddr {
        let value = bits(self.subnet.network()) + offset;
        match self.subnet {
            IpNet::V4(_) => u32::try_from(value).map_or(IpAddr::V4(Ipv4Addr::BROADCAST), |v4| {
                Ipv4Addr::from(v4).into()
            }),
            IpNet::V6(_) => Ipv6Addr::from(value).into(),
        }
    }
}

/// In Docker's order, of which the user sees the first that does not hold.
fn check_range(range: IpNet, subnet: IpNet) -> Result<(), IpamError> {
    let family = if subnet.addr().is_ipv4() { 4 } else { 6 };
    if range.addr().is_ipv4() != subnet.addr().is_ipv4() {
        return Err(IpamError::RangeFamily {
            range,
            family,
            subnet,
        });
    }
    if range.prefix_len() < subnet.prefix_len() {
        return Err(IpamError::RangeTooBig { range, subnet });
    }
    let expected = range.trunc();
    if range != expected {
        return Err(IpamError::RangeHostBits {
            given: range,
            expected,
        });
    }
    if subnet.contains(&range) {
        Ok(())
    } else {
        Err(IpamError::RangeOutside { range, subnet })
    }
}

/// Dynamic addresses come from at most this many.
const MAX_DYNAMIC: u128 = 1 << 63;

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A set of numbers as disjoint, non-adjacent inclusive intervals: first → last.
#[derive(Clone, Debug, Default)]
struct IntervalSet(BTreeMap<u128, u128>);

impl IntervalSet {
    /// The interval that contains `value`.
    fn containing(&self, value: u128) -> Option<(u128, u128)> {
        let (&first, &last) = self.0.range(..=value).next_back()?;
        (value <= last).then_some((first, last))
    }

    /// The lowest number in `first..=last` that is not in the set.
    fn first_gap(&self, first: u128, last: u128) -> Option<u128> {
        let gap = match self.containing(first) {
            // Intervals are never adjacent, so what follows one is free.
            Some((_, end)) => end.checked_add(1)?,
            None => first,
        };
        (gap <= last).then_some(gap)
    }

    /// False if it was there already.
    fn insert(&mut self, value: u128) -> bool {
        if self.containing(value).is_some() {
            return false;
        }
        let mut first = value;
        let mut last = value;
        if let Some((before, _)) = value
            .checked_sub(1)
            .and_then(|previous| self.containing(previous))
        {
            first = before;
        }
        if let Some(after) = value.checked_add(1).and_then(|next| self.0.remove(&next)) {
            last = after;
        }
        self.0.insert(first, last);
        true
    }

    /// False if it was not there.
    fn remove(&mut self, value: u128) -> bool {
        let Some((first, last)) = self.containing(value) else {
            return false;
        };
        self.0.remove(&first);
        if first < value {
            self.0.insert(first, value - 1);
        }
        if value < last {
            self.0.insert(value + 1, last);
        }
        true
    }

    fn len(&self) -> u128 {
        self.count(0, u128::MAX)
    }

    /// How many numbers of `first..=last` are in the set.
    fn count(&self, first: u128, last: u128) -> u128 {
        let before = self.containing(first).map(|(start, _)| start);
        self.0
            .range(before.unwrap_or(first)..=last)
            .map(|(&start, &end)| end.min(last) - start.max(first) + 1)
            .sum()
    }
}

#[cfg(test)]
mod tests;
