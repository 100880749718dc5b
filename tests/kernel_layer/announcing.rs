//! Gratuitous ARP from a container's interface.

use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket,
};
use tunbridge::kernel::{Announcement, announce};

use super::*;

const INTERVAL: Duration = Duration::from_millis(60);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const MAC: [u8; 6] = [0x02, 0x42, 172, 17, 0, 2];

/// A container on a bridge, and what its interface sends.
struct Listener {
    netlink: Netlink,
    container: Option<OwnedFd>,
    host_end: u32,
    socket: OwnedFd,
}

impl Listener {
    async fn new() -> Self {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let spec = VethSpec {
            ..veth_spec(&container, &bridge)
        };
        let host_end = netlink.create_veth(&spec).await.unwrap();
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .unwrap();
        Self {
            netlink,
            container: Some(container),
            host_end,
            socket,
        }
    }

    fn container(&self) -> &OwnedFd {
        self.container.as_ref().unwrap()
    }

    async fn announce(&self, count: u8, interval: Duration) -> Announcement {
        let namespace = self.container().as_fd();
        announce(namespace, "eth0", MAC, &[ADDRESS.into()], count, interval)
            .await
            .unwrap()
    }

    /// ARP frames from the container since the last call.
    fn heard(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            let from = from.unwrap();
            let sent_by_us = i32::from(from.pkttype()) == i32::from(libc::PACKET_OUTGOING);
            let frame = &buffer[..length];
            if from.ifindex() == self.host_end as usize && !sent_by_us && frame[12..14] == [8, 6] {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    /// The container ends: nobody but what is under test holds its namespace.
    async fn vanishes_without_delay(&mut self) {
        self.container = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.netlink.link("klv1").await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "the namespace is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn over(announcement: &Announcement) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !announcement.is_over() {
        assert!(Instant::now() < deadline, "it goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn an_address_is_announced_as_often_as_wanted() {
    in_fresh_namespace(|| async {
        let mut listener = Listener::new().await;
        listener.heard();
        let start = Instant::now();
        let announcement = listener.announce(3, INTERVAL).await;
        let first = listener.heard();
        assert_eq!(first.len(), 1, "one at once");
        let frame = &first[0];
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &MAC[..]));
        assert_eq!(frame[20..22], [0, 1], "a request");
        assert_eq!((&frame[22..28], &frame[32..38]), (&MAC[..], &[0; 6][..]));
        assert_eq!(frame[28..32], ADDRESS.octets());
        assert_eq!(frame[38..42], ADDRESS.octets());

        over(&announcement).await;
        assert!(start.elapsed() >= 2 * INTERVAL);
        assert_eq!(listener.heard(), [frame.as_slice(), frame.as_slice()]);
        listener.vanishes_without_delay().await;
        drop(announcement);
    });
}

#[test]
fn a_dropped_announcement_is_over_at_once() {
    in_fresh_namespace(|| async {
        let mut listener = Listener::new().await;
        let announcement = listener.announce(3, INTERVAL).await;
        assert!(!announcement.is_over());
        drop(announcement);
        listener.heard();
        tokio::time::sleep(3 * INTERVAL).await;
        assert_eq!(listener.heard(), [[0; 0]; 0]);

        let announcement = listener.announce(3, Duration::from_secs(60)).await;
        drop(announcement);
        listener.vanishes_without_delay().await;
    });
}

#[test]
fn one_announcement_needs_no_socket_afterwards_and_none_says_nothing() {
    in_fresh_namespace(|| async {
        let mut listener = Listener::new().await;
        listener.heard();
        let none = listener.announce(0, INTERVAL).await;
        assert!(none.is_over());
        assert_eq!(listener.heard(), [[0; 0]; 0]);
        let one = listener.announce(1, INTERVAL).await;
        assert!(one.is_over());
        assert_eq!(listener.heard().len(), 1);
        listener.vanishes_without_delay().await;
    });
}

#[test]
fn neighbours_that_remember_another_mac_learn_the_new_one() {
    in_fresh_namespace(|| async {
        let listener = Listener::new().await;
        run("ip neigh replace 172.17.0.2 lladdr 02:00:00:00:00:99 dev kl0 nud reachable");
        let _announcement = listener.announce(1, INTERVAL).await;
        let neighbour = run("ip neigh show 172.17.0.2 dev kl0");
        assert!(
            neighbour.contains("lladdr 02:42:ac:11:00:02"),
            "{neighbour}"
        );
    });
}

#[test]
fn an_ipv6_address_is_announced_beside_the_other() {
    in_fresh_namespace(|| async {
        let listener = Listener::new().await;
        let address = "2001:db8:d::2";
        run("sysctl -w net.ipv6.conf.kl0.disable_ipv6=0");
        run("ip addr add 2001:db8:d::1/64 dev kl0 nodad");
        for address in [address, "172.17.0.2"] {
            let old = "lladdr 02:00:00:00:00:99 dev kl0 nud reachable";
            run(&format!("ip neigh replace {address} {old}"));
        }
        let namespace = listener.container().as_fd();
        let addresses = [ADDRESS.into(), address.parse().unwrap()];
        let announcement = announce(namespace, "eth0", MAC, &addresses, 1, INTERVAL).await;
        assert!(announcement.unwrap().is_over());
        for address in [address, "172.17.0.2"] {
            let neighbour = run(&format!("ip neigh show {address} dev kl0"));
            assert!(neighbour.contains("02:42:ac:11:00:02"), "{neighbour}");
        }
    });
}

#[test]
fn an_announcement_that_is_not_true_any_more_ends() {
    in_fresh_namespace(|| async {
        let listener = Listener::new().await;
        let announcement = listener.announce(3, INTERVAL).await;
        listener.heard();
        run_inside(
            listener.container(),
            "ip link set eth0 address 02:00:00:00:00:01",
        );
        over(&announcement).await;
        let of_ours = listener.heard();
        assert!(of_ours.iter().all(|f| f[22..28] != MAC), "{of_ours:?}");

        for (interface, mac, reason) in [
            ("eth0", MAC, "it has another MAC address"),
            ("eth1", MAC, "No such device"),
            ("lo", [0; 6], ""),
        ] {
            let namespace = listener.container().as_fd();
            let result = announce(namespace, interface, mac, &[ADDRESS.into()], 1, INTERVAL).await;
            match result {
                Ok(_) => assert_eq!(interface, "lo"),
                Err(error) => {
                    let text = error.to_string();
                    let start = format!("announce 172.17.0.2 on interface {interface}: {reason}");
                    assert!(text.starts_with(&start), "{text}");
                }
            }
        }
    });
}
