//! Docker-shaped JSON, in Docker's key order.
//!
//! `GET /containers/{id}/json`, `GET /containers/json`, `GET /networks`, `GET /networks/{id}`. Keys and their
//! order are those of the Engine API (1.41, with the legacy top-level addresses of `NetworkSettings`, which the
//! clients that read them still expect). What a network tool does not know (image, storage, cgroups)
//! is present where clients index it, and empty.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ports_text;
use super::portspec::{HostPorts, PortSpec};
use super::projections::{ContainerPort, container_ports};
use super::records::{
    Attachment, Container, ContainerState, Endpoint, FamilyConfig, Kind, Network,
};
use super::state::State;
use super::timestamp::{NEVER, Timestamp, human_duration};
use super::transport::Transport;

/// Body of `GET /containers/{id}/json`; `inspect` prints an array of these.
pub fn container(container: &Container) -> Value {
    let (path, args) = container
        .command
        .split_first()
        .map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let file = |name: &str| container.files.join(name).to_string_lossy().into_owned();
    json!({
        "Id": container.id,
        "Created": container.created.rfc3339(),
        "Path": path,
        "Args": args,
        "State": state(container),
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
        "HostConfig": host_config(container),
        "GraphDriver": { "Data": null, "Name": "" },
        "Mounts": [],
        "Config": config(container),
        "NetworkSettings": network_settings(container),
    })
}

/// One entry of `GET /containers/json`.
pub fn container_summary(container: &Container, now: Timestamp) -> Value {
    let ports: Vec<Value> = container_ports(container)
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
        "Labels": {},
        "State": state_name(container),
        "Status": status(container, now),
        "HostConfig": { "NetworkMode": network_mode(container) },
        "NetworkSettings": { "Networks": networks(container) },
        "Mounts": [],
    })
}

/// Body of `GET /networks/{id}`; `network inspect` prints an array of these.
pub fn network(state: &State, network: &Network) -> Value {
    let mut body = network_head(network);
    let on_it = state.containers().filter_map(|container| {
        let attachment = container
            .attachments
            .iter()
            .find(|a| a.network == network.id)?;
        Some((container, attachment.endpoint.as_ref()?))
    });
    let containers: Map<String, Value> = on_it
        .map(|(container, endpoint)| {
            let entry = json!({
                "Name": container.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac.to_string(),
                "IPv4Address": address(endpoint, IpAddr::is_ipv4).map_or_else(String::new, |net| net.to_string()),
                "IPv6Address": address(endpoint, IpAddr::is_ipv6).map_or_else(String::new, |net| net.to_string()),
            });
            (container.id.clone(), entry)
        })
        .collect();
    body.insert("Containers".to_owned(), Value::Object(containers));
    network_tail(&mut body, network);
    Value::Object(body)
}

/// One entry of `GET /networks`: without its containers.
pub fn network_summary(network: &Network) -> Value {
    let mut body = network_head(network);
    body.insert("Containers".to_owned(), json!({}));
    network_tail(&mut body, network);
    Value::Object(body)
}

fn network_head(network: &Network) -> Map<String, Value> {
    let pools: Vec<Value> = network.config.families.iter().map(pool).collect();
    object(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created.rfc3339(),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": pools },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
    }))
}

fn pool(family: &FamilyConfig) -> Value {
    let mut pool = Map::new();
    pool.insert("Subnet".to_owned(), json!(family.subnet));
    if let Some(range) = family.allocation_range {
        pool.insert("IPRange".to_owned(), json!(range));
    }
    if let Some(gateway) = family.gateway {
        pool.insert("Gateway".to_owned(), json!(gateway));
    }
    if !family.auxiliary.is_empty() {
        pool.insert("AuxiliaryAddresses".to_owned(), json!(family.auxiliary));
    }
    Value::Object(pool)
}

fn network_tail(body: &mut Map<String, Value>, network: &Network) {
    let config = &network.config;
    let options = json!({
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": config.icc.to_string(),
        "com.docker.network.bridge.enable_ip_masquerade": network.v4().is_some_and(|family| family.masquerade).to_string(),
        "com.docker.network.bridge.host_binding_ipv4": config.host_address.to_string(),
        "com.docker.network.bridge.name": config.bridge,
        "com.docker.network.driver.mtu": config.mtu.to_string(),
    });
    body.insert("Options".to_owned(), options);
    body.insert("Labels".to_owned(), json!({}));
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

fn state(container: &Container) -> Value {
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

fn host_config(container: &Container) -> Value {
    let extra: Vec<String> = container
        .extra_hosts
        .iter()
        .map(ToString::to_string)
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
        "Links": null,
        "PublishAllPorts": container.publish_all,
        "ReadonlyRootfs": false,
    })
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
        "Domainname": "",
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
        "Labels": {},
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

fn network_settings(container: &Container) -> Value {
    let endpoint = container.endpoint();
    let v4 = |endpoint: &Endpoint| address(endpoint, IpAddr::is_ipv4);
    let text = |value: Option<String>| value.unwrap_or_default();
    json!({
        "Bridge": "",
        "SandboxID": if endpoint.is_some() { container.sandbox_id.as_str() } else { "" },
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports(container),
        "SandboxKey": if endpoint.is_some() { container.netns.to_string_lossy().into_owned() } else { String::new() },
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": text(endpoint.map(|endpoint| endpoint.id.clone())),
        "Gateway": text(endpoint.and_then(|endpoint| gateway(endpoint, IpAddr::is_ipv4))),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": text(endpoint.and_then(v4).map(|net| net.addr().to_string())),
        "IPPrefixLen": endpoint.and_then(v4).map_or(0, |net| net.prefix_len()),
        "IPv6Gateway": "",
        "MacAddress": text(endpoint.map(|endpoint| endpoint.mac.to_string())),
        "Networks": networks(container),
    })
}

fn networks(container: &Container) -> Value {
    let entries = container
        .attachments
        .iter()
        .map(|attachment| (attachment.network_name.clone(), attached(attachment)));
    Value::Object(entries.collect())
}

/// Endpoint settings. `IPAMConfig` and `MacAddress` show what was configured; the rest what there is.
fn attached(attachment: &Attachment) -> Value {
    let endpoint = attachment.endpoint.as_ref();
    let part = |value: Option<String>| value.unwrap_or_default();
    let net = |family: fn(&IpAddr) -> bool| endpoint.and_then(|endpoint| address(endpoint, family));
    let via = |family: fn(&IpAddr) -> bool| endpoint.and_then(|endpoint| gateway(endpoint, family));
    json!({
        "IPAMConfig": attachment.requested_address.map(|address| json!({ "IPv4Address": address })),
        "Links": null,
        "Aliases": null,
        "NetworkID": attachment.network,
        "EndpointID": part(endpoint.map(|endpoint| endpoint.id.clone())),
        "Gateway": part(via(IpAddr::is_ipv4)),
        "IPAddress": part(net(IpAddr::is_ipv4).map(|net| net.addr().to_string())),
        "IPPrefixLen": net(IpAddr::is_ipv4).map_or(0, |net| net.prefix_len()),
        "IPv6Gateway": part(via(IpAddr::is_ipv6)),
        "GlobalIPv6Address": part(net(IpAddr::is_ipv6).map(|net| net.addr().to_string())),
        "GlobalIPv6PrefixLen": net(IpAddr::is_ipv6).map_or(0, |net| net.prefix_len()),
        "MacAddress": part(endpoint.map(|endpoint| endpoint.mac.to_string())),
        "DriverOpts": null,
    })
}

fn address(endpoint: &Endpoint, family: fn(&IpAddr) -> bool) -> Option<ipnet::IpNet> {
    endpoint
        .addresses
        .iter()
        .copied()
        .find(|net| family(&net.addr()))
}

fn gateway(endpoint: &Endpoint, family: fn(&IpAddr) -> bool) -> Option<String> {
    endpoint
        .gateways
        .iter()
        .find(|gateway| family(gateway))
        .map(ToString::to_string)
}

/// `NetworkSettings.Ports`: what is published, and `null` for what is only exposed.
fn ports(container: &Container) -> Value {
    let groups =
        ports_text::grouped(container)
            .into_iter()
            .map(|((port, transport), published)| {
                let bindings: Vec<Value> = published
            .iter()
            .map(|(address, port)| json!({ "HostIp": address, "HostPort": port.to_string() }))
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
        Some((address, public)) => json!({
            "IP": address,
            "PrivatePort": port.private,
            "PublicPort": public,
            "Type": port.transport.name(),
        }),
        None => json!({ "PrivatePort": port.private, "Type": port.transport.name() }),
    }
}

/// Docker's word for the default network is `default`; an adopted namespace shows where it came from.
fn network_mode(container: &Container) -> String {
    match &container.kind {
        Kind::Run => "default".to_owned(),
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
