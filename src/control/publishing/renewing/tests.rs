use crate::api::types::EndpointSettings;
use crate::control::daemon_options::BridgeOptions;
use crate::control::records::{Container, GatewayMode};
use crate::control::state::{DEFAULT_NETWORK, State};
use crate::control::test_state::{
    Memory, Paper, add_ipv6, at, config, fresh, make, open, option, run_on,
};

fn with_ipv6(options: &mut BridgeOptions) {
    options.ipv6 = true;
    options.fixed_cidr_v6 = Some("fd00:1::/64".to_owned());
}

/// The daemon starts again; gives what it warns of.
fn restarted(
    memory: &Memory,
    paper: &Paper,
    has_ipv6: bool,
    flags: impl FnOnce(&mut BridgeOptions),
) -> (State, Vec<String>) {
    let (mut state, mut warnings) = open(memory, paper);
    state.settings.has_ipv6 = has_ipv6;
    let change = state.set_default_network(Some(&config(flags)), at(1));
    warnings.extend(change.unwrap());
    warnings.extend(state.restore().unwrap());
    (state, warnings)
}

fn bound(container: &Container) -> Vec<String> {
    let bindings = container.bindings.iter();
    bindings
        .map(|b| std::net::SocketAddr::new(b.host_address, b.host_port).to_string())
        .collect()
}

fn web(state: &mut State, publish: &[&str]) -> Container {
    run_on(state, "web", &[DEFAULT_NETWORK], |r| {
        r.publish = publish.iter().map(|&spec| spec.to_owned()).collect();
    })
}

#[test]
fn the_host_has_ipv6_now() {
    let (mut state, memory, paper) = fresh();
    let before = web(&mut state, &["80", "8080-8081:80-81", "127.0.0.1:7:7"]);
    assert!(bound(&before).iter().all(|text| !text.starts_with('[')));
    drop(state);
    let (state, warnings) = restarted(&memory, &paper, true, |_| {});
    assert_eq!(warnings, Vec::<String>::new());
    let after = state.container("web").unwrap();
    let expected = [
        "0.0.0.0:32768",
        "[::]:32768",
        "0.0.0.0:8080",
        "[::]:8080",
        "127.0.0.1:7",
    ];
    assert_eq!(bound(after), expected);
    let stored = memory.records().containers;
    assert_eq!(stored.first(), Some(after), "it is in the store");
    drop(state);
    let (mut state, warnings) = restarted(&memory, &paper, true, |_| {});
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(bound(state.container("web").unwrap()), expected);
    let other = state.create_container(
        &crate::control::test_state::request("other", &["[::1]:8081:81"]),
        at(2),
    );
    assert!(other.is_err(), "[::]:8081 is really taken");
    drop(state);
    let (state, warnings) = restarted(&memory, &paper, false, |_| {});
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(bound(state.container("web").unwrap()), bound(&before));
}

#[test]
fn what_cannot_be_had_is_told_and_the_rest_stays() {
    let (mut state, memory, paper) = fresh();
    let before = web(&mut state, &["8080:80", "81"]);
    state.settings.has_ipv6 = true;
    // Another container has it.
    run_on(&mut state, "squatter", &[DEFAULT_NETWORK], |r| {
        r.publish = vec!["[::1]:8080:80".to_owned()];
    });
    drop(state);
    let (state, warnings) = restarted(&memory, &paper, true, |_| {});
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.starts_with("container web: not published: ") && warning.contains("[::]:8080"),
        "{warning}"
    );
    assert_eq!(
        bound(state.container("web").unwrap()),
        ["0.0.0.0:8080", "0.0.0.0:32768", "[::]:32768"]
    );
    assert_eq!(bound(&before), ["0.0.0.0:8080", "0.0.0.0:32768"]);
}

#[test]
fn ports_follow_the_default_networks_ipv6() {
    let (memory, paper) = (Memory::default(), Paper::default());
    let (mut state, _) = restarted(&memory, &paper, true, with_ipv6);
    make(&mut state, "local", |r| {
        option(r, "bridge.host_binding_ipv4", "127.0.0.1");
    })
    .unwrap();
    add_ipv6(&mut state, "local", "fd00:2::/64", GatewayMode::Nat);
    web(&mut state, &["80", "8080:80"]);
    let last = EndpointSettings {
        gw_priority: -1,
        ..EndpointSettings::default()
    };
    let container = state.connect("web", "local", &last).unwrap().container;
    let both = ["0.0.0.0:32768", "[::]:32768", "0.0.0.0:8080", "[::]:8080"];
    assert_eq!(bound(&container), both);
    drop(state);
    // IPv6 goes by the other network now, whose ports are those of 127.0.0.1.
    let (state, warnings) = restarted(&memory, &paper, true, |_| {});
    assert_eq!(warnings, Vec::<String>::new());
    let container = state.container("web").unwrap();
    assert_eq!(bound(container), ["0.0.0.0:32768", "0.0.0.0:8080"]);
    drop(state);
    let (state, warnings) = restarted(&memory, &paper, true, with_ipv6);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(bound(state.container("web").unwrap()), both);
}
