//! libnetwork's network driver.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::companion::overlap;
use super::daemon::{Network, reference};
use super::ipam_driver::ADDRESS_SPACE;
use super::port_map::{EXPOSED_PORTS, ExposedPort, PORT_MAP, PortBinding, check_exposed, specs};
use super::protocol::{
    CreateEndpoint, CreateNetwork, EndpointCall, EndpointInterface, InterfaceName, IpamData,
    Joined, NetworkReference, Refusal, address, identifier, net, option, required,
};
use super::{DOCKER_NETWORK_OPTION, NETWORK_OPTION, OWN, Plugin, SHARED, label_of};
use crate::api::client::{ClientError, segment};
use crate::api::types::{
    AttachEndpoint, AttachedEndpoint, ChangeLabels, CreatedNetwork, EndpointAddresses,
    EndpointSettings, Ipam, IpamPool, LEASED_POOLS, Placement, PublishEndpoint, Runtime,
};
use crate::control::network_options::{CONTAINER_IFACE_PREFIX, is_unknown};
use crate::failpoint;

/// Where libnetwork puts what users say with `-o`.
const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";

/// Options of endpoints that are libnetwork's own, and not for the daemon.
const LIBNETWORKS: [&str; 5] = [
    PORT_MAP,
    EXPOSED_PORTS,
    GENERIC,
    "com.docker.network.endpoint.macaddress",
    "com.docker.network.endpoint.dnsservers",
];

/// Of an interface's name in a container a number follows.
const INTERFACE_PREFIX: &str = "eth";

/// A request for a network, understood.
#[derive(Debug)]
struct WantedNetwork {
    id: String,
    options: BTreeMap<String, String>,
    internal: bool,
    subnets: Vec<WantedSubnet>,
    /// The subnets are pools of ours.
    leased: bool,
}

#[derive(Debug)]
struct WantedSubnet {
    subnet: IpNet,
    gateway: Option<IpNet>,
    auxiliary: BTreeMap<String, String>,
}

impl WantedNetwork {
    fn parse(request: CreateNetwork) -> Result<Self, Refusal> {
        let id = identifier("NetworkID", &request.network_id)?.to_owned();
        let options: BTreeMap<String, String> = option(&request.options, GENERIC)?;
        let ipv6: bool = option(&request.options, ENABLE_IPV6)?;
        let internal: bool = option(&request.options, INTERNAL)?;
        if ipv6 && request.ipv6_data.is_empty() {
            return Err(Refusal::new(
                "an IPv6 network needs an IPv6 subnet: give --subnet fd00:1::/64",
            ));
        }
        let data = || request.ipv4_data.iter().chain(&request.ipv6_data);
        let leased = data().any(|data| data.address_space == ADDRESS_SPACE);
        let subnets = data().map(WantedSubnet::parse);
        let subnets: Vec<_> = subnets.collect::<Result<_, _>>()?;
        if subnets.is_empty() {
            return Err(Refusal::new(
                "a tunbridge network needs a subnet: leave --ipam-driver null out, or use `--network none`",
            ));
        }
        Ok(Self {
            id,
            options,
            internal,
            subnets,
            leased,
        })
    }
}

impl WantedSubnet {
    fn parse(data: &IpamData) -> Result<Self, Refusal> {
        required("Pool", &data.pool)?;
        let subnet = net("Pool", &data.pool)?.ok_or_else(|| Refusal::new("Pool is missing"))?;
        let gateway = net("Gateway", &data.gateway)?;
        if let Some(gateway) = gateway
            && !subnet.contains(&gateway.addr())
        {
            return Err(Refusal::new(format!(
                "invalid Gateway {gateway}: it is not in subnet {subnet}, choose one there"
            )));
        }
        let auxiliary = data.aux_addresses.iter().map(|(name, text)| {
            let field = format!("auxiliary address {}", name.escape_debug());
            let address = address(&field, text)?;
            Ok((
                name.clone(),
                address.map(|a| a.to_string()).unwrap_or_default(),
            ))
        });
        Ok(Self {
            subnet: subnet.trunc(),
            gateway,
            auxiliary: auxiliary.collect::<Result<_, Refusal>>()?,
        })
    }

    /// The subnet as the daemon is asked for it. Where dockerd gives out the addresses itself, from the lowest on,
    /// containers of others get theirs from the upper half.
    fn pool(&self, leased: bool) -> IpamPool {
        let upper_half = || {
            let mut halves = self.subnet.subnets(self.subnet.prefix_len() + 1).ok()?;
            (self.subnet.prefix_len() + 3 <= self.subnet.max_prefix_len())
                .then(|| halves.nth(1))
                .flatten()
        };
        let range = if leased { None } else { upper_half() };
        IpamPool {
            subnet: Some(self.subnet.to_string()),
            ip_range: range.map(|range| range.to_string()),
            gateway: self.gateway.map(|gateway| gateway.addr().to_string()),
            auxiliary_addresses: self.auxiliary.clone(),
        }
    }
}

impl Plugin {
    pub(super) async fn create_network(&self, request: CreateNetwork) -> Result<Value, Refusal> {
        let mut wanted = WantedNetwork::parse(request)?;
        if self.daemon.docker_network(&wanted.id).await?.is_some() {
            // dockerd asks again if it did not hear the answer.
            return Ok(json!({}));
        }
        if let Some(unknown) = wanted.options.keys().find(|name| {
            // docker shows no warnings of drivers: what would be one has to be an error.
            name.as_str() != NETWORK_OPTION && is_unknown(name)
        }) {
            return Err(Refusal::new(format!(
                "option {} is not known: leave it out, or correct it (docs/networks.md lists all)",
                unknown.escape_debug()
            )));
        }
        let existing = match wanted.options.remove(NETWORK_OPTION) {
            Some(name) => Some(self.named_network(&name).await?),
            None if wanted.leased => self.network_of_pools(&wanted).await?,
            None => None,
        };
        match existing {
            Some(network) => self.share(&network, &wanted).await?,
            None => {
                self.note(&wanted.id);
                let mut made = self.make(&wanted).await;
                let is_wanted = |has| wanted.subnets.iter().any(|one| overlap(has, one.subnet));
                // One of which dockerd never heard may be in the way.
                if made.is_err() && self.free_networks(is_wanted).await? {
                    made = self.make(&wanted).await;
                }
                made?;
            }
        }
        failpoint::reached("docker.network");
        self.changed.notify_one();
        Ok(json!({}))
    }

    pub(super) async fn named_network(&self, name: &str) -> Result<Network, Refusal> {
        required(NETWORK_OPTION, name)?;
        self.daemon.network(name).await?.ok_or_else(|| {
            let name = name.escape_debug();
            Refusal::new(format!(
                "{NETWORK_OPTION}: tunbridge has no network {name}: make it first with `tunbridge network create {name}`, or leave the option out"
            ))
        })
    }

    /// The network whose addresses our own IPAM driver gave, if there was one before.
    async fn network_of_pools(&self, wanted: &WantedNetwork) -> Result<Option<Network>, Refusal> {
        let networks = self.daemon.networks().await?;
        Ok(networks.into_iter().find(|network| {
            let mut subnets = network.subnets().iter();
            subnets.any(|has| wanted.subnets.iter().any(|one| one.subnet == has.subnet))
        }))
    }

    /// Uses a network that was there before.
    async fn share(&self, network: &Network, wanted: &WantedNetwork) -> Result<(), Refusal> {
        let name = &network.name;
        for one in &wanted.subnets {
            let Some(has) = network
                .subnets()
                .iter()
                .find(|has| has.subnet == one.subnet)
            else {
                let subnets: Vec<String> = network
                    .subnets()
                    .iter()
                    .map(|has| has.subnet.to_string())
                    .collect();
                return Err(Refusal::new(format!(
                    "network {name} has subnet {}, not {}: give --ipam-driver tunbridge --ipam-opt {NETWORK_OPTION}={name} --subnet {}",
                    subnets.join(" and "),
                    one.subnet,
                    subnets.join(" --subnet ")
                )));
            };
            if let (Some(gateway), Some(has)) = (one.gateway, has.gateway)
                && gateway.addr() != has
            {
                return Err(Refusal::new(format!(
                    "network {name} has gateway {has}, not {}: give --gateway {has}",
                    gateway.addr()
                )));
            }
        }
        if network.internal != wanted.internal {
            let (is, flag) = match network.internal {
                true => ("is internal", "give --internal"),
                false => ("is not internal", "leave --internal out"),
            };
            return Err(Refusal::new(format!("network {name} {is}: {flag}")));
        }
        let mut options = wanted.options.iter();
        if let Some((option, _)) =
            options.find(|(option, value)| network.options.get(*option) != Some(value))
        {
            return Err(Refusal::new(format!(
                "option {} cannot be set, network {name} is there already: leave it out",
                option.escape_debug()
            )));
        }
        let label = (label_of(&wanted.id), Some(self.label(SHARED)));
        Ok(self.change_labels(network, [label]).await?)
    }

    async fn change_labels<const N: usize>(
        &self,
        network: &Network,
        labels: [(String, Option<String>); N],
    ) -> Result<(), ClientError> {
        let target = format!("/tunbridge/networks/{}/labels", segment(&network.id));
        let change = ChangeLabels {
            labels: labels.into(),
        };
        self.daemon
            .ask(move |client| client.tell(&target, &change))
            .await
    }

    /// Makes a network of its own for dockerd's.
    async fn make(&self, wanted: &WantedNetwork) -> Result<(), Refusal> {
        let mut name = format!("docker-{}", wanted.id.get(..12).unwrap_or(&wanted.id));
        if self.daemon.network(&name).await?.is_some() {
            name = format!("docker-{}", wanted.id);
        }
        let family = |ipv4| {
            let mut subnets = wanted.subnets.iter();
            Some(subnets.any(|one| one.subnet.addr().is_ipv4() == ipv4))
        };
        let ipam_options = [(LEASED_POOLS.to_owned(), "true".to_owned())];
        let request = crate::api::types::CreateNetwork {
            name,
            enable_ipv4: family(true),
            enable_ipv6: family(false),
            ipam: Ipam {
                driver: String::new(),
                options: BTreeMap::from_iter(
                    wanted.leased.then_some(ipam_options).into_iter().flatten(),
                ),
                config: wanted
                    .subnets
                    .iter()
                    .map(|one| one.pool(wanted.leased))
                    .collect(),
            },
            internal: wanted.internal,
            options: wanted.options.clone(),
            labels: [(label_of(&wanted.id), self.label(OWN))].into(),
            ..Default::default()
        };
        let made = self
            .daemon
            .ask_once(move |client| client.post::<CreatedNetwork>("/networks/create", &request));
        for warning in made.await?.warning.lines() {
            tracing::warn!(network = wanted.id, "{warning}");
        }
        Ok(())
    }

    pub(super) async fn delete_network(&self, request: NetworkReference) -> Result<Value, Refusal> {
        let id = identifier("NetworkID", &request.network_id)?;
        self.let_go(id).await?;
        Ok(json!({}))
    }

    /// Removes the network that a docker network is, if it was made for it.
    pub(super) async fn let_go(&self, id: &str) -> Result<(), ClientError> {
        let Some(network) = self.daemon.docker_network(id).await? else {
            return Ok(());
        };
        if network.is_shared(id) {
            return self.change_labels(&network, [(label_of(id), None)]).await;
        }
        // dockerd removes no network on which it has endpoints.
        for endpoint in self.endpoints_on(&network, id).await? {
            self.daemon.detach(&endpoint).await?;
        }
        let target = format!("/networks/{}?force=1", segment(&network.id));
        match self.daemon.ask(move |client| client.delete(&target)).await {
            Err(ClientError::Refused { status: 404, .. }) => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) async fn create_endpoint(&self, request: CreateEndpoint) -> Result<Value, Refusal> {
        let docker = identifier("NetworkID", &request.network_id)?;
        let endpoint = identifier("EndpointID", &request.endpoint_id)?.to_owned();
        let given = &request.interface;
        let addresses = EndpointAddresses {
            ipv4_address: match address("Interface.Address", &given.address)? {
                Some(IpAddr::V4(address)) => Some(address),
                None => None,
                Some(IpAddr::V6(address)) => {
                    return Err(Refusal::new(format!(
                        "invalid Interface.Address {address}: give an IPv4 address"
                    )));
                }
            },
            ipv6_address: match address("Interface.AddressIPv6", &given.address_ipv6)? {
                Some(IpAddr::V6(address)) => Some(address),
                None => None,
                Some(IpAddr::V4(address)) => {
                    return Err(Refusal::new(format!(
                        "invalid Interface.AddressIPv6 {address}: give an IPv6 address"
                    )));
                }
            },
            link_local_ips: Vec::new(),
        };
        check_ports(&request.options)?;
        let mut driver_opts = driver_options(&request.options)?;
        driver_opts.insert(DOCKER_NETWORK_OPTION.to_owned(), docker.to_owned());
        let network = self.daemon.known_network(docker).await?;
        let attach = AttachEndpoint {
            placement: Placement::Host,
            settings: EndpointSettings {
                ipam_config: addresses,
                mac_address: Some(given.mac_address.clone()).filter(|mac| !mac.is_empty()),
                driver_opts,
                ..EndpointSettings::default()
            },
            ..AttachEndpoint::new(Runtime::Docker, &endpoint, &network.id)
        };
        // One of this id is left over from a call of which dockerd did not hear the end.
        self.daemon.detach(&endpoint).await?;
        self.note(&endpoint);
        failpoint::reached("docker.endpoint");
        let wanted: Vec<IpAddr> = addresses_of(&attach.settings.ipam_config);
        let attached = match self.attach(attach.clone()).await {
            // dockerd knows who has its addresses: what it does not know has died with a former one.
            Err(ClientError::Refused { status: 409, .. })
                if self.free(&network, &wanted).await? =>
            {
                self.attach(attach).await
            }
            Err(ClientError::Broken { .. }) => {
                self.daemon.detach(&endpoint).await?;
                self.attach(attach).await
            }
            outcome => outcome,
        }?;
        failpoint::reached("docker.attached");
        for warning in &attached.warnings {
            tracing::warn!(%endpoint, "{warning}");
        }
        let answer = not_given(given, &attached);
        Ok(if answer == EndpointInterface::default() {
            json!({})
        } else {
            json!({ "Interface": answer })
        })
    }

    async fn attach(&self, request: AttachEndpoint) -> Result<AttachedEndpoint, ClientError> {
        self.daemon
            .ask_once(move |client| client.post("/tunbridge/endpoints", &request))
            .await
    }

    pub(super) async fn delete_endpoint(&self, request: EndpointCall) -> Result<Value, Refusal> {
        let (_, endpoint) = ids(&request)?;
        self.daemon.detach(endpoint).await?;
        failpoint::reached("docker.detached");
        self.forget(endpoint);
        self.changed.notify_one();
        Ok(json!({}))
    }

    pub(super) fn endpoint_info(&self, request: &EndpointCall) -> Result<Value, Refusal> {
        ids(request)?;
        self.changed.notify_one();
        Ok(json!({ "Value": {} }))
    }

    pub(super) async fn join(&self, request: EndpointCall) -> Result<Joined, Refusal> {
        let (docker, endpoint) = ids(&request)?;
        let network = self.daemon.known_network(docker).await?;
        let wanted = reference(endpoint, Some(&network.id));
        let attached: AttachedEndpoint = self
            .daemon
            .ask(move |client| client.post("/tunbridge/endpoints/check", &wanted))
            .await?;
        failpoint::reached("docker.joined");
        let gateway = |ipv4| {
            let mut gateways = attached.gateways.iter();
            let gateway = gateways.find(|gateway| gateway.is_ipv4() == ipv4);
            gateway.map(ToString::to_string).unwrap_or_default()
        };
        let prefix = network.options.get(CONTAINER_IFACE_PREFIX);
        let prefix = prefix.filter(|prefix| !prefix.is_empty());
        self.changed.notify_one();
        Ok(Joined {
            interface_name: InterfaceName {
                src_name: attached.inside.name.clone(),
                dst_prefix: prefix.map_or(INTERFACE_PREFIX, String::as_str).to_owned(),
            },
            gateway: gateway(true),
            gateway_ipv6: gateway(false),
            // Otherwise dockerd adds an interface on a bridge of its own.
            disable_gateway_service: true,
        })
    }

    pub(super) fn leave(&self, request: &EndpointCall) -> Result<Value, Refusal> {
        ids(request)?;
        self.changed.notify_one();
        Ok(json!({}))
    }

    pub(super) async fn program(&self, request: EndpointCall) -> Result<Value, Refusal> {
        let (_, endpoint) = ids(&request)?;
        let publish = check_ports(&request.options)?;
        self.publish(endpoint, publish).await?;
        failpoint::reached("docker.published");
        self.changed.notify_one();
        Ok(json!({}))
    }

    pub(super) async fn revoke(&self, request: EndpointCall) -> Result<Value, Refusal> {
        let (_, endpoint) = ids(&request)?;
        match self.publish(endpoint, Vec::new()).await {
            Ok(()) | Err(ClientError::Refused { status: 404, .. }) => Ok(json!({})),
            Err(error) => Err(error.into()),
        }
    }

    async fn publish(&self, endpoint: &str, publish: Vec<String>) -> Result<(), ClientError> {
        let request = PublishEndpoint {
            runtime: Runtime::Docker,
            container: endpoint.to_owned(),
            publish,
        };
        let told = self
            .daemon
            .ask(move |client| client.tell("/tunbridge/endpoints/publish", &request));
        told.await.map_err(|error| match error {
            ClientError::Refused { status, message } => ClientError::Refused {
                status,
                message: without_dockers_words(&message),
            },
            other @ (ClientError::NotRunning(_)
            | ClientError::Permission(_)
            | ClientError::Broken { .. }) => other,
        })
    }
}

fn addresses_of(given: &EndpointAddresses) -> Vec<IpAddr> {
    let ipv4 = given.ipv4_address.map(IpAddr::from);
    let ipv6 = given.ipv6_address.map(IpAddr::from);
    ipv4.into_iter().chain(ipv6).collect()
}

/// dockerd says `driver failed programming external connectivity on endpoint NAME (ID): ` itself.
fn without_dockers_words(message: &str) -> String {
    const WORDS: &str = "driver failed programming external connectivity on endpoint ";
    let rest = message
        .split_once(WORDS)
        .and_then(|(_, rest)| rest.split_once("): "));
    rest.map_or(message, |(_, rest)| rest).to_owned()
}

/// Network and endpoint.
fn ids(request: &EndpointCall) -> Result<(&str, &str), Refusal> {
    Ok((
        identifier("NetworkID", &request.network_id)?,
        identifier("EndpointID", &request.endpoint_id)?,
    ))
}

/// The `-p` values that a request asks for.
fn check_ports(options: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    check_exposed(&option::<Vec<ExposedPort>>(options, EXPOSED_PORTS)?)?;
    specs(&option::<Vec<PortBinding>>(options, PORT_MAP)?)
}

/// `--driver-opt`: what is a text and not libnetwork's own.
fn driver_options(options: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    const IFNAME: &str = crate::control::endpoint_options::IFNAME;
    if options.contains_key(IFNAME) {
        return Err(Refusal::new(format!(
            "option {IFNAME} cannot be honoured: dockerd names the interface, leave it out"
        )));
    }
    let own = options
        .iter()
        .filter(|(name, _)| !LIBNETWORKS.contains(&name.as_str()));
    Ok(own
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect())
}

/// What the endpoint has that the request did not give: to repeat a value is an error for libnetwork.
fn not_given(given: &EndpointInterface, attached: &AttachedEndpoint) -> EndpointInterface {
    let of_family = |ipv4| {
        let mut addresses = attached.addresses.iter();
        let address = addresses.find(|net| net.addr().is_ipv4() == ipv4);
        address.map(ToString::to_string).unwrap_or_default()
    };
    let unless = |given: &str, value: String| {
        if given.is_empty() {
            value
        } else {
            String::new()
        }
    };
    EndpointInterface {
        address: unless(&given.address, of_family(true)),
        address_ipv6: unless(&given.address_ipv6, of_family(false)),
        mac_address: unless(&given.mac_address, attached.inside.mac.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_words_are_said_once() {
        for (message, expected) in [
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint web (ab12): Bind for 0.0.0.0:80 failed: port is already allocated",
                "Bind for 0.0.0.0:80 failed: port is already allocated",
            ),
            ("something (else): here", "something (else): here"),
        ] {
            assert_eq!(without_dockers_words(message), expected);
        }
    }

    #[test]
    fn others_get_addresses_from_the_upper_half_of_dockerds_pools() {
        let range = |subnet: &str, leased| {
            let wanted = WantedSubnet {
                subnet: subnet.parse().unwrap(),
                gateway: None,
                auxiliary: BTreeMap::new(),
            };
            wanted.pool(leased).ip_range
        };
        assert_eq!(
            range("10.60.0.0/24", false).as_deref(),
            Some("10.60.0.128/25")
        );
        assert_eq!(
            range("fd00::/64", false).as_deref(),
            Some("fd00::8000:0:0:0/65")
        );
        assert_eq!(range("10.60.0.0/30", false), None);
        assert_eq!(range("10.60.0.0/24", true), None);
    }
}
