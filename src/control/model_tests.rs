//! Networks and containers made, connected, restarted and removed in random order, against a model that is simple
//! enough to be seen to be right: nothing leaks, nothing is given out twice, and the store is what memory is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::port_allocator::PortRequest;
use super::portspec::HostPorts;
use super::records::{Container, GatewayMode, Network};
use super::state::{DEFAULT_NETWORK, State};
use super::store::Records;
use super::test_state::{Memory, Paper, add_ipv6, at, change_families, fresh, open, request};
use super::transport::Transport;
use crate::api::types::{CreateContainer, CreateNetwork, EndpointSettings, NetworkAttachment};

const NETWORKS: [&str; 4] = ["bridge", "net1", "net2", "net3"];
// No prefix of an id.
const CONTAINERS: [&str; 5] = ["xa", "xb", "xc", "xd", "xe"];
const PORTS: [u16; 2] = [8000, 8001];

#[derive(Clone, Copy, Debug)]
enum Flavour {
    Plain,
    Internal,
    Routed,
    Loopback,
    Dual,
    OnlyIpv6,
}

impl Flavour {
    fn has(self, ipv4: bool) -> bool {
        match self {
            Self::Dual => true,
            Self::OnlyIpv6 => !ipv4,
            Self::Plain | Self::Internal | Self::Routed | Self::Loopback => ipv4,
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Create(usize, Flavour),
    RemoveNetwork(usize),
    Run(usize, Vec<(usize, i64)>, Option<usize>),
    Start(usize),
    Exit(usize),
    Restart(usize),
    Cancel(usize),
    Remove(usize),
    Connect(usize, usize, i64),
    Disconnect(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let container = 0..CONTAINERS.len();
    let network = 0..NETWORKS.len();
    let place = (0..NETWORKS.len(), -1..2_i64);
    let flavour = prop_oneof![
        Just(Flavour::Plain),
        Just(Flavour::Internal),
        Just(Flavour::Routed),
        Just(Flavour::Loopback),
        Just(Flavour::Dual),
        Just(Flavour::OnlyIpv6)
    ];
    prop_oneof![
        3 => (1..NETWORKS.len(), flavour).prop_map(|(n, f)| Op::Create(n, f)),
        1 => (1..NETWORKS.len()).prop_map(Op::RemoveNetwork),
        4 => (
            container.clone(),
            prop::collection::vec(place, 1..4),
            prop::option::of(0..PORTS.len())
        )
            .prop_map(|(c, places, port)| Op::Run(c, places, port)),
        2 => container.clone().prop_map(Op::Start),
        2 => container.clone().prop_map(Op::Exit),
        3 => container.clone().prop_map(Op::Restart),
        1 => container.clone().prop_map(Op::Cancel),
        1 => container.clone().prop_map(Op::Remove),
        5 => (container.clone(), network.clone(), -1..2_i64).prop_map(|(c, n, p)| Op::Connect(c, n, p)),
        4 => (container, network).prop_map(|(c, n)| Op::Disconnect(c, n)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Created,
    Running,
    Exited,
    Again,
}

#[derive(Clone, Debug)]
struct Model {
    life: Life,
    places: Vec<(usize, i64)>,
    port: Option<u16>,
    /// Where its port is held: IPv4 first.
    held: Vec<IpAddr>,
}

#[derive(Default)]
struct World {
    networks: BTreeMap<usize, Flavour>,
    containers: BTreeMap<usize, Model>,
}

fn any() -> IpAddr {
    [0, 0, 0, 0].into()
}

fn any6() -> IpAddr {
    [0_u16; 8].into()
}

impl World {
    /// The network of the default route of a family, by Docker's order.
    fn gateway(&self, places: &[(usize, i64)], ipv4: bool) -> Option<usize> {
        let mut order: Vec<_> = places
            .iter()
            .map(|(n, priority)| (self.networks[n], -priority, *n))
            .filter(|(flavour, ..)| !matches!(flavour, Flavour::Internal))
            .map(|(flavour, priority, n)| {
                let one = !matches!(flavour, Flavour::Dual);
                (priority, one, NETWORKS[n], n)
            })
            .collect();
        order.sort();
        let mut order = order.into_iter().map(|(.., n)| n);
        order.find(|n| self.networks[n].has(ipv4))
    }

    fn gateways(&self, places: &[(usize, i64)]) -> [Option<usize>; 2] {
        [true, false].map(|ipv4| self.gateway(places, ipv4))
    }

    /// On which host addresses the ports of a container are held that is on `places`.
    fn addresses(&self, places: &[(usize, i64)]) -> Vec<IpAddr> {
        let [v4, v6] = self.gateways(places);
        let v4 = v4.and_then(|n| match self.networks[&n] {
            Flavour::Plain | Flavour::Dual => Some(any()),
            Flavour::Loopback => Some([127, 0, 0, 1].into()),
            Flavour::Routed | Flavour::Internal | Flavour::OnlyIpv6 => None,
        });
        // To IPv6, or translated to IPv4.
        let v6 = v6.is_some() || v4 == Some(any());
        v4.into_iter().chain(v6.then(any6)).collect()
    }

    fn free(&self, port: u16, address: IpAddr, but: usize) -> bool {
        let conflicts = |held: &IpAddr| {
            let all = held.is_unspecified() || address.is_unspecified();
            held.is_ipv4() == address.is_ipv4() && (*held == address || all)
        };
        self.containers.iter().all(|(c, model)| {
            *c == but || model.port != Some(port) || !model.held.iter().any(conflicts)
        })
    }

    /// What a container would hold on `places`; `None` if it cannot be had.
    fn wants(&self, c: usize, places: &[(usize, i64)], port: Option<u16>) -> Option<Vec<IpAddr>> {
        let Some(port) = port else {
            return Some(Vec::new());
        };
        let addresses = self.addresses(places);
        let mut wanted = addresses.iter();
        wanted
            .all(|address| self.free(port, *address, c))
            .then_some(addresses)
    }

    fn known(&self, places: &[(usize, i64)]) -> bool {
        places.iter().all(|(n, _)| self.networks.contains_key(n))
    }
}

fn network_request(n: usize, flavour: Flavour) -> CreateNetwork {
    let mut request = CreateNetwork {
        name: NETWORKS[n].to_owned(),
        ..CreateNetwork::default()
    };
    let mut option = |key: &str, value: &str| {
        let key = format!("com.docker.network.bridge.{key}");
        request.options.insert(key, value.to_owned());
    };
    match flavour {
        Flavour::Plain | Flavour::Dual | Flavour::OnlyIpv6 => {}
        Flavour::Internal => request.internal = true,
        Flavour::Routed => option("gateway_mode_ipv4", "routed"),
        Flavour::Loopback => option("host_binding_ipv4", "127.0.0.1"),
    }
    request
}

fn settings(priority: i64) -> EndpointSettings {
    EndpointSettings {
        gw_priority: priority,
        ..EndpointSettings::default()
    }
}

fn run_request(c: usize, places: &[(usize, i64)], port: Option<u16>) -> CreateContainer {
    let networks = places.iter().map(|&(n, priority)| NetworkAttachment {
        network: NETWORKS[n].to_owned(),
        settings: settings(priority),
    });
    let publish = port.map(|port| format!("{port}:80"));
    CreateContainer {
        networks: networks.collect(),
        publish: publish.into_iter().collect(),
        ..request(CONTAINERS[c], &[])
    }
}

/// Does one thing to the state alone.
fn attempt(state: &mut State, op: &Op) {
    match op {
        Op::Create(n, flavour) => {
            drop(state.create_network(&network_request(*n, *flavour), &Default::default(), at(0)));
        }
        Op::RemoveNetwork(n) => drop(state.remove_network(NETWORKS[*n])),
        Op::Run(c, places, port) => {
            let wanted = run_request(*c, places, port.map(|port| PORTS[port]));
            drop(state.create_container(&wanted, at(0)));
        }
        Op::Start(c) => drop(state.set_started(CONTAINERS[*c], None, at(1))),
        Op::Exit(c) => drop(state.set_exited(CONTAINERS[*c], 0, at(2))),
        Op::Restart(c) => drop(state.restart(CONTAINERS[*c])),
        Op::Cancel(c) => drop(state.cancel_restart(CONTAINERS[*c])),
        Op::Remove(c) => drop(state.remove(CONTAINERS[*c], true)),
        Op::Connect(c, n, priority) => {
            drop(state.connect(CONTAINERS[*c], NETWORKS[*n], &settings(*priority)));
        }
        Op::Disconnect(c, n) => drop(state.disconnect(CONTAINERS[*c], NETWORKS[*n], false)),
    }
}

/// Does one thing to both; whether it succeeds must be the same.
fn step(state: &mut State, world: &mut World, op: &Op) {
    match op.clone() {
        Op::Create(n, flavour) => {
            let expected = !world.networks.contains_key(&n);
            let made =
                state.create_network(&network_request(n, flavour), &Default::default(), at(0));
            assert_eq!(made.is_ok(), expected, "{made:?}");
            if expected {
                if flavour.has(false) {
                    add_ipv6(
                        state,
                        NETWORKS[n],
                        &format!("fd00:{n}::/64"),
                        GatewayMode::Nat,
                    );
                }
                change_families(state, NETWORKS[n], |families| {
                    families.retain(|family| flavour.has(family.is_ipv4()));
                });
                world.networks.insert(n, flavour);
            }
        }
        Op::RemoveNetwork(n) => {
            let used = world.containers.values().any(|model| {
                model.life != Life::Exited && model.places.iter().any(|(other, _)| *other == n)
            });
            let expected = world.networks.contains_key(&n) && !used;
            assert_eq!(state.remove_network(NETWORKS[n]).is_ok(), expected);
            if expected {
                world.networks.remove(&n);
            }
        }
        Op::Run(c, mut places, port) => {
            let mut seen = BTreeSet::new();
            places.retain(|(n, _)| seen.insert(*n));
            let port = port.map(|port| PORTS[port]);
            let wanted = run_request(c, &places, port);
            let possible = !world.containers.contains_key(&c) && world.known(&places);
            let held = possible.then(|| world.wants(c, &places, port)).flatten();
            let made = state.create_container(&wanted, at(0));
            assert_eq!(made.is_ok(), held.is_some(), "{made:?}");
            if let Some(held) = held {
                let life = Life::Created;
                let model = Model {
                    life,
                    places,
                    port,
                    held,
                };
                world.containers.insert(c, model);
            }
        }
        Op::Start(c) => {
            let done = state.set_started(CONTAINERS[c], None, at(1)).is_ok();
            let model = world.containers.get_mut(&c);
            let model = model.filter(|m| matches!(m.life, Life::Created | Life::Again));
            assert_eq!(done, model.is_some());
            if let Some(model) = model {
                model.life = Life::Running;
            }
        }
        Op::Exit(c) => {
            let done = state.set_exited(CONTAINERS[c], 0, at(2));
            let model = world.containers.get_mut(&c);
            assert_eq!(done.is_ok(), model.is_some());
            if let Some(model) = model {
                model.life = Life::Exited;
                model.held.clear();
            }
        }
        Op::Cancel(c) => {
            let done = state.cancel_restart(CONTAINERS[c]);
            let model = world.containers.get_mut(&c);
            let again = model.filter(|model| model.life == Life::Again);
            assert_eq!(matches!(done, Ok(Some(_))), again.is_some());
            if let Some(model) = again {
                model.life = Life::Exited;
                model.held.clear();
            }
        }
        Op::Restart(c) => {
            let model = world.containers.get(&c);
            let held = model
                .filter(|model| model.life == Life::Exited && world.known(&model.places))
                .and_then(|model| world.wants(c, &model.places, model.port));
            let done = state.restart(CONTAINERS[c]);
            assert_eq!(done.is_ok(), held.is_some(), "{done:?}");
            if let (Some(held), Some(model)) = (held, world.containers.get_mut(&c)) {
                model.life = Life::Again;
                model.held = held;
            }
        }
        Op::Remove(c) => {
            let known = world.containers.remove(&c).is_some();
            assert_eq!(state.remove(CONTAINERS[c], true).is_ok(), known);
        }
        Op::Connect(c, n, priority) => {
            let done = state.connect(CONTAINERS[c], NETWORKS[n], &settings(priority));
            let model = world.containers.get(&c).cloned();
            let Some(mut model) = model.filter(|_| world.networks.contains_key(&n)) else {
                assert!(done.is_err());
                return;
            };
            let at = model.places.iter().position(|(other, _)| *other == n);
            if model.life == Life::Exited {
                assert!(done.is_ok(), "{done:?}");
                match at {
                    Some(at) => model.places[at] = (n, priority),
                    None => model.places.push((n, priority)),
                }
                world.containers.insert(c, model);
                return;
            }
            if at.is_some() {
                let text = done.unwrap_err().to_string();
                assert!(text.contains("already exists in network"), "{text}");
                return;
            }
            let before = world.gateways(&model.places);
            model.places.push((n, priority));
            let moved = world.gateways(&model.places) != before;
            let held = if moved {
                world.wants(c, &model.places, model.port)
            } else {
                Some(model.held.clone())
            };
            assert_eq!(done.is_ok(), held.is_some(), "{done:?}");
            if let Some(held) = held {
                assert_eq!(done.unwrap().changed_gateway, moved);
                model.held = held;
                world.containers.insert(c, model);
            }
        }
        Op::Disconnect(c, n) => {
            let done = state.disconnect(CONTAINERS[c], NETWORKS[n], false);
            let model = world.containers.get(&c).cloned();
            let at = model
                .as_ref()
                .and_then(|m| m.places.iter().position(|(other, _)| *other == n));
            let Some((mut model, at)) = model.zip(at) else {
                assert!(done.is_err());
                return;
            };
            if !world.networks.contains_key(&n) {
                assert_eq!(model.life, Life::Exited);
                assert!(done.is_ok());
                model.places.remove(at);
                world.containers.insert(c, model);
                return;
            }
            let done = done.unwrap();
            let exited = model.life == Life::Exited;
            let before = (!exited).then(|| world.gateways(&model.places));
            model.places.remove(at);
            let moved = before.is_some_and(|before| world.gateways(&model.places) != before);
            assert_eq!(done.changed_gateway, moved);
            if moved {
                let held = world.wants(c, &model.places, model.port);
                assert_eq!(
                    done.warnings.is_empty(),
                    held.is_some(),
                    "{:?}",
                    done.warnings
                );
                model.held = held.unwrap_or_default();
            }
            world.containers.insert(c, model);
        }
    }
}

fn by_id(mut records: Records) -> Records {
    records.networks.sort_by(|a, b| a.id.cmp(&b.id));
    records.containers.sort_by(|a, b| a.id.cmp(&b.id));
    records
}

fn check(state: &State, memory: &Memory, world: &World, numbers: &mut BTreeMap<String, u32>) {
    let networks: Vec<Network> = state.networks().cloned().collect();
    let containers: Vec<Container> = state.containers().cloned().collect();
    let stored = by_id(memory.records());
    assert_eq!(
        (&stored.networks, &stored.containers),
        (&networks, &containers)
    );
    assert_eq!(stored.counters, state.counters);

    let (again, warnings) = open(memory, &Paper::default());
    assert_eq!(warnings, Vec::<String>::new());
    let mut bridges = BTreeSet::new();
    for network in state.bridge_networks() {
        assert!(bridges.insert(network.config.bridge.clone()));
        let on_it: Vec<_> = state.users(&network.id).collect();
        let addresses: BTreeSet<_> = on_it.iter().map(|(_, e)| e.addresses.clone()).collect();
        assert_eq!(addresses.len(), on_it.len());
        let used = state.addresses_in_use(&network.id);
        // The subnet's own, the broadcast address of IPv4, the gateway.
        let families = network.config.families.iter();
        let reserved: u128 = families.map(|f| if f.is_ipv4() { 3 } else { 2 }).sum();
        let taken: usize = on_it.iter().map(|(_, e)| e.addresses.len()).sum();
        let taken = u128::try_from(taken).unwrap();
        assert_eq!(used, reserved + taken, "{}", network.name);
        assert_eq!(again.addresses_in_use(&network.id), used);
        let macs: BTreeSet<_> = on_it.iter().map(|(_, e)| e.mac).collect();
        assert_eq!(macs.len(), on_it.len());
    }
    assert_eq!(bridges.len(), world.networks.len());
    for (_, _, endpoint) in state.endpoints() {
        let before = numbers.insert(endpoint.id.clone(), endpoint.number);
        assert!(before.is_none_or(|before| before == endpoint.number));
    }
    let distinct: BTreeSet<u32> = numbers.values().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "a number was used twice");
    assert_eq!(state.host_interfaces().len(), state.endpoints().count());

    assert_eq!(containers.len(), world.containers.len());
    for (c, model) in &world.containers {
        let container = state.container(CONTAINERS[*c]).unwrap();
        let places = container.attachments.iter();
        let places: Vec<&str> = places.map(|a| a.network_name.as_str()).collect();
        let expected: Vec<&str> = model.places.iter().map(|(n, _)| NETWORKS[*n]).collect();
        assert_eq!(places, expected);
        let endpoints = container.endpoints().count();
        let exited = model.life == Life::Exited;
        assert_eq!(endpoints, if exited { 0 } else { expected.len() });
        let names: BTreeSet<_> = container.endpoints().map(|(_, e)| &e.interface).collect();
        assert_eq!(names.len(), endpoints);
        for ipv4 in [true, false] {
            let gateway = state
                .gateway_endpoint(container, ipv4)
                .map(|(_, n, _)| n.name.as_str());
            let expected = (!exited).then(|| world.gateway(&model.places, ipv4));
            assert_eq!(gateway, expected.flatten().map(|n| NETWORKS[n]));
        }
        let bindings: Vec<_> = container
            .bindings
            .iter()
            .map(|b| (b.host_address, b.host_port))
            .collect();
        let held = model.held.iter();
        let held: Vec<_> = held
            .filter_map(|address| Some((*address, model.port?)))
            .collect();
        assert_eq!(bindings, held);
    }
    for port in PORTS {
        let loopback6 = std::net::Ipv6Addr::LOCALHOST.into();
        for address in [
            any(),
            [127, 0, 0, 1].into(),
            [192, 0, 2, 1].into(),
            any6(),
            loopback6,
        ] {
            let wanted = PortRequest {
                spec: String::new(),
                transport: Transport::Tcp,
                addresses: vec![address],
                host: HostPorts::Exact(port..=port),
                container: port..=port,
            };
            let free = world.free(port, address, usize::MAX);
            assert_eq!(
                state.ports.allocate(&[wanted]).is_ok(),
                free,
                "{address}:{port}"
            );
        }
    }
    let policy = super::projections::policy(state, &[]);
    assert_eq!(policy.networks.len(), world.networks.len());
    assert_eq!(policy.endpoints.len(), state.endpoints().count());
    for published in &policy.published {
        let endpoint = policy
            .endpoints
            .iter()
            .find(|e| e.id == published.endpoint)
            .unwrap();
        assert!(endpoint.addresses.contains(&published.container_address));
    }
    let views = super::projections::dns_views(state, "");
    let served = containers.iter().filter(|c| {
        c.endpoints()
            .any(|(place, _)| place.network_name != DEFAULT_NETWORK)
    });
    assert_eq!(views.len(), served.count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaks_and_the_store_is_what_memory_is(ops in prop::collection::vec(op(), 1..70)) {
        let (mut state, memory, _) = fresh();
        state.settings.has_ipv6 = true;
        let mut world = World::default();
        world.networks.insert(0, Flavour::Plain);
        let mut numbers = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            // What cannot be stored must not have happened.
            if at % 3 == 0 {
                memory.fail(true);
                let before = (by_id(memory.records()), state.counters);
                attempt(&mut state, op);
                memory.fail(false);
                prop_assert_eq!(&by_id(memory.records()), &before.0);
                check(&state, &memory, &world, &mut numbers);
            }
            step(&mut state, &mut world, op);
            check(&state, &memory, &world, &mut numbers);
        }
        for c in CONTAINERS {
            let _ = state.remove(c, true);
        }
        for n in &NETWORKS[1..] {
            let _ = state.remove_network(n);
        }
        world.containers.clear();
        world.networks.retain(|n, _| *n == 0);
        check(&state, &memory, &world, &mut numbers);
    }
}
