//! libnetwork's port bindings as `-p` values.

use std::net::IpAddr;

use serde::Deserialize;

use super::protocol::Refusal;

/// Option with the bindings of an endpoint.
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";

/// Option with the ports that it exposes.
pub(super) const EXPOSED_PORTS: &str = "com.docker.network.endpoint.exposedports";

/// One element of [`PORT_MAP`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PortBinding {
    /// IANA's number.
    proto: u32,
    /// In the container.
    port: u32,
    #[serde(rename = "HostIP")]
    host_ip: String,
    /// 0: any.
    host_port: u32,
    /// 0, or the last of those from which one is to be chosen.
    host_port_end: u32,
}

/// One element of [`EXPOSED_PORTS`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ExposedPort {
    proto: u32,
    port: u32,
}

/// A binding that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Binding {
    transport: &'static str,
    host: Option<IpAddr>,
    host_first: u16,
    host_last: u16,
    container_first: u16,
    container_last: u16,
}

/// The `-p` values that mean the same: those that follow each other are one range.
pub(super) fn specs(bindings: &[PortBinding]) -> Result<Vec<String>, Refusal> {
    let mut checked = bindings
        .iter()
        .map(check)
        .collect::<Result<Vec<Binding>, Refusal>>()?;
    checked.sort_unstable();
    checked.dedup();
    checked.dedup_by(|next, kept| {
        // A single host port for each: one to be chosen from several is not part of a range.
        let single = |binding: &Binding| {
            binding.host_first != 0
                && binding.host_last - binding.host_first
                    == binding.container_last - binding.container_first
        };
        let goes_on = single(next)
            && single(kept)
            && next.transport == kept.transport
            && next.host == kept.host
            && kept.host_last.checked_add(1) == Some(next.host_first)
            && kept.container_last.checked_add(1) == Some(next.container_first);
        if goes_on {
            kept.host_last = next.host_last;
            kept.container_last = next.container_last;
        }
        goes_on
    });
    Ok(checked.iter().map(spec).collect())
}

/// Ports that are exposed need nothing done, but must be ports.
pub(super) fn check_exposed(ports: &[ExposedPort]) -> Result<(), Refusal> {
    ports.iter().try_for_each(|exposed| {
        transport(exposed.proto, exposed.port)?;
        port("exposed port", exposed.port).map(drop)
    })
}

fn check(binding: &PortBinding) -> Result<Binding, Refusal> {
    let transport = transport(binding.proto, binding.port)?;
    let container = port("container port", binding.port)?;
    let host = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| {
            let shown = text.escape_debug();
            Refusal::new(format!(
                "invalid host address \"{shown}\" for container port {container}/{transport}: give an IPv4 or IPv6 address"
            ))
        })?),
    };
    let host_first = host_port(binding.host_port)?;
    let host_last = match host_port(binding.host_port_end)? {
        0 => host_first,
        last => last,
    };
    if host_last < host_first || (host_first == 0 && host_last != 0) {
        return Err(Refusal::new(format!(
            "invalid host ports {host_first}-{host_last} for container port {container}/{transport}: give the lower one first"
        )));
    }
    Ok(Binding {
        transport,
        host,
        host_first,
        host_last,
        container_first: container,
        container_last: container,
    })
}

fn transport(protocol: u32, port: u32) -> Result<&'static str, Refusal> {
    match protocol {
        6 => Ok("tcp"),
        17 => Ok("udp"),
        132 => Err(Refusal::new(format!(
            "port {port}/sctp cannot be published or exposed: tunbridge forwards tcp and udp, leave it out"
        ))),
        other => Err(Refusal::new(format!(
            "invalid protocol {other} of port {port}: give 6 (tcp) or 17 (udp)"
        ))),
    }
}

fn port(what: &str, number: u32) -> Result<u16, Refusal> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Refusal::new(format!("invalid {what} {number}: give 1 to 65535")))
}

fn host_port(number: u32) -> Result<u16, Refusal> {
    u16::try_from(number)
        .map_err(|_| Refusal::new(format!("invalid host port {number}: give 0 to 65535")))
}

fn spec(binding: &Binding) -> String {
    let range = |first: u16, last: u16| match (first, last) {
        (0, _) => String::new(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let host = range(binding.host_first, binding.host_last);
    let container = range(binding.container_first, binding.container_last);
    let transport = binding.transport;
    match binding.host {
        Some(IpAddr::V4(address)) => format!("{address}:{host}:{container}/{transport}"),
        Some(IpAddr::V6(address)) => format!("[{address}]:{host}:{container}/{transport}"),
        None if host.is_empty() => format!("{container}/{transport}"),
        None => format!("{host}:{container}/{transport}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn specs_of(bindings: Value) -> Result<Vec<String>, String> {
        let bindings = serde_json::from_value::<Vec<PortBinding>>(bindings);
        let bindings = bindings.map_err(|error| error.to_string())?;
        specs(&bindings).map_err(|Refusal(sentence)| sentence)
    }

    fn binding(proto: u32, port: u32, host: &str, first: u32, last: u32) -> Value {
        json!({"Proto": proto, "IP": "", "Port": port, "HostIP": host, "HostPort": first, "HostPortEnd": last})
    }

    #[test]
    fn what_dockerd_sends_for_each_form_of_p() {
        for (bindings, expected) in [
            (json!([binding(6, 80, "", 8080, 8080)]), vec!["8080:80/tcp"]),
            (json!([binding(6, 90, "", 0, 0)]), vec!["90/tcp"]),
            (
                json!([binding(17, 81, "127.0.0.1", 8081, 8081)]),
                vec!["127.0.0.1:8081:81/udp"],
            ),
            (json!([binding(17, 81, "::1", 0, 0)]), vec!["[::1]::81/udp"]),
            (
                json!([binding(6, 80, "", 8000, 8010)]),
                vec!["8000-8010:80/tcp"],
            ),
            (json!([]), vec![]),
        ] {
            assert_eq!(specs_of(bindings.clone()).unwrap(), expected, "{bindings}");
        }
    }

    #[test]
    fn consecutive_ports_become_one_range_and_nothing_else_does() {
        let bindings = json!([
            binding(6, 82, "", 8002, 8002),
            binding(6, 80, "", 8000, 8000),
            binding(6, 81, "", 8001, 8001),
            binding(6, 81, "", 8001, 8001),
            binding(17, 83, "", 8003, 8003),
            binding(6, 84, "", 8003, 8003),
            binding(6, 85, "10.0.0.1", 8004, 8004),
            binding(6, 86, "", 8004, 8005),
            binding(6, 7, "", 0, 0),
            binding(6, 8, "", 0, 0),
        ]);
        assert_eq!(
            specs_of(bindings).unwrap(),
            [
                "7/tcp",
                "8/tcp",
                "8000-8002:80-82/tcp",
                "8003:84/tcp",
                "8004-8005:86/tcp",
                "10.0.0.1:8004:85/tcp",
                "8003:83/udp",
            ]
        );
    }

    #[test]
    fn nonsense_is_refused_in_a_sentence() {
        for (bindings, sentence) in [
            (binding(132, 80, "", 1, 1), "port 80/sctp cannot be"),
            (binding(1, 80, "", 1, 1), "invalid protocol 1 of port 80"),
            (binding(6, 0, "", 1, 1), "invalid container port 0"),
            (binding(6, 65_536, "", 1, 1), "invalid container port 65536"),
            (binding(6, 80, "", 65_536, 0), "invalid host port 65536"),
            (binding(6, 80, "x", 1, 1), "invalid host address \"x\""),
            (binding(6, 80, "", 9, 8), "invalid host ports 9-8"),
            (binding(6, 80, "", 0, 8), "invalid host ports 0-8"),
        ] {
            let problem = specs_of(json!([bindings])).unwrap_err();
            assert!(problem.starts_with(sentence), "{problem}");
        }
    }
}
