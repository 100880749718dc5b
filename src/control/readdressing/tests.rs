use super::*;
use crate::api::types::NetworkAttachment;
use crate::control::daemon_options::BridgeOptions;
use crate::control::state::DEFAULT_NETWORK;
use crate::control::test_state::{Memory, Paper, at, config, open, request, run_on};

fn v6(prefix: &'static str) -> impl FnOnce(&mut BridgeOptions) {
    move |options| {
        options.ipv6 = true;
        options.fixed_cidr_v6 = Some(prefix.to_owned());
    }
}

/// Two containers, one of which asked for its address.
fn running(flags: impl FnOnce(&mut BridgeOptions)) -> (State, Memory) {
    let memory = Memory::default();
    let (mut state, _) = open(&memory, &Paper::default());
    state
        .set_default_network(Some(&config(flags)), at(0))
        .unwrap();
    run_on(&mut state, "web", &[DEFAULT_NETWORK], |_| {});
    (state, memory)
}

fn with_address(state: &mut State, name: &str, address: &str) {
    run_on(state, name, &[DEFAULT_NETWORK], |wanted| {
        let mut attachment = NetworkAttachment::default();
        attachment.settings.ipam_config.ipv6_address = Some(address.parse().unwrap());
        wanted.networks = vec![attachment];
    });
}

fn addresses(state: &State, name: &str) -> Vec<String> {
    let endpoint = state.container(name).unwrap().endpoint().unwrap();
    endpoint.addresses.iter().map(ToString::to_string).collect()
}

fn gateways_of(state: &State, name: &str) -> Vec<String> {
    let endpoint = state.container(name).unwrap().endpoint().unwrap();
    endpoint.gateways.iter().map(ToString::to_string).collect()
}

#[test]
fn another_prefix() {
    let (mut state, memory) = running(v6("2001:db8:1::/64"));
    assert_eq!(
        addresses(&state, "web"),
        ["172.17.0.2/16", "2001:db8:1::242:ac11:2/64"]
    );
    let id = state.default_network().unwrap().id.clone();
    let flags = config(v6("2001:db8:2::/64"));
    let warnings = state.set_default_network(Some(&flags), at(1)).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let [one] = &state.readdressed()[..] else {
        panic!("{:?}", state.readdressed());
    };
    assert_eq!(one.container, *state.container("web").unwrap());
    assert_eq!(one.network, *state.default_network().unwrap());
    assert_eq!(
        one.before.address(false).unwrap().to_string(),
        "2001:db8:1::242:ac11:2/64"
    );
    assert_eq!(one.after, *one.container.endpoint().unwrap());
    assert_eq!(
        addresses(&state, "web"),
        ["172.17.0.2/16", "2001:db8:2::242:ac11:2/64"]
    );
    assert_eq!(gateways_of(&state, "web"), ["172.17.0.1", "2001:db8:2::1"]);
    assert_eq!(
        (one.before.number, one.before.mac),
        (one.after.number, one.after.mac)
    );
    assert_eq!(
        state.default_network().unwrap().id,
        id,
        "it is the same network"
    );
    let stored = memory.records();
    assert!(stored.networks.contains(&one.network) && stored.containers == [one.container.clone()]);
    // What is in use is known: of IPv4 and of IPv6.
    run_on(&mut state, "next", &[DEFAULT_NETWORK], |_| {});
    assert_eq!(
        addresses(&state, "next"),
        ["172.17.0.3/16", "2001:db8:2::242:ac11:3/64"]
    );
    let again = state.set_default_network(Some(&flags), at(2)).unwrap();
    assert_eq!(again, Vec::<String>::new(), "nothing is new");
    state.set_exited("web", 0, at(3)).unwrap();
    assert_eq!(state.addresses_in_use(&id), 3 + 2 + 2);
}

#[test]
fn ipv6_comes_and_goes() {
    let (mut state, _) = running(|_| {});
    let mut set = |flags: &NetworkConfig, time| {
        let warnings = state.set_default_network(Some(flags), at(time)).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let [one] = &state.readdressed()[..] else {
            panic!("its interface is to be changed: {:?}", state.readdressed());
        };
        assert_eq!(one.container.name, "web");
        state.set_readdressed("web", one.after.number).unwrap();
        assert_eq!(state.readdressed(), []);
        (addresses(&state, "web"), gateways_of(&state, "web"))
    };
    let (with, _) = set(&config(v6("2001:db8:1::/124")), 1);
    assert_eq!(with, ["172.17.0.2/16", "2001:db8:1::2/124"]);
    let link_local = config(v6("fe80::/64"));
    assert!(link_local.has_ipv6() && link_local.v6().is_none());
    let without = (vec!["172.17.0.2/16".into()], vec!["172.17.0.1".into()]);
    assert_eq!(set(&link_local, 2), without);
    assert_eq!(set(&config(|_| {}), 3), without);
}

#[test]
fn what_an_interface_may_still_have_is_remembered_until_it_is_taken_off() {
    let (mut state, memory) = running(v6("2001:db8:1::/64"));
    for (prefix, time) in [("2001:db8:2::/64", 1), ("2001:db8:3::/64", 2)] {
        let flags = config(v6(prefix));
        state.set_default_network(Some(&flags), at(time)).unwrap();
    }
    let pending = state.readdressed();
    let [one] = &pending[..] else {
        panic!("{pending:?}");
    };
    let texts = |endpoint: &Endpoint| {
        let addresses = endpoint.addresses.iter().map(ToString::to_string);
        let gateways = endpoint.gateways.iter().map(ToString::to_string);
        addresses.chain(gateways).collect::<Vec<_>>()
    };
    assert_eq!(
        texts(&one.before),
        [
            "172.17.0.2/16",
            "2001:db8:1::242:ac11:2/64",
            "2001:db8:2::242:ac11:2/64",
            "172.17.0.1",
            "2001:db8:1::1",
            "2001:db8:2::1",
        ]
    );
    assert_eq!(
        memory.records().containers.first(),
        Some(&one.container),
        "a daemon that is killed now leaves it to the next one"
    );
    state.set_readdressed("web", one.after.number).unwrap();
    assert_eq!(state.readdressed(), []);
    let stored = memory.records().containers;
    assert_eq!(stored[0].endpoint().unwrap().former_ipv6, None);
}

#[test]
fn those_that_cannot_be_readdressed_are_named() {
    let (mut state, _) = running(v6("2001:db8:1::/64"));
    with_address(&mut state, "fixed", "2001:db8:1::99");
    let warnings = state
        .set_default_network(Some(&config(v6("2001:db8:2::/64"))), at(1))
        .unwrap();
    assert_eq!(
        warnings,
        [
            "container fixed has no IPv6 address on network bridge any more: invalid address 2001:db8:1::99: It does not belong to any of this network's subnets: network bridge has 2001:db8:2::/64 now; run `tunbridge network disconnect bridge fixed` and `tunbridge network connect --ip6 ADDRESS bridge fixed` with an ADDRESS in 2001:db8:2::/64, or without --ip6 for any"
        ]
    );
    assert_eq!(state.readdressed().len(), 2);
    assert_eq!(addresses(&state, "fixed"), ["172.17.0.3/16"]);
    assert_eq!(
        gateways_of(&state, "fixed"),
        ["172.17.0.1"],
        "and no way out"
    );
    // It has what it asked for once that is there again.
    state
        .set_default_network(Some(&config(v6("2001:db8:1::/64"))), at(2))
        .unwrap();
    assert_eq!(
        addresses(&state, "fixed"),
        ["172.17.0.3/16", "2001:db8:1::99/64"]
    );
}

#[test]
fn whoever_asked_for_an_address_that_is_gone_starts_when_it_asks_for_another() {
    let (mut state, _) = running(v6("2001:db8:1::/64"));
    with_address(&mut state, "fixed", "2001:db8:1::99");
    state
        .set_default_network(Some(&config(v6("2001:db8:2::/64"))), at(1))
        .unwrap();
    state.set_exited("fixed", 0, at(2)).unwrap();
    let error = state.restart("fixed").unwrap_err();
    assert_eq!(error.http_status(), 400);
    assert!(
        error.to_string().contains(
            "run `tunbridge network disconnect bridge fixed` and `tunbridge network connect --ip6 "
        ),
        "{error}"
    );
    assert!(state.container("fixed").unwrap().has_exited());
    state.disconnect("fixed", DEFAULT_NETWORK, false).unwrap();
    let mut wanted = NetworkAttachment::default().settings;
    wanted.ipam_config.ipv6_address = Some("2001:db8:2::99".parse().unwrap());
    state.connect("fixed", DEFAULT_NETWORK, &wanted).unwrap();
    state.restart("fixed").unwrap();
    assert_eq!(
        addresses(&state, "fixed"),
        ["172.17.0.3/16", "2001:db8:2::99/64"]
    );
}

/// The interface is given the same addresses with another prefix length, where they still fit.
#[test]
fn a_longer_and_a_shorter_prefix() {
    let (mut state, _) = running(v6("2001:db8:1::/64"));
    with_address(&mut state, "fixed", "2001:db8:1::9");
    let mac = "2001:db8:1::242:ac11:2";
    for (prefix, web) in [
        ("2001:db8:1::/80", format!("{mac}/80")),
        ("2001:db8::/32", format!("{mac}/32")),
        ("2001:db8:1::/124", "2001:db8:1::2/124".to_owned()),
        ("2001:db8:1::/64", "2001:db8:1::2/64".to_owned()),
    ] {
        let warnings = state
            .set_default_network(Some(&config(v6(prefix))), at(1))
            .unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let length = prefix.split_once('/').unwrap().1;
        assert_eq!(addresses(&state, "web"), ["172.17.0.2/16".to_owned(), web]);
        assert_eq!(
            addresses(&state, "fixed"),
            [
                "172.17.0.3/16".to_owned(),
                format!("2001:db8:1::9/{length}")
            ]
        );
    }
}

#[test]
fn a_pool_that_is_too_small() {
    let (mut state, _) = running(v6("2001:db8:1::/64"));
    for name in ["c2", "c3"] {
        run_on(&mut state, name, &[DEFAULT_NETWORK], |_| {});
    }
    let warnings = state
        .set_default_network(Some(&config(v6("2001:db8:2::/126"))), at(1))
        .unwrap();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains("no available IPv6 addresses on this network's address pools: bridge"),
        "{warning}"
    );
    let with = ["web", "c2", "c3"].map(|name| addresses(&state, name).len());
    assert_eq!(with.iter().sum::<usize>(), 5, "{with:?}");
}

#[test]
fn an_address_that_still_fits_is_kept() {
    let (mut state, _) = running(v6("2001:db8:1::/100"));
    run_on(&mut state, "second", &[DEFAULT_NETWORK], |_| {});
    state.remove("web", true).unwrap();
    assert_eq!(addresses(&state, "second")[1], "2001:db8:1::3/100");
    state
        .set_default_network(Some(&config(v6("2001:db8:1::/96"))), at(1))
        .unwrap();
    assert_eq!(addresses(&state, "second")[1], "2001:db8:1::3/96");
}

#[test]
fn ipv4_does_not_change_under_running_containers() {
    let (mut state, _) = running(v6("2001:db8:1::/64"));
    let before = state.default_network().unwrap().clone();
    let other = config(|options| {
        v6("2001:db8:2::/64")(options);
        options.bip = Some("10.9.0.1/24".into());
    });
    let warnings = state.set_default_network(Some(&other), at(1)).unwrap();
    assert!(state.readdressed().is_empty());
    assert!(warnings[0].starts_with("there are running containers"));
    assert_eq!(*state.default_network().unwrap(), before);
}

#[test]
fn nothing_has_changed_if_it_cannot_be_stored() {
    let (mut state, memory) = running(v6("2001:db8:1::/64"));
    let before = memory.records();
    memory.fail(true);
    let flags = config(v6("2001:db8:2::/64"));
    assert!(state.set_default_network(Some(&flags), at(1)).is_err());
    memory.fail(false);
    assert_eq!(memory.records(), before);
    assert_eq!(addresses(&state, "web")[1], "2001:db8:1::242:ac11:2/64");
    let taken = state
        .create_container(&request("other", &[]), at(1))
        .unwrap();
    assert_eq!(
        taken.container.endpoint().unwrap().addresses[1].to_string(),
        "2001:db8:1::242:ac11:3/64"
    );
    assert!(state.set_default_network(Some(&flags), at(2)).is_ok());
}
