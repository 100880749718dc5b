//! `--link container[:alias]`: on the default network a line in /etc/hosts, environment variables, and with
//! `--icc=false` a way to the target's ports; on other networks a name that only the linking container knows.
//!
//! The environment variables are Docker's (`daemon/links/links.go`), in its order. Docker has not set them by default since
//! version 29; here they are always set, because they are what programs of the time of links read. They are made when
//! the linking container starts and do not follow the target, which its line in /etc/hosts does.

use std::net::IpAddr;
use std::str::FromStr;

use super::files::HostsLine;
use super::records::Link;
use super::transport::Transport;

/// Why a link's text is refused: Docker's words, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// `--link ""`.
    #[error("empty string specified for links: give --link a container, as in --link db:database")]
    Empty,
    /// Not `container[:alias]`.
    #[error(
        "bad format for links: {0}: give --link a container and an alias, as in --link db:database"
    )]
    Format(String),
}

/// `container`, `container:alias`, or `/container:/parent/alias` as `inspect` shows it.
impl FromStr for Link {
    type Err = LinkError;

    fn from_str(value: &str) -> Result<Self, LinkError> {
        if value.is_empty() {
            return Err(LinkError::Empty);
        }
        let format = || LinkError::Format(value.escape_debug().to_string());
        let (target, alias) = value.split_once(':').unwrap_or((value, value));
        // The last part of a path, and so the alias of `inspect`'s form.
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        let target = target.strip_prefix('/').unwrap_or(target);
        if target.is_empty() || target.contains('/') || !super::files::is_host_name(alias) {
            return Err(format());
        }
        Ok(Self {
            target: target.to_owned(),
            alias: alias.to_owned(),
        })
    }
}

/// `HostConfig.Links` of `inspect`: `/db:/web/database`.
pub fn described(target_name: &str, parent_name: &str, alias: &str) -> String {
    format!("/{target_name}:/{parent_name}/{alias}")
}

/// The environment variables of one link, `NAME=value`, in Docker's order.
///
/// `parent` and `alias` name the link, `address` is the target's. `ports` are those that the target exposes, published
/// ones included, in any order and possibly more than once. `environment` is the target's own, of which all but
/// `HOME` and `PATH` is passed on.
pub fn environment(
    parent: &str,
    alias: &str,
    address: IpAddr,
    ports: impl IntoIterator<Item = (Transport, u16)>,
    environment: &[String],
) -> Vec<String> {
    let mut ports: Vec<_> = ports.into_iter().collect();
    // TCP sorts before UDP.
    ports.sort_unstable();
    ports.dedup();
    let prefix = alias.to_uppercase().replace('-', "_");
    let url = |(transport, port): (Transport, u16)| format!("{transport}://{address}:{port}");
    let mut variables = Vec::with_capacity(ports.len() * 4 + 2);
    if let Some(&first) = ports.first() {
        variables.push(format!("{prefix}_PORT={}", url(first)));
    }
    // The run of consecutive ports that is going on.
    let mut run = ports.first().map(|&first| (first, first));
    for (index, &(transport, port)) in ports.iter().enumerate() {
        let upper = transport.name().to_uppercase();
        let of_port = format!("{prefix}_PORT_{port}_{upper}");
        variables.push(format!("{of_port}={}", url((transport, port))));
        variables.push(format!("{of_port}_ADDR={address}"));
        variables.push(format!("{of_port}_PORT={port}"));
        variables.push(format!("{of_port}_PROTO={transport}"));
        let Some((start, end)) = run else { continue };
        let goes_on = end.0 == transport && end.1.checked_add(1) == Some(port);
        let end = if goes_on { (transport, port) } else { end };
        if goes_on && index + 1 < ports.len() {
            run = Some((start, end));
            continue;
        }
        // A run ends here, or ended before this port, whose own variables come first.
        if start != end {
            let upper = start.0.name().to_uppercase();
            let of_run = format!("{prefix}_PORT_{}_{upper}", start.1);
            variables.push(format!("{of_run}_START={}", url(start)));
            variables.push(format!("{of_run}_PORT_START={}", start.1));
            variables.push(format!("{of_run}_END={}", url(end)));
            variables.push(format!("{of_run}_PORT_END={}", end.1));
        }
        run = Some(((transport, port), (transport, port)));
    }
    variables.push(format!("{prefix}_NAME=/{parent}/{alias}"));
    for variable in environment {
        match variable.split_once('=') {
            Some((name, value)) if name != "HOME" && name != "PATH" => {
                variables.push(format!("{prefix}_ENV_{name}={value}"));
            }
            Some(_) | None => {}
        }
    }
    variables
}

/// The lines of one link in the linking container's /etc/hosts, one per address of the target: alias, host name, and the
/// target's name unless the alias is the same.
pub fn hosts_lines(
    alias: &str,
    target_hostname: &str,
    target_name: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Vec<HostsLine> {
    let mut names = format!("{alias} {target_hostname}");
    if alias != target_name {
        names.push(' ');
        names.push_str(target_name);
    }
    let line = |address| HostsLine {
        address,
        names: names.clone(),
    };
    addresses.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Transport = Transport::Tcp;
    const UDP: Transport = Transport::Udp;

    fn link(value: &str) -> Result<(String, String), String> {
        value
            .parse::<Link>()
            .map(|link| (link.target, link.alias))
            .map_err(|error| error.to_string())
    }

    fn variables(ports: &[(Transport, u16)], own: &[&str]) -> Vec<String> {
        let own: Vec<String> = own.iter().map(|variable| (*variable).to_owned()).collect();
        let address = [172, 0, 17, 2].into();
        environment("db", "docker", address, ports.iter().copied(), &own)
    }

    #[test]
    fn test_parse_link() {
        let pair = |target: &str, alias: &str| Ok((target.to_owned(), alias.to_owned()));
        assert_eq!(link("name:alias"), pair("name", "alias"));
        assert_eq!(link("name"), pair("name", "name"));
        assert_eq!(link("/foo:/c1/bar"), pair("foo", "bar"));
        // Transcript 05: taken, and the path is gone.
        assert_eq!(link("db:bad/alias"), pair("db", "alias"));
        assert_eq!(link("/db"), pair("db", "db"));
        assert_eq!(
            link("").unwrap_err(),
            "empty string specified for links: give --link a container, as in --link db:database"
        );
        for bad in [
            "link:alias:wrong",
            ":",
            "db:",
            ":x",
            "db:a b",
            "db:a\nb",
            "a/b",
            "/",
            "db:x/",
        ] {
            let shown = bad.escape_debug();
            assert_eq!(
                link(bad).unwrap_err(),
                format!(
                    "bad format for links: {shown}: give --link a container and an alias, as in --link db:database"
                )
            );
        }
    }

    #[test]
    fn test_link_naming() {
        assert_eq!(
            environment("db", "docker-1", [172, 0, 17, 2].into(), [(TCP, 6379)], &[]),
            [
                "DOCKER_1_PORT=tcp://172.0.17.2:6379",
                "DOCKER_1_PORT_6379_TCP=tcp://172.0.17.2:6379",
                "DOCKER_1_PORT_6379_TCP_ADDR=172.0.17.2",
                "DOCKER_1_PORT_6379_TCP_PORT=6379",
                "DOCKER_1_PORT_6379_TCP_PROTO=tcp",
                "DOCKER_1_NAME=/db/docker-1",
            ]
        );
    }

    #[test]
    fn test_link_env() {
        assert_eq!(
            variables(&[(TCP, 6379)], &["PASSWORD=gordon"]),
            [
                "DOCKER_PORT=tcp://172.0.17.2:6379",
                "DOCKER_PORT_6379_TCP=tcp://172.0.17.2:6379",
                "DOCKER_PORT_6379_TCP_ADDR=172.0.17.2",
                "DOCKER_PORT_6379_TCP_PORT=6379",
                "DOCKER_PORT_6379_TCP_PROTO=tcp",
                "DOCKER_NAME=/db/docker",
                "DOCKER_ENV_PASSWORD=gordon",
            ]
        );
        assert_eq!(
            variables(
                &[],
                &["HOME=/root", "PATH=/bin", "EMPTY=", "A=b=c", "UNSET"]
            ),
            [
                "DOCKER_NAME=/db/docker",
                "DOCKER_ENV_EMPTY=",
                "DOCKER_ENV_A=b=c"
            ]
        );
    }

    #[test]
    fn test_sort_ports() {
        // Without SCTP, which cannot be exposed here.
        let given = [
            (TCP, 6379),
            (UDP, 6376),
            (TCP, 6380),
            (TCP, 6381),
            (UDP, 6381),
            (UDP, 6375),
        ];
        let single: Vec<String> = variables(&given, &[])
            .into_iter()
            .filter(|variable| variable.contains("_PROTO="))
            .collect();
        assert_eq!(
            single,
            [
                "DOCKER_PORT_6379_TCP_PROTO=tcp",
                "DOCKER_PORT_6380_TCP_PROTO=tcp",
                "DOCKER_PORT_6381_TCP_PROTO=tcp",
                "DOCKER_PORT_6375_UDP_PROTO=udp",
                "DOCKER_PORT_6376_UDP_PROTO=udp",
                "DOCKER_PORT_6381_UDP_PROTO=udp",
            ]
        );
    }

    #[test]
    fn test_link_multiple_env() {
        let ports = [
            (UDP, 6300),
            (TCP, 6379),
            (TCP, 6380),
            (TCP, 6381),
            (UDP, 6382),
        ];
        assert_eq!(
            variables(&ports, &["PASSWORD=gordon"]),
            [
                "DOCKER_PORT=tcp://172.0.17.2:6379",
                "DOCKER_PORT_6379_TCP=tcp://172.0.17.2:6379",
                "DOCKER_PORT_6379_TCP_ADDR=172.0.17.2",
                "DOCKER_PORT_6379_TCP_PORT=6379",
                "DOCKER_PORT_6379_TCP_PROTO=tcp",
                "DOCKER_PORT_6380_TCP=tcp://172.0.17.2:6380",
                "DOCKER_PORT_6380_TCP_ADDR=172.0.17.2",
                "DOCKER_PORT_6380_TCP_PORT=6380",
                "DOCKER_PORT_6380_TCP_PROTO=tcp",
                "DOCKER_PORT_6381_TCP=tcp://172.0.17.2:6381",
                "DOCKER_PORT_6381_TCP_ADDR=172.0.17.2",
                "DOCKER_PORT_6381_TCP_PORT=6381",
                "DOCKER_PORT_6381_TCP_PROTO=tcp",
                "DOCKER_PORT_6300_UDP=udp://172.0.17.2:6300",
                "DOCKER_PORT_6300_UDP_ADDR=172.0.17.2",
                "DOCKER_PORT_6300_UDP_PORT=6300",
                "DOCKER_PORT_6300_UDP_PROTO=udp",
                "DOCKER_PORT_6379_TCP_START=tcp://172.0.17.2:6379",
                "DOCKER_PORT_6379_TCP_PORT_START=6379",
                "DOCKER_PORT_6379_TCP_END=tcp://172.0.17.2:6381",
                "DOCKER_PORT_6379_TCP_PORT_END=6381",
                "DOCKER_PORT_6382_UDP=udp://172.0.17.2:6382",
                "DOCKER_PORT_6382_UDP_ADDR=172.0.17.2",
                "DOCKER_PORT_6382_UDP_PORT=6382",
                "DOCKER_PORT_6382_UDP_PROTO=udp",
                "DOCKER_NAME=/db/docker",
                "DOCKER_ENV_PASSWORD=gordon",
            ]
        );
    }

    #[test]
    fn a_run_at_the_end_and_the_last_port_of_all() {
        let runs = |ports: &[(Transport, u16)]| -> Vec<String> {
            variables(ports, &[])
                .into_iter()
                .filter(|variable| variable.contains("_START") || variable.contains("_END"))
                .collect()
        };
        assert_eq!(
            runs(&[(TCP, 65_534), (TCP, 65_535), (UDP, 0), (TCP, 65_534)]),
            [
                "DOCKER_PORT_65534_TCP_START=tcp://172.0.17.2:65534",
                "DOCKER_PORT_65534_TCP_PORT_START=65534",
                "DOCKER_PORT_65534_TCP_END=tcp://172.0.17.2:65535",
                "DOCKER_PORT_65534_TCP_PORT_END=65535",
            ]
        );
        assert_eq!(
            runs(&[(TCP, 1), (TCP, 2)]),
            [
                "DOCKER_PORT_1_TCP_START=tcp://172.0.17.2:1",
                "DOCKER_PORT_1_TCP_PORT_START=1",
                "DOCKER_PORT_1_TCP_END=tcp://172.0.17.2:2",
                "DOCKER_PORT_1_TCP_PORT_END=2",
            ]
        );
        assert!(runs(&[(TCP, 1), (UDP, 2)]).is_empty());
        let thousand: Vec<_> = (8000..9000).map(|port| (TCP, port)).collect();
        assert_eq!(runs(&thousand).len(), 4);
    }

    #[test]
    fn environment_as_in_the_transcript() {
        // Transcript 05, sorted there; version 20.10 took the lowest port of all for DATABASE_PORT.
        let own = ["POSTGRES_USER=u1", "PATH=/bin"].map(str::to_owned);
        let mut found = environment(
            "app",
            "database",
            [172, 17, 0, 2].into(),
            [(TCP, 5432), (UDP, 53), (TCP, 9000)],
            &own,
        );
        found.sort();
        assert_eq!(
            found,
            [
                "DATABASE_ENV_POSTGRES_USER=u1",
                "DATABASE_NAME=/app/database",
                "DATABASE_PORT=tcp://172.17.0.2:5432",
                "DATABASE_PORT_53_UDP=udp://172.17.0.2:53",
                "DATABASE_PORT_53_UDP_ADDR=172.17.0.2",
                "DATABASE_PORT_53_UDP_PORT=53",
                "DATABASE_PORT_53_UDP_PROTO=udp",
                "DATABASE_PORT_5432_TCP=tcp://172.17.0.2:5432",
                "DATABASE_PORT_5432_TCP_ADDR=172.17.0.2",
                "DATABASE_PORT_5432_TCP_PORT=5432",
                "DATABASE_PORT_5432_TCP_PROTO=tcp",
                "DATABASE_PORT_9000_TCP=tcp://172.17.0.2:9000",
                "DATABASE_PORT_9000_TCP_ADDR=172.17.0.2",
                "DATABASE_PORT_9000_TCP_PORT=9000",
                "DATABASE_PORT_9000_TCP_PROTO=tcp",
            ]
        );
    }

    #[test]
    fn hosts_lines_as_in_the_transcript() {
        let addresses: [IpAddr; 2] = ["172.17.0.2", "fd00::2"].map(|text| text.parse().unwrap());
        let lines = |alias, addresses: &[IpAddr]| -> Vec<String> {
            hosts_lines(alias, "e91ed6eb3924", "db", addresses.iter().copied())
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            lines("database", &addresses),
            [
                "172.17.0.2\tdatabase e91ed6eb3924 db",
                "fd00::2\tdatabase e91ed6eb3924 db"
            ]
        );
        assert_eq!(
            lines("db", &addresses[..1]),
            ["172.17.0.2\tdb e91ed6eb3924"]
        );
        assert!(lines("db", &[]).is_empty());
    }

    #[test]
    fn links_are_described_as_by_docker() {
        assert_eq!(described("db", "app", "database"), "/db:/app/database");
    }
}
