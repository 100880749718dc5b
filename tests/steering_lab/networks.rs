//! A second network in the lab, and a container that is on both.
//!
//! ```text
//!  host                                c1                       c3
//!  c1h ── tb0 172.17.0.1/16            eth0 172.17.0.2/16
//!  c1i ─┬ tb1 172.18.0.1/16            eth1 172.18.0.3/16
//!  c3h ─┘                                                       eth0 172.18.0.2/16
//! ```

use tunbridge::steering::{ContainerPort, LocalAddress, Steering, Subnet};

use super::{Lab, Netns, ip};

pub const GATEWAY2: &str = "172.18.0.1";
pub const C3: &str = "172.18.0.2";
/// The first container's address on the second network.
pub const C1_ON_2: &str = "172.18.0.3";

/// The second network.
#[derive(Debug)]
pub struct Second<'a> {
    lab: &'a Lab,
    pub c3: Netns,
}

impl<'a> Second<'a> {
    /// Builds it and makes steering know it. Call it in the host namespace.
    pub fn build(lab: &'a Lab, steering: &mut Steering) -> Self {
        let second = Self {
            lab,
            c3: Netns::new("c3"),
        };
        lab.host.sh(
            "ip link add tb1 type bridge && ip addr add 172.18.0.1/16 dev tb1 && \
             ip link set tb1 address 02:42:ac:12:00:01 up",
        );
        for (port, container, interface, last) in
            [("c3h", &second.c3, "eth0", 2), ("c1i", &lab.c1, "eth1", 3)]
        {
            lab.host.sh(&format!(
                "ip link add {port} type veth peer name {interface} netns {} && \
                 ip link set {port} master tb1 up",
                container.name
            ));
            container.sh(&format!(
                "ip link set {interface} address 02:42:ac:12:00:0{last} up && \
                 ip addr add 172.18.0.{last}/16 dev {interface}"
            ));
            container.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1");
        }
        second.c3.sh("ip route add default via 172.18.0.1");
        let mut locals = lab.local_addresses();
        locals.push(LocalAddress {
            address: ip(GATEWAY2),
            if_index: lab.host.if_index("tb1"),
            mac: lab.host.mac("tb1"),
            ethernet: true,
        });
        steering.set_local_addresses(&locals).unwrap();
        steering
            .set_subnets(&[lab.subnet(), second.subnet()])
            .unwrap();
        for port in [second.port("c3h"), second.port("c1i")] {
            steering.attach_container(&port).unwrap();
        }
        second
    }

    pub fn subnet(&self) -> Subnet {
        Subnet {
            prefix: "172.18.0.0/16".parse().unwrap(),
            bridge_if_index: self.lab.host.if_index("tb1"),
            bridge_mac: self.lab.host.mac("tb1"),
            routed: false,
        }
    }

    /// `c3h` or `c1i`.
    pub fn port(&self, name: &str) -> ContainerPort {
        let last = if name == "c3h" { 2 } else { 3 };
        ContainerPort {
            if_index: self.lab.host.if_index(name),
            addresses: vec![ip(&format!("172.18.0.{last}"))],
            ipv6: false,
            mac: [2, 0x42, 0xac, 0x12, 0, last],
            bridge_if_index: self.lab.host.if_index("tb1"),
            bridge_mac: self.lab.host.mac("tb1"),
            icc: true,
            linked: false,
            internal: false,
            container: 0,
            queued: false,
            policer: None,
        }
    }
}
