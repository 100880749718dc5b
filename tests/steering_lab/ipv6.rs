//! The lab with IPv6, too.
//!
//! ```text
//!   wan                            host                                   c1, c2
//!  ┌───────────────────┐  veth  ┌───────────────────────────┐  veth  ┌───────────────┐
//!  │ up0               ├────────┤ up0            c1h ─┐      ├────────┤ eth0          │
//!  │ 2001:db8:1::2/64  │        │ 2001:db8:1::1  c2h ─┴ tb0 │        │ fd00:17::2/64 │
//!  └───────────────────┘        │ fd00:17::1/64, fe80::1/64 │        │ fd00:17::3/64 │
//!                               └───────────────────────────┘        └───────────────┘
//! ```

use tunbridge::steering::{ContainerPort, LocalAddress, Subnet};

use super::bench::Bench;
use super::frames::{self, TYPE_IPV6};
use super::tun::Tun;
use super::{Lab, ip};

pub const WAN6: &str = "2001:db8:1::2";
pub const UPLINK6: &str = "2001:db8:1::1";
pub const GATEWAY6: &str = "fd00:17::1";
pub const C1_6: &str = "fd00:17::2";
pub const C2_6: &str = "fd00:17::3";
pub const GATEWAY_LL: &str = "fe80::1";
pub const C1_LL: &str = "fe80::42:acff:fe11:2";
pub const C2_LL: &str = "fe80::42:acff:fe11:3";

/// A firewall that lets nothing in but Neighbour Discovery, as each that works does, and nothing through.
pub const DROP_ALL6: &str = "chain i { type filter hook input priority 0; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }
    chain f { type filter hook forward priority 0; policy drop; }";

/// Loads nftables chains in the thread's namespace.
pub fn firewall6(chains: &str) {
    let script = format!(
        "table ip6 test6 {{\n{}\n}}",
        chains
            .replace("; ", ";\n")
            .replace("{ type filter", "{\ntype filter")
    );
    super::sh(&format!("nft -f - <<'END'\n{script}\nEND"));
}

impl Lab {
    /// Gives everybody IPv6 addresses. Call it in the host namespace.
    pub fn add_ipv6(&self) {
        for (container, address) in [(&self.c1, C1_6), (&self.c2, C2_6)] {
            container.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
            container.sysctl("net/ipv6/conf/eth0/router_solicitations", "0");
            container.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
            container.sh(&format!(
                "ip addr add {address}/64 dev eth0 nodad && ip -6 route add default via {GATEWAY6}"
            ));
        }
        self.wan.sh(&format!("ip addr add {WAN6}/64 dev up0 nodad"));
        self.host.sh(&format!(
            "ip addr add {UPLINK6}/64 dev up0 nodad && ip addr add {GATEWAY6}/64 dev tb0 nodad && \
             ip addr add {GATEWAY_LL}/64 dev tb0 nodad"
        ));
        self.host.sysctl("net/ipv6/conf/all/forwarding", "0");
    }

    pub fn container_port6(&self, number: u8, icc: bool) -> ContainerPort {
        let mut port = self.container_port(number, icc);
        port.addresses.push(ip(&format!("fd00:17::{}", number + 1)));
        port.ipv6 = true;
        port
    }

    pub fn local_addresses6(&self) -> Vec<LocalAddress> {
        let mut all = self.local_addresses();
        for (address, interface) in [
            ("::1", "lo"),
            (UPLINK6, "up0"),
            (GATEWAY6, "tb0"),
            (GATEWAY_LL, "tb0"),
        ] {
            all.push(LocalAddress {
                address: ip(address),
                if_index: self.host.if_index(interface),
                mac: self.host.mac(interface),
                ethernet: true,
            });
        }
        all
    }

    pub fn subnet6(&self) -> Subnet {
        Subnet {
            prefix: "fd00:17::/64".parse().unwrap(),
            ..self.subnet()
        }
    }
}

impl<'a> Bench<'a> {
    /// With IPv6 everywhere.
    pub fn new6(lab: &'a Lab) -> Self {
        lab.add_ipv6();
        let mut bench = Self::new(lab);
        lab.host.sysctl("net/ipv6/conf/tun0/forwarding", "1");
        bench
            .steering
            .set_local_addresses(&lab.local_addresses6())
            .unwrap();
        bench
            .steering
            .set_subnets(&[lab.subnet(), lab.subnet6()])
            .unwrap();
        for number in [1, 2] {
            bench
                .steering
                .attach_container(&lab.container_port6(number, true))
                .unwrap();
        }
        bench
    }

    pub fn run6(test: impl FnOnce(Bench<'_>) + Send) {
        Lab::run(|lab| test(Bench::new6(lab)));
    }

    /// Makes both containers' network one without icc.
    pub fn icc_off(&mut self, linked: [bool; 2]) {
        for (number, linked) in [(1, linked[0]), (2, linked[1])] {
            let mut port = self.lab.container_port6(number, false);
            port.linked = linked;
            self.steering.attach_container(&port).unwrap();
        }
    }

    /// Sends an IPv6 packet from the first container to a MAC address.
    pub fn c1_sends6_to(&self, mac: [u8; 6], packet: &[u8]) {
        self.c1_sends_frame(&frames::ethernet(self.mac(1), mac, TYPE_IPV6, packet));
    }

    /// Sends an IPv6 packet from the first container to the gateway's MAC.
    pub fn c1_sends6(&self, packet: &[u8]) {
        self.c1_sends6_to(self.lab.host.mac("tb0"), packet);
    }

    /// Sends an IPv6 packet from the first container to the MAC of its multicast group.
    pub fn c1_multicasts6(&self, packet: &[u8]) {
        let group = [0x33, 0x33, packet[36], packet[37], packet[38], packet[39]];
        self.c1_sends6_to(group, packet);
    }

    /// Sends an IPv6 packet from the wan to the host's MAC.
    pub fn wan_sends6(&self, packet: &[u8]) {
        let (wan, host) = (self.lab.wan.mac("up0"), self.lab.host.mac("up0"));
        let frame = frames::ethernet(wan, host, TYPE_IPV6, packet);
        self.lab.wan.run(|| frames::send("up0", &frame).unwrap());
    }
}

/// A TUN in the host that the kernel sends nothing into by itself.
pub fn open_tun(lab: &Lab) -> Tun {
    let tun = Tun::open("tun0");
    lab.host.sysctl("net/ipv4/conf/tun0/forwarding", "1");
    lab.host.sysctl("net/ipv6/conf/tun0/forwarding", "1");
    tun
}
