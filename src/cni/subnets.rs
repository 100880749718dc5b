//! Address ranges as the `host-local` plugin reads them, for networks of ours: `ipam.ranges`, its older form with one
//! range directly in `ipam`, and `runtimeConfig.ipRanges`, which replaces both.
//!
//! There is one list of ranges per address that a container gets. A network of ours has one subnet per family, so
//! there is at most one list per family, and all its ranges are in one subnet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::error::CniError;
use super::fields::Field;
use crate::api::types::AddressRange;

/// One family of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    /// Without host bits.
    pub(super) subnet: IpNet,
    pub(super) gateway: Option<IpAddr>,
    /// Where addresses are to come from; none: anywhere in the subnet.
    pub(super) ranges: Vec<AddressRange>,
}

impl Subnet {
    pub(super) fn whole(subnet: IpNet) -> Self {
        Self {
            subnet,
            gateway: None,
            ranges: Vec::new(),
        }
    }

    /// The first address that somebody can have.
    pub(super) fn first(&self) -> IpAddr {
        usable(self.subnet).0
    }
}

/// The lists of ranges of `ipam` or of `runtimeConfig.ipRanges`.
pub(super) fn read_lists(lists: &[Field<'_>]) -> Result<Vec<Subnet>, CniError> {
    let mut subnets = Vec::new();
    for list in lists {
        add(&mut subnets, read_list(list)?, list)?;
    }
    Ok(subnets)
}

/// One range, as `{"subnet": …, "rangeStart": …, "rangeEnd": …, "gateway": …}`.
pub(super) fn read_range(range: &Field<'_>) -> Result<Subnet, CniError> {
    let subnet = range
        .get("subnet")
        .ok_or_else(|| range.wrong("a range needs \"subnet\""))?;
    let network = read_subnet(&subnet)?;
    let inside = |key: &str| -> Result<Option<IpAddr>, CniError> {
        let Some(address) = range.parsed_of::<IpAddr>(key, "an IP address")? else {
            return Ok(None);
        };
        if network.contains(&address) {
            return Ok(Some(address));
        }
        let place = range.get(key).unwrap_or_else(|| range.clone());
        Err(place.wrong(&format!("it is not in the subnet {network}")))
    };
    let (first, last) = (inside("rangeStart")?, inside("rangeEnd")?);
    let gateway = inside("gateway")?;
    let ranges = match (first, last) {
        (None, None) => Vec::new(),
        (first, last) => {
            let (lowest, highest) = usable(network);
            let first = first.unwrap_or(lowest);
            let last = last.unwrap_or(highest);
            if first > last {
                return Err(range.wrong("rangeStart is above rangeEnd"));
            }
            vec![AddressRange { first, last }]
        }
    };
    Ok(Subnet {
        subnet: network,
        gateway,
        ranges,
    })
}

/// Adds the subnet of one more family.
pub(super) fn add(
    subnets: &mut Vec<Subnet>,
    new: Subnet,
    field: &Field<'_>,
) -> Result<(), CniError> {
    let is_same = |other: &&Subnet| other.subnet.addr().is_ipv4() == new.subnet.addr().is_ipv4();
    if let Some(other) = subnets.iter().find(is_same) {
        let why = format!(
            "a network has one subnet per address family, here {} already: make another network for {}",
            other.subnet, new.subnet
        );
        return Err(field.unsupported(&why));
    }
    subnets.push(new);
    Ok(())
}

/// A list whose ranges are in one subnet.
fn read_list(list: &Field<'_>) -> Result<Subnet, CniError> {
    let mut whole: Option<Subnet> = None;
    let mut everywhere = false;
    for range in list.elements()? {
        let read = read_range(&range)?;
        everywhere |= read.ranges.is_empty();
        let Some(whole) = &mut whole else {
            whole = Some(read);
            continue;
        };
        if whole.subnet != read.subnet {
            let why = format!(
                "the ranges of one list must be in one subnet, here {}",
                whole.subnet
            );
            return Err(range.unsupported(&why));
        }
        whole.gateway = whole.gateway.or(read.gateway);
        whole.ranges.extend(read.ranges);
    }
    let mut whole = whole.ok_or_else(|| list.wrong("it has no range"))?;
    if everywhere {
        whole.ranges.clear();
    }
    Ok(whole)
}

/// A subnet without host bits.
pub(super) fn read_subnet(field: &Field<'_>) -> Result<IpNet, CniError> {
    let subnet: IpNet = field.parsed("a CIDR block such as 10.1.0.0/16 or fd00:1::/64")?;
    if subnet != subnet.trunc() {
        let why = format!("it has host bits: give {}", subnet.trunc());
        return Err(field.wrong(&why));
    }
    // To the daemon an unspecified address is "any subnet of that size", as with Docker.
    if subnet.addr().is_unspecified() {
        return Err(field.wrong("it is no network: give a CIDR block such as 10.1.0.0/16"));
    }
    Ok(subnet)
}

/// The first and the last address that a container can have.
fn usable(subnet: IpNet) -> (IpAddr, IpAddr) {
    match subnet {
        IpNet::V4(net) => {
            let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
            if broadcast - network < 3 {
                return (net.network().into(), net.broadcast().into());
            }
            let address = |number| IpAddr::from(Ipv4Addr::from(number));
            (address(network + 1), address(broadcast - 1))
        }
        IpNet::V6(net) => {
            let (network, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            let first = if last > network { network + 1 } else { network };
            let address = |number| IpAddr::from(Ipv6Addr::from(number));
            (address(first), address(last))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(lists: &Value) -> Result<Vec<Subnet>, CniError> {
        read_lists(&Field::new(lists, "ranges").elements()?)
    }

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        }
    }

    #[test]
    fn ranges_of_podman() {
        let subnets = read(&json!([
            [{"subnet": "10.91.0.0/24", "rangeStart": "10.91.0.129", "rangeEnd": "10.91.0.255", "gateway": "10.91.0.254"}],
            [{"subnet": "fd00:92::/64", "gateway": "fd00:92::1"}],
        ]));
        let subnets = subnets.unwrap();
        assert_eq!(subnets[0].ranges, [range("10.91.0.129", "10.91.0.255")]);
        assert_eq!(subnets[0].gateway, Some("10.91.0.254".parse().unwrap()));
        assert_eq!(subnets[1].ranges, []);
        assert_eq!(subnets[1].subnet, "fd00:92::/64".parse().unwrap());
    }

    #[test]
    fn an_end_that_is_not_given_is_the_subnets() {
        let first = read(&json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9"}]])).unwrap();
        assert_eq!(first[0].ranges, [range("10.1.0.9", "10.1.0.254")]);
        let last = read(&json!([[{"subnet": "fd00::/64", "rangeEnd": "fd00::9"}]])).unwrap();
        assert_eq!(last[0].ranges, [range("fd00::1", "fd00::9")]);
        let both = read(&json!([[
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"},
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20"},
        ]]));
        assert_eq!(
            both.unwrap()[0].ranges,
            [
                range("10.1.0.9", "10.1.0.9"),
                range("10.1.0.20", "10.1.0.254")
            ]
        );
    }

    #[test]
    fn what_cannot_be_a_range_is_refused_by_its_place() {
        for (lists, code, text) in [
            (
                json!([[{"subnet": "10.1.0.0/33"}]]),
                7,
                "invalid ranges[0][0].subnet \"10.1.0.0/33\": give a CIDR block",
            ),
            (
                json!([[{"subnet": "0.0.0.0/0"}]]),
                7,
                "invalid ranges[0][0].subnet \"0.0.0.0/0\": it is no network",
            ),
            (
                json!([[{"subnet": "10.1.0.7/24"}]]),
                7,
                "it has host bits: give 10.1.0.0/24",
            ),
            (
                json!([[{"rangeStart": "10.1.0.7"}]]),
                7,
                "a range needs \"subnet\"",
            ),
            (json!([[]]), 7, "invalid ranges[0] []: it has no range"),
            (
                json!([[{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}]]),
                7,
                "invalid ranges[0][0].gateway \"10.2.0.1\": it is not in the subnet 10.1.0.0/24",
            ),
            (
                json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}]]),
                7,
                "rangeStart is above rangeEnd",
            ),
            (
                json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]),
                2,
                "unsupported field ranges[1]",
            ),
            (
                json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]]),
                2,
                "unsupported field ranges[0][1]",
            ),
        ] {
            let error = read(&lists).unwrap_err();
            assert_eq!(error.code, code, "{error:?}");
            assert!(error.message.contains(text), "{error:?}");
        }
    }
}
