//! Ports in the words of `docker port` and `docker ps`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::projections::{ContainerPort, container_ports};
use super::records::Container;
use super::state::State;
use super::transport::Transport;

/// Published host addresses and ports of each container port (empty: only exposed), sorted by container
/// port and protocol. Within one container port the `-p` value given last comes first: an accident of Docker's
/// sort (go-connections `SortPortMap`) that its users' scripts have learnt. A port that is the same on all addresses
/// of both families is shown with those of IPv4 first.
pub(super) fn grouped(
    state: &State,
    container: &Container,
) -> BTreeMap<(u16, Transport), Vec<(IpAddr, u16)>> {
    let mut groups: BTreeMap<(u16, Transport), Vec<(IpAddr, u16)>> = BTreeMap::new();
    for port in container_ports(state, container) {
        let group = groups.entry((port.private, port.transport)).or_default();
        let Some((address, host)) = port.public else {
            continue;
        };
        let all_of_both = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && group.first() == Some(&(Ipv4Addr::UNSPECIFIED.into(), host));
        group.insert(usize::from(all_of_both), (address, host));
    }
    groups
}

/// What `port NAME` prints: `80/tcp -> 0.0.0.0:8080`, one line each.
pub fn port_listing(state: &State, container: &Container) -> String {
    let lines = grouped(state, container)
        .into_iter()
        .flat_map(|((port, transport), published)| {
            published.into_iter().map(move |(address, host)| {
                format!("{port}/{transport} -> {}\n", host_port(address, host))
            })
        });
    lines.collect()
}

/// What `port NAME PORT[/PROTO]` prints: the host addresses and ports alone.
///
/// # Errors
/// Docker's message if that port is not published, or is no port.
pub fn port_lookup(state: &State, container: &Container, wanted: &str) -> Result<String, String> {
    let (port, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let transport = match protocol {
        "tcp" => Some(Transport::Tcp),
        "udp" => Some(Transport::Udp),
        _ => None,
    };
    let published = port
        .parse::<u16>()
        .ok()
        .zip(transport)
        .and_then(|key| grouped(state, container).remove(&key));
    match published.filter(|published| !published.is_empty()) {
        Some(published) => Ok(published
            .into_iter()
            .map(|(address, host)| format!("{}\n", host_port(address, host)))
            .collect()),
        None => Err(format!(
            "Error: No public port '{}/{}' published for {}",
            port.escape_debug(),
            protocol.escape_debug(),
            container.name
        )),
    }
}

/// `0.0.0.0:8080`; `0.0.0.0:` for a port that is open without NAT.
fn host_port(address: IpAddr, port: u16) -> String {
    let text = SocketAddr::new(address, port).to_string();
    match text.strip_suffix(":0") {
        Some(address) if port == 0 => format!("{address}:"),
        Some(_) | None => text,
    }
}

/// The PORTS column of `ps`: `0.0.0.0:8080->80/tcp, 443/tcp`; ports that are the same on both sides are
/// joined to ranges (Docker's `DisplayablePorts`).
pub fn ps_column(state: &State, container: &Container) -> String {
    let mut ports = container_ports(state, container);
    ports.sort_by_key(|port| {
        let (address, public) = port
            .public
            .map_or_else(|| (String::new(), 0), |(a, p)| (a.to_string(), p));
        (port.private, address, public, port.transport.name())
    });
    let mut words = Words::default();
    for port in &ports {
        words.add(port);
    }
    words.finish()
}

/// Ranges grow while their ports come; a range that is interrupted is printed, the open ones follow at
/// the end, then the ports that differ on both sides.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    open: Vec<(Option<IpAddr>, Transport, u16, u16)>,
    translated: Vec<String>,
}

impl Words {
    fn add(&mut self, port: &ContainerPort) {
        let ContainerPort {
            transport,
            private,
            public,
        } = *port;
        // Open without NAT: Docker shows it like a port that is only exposed.
        let public = public.filter(|(_, host)| *host != 0);
        if let Some((address, host)) = public
            && host != private
        {
            self.translated.push(format!(
                "{}->{private}/{transport}",
                SocketAddr::new(address, host)
            ));
            return;
        }
        let address = public.map(|(address, _)| address);
        let open = self
            .open
            .iter_mut()
            .find(|(a, t, ..)| *a == address && *t == transport);
        match open {
            None => self.open.push((address, transport, private, private)),
            // Open without NAT in both families.
            Some((.., last)) if *last == private => {}
            Some((.., last)) if last.checked_add(1) == Some(private) => *last = private,
            Some(range) => {
                let ended = std::mem::replace(range, (address, transport, private, private));
                self.done.push(word(ended));
            }
        }
    }

    fn finish(mut self) -> String {
        self.done.extend(self.open.into_iter().map(word));
        self.done.extend(self.translated);
        self.done.join(", ")
    }
}

fn word((address, transport, first, last): (Option<IpAddr>, Transport, u16, u16)) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    match address {
        Some(IpAddr::V4(v4)) => format!("{v4}:{range}->{range}/{transport}"),
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{range}->{range}/{transport}"),
        None => format!("{range}/{transport}"),
    }
}

#[cfg(test)]
mod tests;
