//! The network that a configuration describes, and what of it is this attachment's.
//!
//! Under our own name a configuration may say nothing but its type, and gets a network as `tunbridge network create`
//! makes it. Under the name `bridge` the keys mean, and are by default, what they are for the stock plugin:
//!
//! | key | here |
//! |---|---|
//! | `bridge`, `mtu`, `ipMasq` | options of the network |
//! | `isGateway` false | an internal network |
//! | `isDefaultGateway`, a default route in `ipam.routes` | the container's default route |
//! | `ipam.ranges`, `ipam.subnet`, … | its subnets; addresses come from the ranges |
//! | `hairpinMode`, `promiscMode`, `macspoofchk`, `forceAddress`, `enabledad` | no effect: always so, or needless |
//! | `vlan`, `vlanTrunk`, `disableContainerInterface` | refused |

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::Plugin;
use super::config::{Config, Ipam};
use super::error::CniError;
use super::fields::Field;
use super::result::{CniResult, Route};
use super::subnets::{self, Subnet};
use crate::api::types::{AddressRange, CNI_NETWORK, CreateNetwork, IpamPool};
use crate::control::network_options::{
    BRIDGE_NAME, DRIVER_MTU, ENABLE_ICC, ENABLE_IP_MASQUERADE, is_predefined,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `None`: it cannot be made, it is there or not.
    pub(super) create: Option<CreateNetwork>,
    pub(super) subnets: Vec<Subnet>,
    pub(super) default_route: bool,
    /// All but those that the network itself makes.
    pub(super) routes: Vec<Route>,
}

impl Wanted {
    /// `ranges`: those of the runtime; `delegated`: what another IPAM plugin has given.
    pub(super) fn read(
        config: &Config,
        plugin: Plugin,
        ranges: &[Subnet],
        delegated: Option<&CniResult>,
    ) -> Result<Self, CniError> {
        let root = config.root();
        refuse(&root)?;
        let mut subnets = match delegated {
            Some(result) => given(result)?,
            None if !ranges.is_empty() => ranges.to_vec(),
            None => configured(&root, plugin, &config.ipam)?,
        };
        let routes = match delegated {
            Some(result) => result.routes.clone(),
            None => routes(&root)?,
        };
        let (default, routes): (Vec<_>, Vec<_>) = routes.into_iter().partition(Route::is_default);
        for route in &default {
            take_gateway(route, &mut subnets)?;
        }
        let own = plugin == Plugin::Tunbridge;
        let flag = |key: &str| root.flag_of(key);
        let default_gateway = flag("isDefaultGateway")?;
        let is_gateway = match flag("isGateway")? {
            Some(is_gateway) => is_gateway || default_gateway == Some(true),
            None => own || default_gateway == Some(true),
        };
        let internal = !is_gateway || (own && flag("internal")? == Some(true));
        if internal && !default.is_empty() {
            let why = "a default route needs a gateway, which is the network's own: say isGateway true, or leave the route out";
            return Err(CniError::unsupported(
                "ipam.routes",
                &default[0].destination.to_string().into(),
                why,
            ));
        }
        let default_route = !internal
            && match default_gateway {
                Some(true) => true,
                Some(false) => !default.is_empty(),
                None => own || !default.is_empty(),
            };
        let create = if is_predefined(&config.network) {
            None
        } else {
            Some(create(config, plugin, &subnets, internal)?)
        };
        Ok(Self {
            create,
            subnets,
            default_route,
            routes,
        })
    }

    /// Of all families.
    pub(super) fn ranges(&self) -> Vec<AddressRange> {
        let ranges = self.subnets.iter();
        ranges.flat_map(|subnet| subnet.ranges.clone()).collect()
    }
}

fn create(
    config: &Config,
    plugin: Plugin,
    subnets: &[Subnet],
    internal: bool,
) -> Result<CreateNetwork, CniError> {
    let root = config.root();
    let own = plugin == Plugin::Tunbridge;
    let mut options = if own {
        options(&root)?
    } else {
        BTreeMap::new()
    };
    let mut set = |key: &str, value: String| {
        options.insert(key.to_owned(), value);
    };
    if let Some(bridge) = root.text_of("bridge")? {
        set(BRIDGE_NAME, bridge.to_owned());
    }
    if let Some(mtu) = root.get("mtu") {
        match mtu.number()? {
            0 => {}
            mtu => set(DRIVER_MTU, mtu.to_string()),
        }
    }
    match root.flag_of("ipMasq")? {
        Some(masquerade) => set(ENABLE_IP_MASQUERADE, masquerade.to_string()),
        None if !own => set(ENABLE_IP_MASQUERADE, false.to_string()),
        None => {}
    }
    if own && let Some(icc) = root.flag_of("icc")? {
        set(ENABLE_ICC, icc.to_string());
    }
    let has = |ipv4: bool| {
        let mut subnets = subnets.iter();
        subnets.any(|subnet| subnet.subnet.addr().is_ipv4() == ipv4)
    };
    let wants_ipv6 = if own { root.flag_of("ipv6")? } else { None };
    let pool = |subnet: &Subnet| IpamPool {
        subnet: Some(subnet.subnet.to_string()),
        gateway: subnet.gateway.map(|gateway| gateway.to_string()),
        ..IpamPool::default()
    };
    let mut network = CreateNetwork {
        name: config.network.clone(),
        internal,
        attachable: true,
        enable_ipv4: (has(false) && !has(true)).then_some(false),
        enable_ipv6: if has(false) { Some(true) } else { wants_ipv6 },
        options,
        ..CreateNetwork::default()
    };
    network.ipam.config = subnets.iter().map(pool).collect();
    network
        .labels
        .insert(CNI_NETWORK.to_owned(), config.name.clone());
    Ok(network)
}

/// `options`: those of `tunbridge network create -o`.
fn options(root: &Field<'_>) -> Result<BTreeMap<String, String>, CniError> {
    let mut options = BTreeMap::new();
    let object = root.object_of("options")?;
    let object = object.as_ref().and_then(|field| field.value.as_object());
    for (key, value) in object.into_iter().flatten() {
        let field = Field::new(value, format!("options[{key:?}]"));
        let text = match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_number() || value.is_boolean() => value.to_string(),
            None => return Err(field.wrong("must be a text, a number, true or false")),
        };
        options.insert(key.clone(), text);
    }
    Ok(options)
}

/// What would make another network than the configuration says.
fn refuse(root: &Field<'_>) -> Result<(), CniError> {
    if let Some(vlan) = root.get("vlan")
        && vlan.number()? != 0
    {
        return Err(vlan.unsupported("make a network of its own in place of a VLAN"));
    }
    if let Some(trunk) = root.get("vlanTrunk")
        && !trunk.elements()?.is_empty()
    {
        return Err(trunk.unsupported("make a network of its own in place of a VLAN"));
    }
    if let Some(disabled) = root.get("disableContainerInterface")
        && disabled.flag()?
    {
        return Err(disabled.unsupported("the container's interface is always up"));
    }
    Ok(())
}

/// Subnets of the configuration itself.
fn configured(root: &Field<'_>, plugin: Plugin, ipam: &Ipam) -> Result<Vec<Subnet>, CniError> {
    let mut subnets = Vec::new();
    if plugin == Plugin::Tunbridge {
        if root.get("subnet").is_some() {
            subnets::add(&mut subnets, subnets::read_range(root)?, root)?;
        }
        for element in root.elements_of("subnets")? {
            let subnet = if element.value.is_object() {
                subnets::read_range(&element)?
            } else {
                Subnet::whole(subnets::read_subnet(&element)?)
            };
            subnets::add(&mut subnets, subnet, &element)?;
        }
    }
    let Some(section) = root.object_of("ipam")?.filter(|_| *ipam == Ipam::Ours) else {
        return Ok(subnets);
    };
    if section.get("subnet").is_some() {
        subnets::add(&mut subnets, subnets::read_range(&section)?, &section)?;
    }
    let lists = section.elements_of("ranges")?;
    for (list, subnet) in lists.iter().zip(subnets::read_lists(&lists)?) {
        subnets::add(&mut subnets, subnet, list)?;
    }
    Ok(subnets)
}

/// Subnets of the addresses that another IPAM plugin has given.
fn given(result: &CniResult) -> Result<Vec<Subnet>, CniError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for address in &result.addresses {
        let subnet = Subnet {
            gateway: address.gateway,
            ..Subnet::whole(address.address.trunc())
        };
        let text = Value::from(address.address.to_string());
        subnets::add(&mut subnets, subnet, &Field::new(&text, "ipam: address"))?;
    }
    Ok(subnets)
}

fn routes(root: &Field<'_>) -> Result<Vec<Route>, CniError> {
    let Some(ipam) = root.object_of("ipam")? else {
        return Ok(Vec::new());
    };
    let routes = ipam.elements_of("routes")?;
    routes.iter().map(Route::read).collect()
}

/// A default route has the network's gateway.
fn take_gateway(route: &Route, subnets: &mut [Subnet]) -> Result<(), CniError> {
    let Some(gateway) = route.gateway else {
        return Ok(());
    };
    let is_in = |subnet: &&mut Subnet| match subnet.subnet {
        IpNet::V4(_) => gateway.is_ipv4(),
        IpNet::V6(_) => gateway.is_ipv6(),
    };
    let Some(subnet) = subnets.iter_mut().find(is_in) else {
        return Ok(());
    };
    let text = Value::from(gateway.to_string());
    match subnet.gateway {
        Some(other) if other != gateway => {
            let why = format!("the network's gateway is {other}");
            Err(CniError::unsupported("ipam.routes: gw", &text, &why))
        }
        Some(_) => Ok(()),
        None if subnet.subnet.contains(&gateway) => {
            subnet.gateway = Some(gateway);
            Ok(())
        }
        None => {
            let why = format!("it is not in the subnet {}", subnet.subnet);
            Err(CniError::unsupported("ipam.routes: gw", &text, &why))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::environment::Verb;
    use super::*;

    fn read(plugin: Plugin, mut config: Value) -> Result<Wanted, CniError> {
        config["cniVersion"] = "1.0.0".into();
        if config.get("name").is_none() {
            config["name"] = "net".into();
        }
        let text = config.to_string().into_bytes();
        let config = Config::read(text, plugin, Verb::Add).map_err(|(error, _)| error)?;
        Wanted::read(&config, plugin, &[], None)
    }

    fn pool(subnet: &str, gateway: Option<&str>) -> IpamPool {
        IpamPool {
            subnet: Some(subnet.to_owned()),
            gateway: gateway.map(str::to_owned),
            ..IpamPool::default()
        }
    }

    #[test]
    fn a_network_of_podman() {
        let wanted = read(
            Plugin::Bridge,
            json!({
                "type": "bridge", "bridge": "cni-podman1", "isGateway": true, "ipMasq": true, "mtu": 1400,
                "hairpinMode": true, "capabilities": {"ips": true},
                "ipam": {
                    "type": "host-local", "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": "10.91.0.0/24", "rangeStart": "10.91.0.129", "rangeEnd": "10.91.0.255", "gateway": "10.91.0.254"}]],
                },
            }),
        );
        let wanted = wanted.unwrap();
        let create = wanted.create.as_ref().unwrap();
        assert_eq!(
            create.ipam.config,
            [pool("10.91.0.0/24", Some("10.91.0.254"))]
        );
        let options = [
            (BRIDGE_NAME, "cni-podman1"),
            (DRIVER_MTU, "1400"),
            (ENABLE_IP_MASQUERADE, "true"),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(create.options, BTreeMap::from(options));
        assert!(!create.internal && wanted.default_route);
        assert_eq!((create.enable_ipv4, create.enable_ipv6), (None, None));
        assert_eq!(wanted.ranges().len(), 1);
        assert_eq!(wanted.routes, []);
        assert_eq!(create.labels[CNI_NETWORK], "net");
    }

    #[test]
    fn an_internal_and_a_dual_network_of_podman() {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24"}]]});
        let internal = json!({"isGateway": false, "hairpinMode": true, "ipam": ipam});
        let internal = read(Plugin::Bridge, internal).unwrap();
        assert!(internal.create.unwrap().internal && !internal.default_route);
        let dual = json!({
            "isGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "fd00:92::/64", "gateway": "fd00:92::1"}], [{"subnet": "10.92.0.0/24", "gateway": "10.92.0.1"}]],
            },
        });
        let dual = read(Plugin::Bridge, dual).unwrap().create.unwrap();
        assert_eq!((dual.enable_ipv4, dual.enable_ipv6), (None, Some(true)));
        assert_eq!(dual.ipam.config.len(), 2);
    }

    #[test]
    fn our_own_type_needs_nothing() {
        let wanted = read(Plugin::Tunbridge, json!({})).unwrap();
        let create = wanted.create.unwrap();
        assert!(wanted.default_route && !create.internal);
        assert_eq!(create.options, BTreeMap::new());
        assert_eq!(create.ipam.config, []);
        let wanted = read(
            Plugin::Tunbridge,
            json!({
                "subnet": "10.5.0.0/16", "gateway": "10.5.0.9", "subnets": ["fd05::/64"], "icc": false, "ipMasq": false,
                "options": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1", "com.tunbridge.x": 5},
                "ipam": {"routes": [{"dst": "10.9.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.5.0.9"}]},
            }),
        );
        let wanted = wanted.unwrap();
        let create = wanted.create.unwrap();
        let pools = [
            pool("10.5.0.0/16", Some("10.5.0.9")),
            pool("fd05::/64", None),
        ];
        assert_eq!(create.ipam.config, pools);
        assert_eq!(create.options["com.tunbridge.x"], "5");
        assert_eq!(create.options[ENABLE_ICC], "false");
        assert_eq!(wanted.routes.len(), 1);
        let six = read(Plugin::Tunbridge, json!({"subnet": "fd05::/64"})).unwrap();
        assert_eq!(six.create.unwrap().enable_ipv4, Some(false));
        let only = read(Plugin::Tunbridge, json!({"isDefaultGateway": false})).unwrap();
        assert!(!only.default_route);
    }

    #[test]
    fn the_default_network_is_not_made() {
        let wanted = read(Plugin::Tunbridge, json!({"network": "bridge"})).unwrap();
        assert_eq!(wanted.create, None);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (config, code, text) in [
            (json!({"vlan": 5}), 2, "unsupported field vlan with value 5"),
            (
                json!({"vlanTrunk": [{"id": 5}]}),
                2,
                "unsupported field vlanTrunk",
            ),
            (
                json!({"mtu": "x"}),
                7,
                "invalid mtu \"x\": must be a number",
            ),
            (json!({"mtu": -1}), 7, "invalid mtu -1: must be a number"),
            (
                json!({"isGateway": "yes"}),
                7,
                "invalid isGateway \"yes\": must be true or false",
            ),
            (
                json!({"ipam": {"subnet": "10.0.0.0/99"}}),
                7,
                "invalid ipam.subnet \"10.0.0.0/99\": give a CIDR block",
            ),
            (
                json!({"ipam": {"routes": [{"dst": "10.0.0.0"}]}}),
                7,
                "invalid ipam.routes[0].dst \"10.0.0.0\": give a CIDR block",
            ),
            (
                json!({"ipam": {"routes": [{"gw": "10.0.0.1"}]}}),
                7,
                "a route needs \"dst\"",
            ),
            (
                json!({"isGateway": false, "ipam": {"routes": [{"dst": "0.0.0.0/0"}]}}),
                2,
                "unsupported field ipam.routes with value \"0.0.0.0/0\"",
            ),
            (
                json!({"ipam": {"subnet": "10.1.0.0/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.2"}]}}),
                2,
                "unsupported field ipam.routes: gw with value \"10.1.0.2\"",
            ),
            (
                json!({"ipam": {"subnet": "10.1.0.0/16", "ranges": [[{"subnet": "10.2.0.0/16"}]]}}),
                2,
                "unsupported field ipam.ranges[0]",
            ),
        ] {
            for plugin in [Plugin::Bridge, Plugin::Tunbridge] {
                let error = read(plugin, config.clone()).unwrap_err();
                assert_eq!(error.code, code, "{error:?}");
                assert!(error.message.contains(text), "{error:?}");
            }
        }
    }
}
