//! Packets that hit a flow are judged without a single allocation.
//!
//! A program of its own, because the counting allocator is the whole program's.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};
use tunbridge::forwarder::{
    Access, Config, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host, Instant,
    NetworkId, NetworkPolicy, Outbox, Policy, Protocol, Published, VNET_HDR_LEN, Verdict,
};

const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9);

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[derive(Debug)]
struct Machine;

impl Host for Machine {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        Some(Egress {
            if_index: 2,
            source: match destination {
                IpAddr::V4(_) => HOST.into(),
                IpAddr::V6(_) => HOST6.into(),
            },
            mtu: 1500,
        })
    }

    fn set_external_port(&self, _: Protocol, _: u16, _: bool) {}
}

fn forwarder() -> Forwarder {
    let forwarder = Forwarder::new(Config::default(), [7; 32], Arc::new(Machine));
    let family = |subnet: &str, gateway| FamilyPolicy {
        subnet: subnet.parse().unwrap(),
        gateway: Some(gateway),
        masquerade: true,
        source: None,
        access: Access::Closed,
    };
    let policy = Policy {
        networks: vec![NetworkPolicy {
            id: NetworkId(1),
            families: vec![
                family("172.17.0.0/16", GATEWAY.into()),
                family("fd00:17::/64", GATEWAY6.into()),
            ],
            mtu: 1500,
            icc: true,
            internal: false,
            clamp_mss: false,
        }],
        endpoints: vec![EndpointPolicy {
            id: EndpointId(1),
            network: NetworkId(1),
            addresses: vec![CONTAINER.into(), CONTAINER6.into()],
            open: Vec::new(),
        }],
        published: vec![Published {
            protocol: Protocol::Udp,
            host_address: Ipv6Addr::UNSPECIFIED.into(),
            host_ports: 8080..=8080,
            endpoint: EndpointId(1),
            container_address: CONTAINER.into(),
            container_port: 80,
        }],
        links: Vec::new(),
        local_addresses: vec![HOST.into(), GATEWAY.into(), HOST6.into()],
    };
    forwarder.set_policy(policy, Instant::ZERO);
    forwarder
}

fn datagram(from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    const LENGTH: u16 = 8 + 64;
    let mut payload = [0; LENGTH as usize];
    let mut udp = UdpPacket::new_unchecked(&mut payload[..]);
    udp.set_src_port(from.1);
    udp.set_dst_port(to.1);
    udp.set_len(LENGTH);
    udp.fill_checksum(&from.0.into(), &to.0.into());
    let mut frame = vec![0; VNET_HDR_LEN];
    match (from.0, to.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.resize(VNET_HDR_LEN + 20, 0);
            let mut ip = Ipv4Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len(20 + LENGTH);
            ip.set_dont_frag(true);
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Udp);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.fill_checksum();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.resize(VNET_HDR_LEN + 40, 0);
            let mut ip = Ipv6Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
            ip.set_version(6);
            ip.set_payload_len(LENGTH);
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Udp);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
        }
        _ => panic!("{from:?} and {to:?}"),
    }
    frame.extend_from_slice(&payload);
    frame
}

fn hits_allocate_nothing(container: IpAddr, server: IpAddr, host: IpAddr) {
    let forwarder = forwarder();
    let mut out = Outbox::new();
    let mut now = Instant::ZERO;
    let sent = datagram((container, 40_000), (server, 7000));

    let mut frame = sent.clone();
    let before = allocations();
    assert_eq!(
        forwarder.handle_packet(&mut frame, now, &mut out),
        Verdict::Forward
    );
    assert!(allocations() > before, "a new flow is seen by the counter");
    let udp_at = frame.len() - 72;
    let external = UdpPacket::new_checked(&frame[udp_at..]).unwrap().src_port();
    let answered = datagram((server, 7000), (host, external));

    let mut frames = [sent.clone(), answered.clone()];
    let before = allocations();
    for _ in 0..1000 {
        frames[0].copy_from_slice(&sent);
        frames[1].copy_from_slice(&answered);
        for frame in &mut frames {
            now = now + Duration::from_millis(1);
            assert_eq!(
                forwarder.handle_packet(frame, now, &mut out),
                Verdict::Forward
            );
        }
    }
    assert_eq!(allocations() - before, 0);
}

#[test]
fn a_flow_hit_allocates_nothing_in_either_direction() {
    hits_allocate_nothing(CONTAINER.into(), SERVER.into(), HOST.into());
}

#[test]
fn neither_does_one_of_ipv6() {
    hits_allocate_nothing(CONTAINER6.into(), SERVER6.into(), HOST6.into());
}

#[test]
fn translation_takes_the_buffers_that_were_given_back() {
    let forwarder = forwarder();
    let mut out = Outbox::new();
    let client = (SERVER6.into(), 40_000);
    let question = datagram(client, (HOST6.into(), 8080));
    let mut now = Instant::ZERO;
    let mut cross = |sent: &[u8], frame: &mut [u8], seen: &mut Vec<u8>| {
        frame.copy_from_slice(sent);
        now = now + Duration::from_millis(1);
        let verdict = forwarder.handle_packet(frame, now, &mut out);
        assert_eq!(verdict, Verdict::Consumed);
        let written = out.pop().unwrap();
        seen.clear();
        seen.extend_from_slice(&written);
        out.recycle(written);
    };
    let mut seen = Vec::with_capacity(2048);
    let mut frames = [question.clone(), Vec::new()];
    cross(&question, &mut frames[0], &mut seen);
    let udp_at = seen.len() - 72;
    let port = UdpPacket::new_checked(&seen[udp_at..]).unwrap().src_port();
    let answer = datagram((CONTAINER.into(), 80), (GATEWAY.into(), port));
    frames[1].clone_from(&answer);
    cross(&answer, &mut frames[1], &mut seen);
    let before = allocations();
    for _ in 0..1000 {
        cross(&question, &mut frames[0], &mut seen);
        cross(&answer, &mut frames[1], &mut seen);
    }
    assert_eq!(allocations() - before, 0);
}
