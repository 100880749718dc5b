//! Inside a container's namespace: interfaces by name, their sysctls, the way out.

use super::*;

/// A container on two networks, `eth0` and `eth1`.
struct Container {
    netlink: Netlink,
    namespace: OwnedFd,
}

const FIRST: (&str, IpAddr) = ("eth0", IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)));
const SECOND: (&str, IpAddr) = ("eth1", IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1)));

impl Container {
    async fn new() -> Self {
        let netlink = Netlink::new().unwrap();
        let namespace = anonymous_namespace();
        for (n, host_name, name) in [(7, "klv1", "eth0"), (8, "klv2", "eth1")] {
            let spec = BridgeSpec {
                name: format!("kl{n}"),
                addresses: vec![net(&format!("172.1{n}.0.1/16"))],
                ..bridge_spec()
            };
            let bridge = netlink.ensure_bridge(&spec).await.unwrap();
            let spec = VethSpec {
                host_name,
                container_name: name,
                addresses: &[net(&format!("172.1{n}.0.2/16"))],
                ..veth_spec(&namespace, &bridge)
            };
            netlink.create_veth(&spec).await.unwrap();
        }
        Self { netlink, namespace }
    }

    async fn set(
        &self,
        wanted: Option<(&str, IpAddr)>,
        ours: &[(&str, IpAddr)],
    ) -> Result<(), String> {
        Netlink::set_default_gateway(self.namespace.as_fd(), wanted, ours, true)
            .await
            .map_err(|error| error.to_string())
    }

    /// As `ip route` prints them: without a protocol, like Docker's.
    fn defaults(&self) -> Vec<String> {
        let text = run_inside(&self.namespace, "ip route show default");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

const VIA_FIRST: &str = "default via 172.17.0.1 dev eth0";
const VIA_SECOND: &str = "default via 172.18.0.1 dev eth1";

#[test]
fn interfaces_of_a_container_are_listed_by_name() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        let listed = Netlink::container_interfaces(container.namespace.as_fd())
            .await
            .unwrap();
        let names: Vec<(&str, String)> = listed
            .iter()
            .map(|i| (i.link.name.as_str(), format!("{:?}", i.addresses)))
            .collect();
        let expected = [
            ("eth0", "[172.17.0.2/16]".to_owned()),
            ("eth1", "[172.18.0.2/16]".to_owned()),
        ];
        assert_eq!(names, expected);
    });
}

#[test]
fn the_default_route_moves_between_networks() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        let both = [FIRST, SECOND];
        assert_eq!(container.defaults(), [""; 0]);
        container.set(Some(FIRST), &both).await.unwrap();
        assert_eq!(container.defaults(), [VIA_FIRST]);
        for _ in 0..2 {
            container.set(Some(SECOND), &both).await.unwrap();
            assert_eq!(container.defaults(), [VIA_SECOND]);
        }
        // The network that was the way out is left: the kernel has removed the route.
        container.netlink.delete_link("klv2").await.unwrap();
        assert_eq!(container.defaults(), [""; 0]);
        container.set(Some(FIRST), &both).await.unwrap();
        assert_eq!(container.defaults(), [VIA_FIRST]);
        // Only internal networks are left.
        container.set(None, &both).await.unwrap();
        assert_eq!(container.defaults(), [""; 0]);
        container.set(None, &both).await.unwrap();
    });
}

#[test]
fn there_is_always_a_default_route_while_it_moves() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        let both = [FIRST, SECOND];
        container.set(Some(FIRST), &both).await.unwrap();
        let namespace = container.namespace.try_clone().unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let watcher = std::thread::spawn(move || {
            netns::run_in(namespace.as_fd(), || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let (mut looks, mut gaps) = (0, 0);
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    looks += 1;
                    gaps += usize::from(socket.connect("192.0.2.1:9").is_err());
                }
                (looks, gaps)
            })
            .unwrap()
        });
        for n in 0..60 {
            let wanted = if n % 2 == 0 { SECOND } else { FIRST };
            container.set(Some(wanted), &both).await.unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (looks, gaps) = watcher.join().unwrap();
        assert!(looks > 100, "{looks}");
        assert_eq!(gaps, 0, "of {looks}");
    });
}

#[test]
fn a_default_route_of_the_users_is_never_touched() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        let both = [FIRST, SECOND];
        let inside = |command: &str| run_inside(&container.namespace, command);
        let in_the_way = Err("failed to set gateway: file exists".to_owned());

        inside("ip route add default via 172.17.0.99");
        let of_the_user = ["default via 172.17.0.99 dev eth0"];
        assert_eq!(container.set(Some(SECOND), &both).await, in_the_way);
        assert_eq!(container.defaults(), of_the_user);
        container.set(None, &both).await.unwrap();
        assert_eq!(container.defaults(), of_the_user);

        // The user puts one in front of ours, or replaces ours.
        inside("ip route del default; ip route add default via 172.17.0.1");
        inside("ip route prepend default via 172.17.0.99");
        assert_eq!(container.set(Some(SECOND), &both).await, in_the_way);
        assert_eq!(container.defaults(), [of_the_user[0], VIA_FIRST]);
        container.set(None, &both).await.unwrap();
        assert_eq!(container.defaults(), of_the_user);

        // Others of his that are in nobody's way.
        inside("ip route del default; ip route add default via 172.17.0.98 metric 5");
        inside("ip route add default via 172.17.0.97 tos 0x10");
        inside("ip route add default via 172.17.0.96 table 7");
        container.set(Some(FIRST), &both).await.unwrap();
        inside("ip route append default via 172.17.0.99");
        container.set(Some(SECOND), &both).await.unwrap();
        let left = [
            "default tos 0x10 via 172.17.0.97 dev eth0",
            VIA_SECOND,
            of_the_user[0],
            "default via 172.17.0.98 dev eth0 metric 5",
        ];
        assert_eq!(container.defaults(), left);
        let other_table = inside("ip route show table 7");
        assert!(other_table.contains("via 172.17.0.96"), "{other_table}");
    });
}

#[test]
fn a_route_that_an_earlier_version_made_is_ours_too() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        run_inside(
            &container.namespace,
            "ip route add default via 172.17.0.1 proto static",
        );
        let both = [FIRST, SECOND];
        container.set(Some(SECOND), &both).await.unwrap();
        assert_eq!(container.defaults(), [VIA_SECOND]);
    });
}

#[test]
fn a_gateway_that_cannot_be_leaves_the_one_there_was() {
    in_fresh_namespace(|| async {
        let container = Container::new().await;
        container.set(Some(FIRST), &[FIRST]).await.unwrap();
        let nowhere = ("eth1", IpAddr::from([192, 0, 2, 1]));
        for (wanted, text) in [
            (nowhere, "network is unreachable"),
            (("eth7", SECOND.1), "no such device"),
        ] {
            let error = container.set(Some(wanted), &[FIRST]).await.unwrap_err();
            assert_eq!(error, format!("failed to set gateway: {text}"));
            assert_eq!(container.defaults(), [VIA_FIRST]);
        }
        run_inside(&container.namespace, "ip link set eth1 down");
        let error = container.set(Some(SECOND), &[FIRST]).await.unwrap_err();
        assert!(error.starts_with("failed to set gateway: "), "{error}");
        assert_eq!(container.defaults(), [VIA_FIRST]);
    });
}

fn sysctl(group: &str, parameter: &str, value: &str) -> EndpointSysctl {
    EndpointSysctl {
        family: "ipv4".to_owned(),
        group: group.to_owned(),
        parameter: parameter.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn sysctls_of_an_endpoint_are_set_inside() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let sysctls = [
            sysctl("conf", "log_martians", "1"),
            sysctl("neigh", "app_solicit", "3"),
        ];
        let spec = VethSpec {
            container_name: "my.lan",
            sysctls: &sysctls,
            ..veth_spec(&container, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
        let value = |path: &str| run_inside(&container, &format!("cat /proc/sys/net/{path}"));
        assert_eq!(value("ipv4/conf/my.lan/log_martians"), "1\n");
        assert_eq!(value("ipv4/neigh/my.lan/app_solicit"), "3\n");
        assert_eq!(value("ipv4/conf/lo/log_martians"), "0\n");
        netlink.delete_link("klv1").await.unwrap();

        for (item, text) in [
            (
                sysctl("conf", "nonsense", "1"),
                "/proc/sys/net/ipv4/conf/eth0/nonsense is not a sysctl file",
            ),
            (
                sysctl("conf", "log_martians", "nonsense"),
                "unable to write to '/proc/sys/net/ipv4/conf/eth0/log_martians': ",
            ),
        ] {
            let spec = VethSpec {
                sysctls: &[item],
                ..veth_spec(&container, &bridge)
            };
            let error = netlink.create_veth(&spec).await.unwrap_err();
            assert!(error.to_string().starts_with(text), "{error}");
            assert!(
                netlink.link("klv1").await.unwrap().is_none(),
                "nothing left"
            );
        }
    });
}
