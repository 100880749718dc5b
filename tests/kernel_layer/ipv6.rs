//! IPv6 on bridges and in containers.

use super::*;

const V6: &str = "2001:db8:d::242:ac11:2/64";
const ROUTER: (&str, &str) = ("eth0", "2001:db8:d::1");

fn bridge6() -> BridgeSpec {
    BridgeSpec {
        addresses: vec![net("172.17.0.1/16"), net("2001:db8:d::1/64")],
        ipv6: true,
        ..bridge_spec()
    }
}

/// The IPv6 addresses of an interface, sorted.
async fn addresses6(netlink: &Netlink, name: &str) -> Vec<String> {
    let index = netlink.link(name).await.unwrap().unwrap().index;
    let all = netlink.addresses().await.unwrap();
    let own = all.iter().filter(|a| a.if_index == index);
    let mut own: Vec<String> = own
        .filter(|a| a.address.addr().is_ipv6())
        .map(|a| a.address.to_string())
        .collect();
    own.sort();
    own
}

fn parameter(interface: &str, name: &str) -> String {
    sysctl::get(&["net", "ipv6", "conf", interface, name]).unwrap()
}

fn routes(namespace: &OwnedFd) -> Vec<String> {
    let text = run_inside(namespace, "ip -6 route show");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_bridge_with_ipv6_is_complete_and_making_it_again_changes_nothing() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        // As on a host whose administrator has switched it off.
        run("sysctl -w net.ipv6.conf.all.disable_ipv6=1");
        netlink.ensure_bridge(&bridge6()).await.unwrap();
        let expected = ["2001:db8:d::1/64", "fe80::1/64"];
        assert_eq!(addresses6(&netlink, "kl0").await, expected);
        assert_eq!(
            (
                parameter("kl0", "disable_ipv6"),
                parameter("kl0", "accept_ra")
            ),
            ("0".into(), "0".into())
        );
        let shown = run("ip -6 addr show dev kl0");
        assert!(!shown.contains("tentative"), "{shown}");
        let shown = run("ip -6 route show dev kl0");
        assert!(shown.contains("2001:db8:d::/64"), "{shown}");

        let mut watcher = Watcher::new().unwrap();
        drain(&mut watcher).await;
        for _ in 0..2 {
            netlink.ensure_bridge(&bridge6()).await.unwrap();
        }
        assert_eq!(drain(&mut watcher).await, []);

        // The kernel takes the addresses of an interface that goes down, unlike those of IPv4.
        run("ip link set kl0 down");
        assert_eq!(addresses6(&netlink, "kl0").await, [""; 0]);
        netlink.ensure_bridge(&bridge6()).await.unwrap();
        assert_eq!(addresses6(&netlink, "kl0").await, expected);
        let shown = run("ip -6 route show dev kl0");
        assert!(shown.contains("2001:db8:d::/64"), "{shown}");
    });
}

#[test]
fn prefixes_that_a_bridge_had_are_gone_and_its_own_link_local_address_stays() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        netlink.ensure_bridge(&bridge6()).await.unwrap();
        run("ip link add klp0 master kl0 up type veth peer klp1 && ip link set klp1 up");
        run("ip addr add 2001:db8:e::1/64 dev kl0; ip addr add 2001:db8:d::9/80 dev kl0");
        let own = "fe80::ff:fe00:b1/64";
        let start = Instant::now();
        while !addresses6(&netlink, "kl0").await.contains(&own.to_owned()) {
            assert!(start.elapsed() < Duration::from_secs(5), "no address");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let spec = BridgeSpec {
            addresses: vec![net("172.17.0.1/16"), net("fd00:5::1/80")],
            ..bridge6()
        };
        netlink.ensure_bridge(&spec).await.unwrap();
        let expected = ["fd00:5::1/80", "fe80::1/64", own];
        assert_eq!(addresses6(&netlink, "kl0").await, expected);
        let shown = run("ip -6 route show dev kl0");
        assert!(!shown.contains("2001:db8"), "{shown}");

        // The same address with another prefix length, and one that detection of duplicates took away.
        run("ip addr del fd00:5::1/80 dev kl0; ip addr add fd00:5::1/64 dev kl0");
        netlink.ensure_bridge(&spec).await.unwrap();
        assert_eq!(addresses6(&netlink, "kl0").await, expected);
        let shown = run("ip -6 addr show dev kl0 scope global");
        assert!(!shown.contains("tentative"), "{shown}");

        // The network loses IPv6, and keeps IPv4.
        netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        assert_eq!(addresses6(&netlink, "kl0").await, [""; 0]);
        assert_eq!(parameter("kl0", "disable_ipv6"), "1");
        netlink.ensure_bridge(&spec).await.unwrap();
        assert_eq!(addresses6(&netlink, "kl0").await[0], "fd00:5::1/80");
    });
}

#[test]
fn a_bridge_of_the_user_gets_only_what_it_lacks() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add mybr type bridge; ip link set mybr addrgenmode none");
        run("sysctl -w net.ipv6.conf.mybr.accept_ra=2");
        run("ip link set mybr up; ip addr add 2001:db8:9::1/64 dev mybr nodad");
        run("ip addr add fe80::1/128 dev mybr nodad");
        let spec = BridgeSpec {
            name: "mybr".into(),
            user_managed: true,
            ..bridge6()
        };
        for _ in 0..2 {
            netlink.ensure_bridge(&spec).await.unwrap();
            let expected = ["2001:db8:9::1/64", "2001:db8:d::1/64", "fe80::1/128"];
            assert_eq!(addresses6(&netlink, "mybr").await, expected);
        }
        assert_eq!(parameter("mybr", "accept_ra"), "2");
        let without = BridgeSpec {
            addresses: bridge_spec().addresses,
            ipv6: false,
            ..spec.clone()
        };
        netlink.ensure_bridge(&without).await.unwrap();
        assert_eq!(addresses6(&netlink, "mybr").await.len(), 3);
        run("sysctl -w net.ipv6.conf.mybr.disable_ipv6=1");
        netlink.ensure_bridge(&spec).await.unwrap();
        let expected = ["2001:db8:d::1/64", "fe80::1/64"];
        assert_eq!(addresses6(&netlink, "mybr").await, expected);
    });
}

#[test]
fn a_bridge_that_cannot_have_ipv6_says_why() {
    in_fresh_namespace(|| async {
        // Before there are other threads of this runtime, which would see the mounts of before.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate / && mount --bind /proc/sys /proc/sys");
        let netlink = Netlink::new().unwrap();
        let narrow = BridgeSpec {
            mtu: 1279,
            ..bridge6()
        };
        let error = netlink.ensure_bridge(&narrow).await.unwrap_err();
        let text =
            "Cannot read IPv6 setup for bridge kl0: its MTU is 1279, and IPv6 needs 1280 at least";
        assert_eq!(error.to_string(), text);
        assert!(netlink.link("kl0").await.unwrap().is_none(), "nothing left");
        // A bridge that had such an MTU has IPv6 again with a larger one.
        let narrow = BridgeSpec {
            mtu: 1279,
            ..bridge_spec()
        };
        netlink.ensure_bridge(&narrow).await.unwrap();
        netlink.ensure_bridge(&bridge6()).await.unwrap();
        assert_eq!(addresses6(&netlink, "kl0").await.len(), 2);
        assert_eq!(parameter("kl0", "accept_ra"), "0");
        netlink.delete_link("kl0").await.unwrap();

        // As in a container that may not write.
        run("mount -o remount,ro,bind /proc/sys");
        run("ip link add kl0 type bridge; ip link add klv8 type veth peer klv9");
        let error = netlink
            .ensure_bridge(&bridge6())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("sysctl net.ipv6.conf.kl0.accept_ra: "),
            "{error}"
        );
        let user = BridgeSpec {
            user_managed: true,
            ..bridge6()
        };
        let bridge = netlink.ensure_bridge(&user).await.unwrap();
        let container = anonymous_namespace();
        // IPv6 is on in new interfaces, and it may not be switched off.
        let error = netlink.create_veth(&veth_spec(&container, &bridge)).await;
        let error = error.unwrap_err().to_string();
        let text = "failed to disable IPv6 on container's interface eth0: ";
        assert!(error.starts_with(text), "{error}");
        assert!(
            netlink.link("klv1").await.unwrap().is_none(),
            "nothing left"
        );
    });
}

#[test]
fn a_containers_interface_has_both_families_at_once() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge6()).await.unwrap();
        let container = anonymous_namespace();
        run_inside(
            &container,
            "sysctl -w net.ipv6.conf.default.addr_gen_mode=3",
        );
        let spec = VethSpec {
            addresses: &[V4, net(V6)],
            ipv6: true,
            ..veth_spec(&container, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
        // No second for the detection of duplicates.
        run_inside(&container, "ping -6 -c 1 -W 1 2001:db8:d::1");
        let inside = Netlink::in_namespace(container.as_fd()).unwrap();
        let expected = ["2001:db8:d::242:ac11:2/64", "fe80::42:acff:fe11:2/64"];
        assert_eq!(addresses6(&inside, "eth0").await, expected);
        let value = |name: &str| {
            let path = format!("cat /proc/sys/net/ipv6/conf/eth0/{name}");
            run_inside(&container, &path).trim().to_owned()
        };
        // What Docker leaves.
        let left = ["disable_ipv6", "accept_ra", "accept_dad"].map(value);
        assert_eq!(left, ["0", "1", "1"]);
        assert_eq!(parameter("klv1", "disable_ipv6"), "1", "the host's end");
        assert_eq!(
            routes(&container)[..2],
            [
                "2001:db8:d::/64 dev eth0 proto kernel metric 256 pref medium",
                "fe80::/64 dev eth0 proto kernel metric 256 pref medium"
            ]
        );

        netlink.delete_link("klv1").await.unwrap();
        let only = VethSpec {
            addresses: &[net(V6)],
            ..spec
        };
        netlink.create_veth(&only).await.unwrap();
        assert_eq!(addresses6(&inside, "eth0").await[0], V6);
        assert_eq!(run_inside(&container, "ip -4 addr show dev eth0"), "");
    });
}

#[test]
fn a_container_whose_user_has_switched_ipv6_off_gets_none() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge6()).await.unwrap();
        let container = anonymous_namespace();
        let namespace = || container.as_fd();
        assert!(Netlink::uses_ipv6(namespace()).await.unwrap());
        run_inside(&container, "sysctl -w net.ipv6.conf.all.disable_ipv6=1");
        assert!(!Netlink::uses_ipv6(namespace()).await.unwrap());
        let spec = VethSpec {
            addresses: &[V4, net(V6)],
            ipv6: true,
            ..veth_spec(&container, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
        let hop = ("eth0", "2001:db8:d::1".parse().unwrap());
        Netlink::set_default_gateway(namespace(), Some(hop), &[hop], false)
            .await
            .unwrap();
        Netlink::readdress(namespace(), "eth0", &[net(V6)], &[net("fd00::2/64")], true)
            .await
            .unwrap();
        assert_eq!(run_inside(&container, "ip -6 addr"), "");
        run_inside(&container, "ping -c 1 -W 1 172.17.0.1");

        // By a parameter of this interface alone.
        run_inside(&container, "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
        netlink.delete_link("klv1").await.unwrap();
        let off = EndpointSysctl {
            family: "ipv6".to_owned(),
            group: "conf".to_owned(),
            parameter: "disable_ipv6".to_owned(),
            value: "1".to_owned(),
        };
        let spec = VethSpec {
            sysctls: &[off],
            ..spec
        };
        netlink.create_veth(&spec).await.unwrap();
        assert_eq!(run_inside(&container, "ip -6 addr show dev eth0"), "");

        // A network of IPv4 alone, though the container would like IPv6.
        netlink.delete_link("klv1").await.unwrap();
        netlink
            .create_veth(&veth_spec(&container, &bridge))
            .await
            .unwrap();
        assert_eq!(run_inside(&container, "ip -6 addr show dev eth0"), "");
        assert!(Netlink::uses_ipv6(namespace()).await.unwrap());
    });
}

#[test]
fn conflicts_of_ipv6_inside_the_container_are_named() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge6()).await.unwrap();
        let container = anonymous_namespace();
        run_inside(
            &container,
            "ip link add other0 up type veth peer other1 && ip link set other1 up",
        );
        run_inside(&container, "ip addr add 2001:db8:d:0:9::1/80 dev other0");
        let spec = VethSpec {
            addresses: &[V4, net(V6)],
            ipv6: true,
            ..veth_spec(&container, &bridge)
        };
        let error = netlink.create_veth(&spec).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot program address 2001:db8:d::242:ac11:2/64 in sandbox interface because it \
             conflicts with existing route 2001:db8:d:0:9::/80 dev other0"
        );
        assert!(
            netlink.link("klv1").await.unwrap().is_none(),
            "nothing left"
        );
        // Link-local addresses conflict with nobody's.
        let spec = VethSpec {
            addresses: &[net("fe80::242:ac11:2/64")],
            ..spec
        };
        netlink.create_veth(&spec).await.unwrap();
    });
}

/// A container on two networks of both families, `eth0` and `eth1`.
async fn on_two_networks(netlink: &Netlink) -> OwnedFd {
    let namespace = anonymous_namespace();
    for (n, host_name, name) in [("d", "klv1", "eth0"), ("e", "klv2", "eth1")] {
        let spec = BridgeSpec {
            name: format!("kl{n}"),
            addresses: vec![net(&format!("2001:db8:{n}::1/64"))],
            ..bridge6()
        };
        let bridge = netlink.ensure_bridge(&spec).await.unwrap();
        let spec = VethSpec {
            host_name,
            container_name: name,
            addresses: &[net(&format!("2001:db8:{n}::2/64"))],
            ipv6: true,
            ..veth_spec(&namespace, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
    }
    namespace
}

async fn set_gateway(
    namespace: &OwnedFd,
    wanted: Option<(&str, &str)>,
    ours: &[(&str, &str)],
) -> Result<(), String> {
    let hop = |(name, gateway): (&'static str, &'static str)| (name, gateway.parse().unwrap());
    let find = |wanted: (&str, &str)| {
        let all = [ROUTER, SECOND, LINK_LOCAL, FAR, NOWHERE];
        hop(all.into_iter().find(|known| *known == wanted).unwrap())
    };
    let ours: Vec<(&str, IpAddr)> = ours.iter().copied().map(find).collect();
    Netlink::set_default_gateway(namespace.as_fd(), wanted.map(find), &ours, false)
        .await
        .map_err(|error| error.to_string())
}

const SECOND: (&str, &str) = ("eth1", "2001:db8:e::1");
const LINK_LOCAL: (&str, &str) = ("eth1", "fe80::1");
const FAR: (&str, &str) = ("eth1", "2001:db8:ffff::1");
const NOWHERE: (&str, &str) = ("eth7", "2001:db8:e::1");
const OURS: [(&str, &str); 3] = [ROUTER, SECOND, LINK_LOCAL];

fn defaults(namespace: &OwnedFd) -> Vec<String> {
    let text = run_inside(namespace, "ip -6 route show default");
    text.lines()
        .map(|line| line.trim().trim_end_matches(" pref medium").to_owned())
        .collect()
}

const VIA_ROUTER: &str = "default via 2001:db8:d::1 dev eth0 metric 1024";
const VIA_SECOND: &str = "default via 2001:db8:e::1 dev eth1 metric 1024";
const VIA_LINK_LOCAL: &str = "default via fe80::1 dev eth1 metric 1024";

#[test]
fn the_default_route_of_ipv6_moves_between_networks() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let container = on_two_networks(&netlink).await;
        assert_eq!(defaults(&container), [""; 0]);
        for (wanted, shown) in [
            (ROUTER, VIA_ROUTER),
            (SECOND, VIA_SECOND),
            (LINK_LOCAL, VIA_LINK_LOCAL),
            (ROUTER, VIA_ROUTER),
        ] {
            for _ in 0..2 {
                set_gateway(&container, Some(wanted), &OURS).await.unwrap();
                assert_eq!(defaults(&container), [shown]);
            }
        }
        // IPv4's is another matter.
        Netlink::set_default_gateway(container.as_fd(), None, &[], true)
            .await
            .unwrap();
        assert_eq!(defaults(&container), [VIA_ROUTER]);
        netlink.delete_link("klv1").await.unwrap();
        assert_eq!(defaults(&container), [""; 0]);
        set_gateway(&container, Some(LINK_LOCAL), &OURS)
            .await
            .unwrap();
        run_inside(&container, "ping -6 -c 1 -W 1 2001:db8:d::1");
        for _ in 0..2 {
            set_gateway(&container, None, &OURS).await.unwrap();
            assert_eq!(defaults(&container), [""; 0]);
        }
    });
}

#[test]
fn a_default_route_of_ipv6_that_is_the_users_is_never_touched() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let container = on_two_networks(&netlink).await;
        let inside = |command: &str| run_inside(&container, command);
        let in_the_way = Err("failed to set gateway: file exists".to_owned());
        let of_the_user = "default via 2001:db8:d::99 dev eth0 metric 1024";

        inside("ip -6 route add default via 2001:db8:d::99");
        assert_eq!(
            set_gateway(&container, Some(SECOND), &OURS).await,
            in_the_way
        );
        set_gateway(&container, None, &OURS).await.unwrap();
        assert_eq!(defaults(&container), [of_the_user]);

        // He adds one to ours: the kernel shares the traffic between them, and lists them as one.
        inside("ip -6 route del default");
        set_gateway(&container, Some(ROUTER), &OURS).await.unwrap();
        inside("ip -6 route append default via 2001:db8:d::99");
        assert_eq!(defaults(&container).len(), 3, "{:?}", defaults(&container));
        set_gateway(&container, Some(ROUTER), &OURS).await.unwrap();
        assert_eq!(
            set_gateway(&container, Some(SECOND), &OURS).await,
            in_the_way
        );
        assert_eq!(defaults(&container).len(), 3);
        set_gateway(&container, None, &OURS).await.unwrap();
        assert_eq!(defaults(&container), [of_the_user]);

        // Others of his that are in nobody's way.
        inside("ip -6 route del default");
        inside("ip -6 route add default via 2001:db8:d::98 metric 5");
        inside("ip -6 route add default via 2001:db8:d::1 metric 7");
        inside("ip -6 route add default via 2001:db8:d::96 table 7");
        set_gateway(&container, Some(ROUTER), &OURS).await.unwrap();
        set_gateway(&container, Some(SECOND), &OURS).await.unwrap();
        let left = [
            "default via 2001:db8:d::98 dev eth0 metric 5",
            "default via 2001:db8:d::1 dev eth0 metric 7",
        ];
        assert_eq!(defaults(&container), [left[0], left[1], VIA_SECOND]);
        set_gateway(&container, None, &OURS).await.unwrap();
        assert_eq!(defaults(&container), left);
        let other_table = inside("ip -6 route show table 7");
        assert!(other_table.contains("via 2001:db8:d::96"), "{other_table}");
    });
}

#[test]
fn a_gateway_of_ipv6_that_cannot_be_leaves_the_one_there_was() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let container = on_two_networks(&netlink).await;
        set_gateway(&container, Some(ROUTER), &OURS).await.unwrap();
        for (wanted, text) in [(FAR, "no route to host"), (NOWHERE, "no such device")] {
            let error = set_gateway(&container, Some(wanted), &OURS).await;
            assert_eq!(error, Err(format!("failed to set gateway: {text}")));
            assert_eq!(defaults(&container), [VIA_ROUTER]);
        }
    });
}

#[test]
fn addresses_change_in_a_container_that_runs() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge6()).await.unwrap();
        let container = anonymous_namespace();
        let spec = VethSpec {
            addresses: &[V4, net(V6)],
            ipv6: true,
            ..veth_spec(&container, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
        set_gateway(&container, Some(ROUTER), &[ROUTER])
            .await
            .unwrap();
        let inside = Netlink::in_namespace(container.as_fd()).unwrap();
        let readdress = async |gone: &[IpNet], new: &[IpNet], ipv6| {
            Netlink::readdress(container.as_fd(), "eth0", gone, new, ipv6)
                .await
                .unwrap();
        };
        let other = "fd00:7::2/80";
        for _ in 0..2 {
            readdress(&[net(V6)], &[net(other)], true).await;
            let expected = [other, "fe80::42:acff:fe11:2/64"];
            assert_eq!(addresses6(&inside, "eth0").await, expected);
            let shown = run_inside(&container, "ip -6 addr show dev eth0 scope global");
            assert!(!shown.contains("tentative"), "{shown}");
        }
        run_inside(&container, "ping -c 1 -W 1 172.17.0.1");

        // IPv6 goes from the network, and comes back.
        readdress(&[net(other)], &[], false).await;
        assert_eq!(run_inside(&container, "ip -6 addr show dev eth0"), "");
        assert_eq!(defaults(&container), [""; 0]);
        readdress(&[], &[net(V6)], true).await;
        assert_eq!(addresses6(&inside, "eth0").await[0], V6);
        set_gateway(&container, Some(ROUTER), &[ROUTER])
            .await
            .unwrap();
        run_inside(&container, "ping -6 -c 3 -i 0.5 -W 2 2001:db8:d::1");
        let error = Netlink::readdress(container.as_fd(), "eth7", &[], &[], true).await;
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("look up interface eth7: ")
        );
    });
}
