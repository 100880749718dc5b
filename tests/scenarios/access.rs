//! Who reaches whom, cell by cell: kinds of networks × callers × protocols, directly and by published ports.

use std::net::Ipv4Addr;

use tunbridge::forwarder::Verdict;

use super::networks::*;
use super::packet::*;
use super::world::*;

/// Directly. A cell tells what happens to an open port or an echo request, and after the slash, if that differs, to
/// any other port: `own`, the server sees the caller's own address; `gateway`, that of its gateway; `host2`, that of
/// the host's second uplink; else why it is dropped.
const DIRECT: &str = "
 |               | outside           | nat                   | unmasqueraded     | sourced             | internal | neighbour | host
 | Nat           | direct_access     | inter_network         | inter_network     | inter_network       | internal | own       | loop
 | Unprotected   | own               | gateway               | own               | host2               | internal | own       | loop
 | Routed        | own/direct_access | gateway/inter_network | own/inter_network | host2/inter_network | internal | own       | loop
 | Internal      | internal          | internal              | internal          | internal            | internal | own       | loop
 | Isolated      | internal          | internal              | internal          | internal            | internal | own       | loop
 | Unmasqueraded | direct_access     | inter_network         | inter_network     | inter_network       | internal | own       | loop
 | Inhibited     | direct_access     | inter_network         | inter_network     | inter_network       | internal | own       | loop
 | Sourced       | direct_access     | inter_network         | inter_network     | inter_network       | internal | own       | loop
";

/// By a published port of the host.
const PUBLISHED: &str = "
 |               | outside  | nat        | unmasqueraded | sourced  | internal | neighbour  | itself     | host
 | Nat           | own      | gateway    | own           | host2    | internal | gateway    | gateway    | gateway
 | Unprotected   | own      | gateway    | own           | host2    | internal | gateway    | gateway    | gateway
 | Routed        | own      | gateway    | own           | host2    | internal | gateway    | gateway    | gateway
 | Internal      | internal | internal   | internal      | internal | internal | internal   | internal   | internal
 | Isolated      | internal | internal   | internal      | internal | internal | internal   | internal   | internal
 | Unmasqueraded | own      | gateway    | own           | host2    | internal | gateway    | gateway    | gateway
 | Inhibited     | own      | no_gateway | own           | host2    | internal | no_gateway | no_gateway | no_gateway
 | Sourced       | own      | gateway    | own           | gateway  | internal | gateway    | gateway    | gateway
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Tcp,
    Udp,
    Echo,
}

const PROBES: [Probe; 3] = [Probe::Tcp, Probe::Udp, Probe::Echo];

/// The address that a column's caller has when it calls a server of this kind.
fn caller(column: &str, server: Kind) -> Ipv4Addr {
    let other = |kind: Kind, instead: Ipv4Addr| {
        if kind == server {
            instead
        } else {
            kind.neighbour()
        }
    };
    match column {
        "outside" => LAN,
        "nat" => C1,
        "unmasqueraded" => other(Kind::Unmasqueraded, Kind::Routed.neighbour()),
        "sourced" => other(Kind::Sourced, C1),
        "internal" => other(Kind::Internal, Kind::Isolated.neighbour()),
        "neighbour" => server.neighbour(),
        "itself" => server.server(),
        "host" => HOST,
        _ => panic!("no column {column}"),
    }
}

/// Calls `test` with each cell: the server's kind, the column, its text.
fn cells(table: &str, mut test: impl FnMut(Kind, &str, &str)) {
    let mut rows = table.lines().filter(|line| !line.is_empty()).map(|line| {
        let cells = line.split('|').skip(1).map(str::trim);
        cells.collect::<Vec<_>>()
    });
    let columns = rows.next().unwrap();
    let mut kinds = 0;
    for row in rows {
        let kind = |kind: &&Kind| format!("{kind:?}") == row[0];
        let kind = *Kind::ALL.iter().find(kind).unwrap();
        assert_eq!(row.len(), columns.len());
        for (column, cell) in columns.iter().zip(&row).skip(1) {
            test(kind, column, cell);
        }
        kinds += 1;
    }
    assert_eq!(kinds, Kind::ALL.len());
}

/// What the server sees of the caller; `None` if nothing.
fn source(cell: &str, caller: Ipv4Addr, server: Kind) -> Option<Ipv4Addr> {
    match cell {
        "own" => Some(caller),
        "gateway" => Some(server.gateway()),
        "host2" => Some(HOST2),
        _ => None,
    }
}

fn question(probe: Probe, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Packet {
    let (from, to) = (on(from, 40_000), on(to, port));
    match probe {
        Probe::Tcp => Packet::tcp(from, to, SYN, 1, 0, b""),
        Probe::Udp => Packet::udp(from, to, b"question"),
        Probe::Echo => Packet::echo_request(*from.ip(), *to.ip(), from.port(), 1, b"question"),
    }
}

fn answer(probe: Probe, seen: &Packet) -> Packet {
    match probe {
        Probe::Tcp => {
            let (server, client) = (seen.destination(), seen.source());
            Packet::tcp(server, client, SYN | ACK, 9, 2, b"")
        }
        Probe::Udp => Packet::udp(seen.destination(), seen.source(), b"answer"),
        Probe::Echo => Packet::echo_reply(seen.dst(), seen.src(), seen.echo_ident(), 1, b"answer"),
    }
}

/// One cell: `caller` calls `called`, which is or leads to the server. If it gets through, so do the answer and errors
/// about both; if not, nothing does.
#[track_caller]
fn check(probe: Probe, server: Kind, caller: Ipv4Addr, called: Ipv4Addr, port: u16, cell: &str) {
    let mut w = every_kind();
    let case = format!("{probe:?} {caller} -> {called}:{port} ({server:?})");
    let asked = question(probe, caller, called, port);
    let step = w.step(&asked);
    let Some(source) = source(cell, caller, server) else {
        let Verdict::Drop(reason) = step.verdict else {
            panic!("{case}: {:?}, not {cell}", step.verdict);
        };
        assert_eq!(reason.name(), cell, "{case}");
        assert!(step.generated.is_empty(), "{case}: silently");
        // An error about what never got through does not get through either, nor does an answer.
        let error = Packet::icmp_error(caller, called, UNREACHABLE, 3, 0, &answer(probe, &asked).0);
        let back = w.step(error).verdict;
        assert_ne!(back, Verdict::Forward, "{case}");
        assert_eq!(w.tables(), (0, 0), "{case}");
        return;
    };
    assert_eq!(step.verdict, Verdict::Forward, "{case}");
    let seen = step.frame.packet;
    assert_eq!(
        (seen.src(), seen.dst()),
        (source, server.server()),
        "{case}"
    );
    let stateless = w.tables().0 == 0;
    let answered = answer(probe, &seen);
    let got = w.forward(&answered);
    assert_eq!((got.src(), got.dst()), (called, caller), "{case}");
    if probe == Probe::Echo {
        assert_eq!(got.echo_ident(), 40_000, "{case}");
    } else {
        assert_eq!((got.sport(), got.dport()), (port, 40_000), "{case}");
    }
    // The server complains about the question, and the caller about the answer.
    if stateless {
        return;
    }
    let error = Packet::icmp_error(seen.dst(), seen.src(), UNREACHABLE, 3, 0, &seen.0);
    let told = w.forward(error);
    assert_eq!((told.src(), told.dst()), (called, caller), "{case}");
    let quote = told.quote();
    assert_eq!((quote.src(), quote.dst()), (caller, called), "{case}");
    let error = Packet::icmp_error(caller, called, UNREACHABLE, 3, 0, &got.0);
    let told = w.forward(error);
    assert_eq!(
        (told.src(), told.dst()),
        (source, server.server()),
        "{case}"
    );
    let quote = told.quote();
    assert_eq!(
        (quote.src(), quote.dst()),
        (server.server(), source),
        "{case}"
    );
    // What belongs to no flow is no error of this one.
    let stranger = question(Probe::Udp, server.server(), Ipv4Addr::new(10, 20, 0, 9), 9);
    let error = Packet::icmp_error(caller, called, UNREACHABLE, 3, 0, &stranger.0);
    assert_ne!(w.step(error).verdict, Verdict::Forward, "{case}");
}

#[test]
fn direct_access_by_gateway_mode_and_caller() {
    // TestDirectRoutingOpenPorts, TestInterNetworkDirectRouting, TestBridgeINC, TestBridgeINCRouted
    cells(DIRECT, |server, column, cell| {
        let (open, other) = cell.split_once('/').unwrap_or((cell, cell));
        let caller = caller(column, server);
        for (probe, port, cell) in [
            (Probe::Tcp, 80, open),
            (Probe::Tcp, 81, other),
            (Probe::Tcp, 53, other),
            (Probe::Udp, 53, open),
            (Probe::Udp, 54, other),
            (Probe::Udp, 80, other),
            (Probe::Echo, 0, open),
        ] {
            check(probe, server, caller, server.server(), port, cell);
        }
    });
}

#[test]
fn published_ports_by_gateway_mode_caller_and_host_address() {
    // TestAccessToPublishedPort, TestAccessPublishedPortFromAnotherNetwork, TestAccessPublishedPortFromCtr
    cells(PUBLISHED, |server, column, cell| {
        let caller = caller(column, server);
        let mut addresses = vec![HOST, HOST2];
        if column != "outside" {
            addresses.extend([GATEWAY, GATEWAY2, Kind::Nat.gateway()]);
            addresses.extend(server.has_gateway().then(|| server.gateway()));
        }
        match column {
            "host" => addresses.push(LOOPBACK),
            "internal" => addresses.push(Kind::Internal.gateway()),
            _ => {}
        }
        for called in addresses {
            for (probe, port) in PROBES.into_iter().zip([80, 53]) {
                let mut w = every_kind();
                let to = on(called, server.port());
                let asked = question(probe, caller, called, server.port());
                let Some(seen_source) = source(cell, caller, server) else {
                    assert_eq!(w.drops(&asked), cell, "{caller} -> {to} ({server:?})");
                    continue;
                };
                let seen = w.forward(&asked);
                assert_eq!(seen.destination(), on(server.server(), port));
                assert_eq!(seen.src(), seen_source, "{caller} -> {to} ({server:?})");
                let got = w.forward(answer(probe, &seen));
                assert_eq!((got.source(), got.destination()), (to, asked.source()));
                let error = Packet::icmp_error(seen.dst(), seen.src(), UNREACHABLE, 3, 0, &seen.0);
                let told = w.forward(error);
                assert_eq!((told.dst(), told.quote().destination()), (caller, to));
            }
        }
    });
}

#[test]
fn the_way_out_by_gateway_mode() {
    for kind in Kind::ALL {
        for probe in PROBES {
            let mut w = every_kind();
            let asked = question(probe, kind.server(), S1, 9);
            let expected = match kind {
                Kind::Internal | Kind::Isolated => {
                    assert_eq!(w.drops(&asked), "internal", "{kind:?}");
                    continue;
                }
                Kind::Routed | Kind::Unmasqueraded => kind.server(),
                Kind::Sourced => HOST2,
                Kind::Nat | Kind::Unprotected | Kind::Inhibited => HOST,
            };
            let seen = w.forward(&asked);
            assert_eq!((seen.src(), seen.dst()), (expected, S1), "{kind:?}");
            let got = w.forward(answer(probe, &seen));
            assert_eq!((got.src(), got.dst()), (S1, kind.server()), "{kind:?}");
        }
    }
}

#[test]
fn an_internal_network_reaches_the_host_at_its_gateway_only() {
    // TestInternalNwConnectivity
    let mut w = every_kind();
    let client = Kind::Internal.neighbour();
    let gateway = Kind::Internal.gateway();
    w.leaves_to_host(Packet::tcp(on(client, 1), on(gateway, 22), SYN, 1, 0, b""));
    w.leaves_to_host(Packet::udp(on(client, 1), on(gateway, 53), b""));
    w.leaves_to_host(Packet::echo_request(client, gateway, 1, 1, b""));
    for address in [HOST, HOST2, GATEWAY, Kind::Isolated.gateway(), NOWHERE, S1] {
        for probe in PROBES {
            assert_eq!(w.drops(question(probe, client, address, 22)), "internal");
        }
    }
    for vacant in ["172.20.9.9", "172.22.9.9"] {
        assert_eq!(
            w.drops(question(Probe::Udp, client, ip(vacant), 1)),
            "internal"
        );
    }
    assert_eq!(
        w.drops(question(Probe::Udp, client, ip("172.23.9.9"), 1)),
        "no_such_endpoint"
    );
    assert_eq!(
        w.drops(question(Probe::Udp, C1, ip("172.23.9.9"), 1)),
        "internal"
    );
    assert_eq!(
        w.drops(question(Probe::Udp, LAN, ip("172.23.9.9"), 1)),
        "direct_access"
    );
    // A mapping's port at the gateway's address is no way out.
    let seen = w.udp(on(Kind::Nat.server(), 40_000), on(S1, 9000));
    w.leaves_to_host(Packet::udp(on(client, 1), on(gateway, seen.port()), b""));
    // Neither it nor the isolated one is told anything about what was dropped.
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn other_protocols_and_stray_answers_open_nothing() {
    let mut w = every_kind();
    for server in [Kind::Unprotected, Kind::Routed] {
        let to = server.server();
        for from in [LAN, C1] {
            let closed = match (server, from) {
                (Kind::Unprotected, _) => "unsupported_protocol",
                (_, LAN) => "direct_access",
                _ => "inter_network",
            };
            assert_eq!(w.drops(Packet::ip(from, to, 47, &[0; 20])), closed);
            let reply = w.drops(Packet::echo_reply(from, to, 7, 1, b""));
            assert_eq!(reply, "icmp_unsupported", "{from} -> {to}");
            let stray = w.drops(Packet::tcp(on(from, 1), on(to, 80), RST, 1, 0, b""));
            assert_eq!(stray, "tcp_no_flow");
        }
    }
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn fragments_follow_a_direct_flow_and_stay_out_without_one() {
    for (server, caller) in [
        (Kind::Unprotected, LAN),
        (Kind::Routed, C1),
        (Kind::Nat, LAN),
    ] {
        let mut w = every_kind();
        let whole = Packet::udp(on(caller, 4000), on(server.server(), 53), &[7; 3000]);
        let mut pieces = whole.without_df().with_ident(5).fragments(1480);
        if server != Kind::Nat {
            pieces.rotate_left(1);
        }
        let mut seen = Vec::new();
        for piece in pieces {
            let step = w.step(piece);
            if step.verdict == Verdict::Forward {
                seen.push(step.frame.packet);
            }
            seen.extend(step.generated.into_iter().map(|frame| frame.packet));
        }
        if server == Kind::Nat {
            assert!(seen.is_empty());
            assert_eq!(w.counters().dropped["direct_access"], 3);
            continue;
        }
        let got = reassemble(&seen).unwrap();
        assert_eq!(got.destination(), on(server.server(), 53));
        assert_eq!(got.payload(), &[7; 3000]);
    }
}

#[test]
fn a_direct_caller_is_told_about_sizes_and_hops() {
    let mut w = every_kind();
    change_network(&mut w, Kind::Routed, |network| network.mtu = 1200);
    let to = on(Kind::Routed.server(), 53);
    for (caller, teller) in [(LAN, HOST), (C1, GATEWAY)] {
        let big = Packet::udp(on(caller, 4000), to, &[0; 1300]).with_df();
        let (reason, error) = w.rejects(big);
        assert_eq!((reason, error.src()), ("fragmentation_needed", teller));
        assert_eq!(error.icmp_rest(), 1200);
        let (reason, error) = w.rejects(Packet::udp(on(caller, 4001), to, b"").with_ttl(1));
        assert_eq!((reason, error.src()), ("ttl_exceeded", teller));
    }
}

#[test]
fn direct_connections_survive_a_new_daemon() {
    // The caller's next segment restores what the forwarder has forgotten.
    for server in [Kind::Routed, Kind::Unprotected] {
        let mut w = every_kind();
        w.change(|policy| policy.published.clear());
        let (client, at) = (on(LAN, 5000), on(server.server(), 80));
        let from_server = Packet::tcp(at, client, PSH | ACK, 900, 101, b"first");
        if server == Kind::Unprotected {
            // With the address that masquerading would give it, it would be answered with a RST.
            assert_eq!(w.drops(&from_server), "tcp_no_flow");
        } else {
            assert_eq!(w.forward(&from_server).source(), at);
        }
        let up = w.forward(Packet::tcp(client, at, PSH | ACK, 101, 900, b"up"));
        assert_eq!((up.source(), up.destination()), (client, at));
        assert_eq!(w.forward(&from_server).source(), at);
    }
}
