//! The three files of a container, made of its record.

use std::net::IpAddr;

use super::files::{self, HostsLine, RESOLV_CONF, SYSTEMD_RESOLV_CONF};
use super::links;
use super::records::Container;
use super::state::State;

/// The text of a container's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTexts {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/hostname`.
    pub hostname: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// What the files depend on besides the records.
#[derive(Clone, Copy, Debug)]
pub struct FileFacts<'a> {
    /// Contents of the host's [`RESOLV_CONF`]; empty if there is none.
    pub resolv_conf: &'a str,
    /// Contents of [`SYSTEMD_RESOLV_CONF`]; empty if there is none.
    pub systemd_resolv_conf: &'a str,
    /// The container's `lo` has `::1`: always, unless its kernel or namespace has IPv6 disabled.
    pub ipv6_loopback: bool,
}

impl State {
    /// The text of a container's three files, as they are when it starts.
    pub fn files(&self, container: &Container, facts: &FileFacts<'_>) -> FileTexts {
        let dns = container.dns.or(&self.settings.dns);
        let resolv_conf = if self.has_resolver(container) {
            files::internal_resolv_conf(RESOLV_CONF, facts.resolv_conf, &dns).text
        } else {
            let path = files::resolv_conf_source(facts.resolv_conf);
            let text = if path == SYSTEMD_RESOLV_CONF {
                facts.systemd_resolv_conf
            } else {
                facts.resolv_conf
            };
            let mut endpoints = container.endpoints();
            let ipv6 = endpoints.any(|(_, endpoint)| endpoint.address(false).is_some());
            files::resolv_conf(path, text, &dns, ipv6)
        };
        FileTexts {
            hosts: files::hosts(facts.ipv6_loopback, &self.hosts_lines(container)),
            hostname: files::hostname(&container.hostname),
            resolv_conf,
        }
    }

    /// Our lines in a container's hosts file, after those of `localhost`: `--add-host`, links, and its own name at each
    /// of its addresses. To change the file of a running container, take them before and after the change and give both to
    /// [`files::edit_hosts`].
    pub fn hosts_lines(&self, container: &Container) -> Vec<HostsLine> {
        let default = self.default_network();
        let host_gateway: Vec<IpAddr> = default
            .iter()
            .flat_map(|network| &network.config.families)
            .filter_map(|family| family.gateway)
            .collect();
        let mut lines = files::extra_lines(&container.extra_hosts, &host_gateway);
        for (link, target, endpoint) in self.live_links(container) {
            lines.extend(links::hosts_lines(
                &link.alias,
                &target.hostname,
                &target.name,
                endpoint.addresses.iter().map(ipnet::IpNet::addr),
            ));
        }
        let endpoints = container.endpoints();
        let addresses = endpoints.flat_map(|(_, endpoint)| &endpoint.addresses);
        lines.extend(files::own_lines(
            &container.hostname,
            &container.domainname,
            addresses.map(ipnet::IpNet::addr),
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{CreateContainer, CreateNetwork, EndpointSettings, NetworkAttachment};
    use crate::control::daemon_options::HostFacts;
    use crate::control::records::GatewayMode;
    use crate::control::records::Process;
    use crate::control::test_state::{add_ipv6, at, fresh, request};

    const FACTS: FileFacts<'_> = FileFacts {
        resolv_conf: "nameserver 127.0.0.53\n",
        systemd_resolv_conf: "nameserver 203.0.113.53\n",
        ipv6_loopback: false,
    };

    fn start(state: &mut State, request: &CreateContainer) -> Container {
        state.create_container(request, at(0)).unwrap();
        let process = Process {
            pid: 4711,
            start_time: 12,
        };
        let name = request.name.as_deref().unwrap();
        state.set_started(name, Some(process), at(1)).unwrap()
    }

    fn on(network: &str, name: &str) -> CreateContainer {
        CreateContainer {
            networks: vec![NetworkAttachment {
                network: network.to_owned(),
                settings: EndpointSettings::default(),
            }],
            hostname: Some(format!("{name}-host")),
            ..request(name, &[])
        }
    }

    #[test]
    fn extra_hosts_links_and_own_lines_in_this_order() {
        let (mut state, ..) = fresh();
        start(&mut state, &on("", "db"));
        let app = start(
            &mut state,
            &CreateContainer {
                add_host: vec!["gw:host-gateway".into()],
                links: vec!["db:database".into(), "db".into()],
                domainname: Some("corp.example".into()),
                ..on("", "app")
            },
        );
        // As in transcript 05.
        assert_eq!(
            state.files(&app, &FACTS).hosts,
            "127.0.0.1\tlocalhost\n172.17.0.1\tgw\n172.17.0.2\tdatabase db-host db\n172.17.0.2\tdb db-host\n\
             172.17.0.3\tapp-host.corp.example app-host\n"
        );
        assert!(
            state.files(&app, &FACTS).resolv_conf.contains(
                "\nnameserver 203.0.113.53\n\n# Based on host file: '/run/systemd/resolve/resolv.conf' (legacy)\n"
            )
        );
    }

    #[test]
    fn each_family_has_its_own_lines() {
        let (mut state, ..) = fresh();
        add_ipv6(&mut state, "bridge", "2001:db8:d::/64", GatewayMode::Routed);
        start(&mut state, &on("", "db"));
        let app = start(
            &mut state,
            &CreateContainer {
                add_host: vec![
                    "gw:host-gateway".into(),
                    "one:::1".into(),
                    "two:[fd00::2]".into(),
                ],
                links: vec!["db".into()],
                ..on("", "app")
            },
        );
        let facts = FileFacts {
            resolv_conf: "nameserver 2001:db8::53\nnameserver 127.0.0.1\nnameserver ::1\n",
            ipv6_loopback: true,
            ..FACTS
        };
        let files = state.files(&app, &facts);
        let lines: Vec<&str> = files.hosts.lines().skip(6).collect();
        assert_eq!(
            lines,
            [
                "172.17.0.1\tgw",
                "2001:db8:d::1\tgw",
                "::1\tone",
                "fd00::2\ttwo",
                "172.17.0.2\tdb db-host",
                "2001:db8:d::242:ac11:2\tdb db-host",
                "172.17.0.3\tapp-host",
                "2001:db8:d::242:ac11:3\tapp-host"
            ]
        );
        assert!(
            files
                .hosts
                .starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        );
        assert!(
            files
                .resolv_conf
                .contains("\n\nnameserver 2001:db8::53\n\n"),
            "{}",
            files.resolv_conf
        );
        // IPv6 is switched off in its namespace: no line names what nobody can use.
        let without = FileFacts {
            ipv6_loopback: false,
            ..facts
        };
        let without = state.files(&app, &without).hosts;
        assert!(
            without.lines().all(|line| line.starts_with('1')),
            "{without}"
        );
        assert_eq!(without.lines().count(), 4);
    }

    #[test]
    fn networks_of_users_have_the_resolver() {
        let (mut state, ..) = fresh();
        let network = CreateNetwork {
            name: "net1".into(),
            ..CreateNetwork::default()
        };
        state
            .create_network(&network, &HostFacts::default(), at(0))
            .unwrap();
        let alpha = start(&mut state, &on("net1", "alpha"));
        let files = state.files(&alpha, &FACTS);
        assert!(
            files.resolv_conf.contains("\nnameserver 127.0.0.11\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [host(127.0.0.53)]\n"),
            "{}",
            files.resolv_conf
        );
        assert_eq!(
            state
                .connect("alpha", "bridge", &EndpointSettings::default())
                .map(|connection| state.hosts_lines(&connection.container))
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["172.18.0.2\talpha-host", "172.17.0.2\talpha-host"]
        );
        let plain = start(&mut state, &on("bridge", "plain"));
        assert!(!state.has_resolver(&plain) && state.has_resolver(&alpha));
    }
}
