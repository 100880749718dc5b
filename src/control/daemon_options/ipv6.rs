//! The IPv6 half of the flags.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::{
    BridgeOptions, Context, DEFAULT_BRIDGE, Flags, OptionError, parse_address, parse_cidr,
    parse_subnet, reserved_as,
};
use crate::control::names::is_interface_name;
use crate::control::network_config::{FamilyConfig, GatewayMode};

/// Smallest MTU of a link with IPv6 in octets (RFC 8200 § 5); Linux switches IPv6 off on an interface with less.
pub(in crate::control) const MIN_MTU_IPV6: u32 = 1280;

/// The prefix of link-local addresses (RFC 4291 § 2.5.6).
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);

pub(super) const IPV6_FLAGS: Flags = Flags {
    ipv4: false,
    bip: "--bip6",
    fixed: "--fixed-cidr-v6",
    gateway: "--default-gateway-v6",
    example_bip: "2001:db8:1::1/64",
    example_fixed: "2001:db8:1::/64",
    example_gateway: "2001:db8:1::ff",
    longest: 126,
};

/// `--bip6` and `--fixed-cidr-v6`, each for itself right.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedIpv6 {
    bip: Option<IpNet>,
    fixed: Option<IpNet>,
}

impl BridgeOptions {
    /// Checked whether or not `--ipv6` makes them matter, as by Docker.
    pub(super) fn checked_ipv6(&self) -> Result<WantedIpv6, OptionError> {
        let flags = &IPV6_FLAGS;
        let bip = match self.bip6.as_deref() {
            None => None,
            Some(value) => {
                let net = parse_cidr(flags, flags.bip, value)?;
                flags.check_host(value, net)?;
                Some(net)
            }
        };
        let fixed = match self.fixed_cidr_v6.as_deref() {
            None => None,
            Some(value) if is_link_local(value) => Some(LINK_LOCAL.into()),
            Some(value) => Some(parse_subnet(flags, value)?),
        };
        Ok(WantedIpv6 { bip, fixed })
    }

    pub(super) fn checked_ndp_proxy(&self) -> Result<Vec<String>, OptionError> {
        let mut names = self.ndp_proxy.clone();
        if let Some(wrong) = names.iter().find(|name| !is_interface_name(name)) {
            return Err(OptionError::NdpProxy(wrong.escape_debug().to_string()));
        }
        let own: Vec<&str> = self.bridge_name().into_iter().collect();
        if let Some(wrong) = names.iter().find(|name| !may_be_uplink(name, &own)) {
            return Err(OptionError::NoUplink(wrong.clone()));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The default network's IPv6; `None` with link-local addresses only.
    pub(super) fn ipv6_family(
        &self,
        context: &Context<'_>,
        wanted: WantedIpv6,
    ) -> Result<Option<FamilyConfig>, OptionError> {
        let link_local = IpNet::from(LINK_LOCAL);
        if wanted.fixed == Some(link_local)
            && wanted.bip.is_none()
            && context.existing(&IPV6_FLAGS, wanted.fixed).is_none()
        {
            self.checked_gateway_v6(link_local)?;
            return Ok(None);
        }
        let (address, range) = context.choose(&IPV6_FLAGS, wanted.bip, wanted.fixed)?;
        let subnet = address.trunc();
        let allocation_range = range.filter(|range| *range != subnet);
        let container_gateway = self
            .checked_gateway_v6(subnet)?
            .filter(|gateway| *gateway != address.addr());
        // Docker reserves it as an auxiliary address of this name.
        let auxiliary = container_gateway
            .filter(|gateway| subnet.contains(gateway))
            .map(|gateway| ("DefaultGatewayIPv6".to_owned(), gateway))
            .into_iter()
            .collect();
        let mode = GatewayMode::default_of(subnet);
        Ok(Some(FamilyConfig {
            subnet,
            configured: true,
            allocation_range,
            auxiliary,
            gateway: Some(address.addr()),
            bridge_address: true,
            container_gateway,
            mode,
            masquerade: self.ip_masq && mode.has_nat(),
            source: None,
        }))
    }

    /// In the subnet, or link-local: `fe80::1` is the bridge's.
    fn checked_gateway_v6(&self, subnet: IpNet) -> Result<Option<IpAddr>, OptionError> {
        let Some(value) = self.default_gateway_v6.as_deref() else {
            return Ok(None);
        };
        let flag = IPV6_FLAGS.gateway;
        let gateway = parse_address(&IPV6_FLAGS, value)?;
        if let IpAddr::V6(address) = gateway
            && address.is_unicast_link_local()
            && address != LINK_LOCAL.network()
        {
            return Ok(Some(gateway));
        }
        if !subnet.contains(&gateway) {
            return Err(OptionError::GatewayOutside {
                flag,
                gateway,
                subnet,
                bip: IPV6_FLAGS.bip,
            });
        }
        match reserved_as(subnet, gateway) {
            None => Ok(Some(gateway)),
            Some(which) => Err(OptionError::GatewayReserved {
                flag,
                gateway,
                which,
                subnet,
            }),
        }
    }

    pub(super) fn ipv6_warnings(&self) -> Vec<String> {
        let mut without_effect = Vec::new();
        if !self.ipv6 {
            let flags = [
                (IPV6_FLAGS.bip, self.bip6.as_slice()),
                (IPV6_FLAGS.fixed, self.fixed_cidr_v6.as_slice()),
                (IPV6_FLAGS.gateway, self.default_gateway_v6.as_slice()),
                ("--ndp-proxy", self.ndp_proxy.as_slice()),
            ];
            for (flag, values) in flags {
                without_effect.extend(values.iter().map(|value| {
                    format!("{flag} {value} has no effect without --ipv6: give --ipv6, too")
                }));
            }
        }
        let link_local = self.fixed_cidr_v6.as_deref().is_some_and(is_link_local);
        if self.ipv6
            && link_local
            && self.bip6.is_none()
            && let Some(gateway) = &self.default_gateway_v6
        {
            without_effect.push(format!(
                "--default-gateway-v6 {gateway} has no effect: with --fixed-cidr-v6 fe80::/64 containers have no addresses to go out with"
            ));
        }
        without_effect
    }
}

/// Neighbours outside may be on the interface: it is not the loopback interface, none of the bridges `own`, and not
/// named like one of ours.
pub(in crate::control) fn may_be_uplink(name: &str, own: &[&str]) -> bool {
    name != "lo" && name != DEFAULT_BRIDGE && !name.starts_with("tb-") && !own.contains(&name)
}

fn is_link_local(value: &str) -> bool {
    value.parse() == Ok(LINK_LOCAL)
}

/// What makes a subnet useless for containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Special {
    /// Multicast.
    Multicast,
    /// Overlaps `fe80::/10`: every link has these addresses.
    LinkLocal,
    /// Loopback, unspecified, IPv4-mapped, or larger than a /8.
    Other,
}

/// `None` for a subnet that containers can have. Of IPv4 link-local addresses nothing is said.
pub(in crate::control) fn special(net: IpNet) -> Option<Special> {
    let net = match net {
        IpNet::V4(net) => {
            let first = net.addr().octets()[0];
            let other = matches!(first, 0 | 127 | 240..) || net.prefix_len() == 0;
            return match first {
                224..=239 => Some(Special::Multicast),
                _ => other.then_some(Special::Other),
            };
        }
        IpNet::V6(net) => net,
    };
    let [first, second, ..] = net.addr().octets();
    match (first, second) {
        // Loopback, unspecified, IPv4-mapped, NAT64 (RFC 6052, 8215), and what was IPv4-compatible are in ::/8.
        _ if net.prefix_len() < 8 => Some(Special::Other),
        (0, _) => Some(Special::Other),
        (0xff, _) => Some(Special::Multicast),
        (0xfe, 0x80..=0xbf) => Some(Special::LinkLocal),
        (0xfe, _) if net.prefix_len() < 10 => Some(Special::LinkLocal),
        _ => None,
    }
}
