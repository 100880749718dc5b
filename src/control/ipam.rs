//! Addresses within a subnet, by Docker's rules.
//!
//! The lowest free address is given out, so that a freed one is used again by the next container.
//! Reserved are: the network address (for IPv6 the subnet-router anycast address), the IPv4 broadcast
//! address, the gateway, and auxiliary addresses such as the daemon's `--default-gateway`. In an IPv4 /31 and /32 (IPv6 /127 and
//! /128) nothing but the gateway is reserved. With an allocation range (`--fixed-cidr`) dynamic
//! addresses come only from it, while a requested one may be anywhere in the subnet. Of an IPv6 subnet
//! with more than 2⁶³ addresses only the first 2⁶³ are given out dynamically.
//!
//! Taken addresses are a set of disjoint, non-adjacent intervals of offsets: finding the lowest free
//! address, taking and releasing one cost O(log n) in the number of *gaps*, whatever the subnet's size.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// Where dynamic addresses come from; `None`: the whole subnet.
    pub range: Option<IpNet>,
    /// The gateway; `None`: the first free address (of the range, if there is one).
    pub gateway: Option<IpAddr>,
    /// Addresses that are never given out, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

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
    /// The allocation range reaches beyond the subnet.
    #[error("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}")]
    RangeTooBig {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// The allocation range is elsewhere.
    #[error("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range")]
    RangeOutside {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// The gateway is elsewhere.
    #[error("invalid gateway {gateway}: parent subnet {subnet} doesn't contain this address")]
    GatewayOutside {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// An auxiliary address is elsewhere.
    #[error(
        "invalid auxiliary address {address} ({name}): parent subnet {subnet} doesn't contain this address"
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
    #[error("Address already in use: {address} is {by}: choose another --ip in {subnet}")]
    InUse {
        /// As requested.
        address: IpAddr,
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
}

/// The addresses of one subnet.
#[derive(Clone, Debug)]
pub struct Pool {
    subnet: IpNet,
    range: Option<IpNet>,
    gateway: IpAddr,
    /// Never given out and never released.
    reserved: BTreeSet<u128>,
    taken: IntervalSet,
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
        let range = config.range.map(|range| range.trunc());
        if let Some(range) = range.filter(|range| !subnet.contains(range)) {
            return Err(if range.contains(&subnet) {
                IpamError::RangeTooBig { range, subnet }
            } else {
                IpamError::RangeOutside { range, subnet }
            });
        }
        let mut pool = Self {
            subnet,
            range,
            gateway: subnet.addr(),
            reserved: BTreeSet::new(),
            taken: IntervalSet::default(),
        };
        if subnet.prefix_len() + 2 <= subnet.max_prefix_len() {
            pool.set_aside(subnet.network());
            if matches!(subnet, IpNet::V4(_)) {
                pool.set_aside(subnet.broadcast());
            }
        }
        for (name, &address) in &config.auxiliary {
            if !subnet.contains(&address) {
                return Err(IpamError::AuxiliaryOutside {
                    name: name.clone(),
                    address,
                    subnet,
                });
            }
            pool.set_aside(address);
        }
        pool.gateway = match config.gateway {
            Some(gateway) if !subnet.contains(&gateway) => {
                return Err(IpamError::GatewayOutside { gateway, subnet });
            }
            Some(gateway) => gateway,
            None => pool.allocate()?,
        };
        pool.set_aside(pool.gateway);
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

    /// The gateway.
    pub const fn gateway(&self) -> IpAddr {
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
            return Ok(());
        }
        let by = if address == self.gateway {
            "the gateway"
        } else if self.reserved.contains(&offset) {
            "reserved"
        } else {
            "taken by another container"
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
            !self.reserved.contains(&offset) && self.taken.remove(offset)
        }
    }

    /// How many addresses are taken, reserved ones included.
    pub fn in_use(&self) -> u128 {
        self.taken.len()
    }

    fn set_aside(&mut self, address: IpAddr) {
        let offset = self.offset(address);
        self.reserved.insert(offset);
        self.taken.insert(offset);
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
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(subnet: &str) -> PoolConfig {
        PoolConfig {
            subnet: subnet.parse().unwrap(),
            range: None,
            gateway: None,
            auxiliary: BTreeMap::new(),
        }
    }

    fn pool(subnet: &str) -> Pool {
        Pool::new(&config(subnet)).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lowest_free_and_freed_ones_again() {
        // Transcript 01, "Allocation order after a release".
        let mut pool = pool("172.17.0.0/16");
        assert_eq!(pool.gateway(), ip("172.17.0.1"));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.2")));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
        assert!(pool.release(ip("172.17.0.3")));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.4")));
        assert!(pool.release(ip("172.17.0.3")));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
    }

    #[test]
    fn fixed_cidr_and_default_gateway() {
        // Transcript 06: --bip 192.168.77.1/24 --fixed-cidr 192.168.77.128/25 --default-gateway 192.168.77.254.
        let mut pool = Pool::new(&PoolConfig {
            range: Some("192.168.77.128/25".parse().unwrap()),
            gateway: Some(ip("192.168.77.1")),
            auxiliary: [("DefaultGatewayIPv4".to_owned(), ip("192.168.77.254"))].into(),
            ..config("192.168.77.0/24")
        })
        .unwrap();
        assert_eq!(pool.allocate(), Ok(ip("192.168.77.128")));
        assert_eq!(
            pool.reserve(ip("192.168.77.5")),
            Ok(()),
            "a requested address may lie outside the range"
        );
        assert!(matches!(
            pool.reserve(ip("192.168.77.254")),
            Err(IpamError::InUse { by: "reserved", .. })
        ));
        assert!(matches!(
            pool.reserve(ip("192.168.77.1")),
            Err(IpamError::InUse {
                by: "the gateway",
                ..
            })
        ));
        for last in 129..=253 {
            assert_eq!(pool.allocate(), Ok(ip(&format!("192.168.77.{last}"))));
        }
        assert!(matches!(pool.allocate(), Err(IpamError::Exhausted { .. })));
        // A gateway that is not given is the range's first address.
        let pool = Pool::new(&PoolConfig {
            range: Some("10.0.0.128/25".parse().unwrap()),
            ..config("10.0.0.0/24")
        });
        assert_eq!(pool.unwrap().gateway(), ip("10.0.0.128"));
    }

    #[test]
    fn tiny_subnets() {
        let mut thirty = pool("10.0.0.0/30");
        assert_eq!(thirty.allocate(), Ok(ip("10.0.0.2")));
        assert!(thirty.allocate().is_err());
        let mut thirty_one = pool("10.0.0.0/31");
        assert_eq!(
            (thirty_one.gateway(), thirty_one.allocate()),
            (ip("10.0.0.0"), Ok(ip("10.0.0.1")))
        );
        assert!(thirty_one.allocate().is_err());
        let mut thirty_two = pool("10.0.0.7/32");
        assert_eq!(thirty_two.gateway(), ip("10.0.0.7"));
        assert!(thirty_two.allocate().is_err());
    }

    #[test]
    fn huge_subnets_of_both_families() {
        let mut eight = pool("10.0.0.0/8");
        for _ in 0..70_000 {
            eight.allocate().unwrap();
        }
        assert_eq!(eight.allocate(), Ok(ip("10.1.17.114")));
        assert_eq!(pool("0.0.0.0/0").gateway(), ip("0.0.0.1"));
        let mut v6 = pool("fd00::/64");
        assert_eq!(
            (v6.gateway(), v6.allocate()),
            (ip("fd00::1"), Ok(ip("fd00::2")))
        );
        assert_eq!(
            v6.reserve(ip("fd00::ffff:ffff:ffff:ffff")),
            Ok(()),
            "IPv6 has no broadcast address"
        );
        assert_eq!(pool("::/0").gateway(), ip("::1"));
    }

    #[test]
    fn requested_addresses() {
        let mut pool = pool("172.17.0.0/16");
        assert_eq!(pool.reserve(ip("172.17.0.2")), Ok(()));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
        assert_eq!(
            pool.reserve(ip("172.17.0.2")).unwrap_err().to_string(),
            "Address already in use: 172.17.0.2 is taken by another container: choose another --ip in 172.17.0.0/16"
        );
        assert_eq!(
            pool.reserve(ip("10.0.0.1")).unwrap_err().to_string(),
            "invalid address 10.0.0.1: It does not belong to any of this network's subnets: choose one in 172.17.0.0/16"
        );
        for reserved in ["172.17.0.0", "172.17.255.255"] {
            assert!(pool.reserve(ip(reserved)).is_err());
        }
        for never_released in [
            "172.17.0.1",
            "172.17.0.0",
            "172.17.255.255",
            "10.0.0.1",
            "172.17.9.9",
            "::1",
        ] {
            assert!(!pool.release(ip(never_released)), "{never_released}");
        }
        assert_eq!(pool.in_use(), 5);
    }

    #[test]
    fn contradictions_have_dockers_words() {
        let error = |config: PoolConfig| Pool::new(&config).unwrap_err().to_string();
        assert_eq!(
            error(config("10.0.0.1/24")),
            "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"
        );
        let range = |range: &str| PoolConfig {
            range: Some(range.parse().unwrap()),
            ..config("10.0.0.0/24")
        };
        assert_eq!(
            error(range("10.0.0.0/16")),
            "invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24"
        );
        assert_eq!(
            error(range("10.0.1.0/25")),
            "invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range"
        );
        assert_eq!(
            error(PoolConfig {
                gateway: Some(ip("10.0.1.1")),
                ..config("10.0.0.0/24")
            }),
            "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't contain this address"
        );
        assert_eq!(
            error(PoolConfig {
                auxiliary: [("a".into(), ip("10.0.1.1"))].into(),
                ..config("10.0.0.0/24")
            }),
            "invalid auxiliary address 10.0.1.1 (a): parent subnet 10.0.0.0/24 doesn't contain this address"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        Reserve(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Allocate),
            1 => any::<u8>().prop_map(Step::Reserve),
            2 => any::<u8>().prop_map(Step::Release),
        ]
    }

    proptest! {
        /// The pool against a model that looks at every address of a small subnet.
        #[test]
        fn agrees_with_a_naive_model(
            steps in proptest::collection::vec(step(), 0..400),
            prefix in 24_u8..=32,
            range in proptest::option::of((24_u8..=32, any::<u8>())),
            auxiliary in any::<u8>(),
        ) {
            let subnet = IpNet::new(ip("10.0.0.0"), prefix).unwrap();
            let at = |last: u8| IpAddr::from([10, 0, 0, last]);
            let range = range
                .map(|(prefix, last)| IpNet::new(at(last), prefix).unwrap().trunc())
                .filter(|range| subnet.contains(range));
            let auxiliary = subnet.contains(&at(auxiliary)).then(|| ("aux".to_owned(), at(auxiliary)));
            let config = PoolConfig { subnet, range, gateway: None, auxiliary: auxiliary.into_iter().collect() };

            let inside: Vec<u8> = (0..=255).filter(|&last| subnet.contains(&at(last))).collect();
            let dynamic: Vec<u8> =
                (0..=255).filter(|&last| range.unwrap_or(subnet).contains(&at(last))).collect();
            let mut reserved: BTreeSet<u8> =
                config.auxiliary.values().map(|address| u8::try_from(bits(*address) & 0xff).unwrap()).collect();
            if inside.len() > 2 {
                reserved.extend([inside[0], inside[inside.len() - 1]]);
            }
            let free = |taken: &BTreeSet<u8>| dynamic.iter().copied().find(|last| !taken.contains(last));
            let gateway = free(&reserved);
            let pool = Pool::new(&config);
            prop_assert_eq!(pool.as_ref().ok().map(Pool::gateway), gateway.map(at));
            let (Ok(mut pool), Some(gateway)) = (pool, gateway) else { return Ok(()) };
            reserved.insert(gateway);

            let mut taken = reserved.clone();
            for step in steps {
                match step {
                    Step::Allocate => {
                        let expected = free(&taken);
                        prop_assert_eq!(pool.allocate().ok(), expected.map(at));
                        taken.extend(expected);
                    }
                    Step::Reserve(last) => {
                        let expected = inside.contains(&last) && taken.insert(last);
                        prop_assert_eq!(pool.reserve(at(last)).is_ok(), expected);
                    }
                    Step::Release(last) => {
                        let expected = !reserved.contains(&last) && taken.remove(&last);
                        prop_assert_eq!(pool.release(at(last)), expected);
                    }
                }
                prop_assert_eq!(pool.in_use(), taken.len() as u128);
            }
        }
    }
}
