//! What an `ADD` asks of the daemon, and what its answer is in CNI's terms.
//!
//! The same thing may be said in three places: `runtimeConfig` goes before `args.cni`, and that before `CNI_ARGS`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Plugin;
use super::args::Args;
use super::config::Config;
use super::environment::{Environment, check_interface};
use super::error::CniError;
use super::fields::Field;
use super::network::Wanted;
use super::result::{self, CniResult, Dns, Route};
use super::runtime_config::{RuntimeConfig, read_addresses};
use super::subnets::Subnet;
use crate::api::types::{
    AttachEndpoint, AttachedEndpoint, EndpointAddresses, EndpointReference, EndpointSettings,
    Runtime,
};
use crate::control::network_options::is_predefined;

/// An `ADD`, understood.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    pub(super) request: AttachEndpoint,
    pub(super) wanted: Wanted,
    /// Called as `bridge`: then `host-local` would have told a gateway, whether or not anything is there.
    like_stock: bool,
}

impl Attachment {
    pub(super) fn read(
        environment: &Environment,
        config: &Config,
        plugin: Plugin,
        delegated: Option<&CniResult>,
    ) -> Result<Self, CniError> {
        check_interface(&environment.interface)?;
        let args = Args::read(&environment.args)?;
        let runtime = RuntimeConfig::read(&config.root(), &config.name)?;
        let conventions = Conventions::read(&config.root())?;
        let wanted = Wanted::read(config, plugin, &runtime.ranges, delegated)?;
        let addresses = match delegated {
            Some(result) => result.addresses.iter().map(|a| a.address.addr()).collect(),
            None if !runtime.addresses.is_empty() => runtime.addresses.clone(),
            None if !conventions.addresses.is_empty() => conventions.addresses,
            None => args.address.into_iter().collect(),
        };
        let has_names = !is_predefined(&config.network);
        let dns = dns(config, &runtime, delegated)?;
        let request = AttachEndpoint {
            owner: Some(config.name.clone()),
            name: args.name,
            create_network: wanted.create.clone(),
            interface: Some(environment.interface.clone()),
            settings: EndpointSettings {
                ipam_config: endpoint_addresses(&addresses),
                aliases: runtime.aliases.into_iter().filter(|_| has_names).collect(),
                mac_address: runtime.mac.or(conventions.mac).or(args.mac),
                ..EndpointSettings::default()
            },
            ranges: wanted.ranges(),
            default_route: wanted.default_route,
            publish: runtime.ports.iter().map(ToString::to_string).collect(),
            dns: servers(&dns)?,
            dns_search: search(&dns),
            dns_option: dns.options,
            bandwidth: runtime.bandwidth,
            ..AttachEndpoint::new(Runtime::Cni, &environment.container, &config.network)
        };
        Ok(Self {
            request,
            wanted,
            like_stock: plugin == Plugin::Bridge,
        })
    }

    /// In CNI's terms. `sandbox`: the path of the namespace as the runtime knows it.
    pub(super) fn result(&self, attached: &AttachedEndpoint, sandbox: &str) -> CniResult {
        const INSIDE: usize = 2;
        let interface =
            |interface: &crate::api::types::Interface, sandbox: &str| result::Interface {
                name: interface.name.clone(),
                mac: interface.mac.clone(),
                mtu: Some(interface.mtu.into()),
                sandbox: sandbox.to_owned(),
                ..result::Interface::default()
            };
        let gateway = |ipv4: bool| {
            let is_same = |address: &IpAddr| address.is_ipv4() == ipv4;
            let mut routers = attached.routers.iter().copied();
            routers.find(is_same).or_else(|| {
                let gateway = |subnet: &Subnet| subnet.gateway.unwrap_or_else(|| subnet.first());
                let subnets = self.wanted.subnets.iter().filter(|_| self.like_stock);
                subnets.map(gateway).find(is_same)
            })
        };
        let address = |address: &IpNet| result::Address {
            address: *address,
            gateway: gateway(address.addr().is_ipv4()),
            interface: Some(INSIDE),
        };
        let default = |gateway: &IpAddr| {
            let everywhere = match gateway {
                IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
                IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
            };
            Route::new(everywhere, Some(*gateway))
        };
        CniResult {
            interfaces: vec![
                interface(&attached.bridge, ""),
                interface(&attached.host, ""),
                interface(&attached.inside, sandbox),
            ],
            addresses: attached.addresses.iter().map(address).collect(),
            routes: attached
                .gateways
                .iter()
                .map(default)
                .chain(self.wanted.routes.clone())
                .collect(),
            // Podman adds up what its networks say, and takes from resolv.conf what a network said that is disconnected.
            dns: if attached.first {
                Dns {
                    nameservers: attached.nameservers.iter().map(IpAddr::to_string).collect(),
                    search: attached.search.clone(),
                    options: attached.options.clone(),
                    domain: String::new(),
                }
            } else {
                Dns::default()
            },
        }
    }

    /// An address that is in none of the subnets that the configuration names: the network is another one.
    pub(super) fn foreign(&self, attached: &AttachedEndpoint) -> Option<IpNet> {
        let subnets = &self.wanted.subnets;
        let is_foreign = |address: &&IpNet| {
            let family = |net: &IpNet| net.addr().is_ipv4() == address.addr().is_ipv4();
            let mut own = subnets.iter().filter(|subnet| family(&subnet.subnet));
            own.next().is_some_and(|own| own.subnet != address.trunc())
        };
        attached.addresses.iter().find(is_foreign).copied()
    }
}

/// The endpoint of a request, as the daemon knows it. With its owner and network: after a failed `ADD`, whose interface
/// was there already, that one stays.
pub(super) fn reference(environment: &Environment, config: &Config) -> EndpointReference {
    EndpointReference {
        runtime: Runtime::Cni,
        container: environment.container.clone(),
        owner: Some(config.name.clone()),
        network: Some(config.network.clone()),
        interface: Some(environment.interface.clone()),
    }
}

/// `args.cni`, see the specification's conventions.
#[derive(Debug, Default)]
struct Conventions {
    addresses: Vec<IpAddr>,
    mac: Option<String>,
}

impl Conventions {
    fn read(root: &Field<'_>) -> Result<Self, CniError> {
        let args = root.object_of("args")?;
        let cni = args
            .map(|args| args.object_of("cni"))
            .transpose()?
            .flatten();
        let Some(cni) = cni else {
            return Ok(Self::default());
        };
        let addresses = cni.get("ips").map(|ips| read_addresses(&ips)).transpose()?;
        Ok(Self {
            addresses: addresses.unwrap_or_default(),
            mac: cni.text_of("mac")?.map(str::to_owned),
        })
    }
}

/// What the runtime says, else the configuration, else the IPAM plugin.
fn dns(
    config: &Config,
    runtime: &RuntimeConfig,
    delegated: Option<&CniResult>,
) -> Result<Dns, CniError> {
    if runtime.dns != Dns::default() {
        return Ok(runtime.dns.clone());
    }
    if let Some(dns) = config.root().object_of("dns")? {
        let dns = Dns::read(&dns)?;
        if dns != Dns::default() {
            return Ok(dns);
        }
    }
    Ok(delegated
        .map(|result| result.dns.clone())
        .unwrap_or_default())
}

fn servers(dns: &Dns) -> Result<Vec<IpAddr>, CniError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            let message = format!("invalid name server {text:?} in dns: give an IP address");
            CniError::configuration(message)
        })
    };
    dns.nameservers.iter().map(parse).collect()
}

/// As resolv.conf has it, the last of `search` and `domain` counts.
fn search(dns: &Dns) -> Vec<String> {
    if dns.search.is_empty() && !dns.domain.is_empty() {
        vec![dns.domain.clone()]
    } else {
        dns.search.clone()
    }
}

fn endpoint_addresses(addresses: &[IpAddr]) -> EndpointAddresses {
    let mut wanted = EndpointAddresses::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => wanted.ipv4_address = Some(*address),
            IpAddr::V6(address) => wanted.ipv6_address = Some(*address),
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::environment::Verb;
    use super::*;

    fn read(config: Value, args: &str) -> Result<Attachment, CniError> {
        let environment = Environment {
            verb: Verb::Add,
            container: "abc".to_owned(),
            netns: Some("/run/netns/x".into()),
            interface: "eth0".to_owned(),
            path: Vec::new(),
            args: args.to_owned(),
        };
        let text = config.to_string().into_bytes();
        let config = Config::read(text, Plugin::Tunbridge, Verb::Add);
        let config = config.map_err(|(error, _)| error)?;
        Attachment::read(&environment, &config, Plugin::Tunbridge, None)
    }

    #[test]
    fn the_runtimes_words_go_before_others() {
        let addresses = |config: Value, args: &str| {
            let request = read(config, args).unwrap().request;
            let settings = request.settings;
            (
                settings.ipam_config.ipv4_address.map(|a| a.to_string()),
                settings.mac_address,
            )
        };
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "net",
            "args": {"cni": {"ips": ["10.0.0.2"], "mac": "02:00:00:00:00:02"}},
            "runtimeConfig": {"ips": ["10.0.0.1/16"], "mac": "02:00:00:00:00:01"},
        });
        let args = "IP=10.0.0.3;MAC=02:00:00:00:00:03";
        let expected = |n: u8| {
            (
                Some(format!("10.0.0.{n}")),
                Some(format!("02:00:00:00:00:0{n}")),
            )
        };
        assert_eq!(addresses(config.clone(), args), expected(1));
        config["runtimeConfig"] = json!({});
        assert_eq!(addresses(config.clone(), args), expected(2));
        config["args"] = json!({"podman_labels": {"a": "b"}});
        assert_eq!(addresses(config.clone(), args), expected(3));
        assert_eq!(addresses(config, ""), (None, None));
    }

    #[test]
    fn names_and_name_servers() {
        let request = read(
            json!({
                "cniVersion": "1.0.0", "name": "net",
                "dns": {"nameservers": ["10.0.0.53"], "domain": "a.example", "options": ["ndots:2"]},
                "runtimeConfig": {"aliases": {"net": ["web"]}},
            }),
            "IgnoreUnknown=1;K8S_POD_NAME=w1",
        );
        let request = request.unwrap().request;
        assert_eq!(request.name.as_deref(), Some("w1"));
        assert_eq!(request.settings.aliases, ["web"]);
        assert_eq!(request.dns, ["10.0.0.53".parse::<IpAddr>().unwrap()]);
        assert_eq!(request.dns_search, ["a.example"]);
        assert_eq!(request.dns_option, ["ndots:2"]);
        let error = read(
            json!({"cniVersion": "1.0.0", "name": "net", "dns": {"nameservers": ["x"]}}),
            "",
        );
        assert_eq!(error.unwrap_err().code, 7);
        // The default network has no names.
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "network": "bridge", "runtimeConfig": {"aliases": ["web"]},
        });
        assert_eq!(read(config, "").unwrap().request.settings.aliases, [""; 0]);
    }
}
