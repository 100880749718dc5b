//! `runtimeConfig`: what the runtime says about this container, by capability.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use super::error::CniError;
use super::fields::Field;
use super::result::Dns;
use super::subnets::{self, Subnet};
use crate::api::types::{Bandwidth, RateLimit};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RuntimeConfig {
    pub(super) ports: Vec<Ports>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<String>,
    pub(super) dns: Dns,
    pub(super) ranges: Vec<Subnet>,
    pub(super) aliases: Vec<String>,
    pub(super) bandwidth: Bandwidth,
}

/// Consecutive ports of the host that lead to as many of the container. As text, a `-p` value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) address: Option<IpAddr>,
    host: u16,
    container: u16,
    /// How many follow the first.
    more: u16,
    /// `tcp` or `udp`.
    pub(super) protocol: String,
}

impl Ports {
    /// Each port of the host with the container's.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        (0..=self.more).map(|n| {
            (
                self.host.saturating_add(n),
                self.container.saturating_add(n),
            )
        })
    }

    /// Runtimes send a range port by port; asked for as one it is published at once.
    fn extend(&mut self, next: &Self) -> bool {
        let follows =
            |first: u16, next: u16| u32::from(first) + u32::from(self.more) + 1 == u32::from(next);
        let extends = self.address == next.address
            && self.protocol == next.protocol
            && follows(self.host, next.host)
            && follows(self.container, next.container);
        if extends {
            self.more += 1;
        }
        extends
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        let (host, container) = (self.host, self.container);
        if self.more == 0 {
            write!(f, "{host}:{container}")?;
        } else {
            let more = self.more;
            write!(f, "{host}-{}:{container}-{}", host + more, container + more)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

impl RuntimeConfig {
    /// `network`: the configuration's name.
    pub(super) fn read(config: &Field<'_>, network: &str) -> Result<Self, CniError> {
        let Some(capabilities) = config.object_of("runtimeConfig")? else {
            return Ok(Self::default());
        };
        let mut read = Self::default();
        let object = capabilities.value.as_object();
        for (key, value) in object.into_iter().flatten() {
            if value.is_null() {
                continue;
            }
            let field = Field::new(value, format!("runtimeConfig.{key}"));
            match key.to_ascii_lowercase().as_str() {
                "portmappings" => read.ports = read_ports(&field)?,
                "ips" => read.addresses = read_addresses(&field)?,
                "mac" => read.mac = Some(field.text()?.to_owned()).filter(|mac| !mac.is_empty()),
                "dns" => {
                    let dns = field.object()?;
                    read.dns = Dns {
                        nameservers: dns.texts_of("servers")?,
                        search: dns.texts_of("searches")?,
                        options: dns.texts_of("options")?,
                        domain: String::new(),
                    };
                }
                "ipranges" => read.ranges = subnets::read_lists(&field.elements()?)?,
                "aliases" => read.aliases = read_aliases(&field, network)?,
                "bandwidth" => read.bandwidth = read_bandwidth(&field.object()?)?,
                "cgrouppath" => {}
                _ if is_nothing(value) => {}
                _ => {
                    let why = "remove the capability from the configuration's \"capabilities\"; those known are portMappings, ips, mac, dns, ipRanges, aliases, bandwidth and cgroupPath";
                    return Err(field.unsupported(why));
                }
            }
        }
        Ok(read)
    }
}

/// A mapping without a port of the host publishes nothing.
fn read_ports(field: &Field<'_>) -> Result<Vec<Ports>, CniError> {
    let mut ports: Vec<Ports> = Vec::new();
    let mut seen = BTreeSet::new();
    for mapping in field.elements()? {
        let mapping = mapping.object()?;
        let port = |key: &str, lowest: u16| -> Result<u16, CniError> {
            let Some(field) = mapping.get(key) else {
                return Ok(0);
            };
            let port = u16::try_from(field.number()?).ok();
            let port = port.filter(|port| *port >= lowest);
            port.ok_or_else(|| field.wrong(&format!("a port is a number from {lowest} to 65535")))
        };
        let container = mapping.get("containerPort");
        container.ok_or_else(|| mapping.wrong("a mapping needs \"containerPort\""))?;
        let (host, container) = (port("hostPort", 0)?, port("containerPort", 1)?);
        let protocol = match mapping.text_of("protocol")? {
            None => "tcp".to_owned(),
            Some(text) => text.to_ascii_lowercase(),
        };
        if !matches!(protocol.as_str(), "tcp" | "udp") {
            let field = mapping.get("protocol").unwrap_or(mapping);
            return Err(field.unsupported("ports of tcp and udp can be published"));
        }
        let address: Option<IpAddr> = mapping.parsed_of("hostIP", "an address of the host")?;
        // Runtimes say some twice.
        if host == 0 || !seen.insert((address, host, container, protocol.clone())) {
            continue;
        }
        let next = Ports {
            address,
            host,
            container,
            more: 0,
            protocol,
        };
        if !ports.last_mut().is_some_and(|last| last.extend(&next)) {
            ports.push(next);
        }
    }
    Ok(ports)
}

/// At most one of each family; the same may come twice.
pub(super) fn read_addresses(field: &Field<'_>) -> Result<Vec<IpAddr>, CniError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for element in field.elements()? {
        let text = element.text()?;
        if text.is_empty() {
            continue;
        }
        let (text, length) = text
            .split_once('/')
            .map_or((text, None), |(text, length)| (text, Some(length)));
        let wrong = || element.wrong("give an IP address, with or without prefix length");
        let address: IpAddr = text.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length.is_some_and(|length| !length.parse::<u8>().is_ok_and(|length| length <= longest))
        {
            return Err(wrong());
        }
        if addresses.contains(&address) {
            continue;
        }
        let is_same = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        if let Some(other) = addresses.iter().find(is_same) {
            let why = format!("an interface has one address per family, here {other} already");
            return Err(element.unsupported(&why));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// A list, or podman's map of a list per network.
fn read_aliases(field: &Field<'_>, network: &str) -> Result<Vec<String>, CniError> {
    let list = if field.value.is_object() {
        field.get(network)
    } else {
        Some(field.clone())
    };
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    let text = |element: &Field<'_>| element.text().map(str::to_owned);
    list.elements()?.iter().map(text).collect()
}

/// The keys of the stock plugin, which has them in its configuration, too. 0 is no limit.
pub(super) fn read_bandwidth(field: &Field<'_>) -> Result<Bandwidth, CniError> {
    for key in ["shapedSubnets", "unshapedSubnets"] {
        if let Some(subnets) = field.get(key).filter(|subnets| !is_nothing(subnets.value)) {
            let why = "a limit is for all that a container sends or gets: leave the subnets out";
            return Err(subnets.unsupported(why));
        }
    }
    Ok(Bandwidth {
        ingress: read_limit(field, "ingressRate", "ingressBurst")?,
        egress: read_limit(field, "egressRate", "egressBurst")?,
    })
}

fn read_limit(
    field: &Field<'_>,
    rate_key: &str,
    burst_key: &str,
) -> Result<Option<RateLimit>, CniError> {
    let (rate, burst) = (field.get(rate_key), field.get(burst_key));
    let number = |field: &Option<Field<'_>>| field.as_ref().map_or(Ok(0), Field::number);
    match (number(&rate)?, number(&burst)?) {
        (0, 0) => Ok(None),
        (_, 0) => {
            let why = format!("if a rate is set, {burst_key} must be, too");
            Err(rate.as_ref().unwrap_or(field).wrong(&why))
        }
        (0, _) => {
            let why = format!("if a burst is set, {rate_key} must be, too");
            Err(burst.as_ref().unwrap_or(field).wrong(&why))
        }
        (_, bits) if bits / 8 > u32::MAX.into() => {
            let why = "a burst is less than 4 GiB, 34359738368 bits";
            Err(burst.as_ref().unwrap_or(field).wrong(why))
        }
        (rate, burst) => Ok(Some(RateLimit { rate, burst })),
    }
}

fn is_nothing(value: &Value) -> bool {
    value == ""
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(capabilities: Value) -> Result<RuntimeConfig, CniError> {
        let config = json!({ "runtimeConfig": capabilities });
        RuntimeConfig::read(&Field::new(&config, ""), "net")
    }

    fn texts(config: &RuntimeConfig) -> Vec<String> {
        config.ports.iter().map(Ports::to_string).collect()
    }

    #[test]
    fn a_range_that_comes_port_by_port_is_one() {
        let mapping = |host: u16, container: u16, protocol: &str| json!({"hostPort": host, "containerPort": container, "protocol": protocol});
        let read = read(json!({"portMappings": [
            mapping(9000, 80, "tcp"), mapping(9001, 81, "tcp"), mapping(9002, 82, "tcp"),
            mapping(9003, 83, "udp"), mapping(9004, 85, "udp"), mapping(9004, 85, "udp"),
            mapping(65535, 65535, "udp"), mapping(9001, 81, "tcp"), mapping(9002, 82, "TCP"),
        ]}));
        let read = read.unwrap();
        let expected = [
            "9000-9002:80-82/tcp",
            "9003:83/udp",
            "9004:85/udp",
            "65535:65535/udp",
        ];
        assert_eq!(texts(&read), expected);
        let pairs: Vec<(u16, u16)> = read.ports[0].pairs().collect();
        assert_eq!(pairs, [(9000, 80), (9001, 81), (9002, 82)]);
    }

    #[test]
    fn as_podman_and_as_containerd_write_it() {
        let podman = read(json!({
            "aliases": {"net": ["web1", "a70afaeb99e0"], "other": ["x"]},
            "ips": ["10.95.0.44", "10.95.0.44", "fd00::2/64"],
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8081, "containerPort": 81, "protocol": "udp", "hostIP": "127.0.0.1"},
            ],
        }));
        let podman = podman.unwrap();
        assert_eq!(podman.aliases, ["web1", "a70afaeb99e0"]);
        assert_eq!(podman.addresses.len(), 2);
        assert_eq!(texts(&podman), ["8080:80/tcp", "127.0.0.1:8081:81/udp"]);
        let containerd = read(json!({
            "portMappings": [
                {"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": "::"},
                {"HostPort": 0, "ContainerPort": 81, "Protocol": "tcp", "HostIP": ""},
            ],
            "dns": {"Servers": ["10.0.0.10"], "Searches": ["a.b"], "Options": ["ndots:5"]},
            "bandwidth": {"IngressRate": 0, "IngressBurst": 0},
            "cgroupPath": "/kubepods/x",
            "mac": "",
            "deviceID": "",
        }));
        let containerd = containerd.unwrap();
        assert_eq!(texts(&containerd), ["[::]:8080:80/tcp"]);
        assert_eq!(containerd.dns.nameservers, ["10.0.0.10"]);
        assert_eq!(containerd.mac, None);
        assert!(containerd.bandwidth.is_unlimited());
        assert_eq!(read(json!({"aliases": ["a"]})).unwrap().aliases, ["a"]);
        assert_eq!(
            read(json!({"aliases": {"x": ["a"]}})).unwrap().aliases,
            [""; 0]
        );
    }

    #[test]
    fn bandwidth_as_containerd_writes_it() {
        // Of a pod with the annotation `kubernetes.io/egress-bandwidth: 20M`.
        let pod = read(json!({"bandwidth": {
            "IngressRate": 0, "IngressBurst": 0, "egressRate": 20_000_000, "EGRESSBURST": 2_147_483_647,
            "unshapedSubnets": null, "shapedSubnets": [],
        }}));
        let expected = Bandwidth {
            ingress: None,
            egress: Some(RateLimit {
                rate: 20_000_000,
                burst: 2_147_483_647,
            }),
        };
        assert_eq!(pod.unwrap().bandwidth, expected);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_place() {
        for (capabilities, code, text) in [
            (
                json!({"sriov": {"vf": 1}}),
                2,
                "unsupported field runtimeConfig.sriov with value {\"vf\":1}",
            ),
            (
                json!({"deviceID": "0000:01:00.0"}),
                2,
                "unsupported field runtimeConfig.deviceID",
            ),
            (
                json!({"bandwidth": {"ingressRate": 1000}}),
                7,
                "invalid runtimeConfig.bandwidth.ingressRate 1000: if a rate is set, ingressBurst must be, too",
            ),
            (
                json!({"bandwidth": {"egressRate": 0, "egressBurst": 1000}}),
                7,
                "invalid runtimeConfig.bandwidth.egressBurst 1000: if a burst is set, egressRate must be, too",
            ),
            (
                json!({"bandwidth": {"egressRate": 1, "egressBurst": 34_359_738_368_u64}}),
                7,
                "invalid runtimeConfig.bandwidth.egressBurst 34359738368: a burst is less than 4 GiB",
            ),
            (
                json!({"bandwidth": {"egressRate": -1, "egressBurst": 1}}),
                7,
                "invalid runtimeConfig.bandwidth.egressRate -1: must be a number",
            ),
            (json!({"bandwidth": 5}), 7, "must be an object"),
            (
                json!({"bandwidth": {"unshapedSubnets": ["10.0.0.0/8"]}}),
                2,
                "unsupported field runtimeConfig.bandwidth.unshapedSubnets",
            ),
            (
                json!({"portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "sctp"}]}),
                2,
                "unsupported field runtimeConfig.portMappings[0].protocol with value \"sctp\"",
            ),
            (
                json!({"portMappings": [{"hostPort": 70000, "containerPort": 2}]}),
                7,
                "invalid runtimeConfig.portMappings[0].hostPort 70000: a port is a number from 0 to 65535",
            ),
            (
                json!({"portMappings": [{"hostPort": 7}]}),
                7,
                "a mapping needs \"containerPort\"",
            ),
            (
                json!({"portMappings": [{"hostPort": 7, "containerPort": 0}]}),
                7,
                "invalid runtimeConfig.portMappings[0].containerPort 0",
            ),
            (
                json!({"portMappings": [{"hostPort": 1, "containerPort": 2, "hostIP": "x"}]}),
                7,
                "invalid runtimeConfig.portMappings[0].hostIP \"x\": give an address of the host",
            ),
            (
                json!({"portMappings": {}}),
                7,
                "invalid runtimeConfig.portMappings {}: must be a list",
            ),
            (
                json!({"ips": ["10.0.0.1/33"]}),
                7,
                "invalid runtimeConfig.ips[0] \"10.0.0.1/33\": give an IP address",
            ),
            (
                json!({"ips": ["10.0.0.1", "10.0.0.2"]}),
                2,
                "unsupported field runtimeConfig.ips[1]",
            ),
            (json!([]), 7, "invalid runtimeConfig []: must be an object"),
        ] {
            let error = read(capabilities).unwrap_err();
            assert_eq!(error.code, code, "{error:?}");
            assert!(error.message.contains(text), "{error:?}");
        }
    }
}
