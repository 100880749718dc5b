use super::*;
use crate::api::types::EndpointSettings;
use crate::control::projections::{policy, publications};
use crate::control::records::GatewayMode::{self, Nat, Routed};
use crate::control::test_state::{
    add_ipv6, at, change_families, fresh, make, open, option, request, run_on,
};
use crate::control::{inspect, ports_text};
use serde_json::json;

/// A host with IPv6.
fn dual() -> State {
    let (mut state, ..) = fresh();
    state.settings.has_ipv6 = true;
    state
}

/// A network with both families.
fn network(state: &mut State, name: &str, ipv4: &str, subnet: &str, ipv6: GatewayMode) {
    make(state, name, |r| option(r, "bridge.gateway_mode_ipv4", ipv4)).unwrap();
    add_ipv6(state, name, subnet, ipv6);
}

fn web(state: &mut State, network: &str, publish: &[&str]) -> Container {
    run_on(state, "web", &[network], |r| {
        r.publish = publish.iter().map(|&spec| spec.to_owned()).collect();
    })
}

fn bound(container: &Container) -> Vec<String> {
    let bindings = container.bindings.iter();
    bindings
        .map(|b| std::net::SocketAddr::new(b.host_address, b.host_port).to_string())
        .collect()
}

/// Host address and where it leads.
fn leads(state: &State) -> Vec<(String, String)> {
    let published = policy(state, &[]).published.into_iter();
    published
        .map(|p| (p.host_address.to_string(), p.container_address.to_string()))
        .collect()
}

fn pairs<const N: usize>(texts: [(&str, &str); N]) -> Vec<(String, String)> {
    texts.map(|(a, b)| (a.to_owned(), b.to_owned())).into()
}

#[test]
fn test_proxy_4_to_6() {
    // moby's name; it is IPv6 to IPv4, as docker-proxy does it for a container without IPv6.
    let mut state = dual();
    let web = web(&mut state, "bridge", &["8080:80", "8081:81/udp"]);
    assert_eq!(
        bound(&web),
        ["0.0.0.0:8080", "[::]:8080", "0.0.0.0:8081", "[::]:8081"]
    );
    let to = "172.17.0.2";
    assert_eq!(
        leads(&state),
        pairs([("0.0.0.0", to), ("::", to), ("0.0.0.0", to), ("::", to)])
    );
    let steered: Vec<IpAddr> = publications(&state).iter().map(|p| p.address).collect();
    assert_eq!(steered.iter().filter(|a| a.is_ipv6()).count(), 2);
}

#[test]
fn without_ipv6_on_the_host_nothing_is_bound_there() {
    let (mut state, ..) = fresh();
    assert_eq!(
        bound(&web(&mut state, "bridge", &["8080:80"])),
        ["0.0.0.0:8080"]
    );
    let error = state.publish("web", "[::]:81:81").unwrap_err().to_string();
    assert!(
        error.contains("cannot publish on :: (in -p \"[::]:81:81\"): this host has no IPv6"),
        "{error}"
    );
}

#[test]
fn an_address_in_the_value_is_that_one_only() {
    let mut state = dual();
    network(&mut state, "six", "nat", "fd00:6::/64", Nat);
    let web = web(
        &mut state,
        "six",
        &[
            "0.0.0.0:80:80",
            "[::]:81:81",
            "127.0.0.1:82:82",
            "[::1]:83:83",
            "84:84",
        ],
    );
    assert_eq!(
        bound(&web),
        [
            "0.0.0.0:80",
            "[::]:81",
            "127.0.0.1:82",
            "[::1]:83",
            "0.0.0.0:84",
            "[::]:84"
        ]
    );
    let (v4, v6) = ("172.18.0.2", "fd00:6::2");
    assert_eq!(
        leads(&state),
        pairs([
            ("0.0.0.0", v4),
            ("::", v6),
            ("127.0.0.1", v4),
            ("::1", v6),
            ("0.0.0.0", v4),
            ("::", v6)
        ])
    );
}

#[test]
fn test_disable_nat() {
    // What `::` leads to, what is shown, and what is open, by the modes of both families.
    let shown = |texts: &[(&str, &str)]| -> serde_json::Value {
        let ports = texts.iter();
        let ports: Vec<_> = ports
            .map(|(ip, port)| json!({"HostIp": ip, "HostPort": port}))
            .collect();
        json!({ "80/tcp": ports })
    };
    for (v4, v6, expected, lead) in [
        (
            "nat",
            Nat,
            shown(&[("0.0.0.0", "8080"), ("::", "8080")]),
            pairs([("0.0.0.0", "172.18.0.2"), ("::", "2001:db8:6::2")]).as_slice(),
        ),
        // Translated, where Docker has no port of IPv6; and open at the container's own address.
        (
            "nat",
            Routed,
            shown(&[("0.0.0.0", "8080"), ("::", "8080")]),
            pairs([("0.0.0.0", "172.18.0.2"), ("::", "172.18.0.2")]).as_slice(),
        ),
        (
            "routed",
            Nat,
            shown(&[("0.0.0.0", ""), ("::", "8080")]),
            pairs([("::", "2001:db8:6::2")]).as_slice(),
        ),
        ("routed", Routed, shown(&[("0.0.0.0", ""), ("::", "")]), &[]),
    ] {
        let mut state = dual();
        network(&mut state, "six", v4, "2001:db8:6::/64", v6);
        let web = web(&mut state, "six", &["8080:80"]);
        assert_eq!(leads(&state), lead, "{v4} {v6:?}");
        let value = inspect::container(&state, &web);
        assert_eq!(value["NetworkSettings"]["Ports"], expected, "{v4} {v6:?}");
        let open = &policy(&state, &[]).endpoints[0].open;
        assert_eq!(open.is_empty(), v4 == "nat" && v6 == Nat);
        let listing = ports_text::port_listing(&state, &web);
        assert_eq!(listing.lines().count(), 2, "{listing}");
        let column = ports_text::ps_column(&state, &web);
        let words = if v4 == "routed" && v6 == Routed { 1 } else { 2 };
        assert_eq!(column.split(", ").count(), words, "{column}");
    }
}

#[test]
fn a_container_without_ipv4() {
    let mut state = dual();
    network(&mut state, "six", "nat", "fd00:6::/64", Nat);
    change_families(&mut state, "six", |families| drop(families.remove(0)));
    let mut wanted = request("web", &["8080:80", "127.0.0.1:81:81", "[::1]:82:82"]);
    wanted.networks = crate::control::test_state::on(&["six"]);
    let made = state.create_container(&wanted, at(0)).unwrap();
    assert_eq!(bound(&made.container), ["[::]:8080", "[::1]:82"]);
    assert_eq!(
        leads(&state),
        pairs([("::", "fd00:6::2"), ("::1", "fd00:6::2")])
    );
    assert_eq!(made.warnings.len(), 1);
    assert!(
        made.warnings[0]
            .starts_with("-p 127.0.0.1:81:81 is not published: the container has no IPv4 address"),
        "{:?}",
        made.warnings
    );
    // With IPv4 on another network, the rest comes.
    let done = state.connect("web", "bridge", &EndpointSettings::default());
    let done = done.unwrap();
    assert!(done.changed_gateway);
    assert_eq!(
        bound(&done.container),
        ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:81", "[::1]:82"]
    );
    assert_eq!(
        leads(&state),
        pairs([
            ("0.0.0.0", "172.17.0.2"),
            ("::", "fd00:6::2"),
            ("127.0.0.1", "172.17.0.2"),
            ("::1", "fd00:6::2")
        ])
    );
}

#[test]
fn ports_move_per_family_and_keep_their_numbers() {
    let mut state = dual();
    network(&mut state, "zsix", "nat", "fd00:6::/64", Nat);
    make(&mut state, "alocal", |r| {
        option(r, "bridge.host_binding_ipv4", "127.0.0.1")
    })
    .unwrap();
    let first = web(&mut state, "zsix", &["80", "90-91"]);
    let held = bound(&first);
    assert_eq!(held.len(), 4, "{held:?}");
    // Both families of one network go before one of another, whatever their names.
    let done = state.connect("web", "alocal", &EndpointSettings::default());
    let done = done.unwrap();
    assert!(!done.changed_gateway);
    assert_eq!(bound(&done.container), held);
    // Only IPv4 goes another way.
    state.disconnect("web", "alocal", false).unwrap();
    let wanted = EndpointSettings {
        gw_priority: 1,
        ..EndpointSettings::default()
    };
    let done = state.connect("web", "alocal", &wanted).unwrap();
    assert!(done.changed_gateway);
    let moved: Vec<String> = held
        .iter()
        .map(|text| text.replace("0.0.0.0", "127.0.0.1"))
        .collect();
    assert_eq!(bound(&done.container), moved);
    let mut targets: Vec<String> = leads(&state).into_iter().map(|(_, to)| to).collect();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets, ["172.19.0.2", "fd00:6::2"]);
    // Without IPv6, `::` leads to IPv4 no longer: `--ip 127.0.0.1` is not all addresses.
    let done = state.disconnect("web", "zsix", false).unwrap();
    let left: Vec<&String> = moved.iter().filter(|text| text.starts_with('1')).collect();
    assert_eq!(bound(&done.after).iter().collect::<Vec<_>>(), left);
}

#[test]
fn test_port_mapping_restore() {
    let (mut state, memory, paper) = fresh();
    state.settings.has_ipv6 = true;
    network(&mut state, "six", "nat", "fd00:6::/64", Nat);
    let specs = ["80", "80", "9000-9001:90-91/udp", "[::1]:82:82"];
    let before = web(&mut state, "six", &specs);
    let held = bound(&before);
    drop(state);
    let (mut state, warnings) = open(&memory, &paper);
    assert_eq!(warnings, Vec::<String>::new());
    state.settings.has_ipv6 = true;
    assert_eq!(state.restore().unwrap(), Vec::<String>::new());
    assert_eq!(bound(state.container("web").unwrap()), held);
    assert_eq!(
        state.container("web").unwrap().endpoint(),
        before.endpoint()
    );
    // The leases are those of the values again: what does not move, stays.
    let groups: Vec<usize> = state.containers[&before.id]
        .leases
        .iter()
        .map(|leases| leases.ports.len())
        .collect();
    assert_eq!(groups, [2, 2, 4, 1]);
    let wanted = EndpointSettings {
        gw_priority: 1,
        ..EndpointSettings::default()
    };
    let done = state.connect("web", "bridge", &wanted).unwrap();
    assert_eq!(bound(&done.container), held);
    let (record, gone) = state.unpublish("web", "9000-9001:90-91/udp").unwrap();
    assert_eq!((gone.len(), record.bindings.len()), (2, 5));
    let (_, added) = state.publish("web", "9000-9001:90-91/udp").unwrap();
    assert_eq!(added.len(), 2);
    state.set_exited("web", 0, at(3)).unwrap();
    let again = web_again(&mut state);
    assert_eq!(again.len(), 2);
}

/// Everything is free again.
fn web_again(state: &mut State) -> Vec<String> {
    state.remove("web", true).unwrap();
    bound(&web(state, "bridge", &["9000:80/udp"]))
}
