//! Which subnet a new network gets when nobody says: the first free one of the default pools.
//!
//! Docker's pools and order: 172.17/16, 172.18/16, 172.19/16, three /14 split in /16, and
//! 192.168/16 split in /20; 31 subnets in all. A subnet is skipped if a network of ours has it, or if it
//! overlaps a route of the host or a name server (the caller lists these; default routes are ignored).
//!
//! IPv6 subnets come from the host's own unique local prefix (RFC 4193): `fd` and 40 bits that follow from an id of the
//! host (Docker's `deriveULABaseNetwork`, since 27.0), split in /64. Pools of the user's replace the default ones of
//! their address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

/// A block that is split into subnets of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressPool {
    /// The block, without host bits.
    pub base: IpNet,
    /// Prefix length of the subnets; not shorter than the block's.
    pub size: u8,
}

/// Why a `--default-address-pool` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid --default-address-pool \"{value}\": {problem}; give it as {}",
    if .value.contains(':') { "base=2001:db8:1::/56,size=64" } else { "base=10.99.0.0/16,size=24" }
)]
pub struct AddressPoolError {
    value: String,
    problem: String,
}

/// `base=CIDR,size=N`.
impl FromStr for AddressPool {
    type Err = AddressPoolError;

    fn from_str(value: &str) -> Result<Self, AddressPoolError> {
        let refuse = |problem: String| AddressPoolError {
            value: value.escape_debug().to_string(),
            problem,
        };
        let (mut base, mut size) = (None, None);
        for field in value.split(',') {
            match field.split_once('=') {
                Some(("base", text)) => {
                    base = Some(
                        text.parse::<IpNet>()
                            .map_err(|_| refuse(format!("invalid CIDR address: {text}")))?,
                    );
                }
                Some(("size", text)) => {
                    size = Some(
                        text.parse::<u8>()
                            .map_err(|_| refuse(format!("invalid size: {text}")))?,
                    );
                }
                _ => return Err(refuse(format!("unexpected field '{field}'"))),
            }
        }
        let base = base.ok_or_else(|| refuse("base is missing".to_owned()))?;
        let size = size.ok_or_else(|| refuse("size is missing".to_owned()))?;
        if base != base.trunc() {
            return Err(refuse(format!(
                "invalid subnet {base}: it should be {}",
                base.trunc()
            )));
        }
        if size < base.prefix_len() || size > base.max_prefix_len() {
            let (from, to) = (base.prefix_len(), base.max_prefix_len());
            return Err(refuse(format!(
                "size {size} is not between {from} and {to}"
            )));
        }
        Ok(Self { base, size })
    }
}

/// The list to choose from, sorted by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPools(Vec<AddressPool>);

impl Default for AddressPools {
    fn default() -> Self {
        Self::new(Vec::new(), "")
    }
}

impl AddressPools {
    /// The user's list; of a family of which it has none, the default pools. `host` is the host's id.
    pub fn new(mut pools: Vec<AddressPool>, host: &str) -> Self {
        let has = |pools: &[AddressPool], ipv4| {
            let mut families = pools.iter().map(|pool| pool.base.addr().is_ipv4());
            families.any(|family| family == ipv4)
        };
        if !has(&pools, true) {
            pools.extend(default_v4());
        }
        if !has(&pools, false) {
            pools.push(AddressPool {
                base: unique_local(host).into(),
                size: 64,
            });
        }
        pools.sort_unstable();
        Self(pools)
    }

    /// The lowest subnet of a family that overlaps nothing in `taken`.
    pub fn next_free(&self, ipv4: bool, taken: &[IpNet]) -> Option<IpNet> {
        self.family(ipv4).find_map(|pool| first_fit(pool, taken))
    }

    /// The same, and one of `spared` only if there is no other.
    pub fn next_free_sparing(
        &self,
        ipv4: bool,
        taken: &[IpNet],
        spared: &[IpNet],
    ) -> Option<IpNet> {
        self.next_free(ipv4, &[taken, spared].concat())
            .or_else(|| self.next_free(ipv4, taken))
    }

    /// Whether it is one that could be chosen.
    pub fn offer(&self, subnet: IpNet) -> bool {
        self.0
            .iter()
            .any(|pool| pool.size == subnet.prefix_len() && pool.base.contains(&subnet))
    }

    /// The lowest subnet of a family with a prefix length of `size` that overlaps nothing in `taken`, whatever size
    /// the pools are normally split into: `--subnet 0.0.0.0/24`, `--subnet ::/56`.
    ///
    /// # Errors
    /// No pool has a subnet of that size, or all have been taken.
    pub fn next_free_of_size(
        &self,
        ipv4: bool,
        size: u8,
        taken: &[IpNet],
    ) -> Result<IpNet, NoSubnet> {
        let mut fitting = self
            .family(ipv4)
            .filter(|pool| (pool.base.prefix_len()..=pool.base.max_prefix_len()).contains(&size))
            .peekable();
        if fitting.peek().is_none() {
            return Err(NoSubnet::Size);
        }
        fitting
            .find_map(|pool| first_fit(AddressPool { size, ..pool }, taken))
            .ok_or(NoSubnet::Taken)
    }

    fn family(&self, ipv4: bool) -> impl Iterator<Item = AddressPool> {
        let pools = self.0.iter().copied();
        pools.filter(move |pool| pool.base.addr().is_ipv4() == ipv4)
    }
}

fn default_v4() -> impl Iterator<Item = AddressPool> {
    [
        ([172, 17, 0, 0], 16, 16),
        ([172, 18, 0, 0], 16, 16),
        ([172, 19, 0, 0], 16, 16),
        ([172, 20, 0, 0], 14, 16),
        ([172, 24, 0, 0], 14, 16),
        ([172, 28, 0, 0], 14, 16),
        ([192, 168, 0, 0], 16, 20),
    ]
    .into_iter()
    .map(|(octets, prefix, size)| AddressPool {
        base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(octets), prefix)),
        size,
    })
}

/// `fd`, and the 40 low bits of the first 64 of the id's SHA-256, as Docker computes it.
fn unique_local(host: &str) -> Ipv6Net {
    let digest: [u8; 32] = Sha256::digest(host.as_bytes()).into();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[3..8]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

/// Why the pools have no subnet of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSubnet {
    /// Each of them is smaller than that.
    Size,
    /// All have been taken.
    Taken,
}

/// True if the two have an address in common. A default route has none in common with anything, and
/// neither have its two halves (`0.0.0.0/1` and `128.0.0.0/1`), as which VPN clients write it.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.prefix_len() > 1 && b.prefix_len() > 1 && (a.contains(b) || b.contains(a))
}

fn first_fit(pool: AddressPool, taken: &[IpNet]) -> Option<IpNet> {
    let mut candidate = IpNet::new(pool.base.addr(), pool.size).ok()?;
    while pool.base.contains(&candidate) {
        let Some(obstacle) = taken.iter().find(|taken| overlap(taken, &candidate)) else {
            return Some(candidate);
        };
        // Jump over the obstacle as a whole: a /8 split in /30 may be covered by one route.
        let last = candidate.broadcast().max(obstacle.broadcast());
        candidate = IpNet::new(successor(last)?, pool.size).ok()?.trunc();
    }
    None
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv4Addr::from(bits).into()),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv6Addr::from(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn dockers_31_subnets_in_order() {
        let pools = AddressPools::default();
        let mut taken = Vec::new();
        while let Some(free) = pools.next_free(true, &taken) {
            taken.push(free);
        }
        assert_eq!(taken.len(), 31);
        let expected: Vec<IpNet> = (17..=31)
            .map(|second| net(&format!("172.{second}.0.0/16")))
            .chain((0..16).map(|i| net(&format!("192.168.{}.0/20", i * 16))))
            .collect();
        assert_eq!(taken, expected);
        taken.remove(3);
        assert_eq!(
            pools.next_free(true, &taken),
            Some(net("172.20.0.0/16")),
            "gaps are used again"
        );
    }

    #[test]
    fn routes_of_the_host_are_avoided_but_not_default_ones() {
        let pools = AddressPools::default();
        assert_eq!(
            pools.next_free(
                true,
                &["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "172.17.5.0/24"].map(net)
            ),
            Some(net("172.18.0.0/16"))
        );
        assert_eq!(
            pools.next_free(true, &[net("172.16.0.0/12")]),
            Some(net("192.168.0.0/20"))
        );
        assert_eq!(
            pools.next_free(true, &[net("172.16.0.0/12"), net("192.168.0.10/32")]),
            Some(net("192.168.16.0/20"))
        );
        assert_eq!(
            pools.next_free(true, &[net("172.16.0.0/12"), net("192.168.0.0/16")]),
            None
        );
    }

    #[test]
    fn own_pools_replace_the_list_and_large_ones_are_fast() {
        let pools = AddressPools::new(
            vec![
                "base=10.99.0.0/16,size=24".parse().unwrap(),
                "base=10.0.0.0/10,size=30".parse().unwrap(),
            ],
            "",
        );
        assert_eq!(pools.next_free(true, &[]), Some(net("10.0.0.0/30")));
        assert_eq!(
            pools.next_free(true, &[net("10.0.0.0/11"), net("10.32.0.0/11")]),
            Some(net("10.99.0.0/24"))
        );
        assert_eq!(
            AddressPools::new(vec!["base=255.255.255.0/24,size=25".parse().unwrap()], "")
                .next_free(true, &[net("255.0.0.0/8")]),
            None
        );
        assert_eq!(
            AddressPools::new(vec!["base=fd00:5::/56,size=64".parse().unwrap()], "")
                .next_free(true, &[]),
            Some(net("172.17.0.0/16")),
            "the other family's defaults stay"
        );
    }

    #[test]
    fn unique_local_subnets_follow_from_the_host() {
        // SHA-256 of "abc" begins with ba7816bf8f01cfea, that of "" with e3b0c44298fc1c14.
        let of = |host: &str, taken: &[IpNet]| {
            AddressPools::new(Vec::new(), host)
                .next_free(false, taken)
                .unwrap()
        };
        assert_eq!(of("abc", &[]), net("fdbf:8f01:cfea::/64"));
        assert_eq!(of("", &[]), net("fd42:98fc:1c14::/64"));
        let taken = ["fd42:98fc:1c14::/64", "::/0", "fd42:98fc:1c14:1:8000::/65"].map(net);
        assert_eq!(of("", &taken), net("fd42:98fc:1c14:2::/64"));
        let pools = AddressPools::default();
        let sized = |size| pools.next_free_of_size(false, size, &[net("fd42:98fc:1c14::/64")]);
        assert_eq!(sized(56), Ok(net("fd42:98fc:1c14:100::/56")));
        assert_eq!(sized(48), Err(NoSubnet::Taken));
        assert_eq!(sized(47), Err(NoSubnet::Size));
        let own = AddressPools::new(vec!["base=2001:db8:5::/56,size=64".parse().unwrap()], "");
        assert_eq!(own.next_free(false, &[]), Some(net("2001:db8:5::/64")));
    }

    #[test]
    fn a_subnet_of_a_wanted_size() {
        let pools = AddressPools::default();
        let next = |size, taken: &[&str]| {
            let taken: Vec<IpNet> = taken.iter().map(|text| net(text)).collect();
            pools.next_free_of_size(true, size, &taken)
        };
        assert_eq!(next(24, &[]), Ok(net("172.17.0.0/24")));
        assert_eq!(
            next(24, &["172.17.0.0/23", "172.17.3.0/24"]),
            Ok(net("172.17.2.0/24"))
        );
        assert_eq!(next(24, &["172.17.0.0/16"]), Ok(net("172.18.0.0/24")));
        assert_eq!(next(14, &[]), Ok(net("172.20.0.0/14")), "larger than usual");
        assert_eq!(next(32, &["172.17.0.0/32"]), Ok(net("172.17.0.1/32")));
        assert_eq!(next(8, &[]), Err(NoSubnet::Size));
        assert_eq!(next(33, &[]), Err(NoSubnet::Size));
        assert_eq!(
            next(24, &["172.16.0.0/12", "192.168.0.0/16"]),
            Err(NoSubnet::Taken)
        );
    }

    #[test]
    fn malformed_pools() {
        for (value, problem) in [
            ("", "unexpected field ''"),
            ("base=10.0.0.0/8", "size is missing"),
            ("size=24", "base is missing"),
            ("base=10.0.0.0,size=24", "invalid CIDR address: 10.0.0.0"),
            (
                "base=10.0.0.1/8,size=24",
                "invalid subnet 10.0.0.1/8: it should be 10.0.0.0/8",
            ),
            ("base=10.0.0.0/16,size=8", "size 8 is not between 16 and 32"),
            (
                "base=10.0.0.0/16,size=33",
                "size 33 is not between 16 and 32",
            ),
            ("base=10.0.0.0/16,size=x", "invalid size: x"),
        ] {
            let message = value.parse::<AddressPool>().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!(
                    "invalid --default-address-pool \"{value}\": {problem};"
                )),
                "{message}"
            );
        }
    }
}
