//! Why the daemon's flags cannot be used: Docker's words where it has some, then what to do about it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{DEFAULT_BRIDGE, MAX_MTU, MIN_MTU, MIN_MTU_IPV6};
use crate::control::address_pool::AddressPoolError;

/// Why the flags cannot be used: one line with flag, value and fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum OptionError {
    #[error(
        "You specified -b & {flag}, mutually exclusive options. Please specify only one (given: --bridge {bridge} and {flag} {bip})"
    )]
    BridgeAndBip {
        bridge: String,
        flag: &'static str,
        bip: String,
    },
    #[error(
        "bridge device with non default name {0} must be created manually: run `ip link add {0} type bridge`, or leave --bridge out for {DEFAULT_BRIDGE}"
    )]
    BridgeMissing(String),
    #[error(
        "invalid --bridge \"{0}\": an interface name has 1 to 15 characters and no space, '/' or ':'; give the name of an existing bridge, or none"
    )]
    BridgeName(String),
    #[error(
        "invalid {flag} \"{value}\": invalid CIDR address: {value}; give an IPv{version} address and prefix length, as in {flag} {example}"
    )]
    Cidr {
        flag: &'static str,
        value: String,
        version: u8,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": not IPv{version}; give it as {other} {value}, or {flag} as in {flag} {example}"
    )]
    OtherFamily {
        flag: &'static str,
        value: String,
        version: u8,
        other: &'static str,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": multicast subnet '{value}' is not allowed; choose a unicast one such as {example}"
    )]
    Multicast {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": '{value}' clashes with the Link-Local prefix 'fe80::/64'; choose another such as {example}, or give --fixed-cidr-v6 fe80::/64 alone for link-local addresses only"
    )]
    LinkLocal {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "invalid --ndp-proxy \"{0}\": an interface name has 1 to 15 characters and no space, '/' or ':'; give the name of the interface towards the router"
    )]
    NdpProxy(String),
    #[error(
        "invalid --ndp-proxy \"{0}\": no router or neighbour outside is on that interface; give the name of an uplink, the interface towards the router, such as eth0"
    )]
    NoUplink(String),
    #[error(
        "MTU {0} is too small for IPv6 (in --mtu {0} with --ipv6): use at least {MIN_MTU_IPV6} octets, or leave --ipv6 out"
    )]
    MtuIpv6(u32),
    #[error(
        "invalid {flag} \"{value}\": {value} is not {what}; choose a unicast one such as {example}"
    )]
    Special {
        flag: &'static str,
        value: String,
        what: &'static str,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": {address} is the {which} address of {subnet}, not one of a host; give {flag} {suggestion}"
    )]
    BipNotHost {
        flag: &'static str,
        value: String,
        address: IpAddr,
        which: &'static str,
        subnet: IpNet,
        suggestion: IpNet,
    },
    #[error(
        "invalid {flag} \"{value}\": a /{prefix} has no room for containers; give a prefix length of at most {longest}, as in {flag} {example}"
    )]
    NoRoom {
        flag: &'static str,
        value: String,
        prefix: u8,
        longest: u8,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": invalid subnet {value}: it should be {expected}; give {flag} {expected}"
    )]
    FixedCidrHostBits {
        flag: &'static str,
        value: String,
        expected: IpNet,
    },
    #[error(
        "invalid {flag} \"{range}\": invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range; choose a part of {subnet} or change {bip}"
    )]
    FixedCidrOutside {
        flag: &'static str,
        range: IpNet,
        subnet: IpNet,
        bip: &'static str,
    },
    #[error("invalid {flag} \"{value}\": not an IP address; give one as in {flag} {example}")]
    Address {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "invalid {flag} \"{gateway}\": default gateway ip must be part of the network; choose an address in {subnet} or change {bip}"
    )]
    GatewayOutside {
        flag: &'static str,
        gateway: IpAddr,
        subnet: IpNet,
        bip: &'static str,
    },
    #[error(
        "invalid {flag} \"{gateway}\": it is the {which} address of {subnet}; choose another address in {subnet}"
    )]
    GatewayReserved {
        flag: &'static str,
        gateway: IpAddr,
        which: &'static str,
        subnet: IpNet,
    },
    #[error(
        "invalid MTU number: {0} (in --mtu {0}): use {MIN_MTU} to {MAX_MTU} octets, as in --mtu 1500"
    )]
    Mtu(i64),
    #[error(
        "{flag} {subnet} overlaps the host's route {route} (dev {device}): {}the next free one is {choose} {free}",
        proxy(.device, *.part_of_link)
    )]
    Overlap {
        flag: String,
        subnet: IpNet,
        route: IpNet,
        device: String,
        part_of_link: bool,
        choose: &'static str,
        free: IpNet,
    },
    #[error(
        "{flag} {subnet} overlaps the host's route {route} (dev {device}), and all predefined address pools have been fully subnetted: {}choose another subnet with {choose}",
        proxy(.device, *.part_of_link)
    )]
    OverlapNoneFree {
        flag: String,
        subnet: IpNet,
        route: IpNet,
        device: String,
        part_of_link: bool,
        choose: &'static str,
    },
    #[error(
        "all predefined address pools have been fully subnetted: every default subnet overlaps a route of the host; choose one with {bip}"
    )]
    NoPool { bip: &'static str },
    #[error(transparent)]
    AddressPool(#[from] AddressPoolError),
}

/// The way to have a part of an uplink's prefix.
fn proxy(device: &str, part_of_link: bool) -> String {
    if part_of_link {
        format!("give --ndp-proxy {device}, too, for a part of that link's prefix; else ")
    } else {
        String::new()
    }
}
