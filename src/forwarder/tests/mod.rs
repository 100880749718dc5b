//! The forwarder as a whole, one packet at a time.
//!
//! ```text
//!  net 1  172.17.0.0/16   A .2  B .3      net 2  172.18.0.0/16   C .2
//!  net 3  172.19.0.0/16   D .2  E .3  (icc off)   net 4  172.20.0.0/16  F .2  (no masquerade)
//!  net 5  172.21.0.0/16   G .2  (internal)        net 6  172.22.0.0/16  I .2  (no gateway)
//!  host H 192.0.2.10, 192.0.2.11, 127.0.0.1      outside 198.51.100.0/24; 203.0.113.0/24 unroutable
//!  published  tcp 8080 → A:80   udp 8080 → A:80   tcp 127.0.0.1:8081 → A:80   tcp 8082 → A:80
//!             tcp 192.0.2.11:8080 → B:80   udp 20000-29999 → B:30000-39999   tcp 9090 → C:90
//!             tcp 7070 → I:70
//!
//!  IPv6: networks fd00:17::/64 to fd00:22::/64, containers and gateways with the same last number; net 4 is
//!  2001:db8:20::/64, and open are F's TCP 80 and UDP 53. H 2001:db8::10, outside 2001:db8:ff::/48, 2001:db8:dead::/48
//!  unroutable. Published tcp 8080, udp 8080 → A:80; tcp 6060 → A's IPv4 address; tcp
//!  6061 of 0.0.0.0 → A's IPv6 address
//! ```

mod drops;
mod extensions;
mod fragments;
mod frames;
mod icmp;
mod ipv6;
mod limits;
mod mappings;
mod properties;
mod publishing;
mod sizes;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::*;
use frames::*;

pub(super) const A: EndpointId = EndpointId(1);
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) egress: Mutex<Egress>,
    /// The source of IPv6.
    pub(super) source6: Mutex<IpAddr>,
    pub(super) bits: Mutex<BTreeSet<(Protocol, u16)>>,
}

impl Host for Machine {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let unroutable: [ipnet::IpNet; 2] =
            ["203.0.113.0/24", "2001:db8:dead::/48"].map(|net| net.parse().unwrap());
        if unroutable.iter().any(|net| net.contains(&destination)) {
            return None;
        }
        let egress = *self.egress.lock();
        Some(Egress {
            source: if destination.is_ipv4() {
                egress.source
            } else {
                *self.source6.lock()
            },
            ..egress
        })
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        let changed = if ours {
            self.bits.lock().insert((protocol, port))
        } else {
            self.bits.lock().remove(&(protocol, port))
        };
        assert!(changed, "{protocol:?} {port} set to {ours} twice");
    }
}

pub(super) struct Lab {
    pub(super) host: Arc<Machine>,
    pub(super) forwarder: Forwarder,
    pub(super) out: Outbox,
    pub(super) now: Instant,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn policy() -> Policy {
    let family = |id: u32, subnet: &str, gateway: &str| FamilyPolicy {
        subnet: subnet.parse().unwrap(),
        gateway: (id != 6).then(|| ip(gateway)),
        masquerade: id != 4,
        source: None,
        access: Access::Closed,
    };
    let wide = |id: u32| match id {
        4 => "2001:db8:20::".to_owned(),
        _ => format!("fd00:{}::", id + 16),
    };
    let network = |id: u32, subnet: &str, gateway: &str| NetworkPolicy {
        id: NetworkId(id),
        families: vec![
            family(id, subnet, gateway),
            FamilyPolicy {
                access: if id == 4 {
                    Access::Ports
                } else {
                    Access::Closed
                },
                ..family(id, &format!("{}/64", wide(id)), &format!("{}1", wide(id)))
            },
        ],
        mtu: 1500,
        icc: id != 3,
        internal: id == 5,
        clamp_mss: id == 2,
    };
    let endpoint = |id: u32, net: u32, address: &str| EndpointPolicy {
        id: EndpointId(id),
        network: NetworkId(net),
        addresses: vec![
            ip(address),
            ip(&format!(
                "{}{}",
                wide(net),
                address.rsplit('.').next().unwrap()
            )),
        ],
        open: if net == 4 {
            [
                (true, Protocol::Tcp, 80),
                (true, Protocol::Udp, 53),
                (false, Protocol::Tcp, 80),
                (false, Protocol::Udp, 53),
            ]
            .map(|(ipv4, protocol, port)| OpenPorts {
                ipv4,
                protocol,
                ports: port..=port,
            })
            .to_vec()
        } else {
            Vec::new()
        },
    };
    let published = |protocol, at: &str, host_ports, id: u32, address: &str, port| Published {
        protocol,
        host_address: ip(at),
        host_ports,
        endpoint: EndpointId(id),
        container_address: ip(address),
        container_port: port,
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    Policy {
        networks: vec![
            network(1, "172.17.0.0/16", "172.17.0.1"),
            network(2, "172.18.0.0/16", "172.18.0.1"),
            network(3, "172.19.0.0/16", "172.19.0.1"),
            network(4, "172.20.0.0/16", "172.20.0.1"),
            network(5, "172.21.0.0/16", "172.21.0.1"),
            network(6, "172.22.0.0/16", "172.22.0.1"),
        ],
        endpoints: vec![
            endpoint(1, 1, "172.17.0.2"),
            endpoint(2, 1, "172.17.0.3"),
            endpoint(3, 2, "172.18.0.2"),
            endpoint(4, 3, "172.19.0.2"),
            endpoint(5, 3, "172.19.0.3"),
            endpoint(6, 4, "172.20.0.2"),
            endpoint(7, 5, "172.21.0.2"),
            endpoint(8, 6, "172.22.0.2"),
        ],
        published: vec![
            published(tcp, "0.0.0.0", 8080..=8080, 1, "172.17.0.2", 80),
            published(udp, "0.0.0.0", 8080..=8080, 1, "172.17.0.2", 80),
            published(tcp, "127.0.0.1", 8081..=8081, 1, "172.17.0.2", 80),
            published(tcp, "0.0.0.0", 8082..=8082, 1, "172.17.0.2", 80),
            published(tcp, "192.0.2.11", 8080..=8080, 2, "172.17.0.3", 80),
            published(udp, "0.0.0.0", 20_000..=29_999, 2, "172.17.0.3", 30_000),
            published(tcp, "0.0.0.0", 9090..=9090, 3, "172.18.0.2", 90),
            published(tcp, "0.0.0.0", 7070..=7070, 8, "172.22.0.2", 70),
            published(tcp, "::", 8080..=8080, 1, "fd00:17::2", 80),
            published(udp, "::", 8080..=8080, 1, "fd00:17::2", 80),
            published(tcp, "::", 6060..=6060, 1, "172.17.0.2", 80),
            published(tcp, "0.0.0.0", 6061..=6061, 1, "fd00:17::2", 80),
        ],
        links: Vec::new(),
        local_addresses: [
            "192.0.2.10",
            "192.0.2.11",
            "127.0.0.1",
            "172.17.0.1",
            "2001:db8::10",
            "::1",
        ]
        .map(ip)
        .to_vec(),
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let egress = Egress {
            if_index: 2,
            source: ip("192.0.2.10"),
            mtu: 1500,
        };
        let host = Arc::new(Machine {
            egress: Mutex::new(egress),
            source6: Mutex::new(ip(H6)),
            bits: Mutex::default(),
        });
        let forwarder = Forwarder::new(config, [7; 32], Arc::clone(&host) as Arc<dyn Host>);
        let now = Instant::from_origin(Duration::from_secs(1_000));
        forwarder.set_policy(policy(), now);
        Self {
            host,
            forwarder,
            out: Outbox::new(),
            now,
        }
    }

    /// Time passes, with the timer calls that fall into it.
    pub(super) fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.forwarder.poll_timeout().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.forwarder.handle_timeout(self.now, &mut self.out);
        }
        self.now = end;
    }

    pub(super) fn verdict(&mut self, frame: &mut [u8]) -> Verdict {
        let length = frame.len();
        let verdict = self.forwarder.handle_packet(frame, self.now, &mut self.out);
        assert_eq!(frame.len(), length);
        verdict
    }

    /// The packet passes; this is what it looks like then.
    #[track_caller]
    pub(super) fn send(&mut self, mut frame: Vec<u8>) -> Seen {
        let before = seen(&frame);
        let verdict = self.verdict(&mut frame);
        assert_eq!(verdict, Verdict::Forward, "{before:?}");
        let after = seen(&frame);
        assert_eq!(after.ttl, before.ttl - 1, "one hop");
        after
    }

    /// The packet is dropped for `reason`, and counted so.
    #[track_caller]
    pub(super) fn dropped(&mut self, mut frame: Vec<u8>, reason: DropReason) {
        let before = self.count(reason);
        assert_eq!(self.verdict(&mut frame), Verdict::Drop(reason));
        assert_eq!(self.count(reason), before + 1);
    }

    #[track_caller]
    pub(super) fn left_to_host(&mut self, frame: Vec<u8>) {
        let mut judged = frame.clone();
        assert_eq!(self.verdict(&mut judged), Verdict::ToHost);
        assert_eq!(judged, frame, "unchanged");
    }

    pub(super) fn count(&self, reason: DropReason) -> u64 {
        let dropped: BTreeMap<_, _> = self.forwarder.stats().dropped.into_iter().collect();
        dropped[&reason]
    }

    /// The only frame in the outbox.
    #[track_caller]
    pub(super) fn generated(&mut self) -> Vec<u8> {
        assert_eq!(self.out.len(), 1, "one generated packet");
        self.out.pop().unwrap()
    }

    /// A TCP connection through the whole handshake; returns how the first segment arrived.
    #[track_caller]
    pub(super) fn connect(&mut self, from: &str, to: &str) -> Seen {
        let syn = self.send(tcp(from, to, SYN, 1000, 0, 0));
        self.send(tcp(&syn.dst, &syn.src, SYN | ACK, 5000, 1001, 0));
        self.send(tcp(from, to, ACK, 1001, 5001, 0));
        syn
    }

    #[track_caller]
    pub(super) fn state(&self, index: usize) -> &'static str {
        self.forwarder.flows(self.now)[index].state
    }
}
