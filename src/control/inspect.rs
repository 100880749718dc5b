//! Docker-shaped JSON, in Docker's key order.
//!
//! `GET /containers/{id}/json`, `GET /containers/json`, `GET /networks`, `GET /networks/{id}`. Keys and their
//! order are those of the Engine API (1.41, with the legacy top-level addresses of `NetworkSettings`, which the
//! clients that read them still expect). What a network tool does not know (image, storage, cgroups)
//! is present where clients index it, and empty.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::linking::legacy_links;
use super::links;
use super::ports_text;
use super::portspec::{HostPorts, PortSpec};
use super::projections::{ContainerPort, container_ports};
use super::records::{Attachment, Container, ContainerState, Endpoint, Kind};
use super::requests::NONE;
use super::resolution::dns_names;
use super::state::{DEFAULT_NETWORK, State};
use super::timestamp::{NEVER, Timestamp, human_duration};
use super::transport::Transport;
use crate::api::types::Bandwidth;

/// Label of a container that another runtime has: which.
pub const RUNTIME_LABEL: &str = "tunbridge.runtime";
/// And its id there.
pub const RUNTIME_ID_LABEL: &str = "tunbridge.runtime.id";

mod networks;

pub use networks::{network, network_summary};

/// Body of `GET /containers/{id}/json`; `inspect` prints an array of these.
pub fn container(state: &State, container: &Container) -> Value {
    let (path, args) = container
        .command
        .split_first()
        .map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let file = |name: &str| match container.files.as_os_str().is_empty() {
        true => String::new(),
        false => container.files.join(name).to_string_lossy().into_owned(),
    };
    json!({
        "Id": container.id,
        "Created": container.created.rfc3339(),
        "Path": path,
        "Args": args,
        "State": life(container),
        "Image": "",
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": file("log"),
        "Name": format!("/{}", container.name),
        "RestartCount": 0,
        "Driver": "",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(state, container),
        "GraphDriver": { "Data": null, "Name": "" },
        "Mounts": [],
        "Config": config(container),
        "NetworkSettings": network_settings(state, container),
    })
}

/// One entry of `GET /containers/json`.
pub fn container_summary(state: &State, container: &Container, now: Timestamp) -> Value {
    let ports: Vec<Value> = container_ports(state, container)
        .iter()
        .map(port_summary)
        .collect();
    json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name)],
        "Image": "",
        "ImageID": "",
        "Command": container.command.join(" "),
        "Created": container.created.seconds(),
        "Ports": ports,
        "Labels": labels(container),
        "State": state_name(container),
        "Status": status(container, now),
        "HostConfig": { "NetworkMode": network_mode(container) },
        "NetworkSettings": { "Networks": networks(state, container) },
        "Mounts": [],
    })
}

/// `Created`, `Up 3 minutes`, `Exited (0) 3 minutes ago`.
pub fn status(container: &Container, now: Timestamp) -> String {
    let ago = |since: Timestamp| -> String {
        let duration: Duration = now.since(since);
        human_duration(duration)
    };
    match container.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { started, .. } => format!("Up {}", ago(started)),
        ContainerState::Exited { code, finished, .. } => {
            format!("Exited ({code}) {} ago", ago(finished))
        }
    }
}

const fn state_name(container: &Container) -> &'static str {
    match container.state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited { .. } => "exited",
    }
}

fn life(container: &Container) -> Value {
    let never = || NEVER.to_owned();
    let (pid, code, started, finished) = match container.state {
        ContainerState::Created => (0, 0, never(), never()),
        ContainerState::Running { process, started } => (
            process.map_or(0, |process| process.pid),
            0,
            started.rfc3339(),
            never(),
        ),
        ContainerState::Exited {
            code,
            started,
            finished,
        } => (
            0,
            code,
            started.map_or_else(never, Timestamp::rfc3339),
            finished.rfc3339(),
        ),
    };
    json!({
        "Status": state_name(container),
        "Running": container.is_running(),
        "Paused": false,
        "Restarting": false,
        "OOMKilled": false,
        "Dead": false,
        "Pid": pid,
        "ExitCode": code,
        "Error": "",
        "StartedAt": started,
        "FinishedAt": finished,
    })
}

fn host_config(state: &State, container: &Container) -> Value {
    let extra: Vec<String> = container
        .extra_hosts
        .iter()
        .map(ToString::to_string)
        .collect();
    let described: Vec<String> = legacy_links(container)
        .filter_map(|link| {
            let target = state.container_by_id(&link.target)?;
            Some(links::described(&target.name, &container.name, &link.alias))
        })
        .collect();
    json!({
        "Binds": null,
        "ContainerIDFile": "",
        "LogConfig": { "Type": "", "Config": {} },
        "NetworkMode": network_mode(container),
        "PortBindings": port_bindings(&container.publish),
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": container.auto_remove,
        "Dns": container.dns.servers,
        "DnsOptions": container.dns.options,
        "DnsSearch": container.dns.search,
        "ExtraHosts": if extra.is_empty() { Value::Null } else { json!(extra) },
        "Links": if described.is_empty() { Value::Null } else { json!(described) },
        "PublishAllPorts": container.publish_all,
        "ReadonlyRootfs": false,
    })
}

/// Which runtime has the container and how it calls it; ours have none.
fn labels(container: &Container) -> Value {
    let known = container.runtime.iter();
    let labels = known.flat_map(|known| {
        [
            (RUNTIME_LABEL.to_owned(), json!(known.runtime)),
            (RUNTIME_ID_LABEL.to_owned(), json!(known.id)),
        ]
    });
    Value::Object(labels.collect())
}

fn config(container: &Container) -> Value {
    let mut exposed: Vec<(u16, Transport)> = Vec::new();
    let specs = container
        .publish
        .iter()
        .filter_map(|text| text.parse::<PortSpec>().ok());
    let ranges = specs.map(|spec| (spec.transport, spec.container)).chain(
        container
            .expose
            .iter()
            .map(|exposed| (exposed.transport, exposed.first..=exposed.last)),
    );
    for (transport, range) in ranges {
        exposed.extend(range.map(|port| (port, transport)));
    }
    exposed.sort_unstable();
    exposed.dedup();
    let exposed: Map<String, Value> = exposed
        .into_iter()
        .map(|(port, transport)| (format!("{port}/{transport}"), json!({})))
        .collect();
    let mut body = object(json!({
        "Hostname": container.hostname,
        "Domainname": container.domainname,
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
    }));
    if !exposed.is_empty() {
        body.insert("ExposedPorts".to_owned(), Value::Object(exposed));
    }
    body.extend(object(json!({
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": container.env,
        "Cmd": container.command,
        "Image": "",
        "Volumes": null,
        "WorkingDir": "",
        "Entrypoint": null,
        "OnBuild": null,
        "Labels": labels(container),
    })));
    if let Some(mac) = container
        .attachments
        .iter()
        .find_map(|attachment| attachment.requested_mac)
    {
        body.insert("MacAddress".to_owned(), json!(mac));
    }
    Value::Object(body)
}

/// The legacy fields on top are those of the default network.
fn network_settings(state: &State, container: &Container) -> Value {
    let default = state
        .default_network()
        .and_then(|network| container.attachment(&network.id))
        .and_then(|attachment| attachment.endpoint.as_ref());
    let running = !container.has_exited();
    let text = |value: Option<String>| value.unwrap_or_default();
    json!({
        "Bridge": "",
        "SandboxID": if running { container.sandbox_id.as_str() } else { "" },
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports(state, container),
        "SandboxKey": if running { container.netns.to_string_lossy().into_owned() } else { String::new() },
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": text(default.map(|endpoint| endpoint.id.clone())),
        "Gateway": text(default.and_then(|endpoint| gateway(endpoint, true))),
        "GlobalIPv6Address": text(default.and_then(|endpoint| address(endpoint, false))),
        "GlobalIPv6PrefixLen": default.map_or(0, |endpoint| prefix_len(endpoint, false)),
        "IPAddress": text(default.and_then(|endpoint| address(endpoint, true))),
        "IPPrefixLen": default.map_or(0, |endpoint| prefix_len(endpoint, true)),
        "IPv6Gateway": text(default.and_then(|endpoint| gateway(endpoint, false))),
        "MacAddress": text(default.map(|endpoint| endpoint.mac.to_string())),
        "Networks": networks(state, container),
    })
}

/// By name, as Go prints maps.
fn networks(state: &State, container: &Container) -> Value {
    let mut entries: Vec<(&str, Value)> = container
        .attachments
        .iter()
        .map(|attachment| {
            let place = attached(container, attachment);
            (attachment.network_name.as_str(), place)
        })
        .collect();
    if container.network_mode == NONE && entries.is_empty() {
        let none = state.networks().find(|network| network.name == NONE);
        entries.push((
            NONE,
            endpoint_settings(none.map_or("", |network| &network.id)),
        ));
    }
    entries.sort_by_key(|(name, _)| *name);
    let entries = entries.into_iter();
    Value::Object(
        entries
            .map(|(name, place)| (name.to_owned(), place))
            .collect(),
    )
}

/// Endpoint settings of which nothing is known but the network.
fn endpoint_settings(network: &str) -> Value {
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "DriverOpts": null,
        "GwPriority": 0,
        "NetworkID": network,
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "MacAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}

/// Endpoint settings. Down to `GwPriority` they show what was configured; the rest what there is.
fn attached(container: &Container, attachment: &Attachment) -> Value {
    let mut body = object(endpoint_settings(&attachment.network));
    let mut set = |key: &str, value: Value| {
        body.insert(key.to_owned(), value);
    };
    if !attachment.requested_addresses.is_empty() {
        let addresses = attachment.requested_addresses.iter();
        let entries = addresses.map(|address| {
            let key = if address.is_ipv4() {
                "IPv4Address"
            } else {
                "IPv6Address"
            };
            (key.to_owned(), json!(address))
        });
        set("IPAMConfig", Value::Object(entries.collect()));
    }
    let user_defined = attachment.network_name != DEFAULT_NETWORK;
    if user_defined && !attachment.links.is_empty() {
        let links = attachment.links.iter();
        let texts = links.map(|link| json!(format!("{}:{}", link.target, link.alias)));
        set("Links", texts.collect());
    }
    if !attachment.aliases.is_empty() {
        set("Aliases", json!(attachment.aliases));
    }
    if !attachment.driver_opts.is_empty() {
        set("DriverOpts", json!(attachment.driver_opts));
    }
    set("GwPriority", json!(attachment.gw_priority));
    if !attachment.bandwidth.is_unlimited() {
        set("Bandwidth", bandwidth(&attachment.bandwidth));
    }
    if let Some(endpoint) = &attachment.endpoint {
        let text = |value: Option<String>| json!(value.unwrap_or_default());
        set("EndpointID", json!(endpoint.id));
        set("Gateway", text(gateway(endpoint, true)));
        set("IPAddress", text(address(endpoint, true)));
        set("MacAddress", json!(endpoint.mac.to_string()));
        set("IPPrefixLen", json!(prefix_len(endpoint, true)));
        set("IPv6Gateway", text(gateway(endpoint, false)));
        set("GlobalIPv6Address", text(address(endpoint, false)));
        set("GlobalIPv6PrefixLen", json!(prefix_len(endpoint, false)));
    }
    if user_defined {
        set("DNSNames", json!(dns_names(container, attachment)));
    }
    Value::Object(body)
}

/// A key of ours, only there if something is limited.
fn bandwidth(bandwidth: &Bandwidth) -> Value {
    let limits = [("Ingress", bandwidth.ingress), ("Egress", bandwidth.egress)];
    let limits = limits.into_iter().filter_map(|(direction, limit)| {
        let limit = limit?;
        let value = json!({"Rate": limit.rate, "Burst": limit.burst});
        Some((direction.to_owned(), value))
    });
    Value::Object(limits.collect())
}

fn address(endpoint: &Endpoint, ipv4: bool) -> Option<String> {
    endpoint.address(ipv4).map(|net| net.addr().to_string())
}

/// With prefix length; empty without one.
fn address_net(endpoint: &Endpoint, ipv4: bool) -> String {
    let address = endpoint.address(ipv4);
    address.map_or_else(String::new, |net| net.to_string())
}

fn prefix_len(endpoint: &Endpoint, ipv4: bool) -> u8 {
    endpoint.address(ipv4).map_or(0, |net| net.prefix_len())
}

fn gateway(endpoint: &Endpoint, ipv4: bool) -> Option<String> {
    endpoint.gateway(ipv4).map(|gateway| gateway.to_string())
}

/// `NetworkSettings.Ports`: what is published, and `null` for what is only exposed.
fn ports(state: &State, container: &Container) -> Value {
    let groups =
        ports_text::grouped(state, container)
            .into_iter()
            .map(|((port, transport), published)| {
                let bindings: Vec<Value> = published
                    .iter()
                    .map(|(address, port)| {
                        // Open without NAT: there is no host port.
                        let port = if *port == 0 {
                            String::new()
                        } else {
                            port.to_string()
                        };
                        json!({ "HostIp": address, "HostPort": port })
                    })
                    .collect();
                let value = if bindings.is_empty() {
                    Value::Null
                } else {
                    Value::Array(bindings)
                };
                (format!("{port}/{transport}"), value)
            });
    Value::Object(groups.collect())
}

/// `HostConfig.PortBindings`: what was asked for, per container port, in the order of the flags.
fn port_bindings(publish: &[String]) -> Value {
    let mut groups: BTreeMap<(u16, Transport), Vec<Value>> = BTreeMap::new();
    for spec in publish
        .iter()
        .filter_map(|text| text.parse::<PortSpec>().ok())
    {
        let address = spec
            .host_address
            .map_or_else(String::new, |address| address.to_string());
        let first = *spec.container.start();
        for port in spec.container.clone() {
            let host_port = match &spec.host {
                HostPorts::Ephemeral => String::new(),
                HostPorts::Exact(ports) => ports.start().saturating_add(port - first).to_string(),
                HostPorts::AnyOf(ports) => format!("{}-{}", ports.start(), ports.end()),
            };
            let entry = json!({ "HostIp": address, "HostPort": host_port });
            groups
                .entry((port, spec.transport))
                .or_default()
                .push(entry);
        }
    }
    let entries = groups
        .into_iter()
        .map(|((port, transport), list)| (format!("{port}/{transport}"), Value::Array(list)));
    Value::Object(entries.collect())
}

fn port_summary(port: &ContainerPort) -> Value {
    match port.public {
        Some((address, 0)) => json!({
            "IP": address,
            "PrivatePort": port.private,
            "Type": port.transport.name(),
        }),
        Some((address, public)) => json!({
            "IP": address,
            "PrivatePort": port.private,
            "PublicPort": public,
            "Type": port.transport.name(),
        }),
        None => json!({ "PrivatePort": port.private, "Type": port.transport.name() }),
    }
}

/// What was given to `--network`, or `default`; an adopted namespace shows where it came from.
fn network_mode(container: &Container) -> String {
    match &container.kind {
        Kind::Run | Kind::Adopted | Kind::Delegated => container.network_mode.clone(),
        Kind::AttachPid(pid) => format!("ns:/proc/{pid}/ns/net"),
        Kind::AttachNetns(path) => format!("ns:{}", path.display()),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests;
