//! A user's wish for a network, checked against itself, the host and the other networks.
//!
//! What comes in is Docker's body of `POST /networks/create`, all text. What comes out is a [`NetworkConfig`] that
//! needs no further checks, or Docker's words for the first thing that is wrong, and nothing is made. The order of
//! the checks is Docker's (`daemon/network.go`, `libnetwork/controller.go`, `drivers/bridge/bridge_linux.go`), so that
//! of several mistakes the same one is reported:
//!
//! ```text
//! name, families ─► subnet, range, gateway, auxiliary addresses ─► driver, scope ─► options
//!                                                      ─► overlap or free default subnet ─► names of bridges
//! ```
//!
//! Options that are not known here are kept and have no effect, as with Docker; those that begin with
//! `com.docker.network.` or `com.tunbridge.` with a warning, for a misspelt `enable_icc` would leave open what was to be closed.
//! As for the default network, a subnet that overlaps an on-link route of the host is refused, which Docker does
//! not do: the containers would hide that network from the host, or it would hide them.

mod error;
mod subnets;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::address_pool::AddressPools;
use super::daemon_options::{
    DEFAULT_MTU, HostFacts, MAX_MTU, MIN_MTU, MIN_MTU_IPV6, may_be_uplink, missing_interfaces,
};
use super::names;
use super::network_config::{
    Advertise, DEFAULT_INTERFACE_PREFIX, GatewayMode, Ipv6Allocation, NetworkConfig,
};
use crate::api::types::CreateNetwork;

pub use error::NetworkOptionError;
pub use subnets::choose_subnet;
use values::{parse_bool, parse_int};

/// `-o com.docker.network.bridge.name`.
pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// `-o com.docker.network.bridge.enable_icc`.
pub const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
/// `-o com.docker.network.bridge.enable_ip_masquerade`.
pub const ENABLE_IP_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// `-o com.docker.network.bridge.host_binding_ipv4`.
pub const HOST_BINDING_IPV4: &str = "com.docker.network.bridge.host_binding_ipv4";
/// `-o com.docker.network.bridge.default_bridge`: only the network `bridge` has it.
pub const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
/// `-o com.docker.network.bridge.inhibit_ipv4`.
pub const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
/// `-o com.docker.network.bridge.gateway_mode_ipv4`.
pub const GATEWAY_MODE_IPV4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
/// `-o com.docker.network.bridge.gateway_mode_ipv6`.
pub const GATEWAY_MODE_IPV6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
/// `-o com.docker.network.bridge.trusted_host_interfaces`.
pub const TRUSTED_HOST_INTERFACES: &str = "com.docker.network.bridge.trusted_host_interfaces";
/// `-o com.docker.network.driver.mtu`.
pub const DRIVER_MTU: &str = "com.docker.network.driver.mtu";
/// `-o com.docker.network.container_iface_prefix`.
pub const CONTAINER_IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// `-o com.docker.network.host_ipv4`.
pub const HOST_IPV4: &str = "com.docker.network.host_ipv4";
/// `-o com.docker.network.host_ipv6`.
pub const HOST_IPV6: &str = "com.docker.network.host_ipv6";
/// `-o com.docker.network.enable_ipv4`.
pub const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
/// `-o com.docker.network.enable_ipv6`.
pub const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
/// `-o com.docker.network.advertise_addr_nmsgs`.
pub const ADVERTISE_COUNT: &str = "com.docker.network.advertise_addr_nmsgs";
/// `-o com.docker.network.advertise_addr_ms`.
pub const ADVERTISE_INTERVAL: &str = "com.docker.network.advertise_addr_ms";

/// `-o com.tunbridge.ipv6_address`.
pub const IPV6_ADDRESS: &str = "com.tunbridge.ipv6_address";
/// `-o com.tunbridge.ndp_proxy`.
pub const NDP_PROXY: &str = "com.tunbridge.ndp_proxy";

/// Those that have a meaning, or a warning of their own.
const KNOWN: [&str; 19] = [
    IPV6_ADDRESS,
    NDP_PROXY,
    BRIDGE_NAME,
    ENABLE_ICC,
    ENABLE_IP_MASQUERADE,
    HOST_BINDING_IPV4,
    DEFAULT_BRIDGE,
    INHIBIT_IPV4,
    GATEWAY_MODE_IPV4,
    GATEWAY_MODE_IPV6,
    TRUSTED_HOST_INTERFACES,
    DRIVER_MTU,
    CONTAINER_IFACE_PREFIX,
    HOST_IPV4,
    HOST_IPV6,
    ENABLE_IPV4,
    ENABLE_IPV6,
    ADVERTISE_COUNT,
    ADVERTISE_INTERVAL,
];

/// An option of ours or of Docker's bridge driver, by its name, that is neither.
pub fn is_unknown(name: &str) -> bool {
    let prefixed = name.starts_with("com.docker.network.") || name.starts_with("com.tunbridge.");
    prefixed && !KNOWN.contains(&name)
}

/// Networks that are always there, or never (`--bridge none`), but cannot be made or removed by users.
pub const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// True for `bridge`, `host` and `none`, and for `default`, which Docker's commands take for `bridge`.
pub fn is_predefined(name: &str) -> bool {
    name == "default" || PREDEFINED.contains(&name)
}

/// What a new network must get along with.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Id of the network to be made: the bridge is named after it.
    pub id: &'a str,
    /// The host. `bridge_exists` is about the bridge of [`wanted_bridge`].
    pub host: &'a HostFacts,
    /// Where subnets come from that nobody chose.
    pub pools: &'a AddressPools,
    /// All networks that are there.
    pub networks: &'a [Neighbour],
    /// The daemon's `--default-network-opt` for this driver.
    pub default_options: &'a BTreeMap<String, String>,
}

/// A network that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its bridge interface; empty for `host` and `none`.
    pub bridge: String,
    /// Its subnets, without host bits.
    pub subnets: Vec<IpNet>,
}

/// A network that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How.
    pub config: NetworkConfig,
    /// Options to keep and show: those given and the daemon's default ones.
    pub options: BTreeMap<String, String>,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

/// The bridge interface that a request names, of which the daemon asks the kernel whether it exists; `None`: it
/// will be named after the network's id.
pub fn wanted_bridge(request: &CreateNetwork) -> Option<&str> {
    let name = request.options.get(BRIDGE_NAME)?;
    Some(name.as_str()).filter(|name| !name.is_empty())
}

/// Checks everything.
///
/// # Errors
/// The first thing that is wrong, in Docker's order.
pub fn check(
    request: &CreateNetwork,
    context: &Context<'_>,
) -> Result<Checked, NetworkOptionError> {
    check_name(&request.name, context.networks)?;
    let mut options = request.options.clone();
    for (option, value) in context.default_options {
        options
            .entry(option.clone())
            .or_insert_with(|| value.clone());
    }
    let mut warnings = Vec::new();
    let enabled = check_families(request, &mut options)?;
    let wanted = subnets::parse(&request.ipam.config)?;
    warnings.extend(wanted.unused(enabled));
    check_kind(request)?;
    let advertise = advertise(&options)?;
    let options_given = Options::parse(&options, context.id)?;
    let isolated = |family: &FamilyOptions, label| {
        let isolated = family.mode == Some(GatewayMode::Isolated);
        (isolated && !request.internal).then_some(label)
    };
    let v4 = isolated(&options_given.v4, GATEWAY_MODE_IPV4).filter(|_| enabled.ipv4);
    let v6 = isolated(&options_given.v6, GATEWAY_MODE_IPV6).filter(|_| enabled.ipv6);
    if let Some(label) = v4.or(v6) {
        return Err(NetworkOptionError::Isolated(label));
    }
    if enabled.ipv6 && options_given.mtu < MIN_MTU_IPV6 {
        return Err(NetworkOptionError::MtuIpv6(options_given.mtu));
    }
    for name in request.options.keys().filter(|name| is_unknown(name)) {
        warnings.push(format!(
            "option {} is not known and has no effect: is it misspelt?",
            name.escape_debug()
        ));
    }
    if options.contains_key(TRUSTED_HOST_INTERFACES) {
        warnings.push(format!(
            "{TRUSTED_HOST_INTERFACES} has no effect: containers are reached directly in gateway mode routed or nat-unprotected"
        ));
    }
    let mut own: Vec<&str> = context.networks.iter().map(|n| n.bridge.as_str()).collect();
    own.push(&options_given.bridge);
    let mut interfaces = options_given.ndp_proxy.iter();
    if let Some(wrong) = interfaces.find(|name| !may_be_uplink(name, &own)) {
        let problem = format!("no router or neighbour outside is on {wrong}");
        let fix = "give the name of an uplink, the interface towards the router, such as eth0";
        return Err(refuse(NDP_PROXY, wrong, problem, fix));
    }
    if enabled.ipv6 {
        let interfaces = &options_given.ndp_proxy;
        warnings.extend(missing_interfaces(NDP_PROXY, interfaces, context.host));
    } else if options.contains_key(NDP_PROXY) {
        warnings.push(format!("{NDP_PROXY} has no effect without --ipv6"));
    }
    let families = subnets::families(wanted, enabled, &options_given, request.internal, context)?;
    let same_bridge = |network: &&Neighbour| network.bridge == options_given.bridge;
    if let Some(other) = context.networks.iter().find(same_bridge) {
        return Err(NetworkOptionError::SameBridge {
            id: context.id.to_owned(),
            bridge: options_given.bridge,
            other: other.id.clone(),
        });
    }
    let config = NetworkConfig {
        managed: !context.host.bridge_exists,
        bridge: options_given.bridge,
        families,
        link_local: false,
        internal: request.internal,
        icc: options_given.icc,
        mtu: options_given.mtu,
        host_address: options_given.host_address,
        interface_prefix: options_given.interface_prefix,
        advertise,
        ipv6_address: options_given.ipv6_address,
        ndp_proxy: if enabled.ipv6 {
            options_given.ndp_proxy
        } else {
            Vec::new()
        },
    };
    let idle = config.idle_ndp_proxy();
    warnings.extend(idle.map(|why| format!("{NDP_PROXY} {why}")));
    Ok(Checked {
        config,
        options,
        warnings,
    })
}

fn check_name(name: &str, networks: &[Neighbour]) -> Result<(), NetworkOptionError> {
    if is_predefined(name) {
        return Err(NetworkOptionError::Predefined(name.to_owned()));
    }
    if name.trim().is_empty() {
        return Err(NetworkOptionError::EmptyName);
    }
    if name.len() > 255 || name.chars().any(char::is_control) {
        let shown: String = name.escape_debug().take(64).collect();
        return Err(NetworkOptionError::Name(shown));
    }
    if networks.iter().any(|network| network.name == name) {
        return Err(NetworkOptionError::Exists(name.to_owned()));
    }
    Ok(())
}

/// The address families that a network has; at least one.
#[derive(Clone, Copy, Debug)]
struct Enabled {
    ipv4: bool,
    ipv6: bool,
}

/// `--ipv4` and `--ipv6` go before the options of the same meaning, which then vanish.
fn check_families(
    request: &CreateNetwork,
    options: &mut BTreeMap<String, String>,
) -> Result<Enabled, NetworkOptionError> {
    let mut enabled = |label: &'static str, field: Option<bool>, default: bool| match field {
        Some(enabled) => {
            options.remove(label);
            Ok(enabled)
        }
        None => options.get(label).map_or(Ok(default), |value| {
            parse_bool(value).map_err(|_| NetworkOptionError::NotBool(label))
        }),
    };
    let ipv4 = enabled(ENABLE_IPV4, request.enable_ipv4, true)?;
    let ipv6 = enabled(ENABLE_IPV6, request.enable_ipv6, false)?;
    if !ipv4 && !ipv6 {
        return Err(NetworkOptionError::NoFamily);
    }
    Ok(Enabled { ipv4, ipv6 })
}

/// The daemon's `--default-network-opt` values, `DRIVER=KEY=VALUE`, for driver `bridge`; those for other drivers
/// are accepted, as with Docker, and never used.
///
/// # Errors
/// The first value without a key or a value.
pub fn default_options(values: &[String]) -> Result<BTreeMap<String, String>, NetworkOptionError> {
    let mut options = BTreeMap::new();
    for text in values {
        let parts = text.split_once('=').and_then(|(driver, option)| {
            let (key, value) = option.split_once('=')?;
            (!driver.is_empty() && !key.is_empty()).then_some((driver, key, value))
        });
        let Some((driver, key, value)) = parts else {
            let shown = text.escape_debug().to_string();
            return Err(NetworkOptionError::DefaultOption(shown));
        };
        if driver == "bridge" {
            options.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(options)
}

/// Driver, scope and kinds of networks that are of no use on a single host.
fn check_kind(request: &CreateNetwork) -> Result<(), NetworkOptionError> {
    if request.config_only {
        return Err(NetworkOptionError::ConfigNetwork("--config-only"));
    }
    if request.config_from.is_some() {
        return Err(NetworkOptionError::ConfigNetwork("--config-from"));
    }
    match request.driver.as_str() {
        "" | "bridge" => {}
        "host" | "null" => return Err(NetworkOptionError::OneInstance(request.driver.clone())),
        other => return Err(NetworkOptionError::Driver(other.escape_debug().to_string())),
    }
    if request.ingress {
        return Err(NetworkOptionError::Ingress);
    }
    match request.scope.as_str() {
        "" | "local" => {}
        "swarm" => return Err(NetworkOptionError::SwarmScope),
        other => return Err(NetworkOptionError::Scope(other.escape_debug().to_string())),
    }
    match request.ipam.driver.as_str() {
        "" | "default" => Ok(()),
        "null" => Err(NetworkOptionError::EmptyPool),
        other => Err(NetworkOptionError::IpamDriver(
            other.escape_debug().to_string(),
        )),
    }
}

fn advertise(options: &BTreeMap<String, String>) -> Result<Advertise, NetworkOptionError> {
    let number = |label, default, min, max, what| {
        let Some(value) = options.get(label) else {
            return Ok(default);
        };
        let shown = || value.escape_debug().to_string();
        let number = parse_int(value).map_err(|_| NetworkOptionError::AdvertiseNumber {
            label,
            value: shown(),
            what,
            min,
            max,
        })?;
        u32::try_from(number)
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| NetworkOptionError::AdvertiseRange {
                label,
                value: shown(),
                min,
                max,
            })
    };
    let default = Advertise::default();
    let count = number(
        ADVERTISE_COUNT,
        u32::from(default.count),
        0,
        3,
        "an integer",
    )?;
    Ok(Advertise {
        count: u8::try_from(count).unwrap_or(default.count),
        interval_ms: number(
            ADVERTISE_INTERVAL,
            default.interval_ms,
            100,
            2000,
            "integer milliseconds",
        )?,
    })
}

/// Options that each address family has.
#[derive(Clone, Copy, Debug, Default)]
struct FamilyOptions {
    /// `None`: what the subnet suggests.
    mode: Option<GatewayMode>,
    source: Option<IpAddr>,
}

/// Options of the bridge driver.
struct Options {
    bridge: String,
    mtu: u32,
    icc: bool,
    masquerade: bool,
    inhibit_ipv4: bool,
    v4: FamilyOptions,
    v6: FamilyOptions,
    host_address: IpAddr,
    ipv6_address: Ipv6Allocation,
    ndp_proxy: Vec<String>,
    interface_prefix: String,
}

impl Options {
    fn parse(options: &BTreeMap<String, String>, id: &str) -> Result<Self, NetworkOptionError> {
        let mut parsed = Self {
            bridge: String::new(),
            mtu: DEFAULT_MTU,
            icc: true,
            masquerade: true,
            inhibit_ipv4: false,
            v4: FamilyOptions::default(),
            v6: FamilyOptions::default(),
            host_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ipv6_address: Ipv6Allocation::default(),
            ndp_proxy: Vec::new(),
            interface_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
        };
        let mut default_bridge = false;
        for (label, value) in options {
            match label.as_str() {
                BRIDGE_NAME => parsed.bridge.clone_from(value),
                DRIVER_MTU => parsed.mtu = mtu(value)?,
                ENABLE_ICC => parsed.icc = boolean(ENABLE_ICC, value)?,
                ENABLE_IP_MASQUERADE => {
                    parsed.masquerade = boolean(ENABLE_IP_MASQUERADE, value)?;
                }
                INHIBIT_IPV4 => parsed.inhibit_ipv4 = boolean(INHIBIT_IPV4, value)?,
                DEFAULT_BRIDGE => default_bridge = boolean(DEFAULT_BRIDGE, value)?,
                GATEWAY_MODE_IPV4 => {
                    parsed.v4.mode = Some(gateway_mode(GATEWAY_MODE_IPV4, value)?);
                }
                // Checked whether or not the network has the family, as by Docker.
                GATEWAY_MODE_IPV6 => {
                    parsed.v6.mode = Some(gateway_mode(GATEWAY_MODE_IPV6, value)?);
                }
                HOST_BINDING_IPV4 => {
                    parsed.host_address = address(HOST_BINDING_IPV4, value)?;
                }
                HOST_IPV4 => parsed.v4.source = Some(source(HOST_IPV4, value, true)?),
                HOST_IPV6 => parsed.v6.source = Some(source(HOST_IPV6, value, false)?),
                IPV6_ADDRESS => parsed.ipv6_address = ipv6_allocation(value)?,
                NDP_PROXY => parsed.ndp_proxy = interfaces(value)?,
                CONTAINER_IFACE_PREFIX if !value.is_empty() => {
                    parsed.interface_prefix = interface_prefix(value)?;
                }
                _ => {}
            }
        }
        if default_bridge {
            let name = parsed.bridge.escape_debug().to_string();
            return Err(NetworkOptionError::DefaultBridge(name));
        }
        if parsed.bridge.is_empty() {
            parsed.bridge = format!("tb-{}", names::short_id(id));
        }
        if !names::is_interface_name(&parsed.bridge) {
            let shown = parsed.bridge.escape_debug().to_string();
            return Err(NetworkOptionError::BridgeName(shown));
        }
        Ok(parsed)
    }
}

fn refuse(
    label: &'static str,
    value: &str,
    problem: String,
    fix: &'static str,
) -> NetworkOptionError {
    NetworkOptionError::Parse {
        label,
        value: value.escape_debug().to_string(),
        problem,
        fix,
    }
}

fn boolean(label: &'static str, value: &str) -> Result<bool, NetworkOptionError> {
    parse_bool(value).map_err(|problem| refuse(label, value, problem, "give true or false"))
}

fn mtu(value: &str) -> Result<u32, NetworkOptionError> {
    let number = parse_int(value).map_err(|problem| {
        refuse(
            DRIVER_MTU,
            value,
            problem,
            "give a number of octets such as 1500",
        )
    })?;
    match u32::try_from(number) {
        Ok(0) => Ok(DEFAULT_MTU),
        Ok(mtu) if (MIN_MTU..=MAX_MTU).contains(&mtu) => Ok(mtu),
        Ok(_) | Err(_) => Err(NetworkOptionError::Mtu(number)),
    }
}

fn gateway_mode(label: &'static str, value: &str) -> Result<GatewayMode, NetworkOptionError> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => {
            let problem = format!("unknown gateway mode {}", value.escape_debug());
            let fix = "give nat, nat-unprotected, routed or isolated";
            Err(refuse(label, value, problem, fix))
        }
    }
}

fn address(label: &'static str, value: &str) -> Result<IpAddr, NetworkOptionError> {
    value
        .parse()
        .map_err(|_| refuse(label, value, "nil ip".to_owned(), "give an IP address"))
}

/// Where packets come from that leave the host: an address of the family that somebody can answer to.
fn source(label: &'static str, value: &str, ipv4: bool) -> Result<IpAddr, NetworkOptionError> {
    let address = address(label, value)?;
    let usable = address.is_ipv4() == ipv4
        && !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && match address {
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(address) => {
                !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
            }
        };
    if usable {
        return Ok(address);
    }
    let fix = if ipv4 {
        "give an IPv4 address of the host's"
    } else {
        "give an IPv6 address of the host's"
    };
    Err(refuse(label, value, "not a source address".to_owned(), fix))
}

fn ipv6_allocation(value: &str) -> Result<Ipv6Allocation, NetworkOptionError> {
    match value {
        "mac" => Ok(Ipv6Allocation::Mac),
        "sequential" => Ok(Ipv6Allocation::Sequential),
        "stable" => Ok(Ipv6Allocation::Stable),
        _ => {
            let problem = "unknown way to choose addresses".to_owned();
            let fix = "give mac, sequential or stable";
            Err(refuse(IPV6_ADDRESS, value, problem, fix))
        }
    }
}

/// `eth0,eth1`, sorted.
fn interfaces(value: &str) -> Result<Vec<String>, NetworkOptionError> {
    let names: BTreeSet<&str> = value.split(',').map(str::trim).collect();
    if let Some(wrong) = names.iter().find(|name| !names::is_interface_name(name)) {
        let problem = format!("\"{}\" is no name of an interface", wrong.escape_debug());
        let fix = "give interfaces of the host, as in eth0,eth1";
        return Err(refuse(NDP_PROXY, value, problem, fix));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Room for three digits must be left.
fn interface_prefix(value: &str) -> Result<String, NetworkOptionError> {
    if names::is_interface_name(value) && value.len() <= 12 {
        Ok(value.to_owned())
    } else {
        let shown = value.escape_debug().to_string();
        Err(NetworkOptionError::Prefix(shown))
    }
}

#[cfg(test)]
mod tests;
