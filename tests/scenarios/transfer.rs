//! Whole conversations of smoltcp hosts over a bad wire.

use std::net::SocketAddrV4;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use tunbridge::forwarder::Protocol;

use super::net::*;
use super::packet::*;
use super::world::*;

const MEGABYTE: usize = 1 << 20;
const BAD: Faults = Faults {
    loss: 50,
    duplication: 10,
    reorder: 30,
};

fn byte(i: usize) -> u8 {
    u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap()
}

/// Sends `length` octets from one socket to the other, checks each, and closes both ways.
#[track_caller]
fn transfer(
    net: &mut Net,
    from: (NodeId, SocketHandle),
    to: (NodeId, SocketHandle),
    length: usize,
) {
    let mut sent = 0;
    let mut received = 0;
    let done = net.run_until(Duration::from_secs(3600), |net| {
        let socket = net.tcp(from.0, from.1);
        while sent < length && socket.can_send() {
            let end = length.min(sent + 4096);
            let chunk: Vec<u8> = (sent..end).map(byte).collect();
            sent += socket.send_slice(&chunk).unwrap();
        }
        let socket = net.tcp(to.0, to.1);
        while socket.can_recv() {
            socket
                .recv(|data| {
                    for b in &*data {
                        assert_eq!(*b, byte(received), "octet {received}");
                        received += 1;
                    }
                    (data.len(), ())
                })
                .unwrap();
        }
        received == length
    });
    assert!(
        done,
        "{received} of {length} octets arrived; sender {}, receiver {}, flows {:?}, counters {:?}",
        net.tcp(from.0, from.1).state(),
        net.tcp(to.0, to.1).state(),
        net.world.forwarder.flows(net.world.now),
        net.world.counters(),
    );
    // Closing is tried on a good wire: smoltcp does not repeat a FIN whose data was acknowledged.
    let faults = std::mem::take(&mut net.faults);
    net.tcp(from.0, from.1).close();
    net.run_until(Duration::from_secs(60), |net| {
        net.tcp(to.0, to.1).state() == State::CloseWait
    });
    net.tcp(to.0, to.1).close();
    let closed = net.run_until(Duration::from_secs(60), |net| {
        !net.tcp(from.0, from.1).is_active() || net.tcp(from.0, from.1).state() == State::TimeWait
    });
    assert!(
        closed,
        "{} / {}",
        net.tcp(from.0, from.1).state(),
        net.tcp(to.0, to.1).state()
    );
    net.faults = faults;
}

fn outgoing(seed: u64, faults: Faults, offload: bool, download: bool) {
    let mut net = Net::new(World::new(), seed);
    let c1 = net.container(C1);
    let server = net.outside(S1);
    net.node(c1).offload = offload;
    net.faults = faults;
    let listener = net.tcp_listen(server, 80);
    let client = net.tcp_connect(c1, at("172.17.0.2:40000"), at("10.20.0.1:80"));
    if download {
        transfer(&mut net, (server, listener), (c1, client), MEGABYTE);
    } else {
        transfer(&mut net, (c1, client), (server, listener), MEGABYTE);
    }
    let remote = net.world.forwarder.flows(net.world.now);
    assert_eq!(remote.len(), 1);
}

#[test]
fn download_of_1_mb_over_a_lossy_wire() {
    outgoing(1, BAD, false, true);
}

#[test]
fn upload_of_1_mb_over_a_lossy_wire() {
    outgoing(2, BAD, false, false);
}

#[test]
fn download_with_checksums_left_to_the_device() {
    outgoing(3, BAD, true, true);
}

#[test]
fn upload_with_checksums_left_to_the_device() {
    outgoing(4, BAD, true, false);
}

fn published(seed: u64, download: bool) {
    let mut world = World::new();
    world.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let mut net = Net::new(world, seed);
    let c1 = net.container(C1);
    let lan = net.outside(LAN);
    net.faults = BAD;
    let listener = net.tcp_listen(c1, 80);
    let client = net.tcp_connect(lan, at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    if download {
        transfer(&mut net, (c1, listener), (lan, client), MEGABYTE);
    } else {
        transfer(&mut net, (lan, client), (c1, listener), MEGABYTE);
    }
}

#[test]
fn download_from_a_published_port_over_a_lossy_wire() {
    published(5, true);
}

#[test]
fn upload_to_a_published_port_over_a_lossy_wire() {
    published(6, false);
}

/// A host process or a container calls a published port; returns the client that the server saw.
#[track_caller]
fn call(caller: Option<std::net::Ipv4Addr>, from: &str, to: &str) -> SocketAddrV4 {
    let mut world = World::new();
    world.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let mut net = Net::new(world, 7);
    let c1 = net.container(C1);
    let node = match caller {
        None => Net::HOST,
        Some(C1) => c1,
        Some(other) => net.container(other),
    };
    let listener = net.tcp_listen(c1, 80);
    let client = net.tcp_connect(node, at(from), at(to));
    let mut seen = None;
    net.run_until(Duration::from_secs(5), |net| {
        seen = net.tcp(c1, listener).remote_endpoint();
        net.tcp(node, client).state() == State::Established && seen.is_some()
    });
    let seen = v4(seen.expect("the server never saw a client"));
    transfer(&mut net, (node, client), (c1, listener), 100_000);
    assert!(net.lost.is_empty(), "{:?}", net.lost);
    seen
}

#[test]
fn host_process_to_loopback() {
    assert_eq!(
        *call(None, "127.0.0.1:5000", "127.0.0.1:8080").ip(),
        GATEWAY
    );
}

#[test]
fn host_process_to_its_lan_address() {
    assert_eq!(
        *call(None, "10.9.0.10:5000", "10.9.0.10:8080").ip(),
        GATEWAY
    );
}

#[test]
fn container_to_its_own_published_port() {
    assert_eq!(
        *call(Some(C1), "172.17.0.2:5000", "10.9.0.10:8080").ip(),
        GATEWAY
    );
}

#[test]
fn container_to_a_neighbours_published_port() {
    assert_eq!(
        *call(Some(C2), "172.17.0.3:5000", "10.9.0.10:8080").ip(),
        GATEWAY
    );
}

#[test]
fn container_to_a_published_port_on_another_network() {
    assert_eq!(
        *call(Some(C3), "172.18.0.2:5000", "10.9.0.10:8080").ip(),
        GATEWAY
    );
}

#[test]
fn a_host_service_is_reached_by_the_lan_and_by_containers() {
    let mut net = Net::new(World::new(), 8);
    let c1 = net.container(C1);
    let lan = net.outside(LAN);
    let services = [net.tcp_listen(Net::HOST, 22), net.tcp_listen(Net::HOST, 22)];
    let a = net.tcp_connect(lan, at("10.9.0.50:5000"), at("10.9.0.10:22"));
    let b = net.tcp_connect(c1, at("172.17.0.2:5000"), at("172.17.0.1:22"));
    let done = net.run_until(Duration::from_secs(5), |net| {
        net.tcp(lan, a).state() == State::Established
            && net.tcp(c1, b).state() == State::Established
    });
    assert!(done);
    assert_eq!(
        net.world.counters().received,
        0,
        "the forwarder is not asked"
    );
    let _ = services;
}

#[test]
fn udp_question_and_answer() {
    let mut net = Net::new(World::new(), 9);
    let c1 = net.container(C1);
    let server = net.outside(S1);
    let client = net.udp_bind(c1, at("172.17.0.2:40000"));
    let service = net.udp_bind(server, at("0.0.0.0:53"));
    net.udp_send(c1, client, at("10.20.0.1:53"), b"question");
    let mut seen = None;
    assert!(net.run_until(Duration::from_secs(1), |net| {
        seen = seen.take().or_else(|| net.udp_receive(server, service));
        seen.is_some()
    }));
    let (from, question) = seen.unwrap();
    assert_eq!((*from.ip(), &question[..]), (HOST, &b"question"[..]));
    net.udp_send(server, service, from, b"answer");
    let mut got = None;
    assert!(net.run_until(Duration::from_secs(1), |net| {
        got = got.take().or_else(|| net.udp_receive(c1, client));
        got.is_some()
    }));
    assert_eq!(got.unwrap(), (at("10.20.0.1:53"), b"answer".to_vec()));
}

#[test]
fn udp_datagrams_of_4000_octets_both_ways() {
    for reorder in [0, 500] {
        let mut net = Net::new(World::new(), 10);
        net.faults.reorder = reorder;
        let c1 = net.container(C1);
        let server = net.outside(S1);
        let client = net.udp_bind(c1, at("172.17.0.2:40000"));
        let service = net.udp_bind(server, at("0.0.0.0:9000"));
        let data: Vec<u8> = (0..4000).map(byte).collect();
        for _ in 0..10 {
            net.udp_send(c1, client, at("10.20.0.1:9000"), &data);
            let mut seen = None;
            assert!(net.run_until(Duration::from_secs(1), |net| {
                seen = seen.take().or_else(|| net.udp_receive(server, service));
                seen.is_some()
            }));
            let (from, question) = seen.unwrap();
            assert!(question == data);
            net.udp_send(server, service, from, &data);
            let mut got = None;
            assert!(net.run_until(Duration::from_secs(1), |net| {
                got = got.take().or_else(|| net.udp_receive(c1, client));
                got.is_some()
            }));
            assert!(got.unwrap().1 == data);
        }
    }
}

#[test]
fn ping_is_answered() {
    // smoltcp answers echo requests by itself.
    let mut net = Net::new(World::new(), 11);
    let c1 = net.container(C1);
    let server = net.outside(S1);
    net.seen = Some(Vec::new());
    let ping = net.ping_socket(c1, 77);
    let request = Packet::echo_request(C1, S1, 77, 3, b"how far?");
    {
        let node = net.node(c1);
        let socket: &mut smoltcp::socket::icmp::Socket<'_> = node.sockets.get_mut(ping);
        socket
            .send_slice(request.l4(), smoltcp::wire::IpAddress::Ipv4(S1))
            .unwrap();
    }
    net.run(Duration::from_secs(1));
    let seen = net.seen.take().unwrap();
    let at_server = seen
        .iter()
        .find(|(node, _)| *node == server)
        .expect("the request arrives");
    assert_eq!(at_server.1.src(), HOST);
    let at_c1 = seen
        .iter()
        .find(|(node, _)| *node == c1)
        .expect("the reply arrives");
    assert_eq!(
        (at_c1.1.icmp_type_code(), at_c1.1.echo_ident()),
        ((ECHO_REPLY, 0), 77)
    );
    assert_eq!(at_c1.1.payload(), b"how far?");
}

#[test]
fn two_containers_download_at_once_from_one_port() {
    let mut net = Net::new(World::new(), 12);
    net.faults.loss = 20;
    let c1 = net.container(C1);
    let c2 = net.container(C2);
    let server = net.outside(S1);
    let listeners = [net.tcp_listen(server, 80), net.tcp_listen(server, 80)];
    let a = net.tcp_connect(c1, at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let b = net.tcp_connect(c2, at("172.17.0.3:40000"), at("10.20.0.1:80"));
    let done = net.run_until(Duration::from_secs(60), |net| {
        net.tcp(c1, a).state() == State::Established && net.tcp(c2, b).state() == State::Established
    });
    assert!(done);
    let mut remotes = listeners.map(|l| v4(net.tcp(server, l).remote_endpoint().unwrap()));
    remotes.sort();
    assert_ne!(remotes[0], remotes[1]);
    // Which listener got which client depends on the wire; the external port tells.
    let flows = net.world.forwarder.flows(net.world.now);
    let external = flows
        .iter()
        .find(|f| f.original.0 == at("172.17.0.2:40000").into())
        .unwrap()
        .translated
        .0;
    let first = usize::from(
        std::net::SocketAddr::from(v4(net.tcp(server, listeners[0]).remote_endpoint().unwrap()))
            != external,
    );
    transfer(&mut net, (server, listeners[first]), (c1, a), 200_000);
    transfer(&mut net, (server, listeners[1 - first]), (c2, b), 200_000);
}
