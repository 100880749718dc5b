use super::*;
use crate::control::test_state::{at, config, fresh, request};
use crate::forwarder::Protocol;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_policy_has_networks_endpoints_and_publications() {
    let (mut state, ..) = fresh();
    state
        .create_container(
            &request("web", &["8080:80", "127.0.0.1:9000-9009:9000-9009/udp"]),
            at(0),
        )
        .unwrap();
    state.create_container(&request("cli", &[]), at(0)).unwrap();
    state
        .create_container(&request("gone", &["81:81"]), at(0))
        .unwrap();
    state.set_exited("gone", 0, at(1)).unwrap();
    let local = [ip("127.0.0.1"), ip("198.51.100.2")];
    let policy = policy(&state, &local);
    let network = NetworkPolicy {
        id: NetworkId(1),
        families: vec![FamilyPolicy {
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: Some(ip("172.17.0.1")),
            masquerade: true,
            source: None,
            access: Access::Closed,
        }],
        mtu: 1500,
        icc: true,
        internal: false,
        clamp_mss: false,
    };
    assert_eq!(policy.networks, [network]);
    assert_eq!(policy.local_addresses, local);
    let mut endpoints = policy.endpoints;
    endpoints.sort_by_key(|endpoint| endpoint.id);
    let endpoint = |id, address| EndpointPolicy {
        id: EndpointId(id),
        network: NetworkId(1),
        addresses: vec![ip(address)],
        open: Vec::new(),
    };
    assert_eq!(
        endpoints,
        [endpoint(1, "172.17.0.2"), endpoint(2, "172.17.0.3")]
    );
    let published = |protocol, host_address, host_ports, container_port| Published {
        protocol,
        host_address: ip(host_address),
        host_ports,
        endpoint: EndpointId(1),
        container_address: ip("172.17.0.2"),
        container_port,
    };
    assert_eq!(
        policy.published,
        [
            published(Protocol::Tcp, "0.0.0.0", 8080..=8080, 80),
            published(Protocol::Udp, "127.0.0.1", 9000..=9009, 9000)
        ]
    );
}

#[test]
fn switches_reach_the_policy() {
    let (mut state, ..) = fresh();
    let flags = config(|o| {
        o.icc = false;
        o.ip_masq = false;
        o.mtu = Some(1400);
    });
    state.set_default_network(Some(&flags), at(0)).unwrap();
    let network = &policy(&state, &[]).networks[0];
    assert_eq!(
        (network.icc, network.families[0].masquerade, network.mtu),
        (false, false, 1400)
    );
}

#[test]
fn publications_of_steering_are_joined_across_containers() {
    let (mut state, ..) = fresh();
    for (name, specs) in [
        (
            "c1",
            &["8000-8009:80-89", "20000-29999:20000-29999/udp"][..],
        ),
        (
            "c2",
            &["8010:80", "8012:80", "127.0.0.1:9000:80", "8010:80/udp"],
        ),
        ("c3", &["65534-65535:1-2"]),
    ] {
        state
            .create_container(&request(name, specs), at(0))
            .unwrap();
    }
    let publication = |protocol, address, first, last| Publication {
        protocol,
        address: ip(address),
        first,
        last,
    };
    assert_eq!(
        publications(&state),
        [
            publication(6, "0.0.0.0", 8000, 8010),
            publication(6, "0.0.0.0", 8012, 8012),
            publication(6, "0.0.0.0", 65_534, 65_535),
            publication(6, "127.0.0.1", 9000, 9000),
            publication(17, "0.0.0.0", 8010, 8010),
            publication(17, "0.0.0.0", 20_000, 29_999),
        ]
    );
    assert_eq!(publications(&state)[0].ports(), 8000..=8010);
    let (_, added) = state.publish("c2", "8011:81").unwrap();
    assert_eq!(coalesce(&added), [publication(6, "0.0.0.0", 8011, 8011)]);
}

#[test]
fn no_two_published_ranges_of_a_policy_overlap() {
    let (mut state, ..) = fresh();
    state
        .create_container(
            &request("c1", &["9000-9010:80", "9000:81", "9001-9002:82-83"]),
            at(0),
        )
        .unwrap();
    let published = policy(&state, &[]).published;
    assert_eq!(published.len(), 3);
    for (i, a) in published.iter().enumerate() {
        for b in &published[..i] {
            assert!(
                a.host_ports.end() < b.host_ports.start()
                    || b.host_ports.end() < a.host_ports.start()
            );
        }
    }
}

/// Which of a container's addresses have port 80 open, by `-p` value.
fn opened(network: &str, specs: &[&str]) -> Vec<Vec<bool>> {
    let flags = |options: &mut crate::control::daemon_options::BridgeOptions| {
        options.ipv6 = true;
        options.fixed_cidr_v6 = Some(network.to_owned());
    };
    let opened = |spec: &&str| {
        let (mut state, ..) = fresh();
        state.settings.has_ipv6 = true;
        state
            .set_default_network(Some(&config(flags)), at(0))
            .unwrap();
        state
            .create_container(&request("web", &[spec]), at(0))
            .unwrap();
        let policy = policy(&state, &[]);
        let [endpoint] = &policy.endpoints[..] else {
            panic!("{policy:?}");
        };
        let open = endpoint.open.iter();
        open.inspect(|open| assert_eq!(open.ports, 80..=80))
            .map(|open| open.ipv4)
            .collect()
    };
    specs.iter().map(opened).collect()
}

#[test]
fn a_port_that_is_published_somewhere_else_is_not_open_at_the_containers_own_address() {
    const SPECS: [&str; 6] = [
        "8080:80",
        "[::]:8080:80",
        "0.0.0.0:8080:80",
        "127.0.0.1:8080:80",
        "[::1]:8080:80",
        "[2001:db8:1::2]:8080:80",
    ];
    // Routed IPv6 beside NATed IPv4: only IPv6 ever is open, and the last one is translated.
    let (v6, none) = (vec![false], Vec::new());
    assert_eq!(
        opened("2001:db8:c::/64", &SPECS),
        [
            v6.clone(),
            v6,
            none.clone(),
            none.clone(),
            none.clone(),
            none.clone()
        ]
    );
    assert_eq!(opened("fd00:c::/64", &SPECS), vec![none; SPECS.len()]);
}
