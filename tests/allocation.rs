//! Packets that hit a flow are judged without a single allocation.
//!
//! A program of its own, because the counting allocator is the whole program's.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use smoltcp::wire::{IpProtocol, Ipv4Packet, UdpPacket};
use tunbridge::forwarder::{
    Access, Config, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host, Instant,
    NetworkId, NetworkPolicy, Outbox, Policy, Protocol, VNET_HDR_LEN, Verdict,
};

const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

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
    fn route(&self, _: IpAddr) -> Option<Egress> {
        Some(Egress {
            if_index: 2,
            source: HOST.into(),
            mtu: 1500,
        })
    }

    fn set_external_port(&self, _: Protocol, _: u16, _: bool) {}
}

fn forwarder() -> Forwarder {
    let forwarder = Forwarder::new(Config::default(), [7; 32], Arc::new(Machine));
    let policy = Policy {
        networks: vec![NetworkPolicy {
            id: NetworkId(1),
            families: vec![FamilyPolicy {
                subnet: "172.17.0.0/16".parse().unwrap(),
                gateway: Some(GATEWAY.into()),
                masquerade: true,
                source: None,
                access: Access::Closed,
            }],
            mtu: 1500,
            icc: true,
            internal: false,
            clamp_mss: false,
        }],
        endpoints: vec![EndpointPolicy {
            id: EndpointId(1),
            network: NetworkId(1),
            addresses: vec![CONTAINER.into()],
            open: Vec::new(),
        }],
        published: Vec::new(),
        links: Vec::new(),
        local_addresses: vec![HOST.into(), GATEWAY.into()],
    };
    forwarder.set_policy(policy, Instant::ZERO);
    forwarder
}

fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    const LENGTH: usize = 20 + 8 + 64;
    let mut frame = vec![0; VNET_HDR_LEN + LENGTH];
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(u16::try_from(LENGTH).unwrap());
    ip.set_dont_frag(true);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Udp);
    ip.set_src_addr(from.0);
    ip.set_dst_addr(to.0);
    ip.fill_checksum();
    let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
    udp.set_src_port(from.1);
    udp.set_dst_port(to.1);
    udp.set_len(8 + 64);
    udp.fill_checksum(&from.0.into(), &to.0.into());
    frame
}

#[test]
fn a_flow_hit_allocates_nothing_in_either_direction() {
    let forwarder = forwarder();
    let mut out = Outbox::new();
    let mut now = Instant::ZERO;
    let sent = datagram((CONTAINER, 40_000), (SERVER, 7000));

    let mut frame = sent.clone();
    let before = allocations();
    assert_eq!(
        forwarder.handle_packet(&mut frame, now, &mut out),
        Verdict::Forward
    );
    assert!(allocations() > before, "a new flow is seen by the counter");
    let external = UdpPacket::new_checked(&frame[VNET_HDR_LEN + 20..])
        .unwrap()
        .src_port();
    let answered = datagram((SERVER, 7000), (HOST, external));

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
