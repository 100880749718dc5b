//! Bridges, containers' interfaces, the TUN device.

use super::*;

#[test]
fn bridge_is_complete_and_making_it_again_changes_nothing() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let first = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        assert_eq!(first.mac, bridge_spec().mac);
        assert!(first.created);
        assert_eq!(first.mac[0] & 0b11, 0b10, "locally administered unicast");

        let link = netlink.link("kl0").await.unwrap().unwrap();
        assert_eq!((link.index, link.mac), (first.if_index, Some(first.mac)));
        assert_eq!(link.kind.as_deref(), Some("bridge"));
        assert_eq!(link.mtu, 1500);
        assert!(link.up && link.ethernet && !link.loopback);
        assert_eq!(
            sysctl::get(&["net", "ipv6", "conf", "kl0", "accept_ra"]).unwrap(),
            "0"
        );
        assert_eq!(
            sysctl::get(&["net", "ipv6", "conf", "kl0", "disable_ipv6"]).unwrap(),
            "1"
        );
        assert!(
            !run("ip -6 addr show dev kl0").contains("fe80"),
            "no link-local address"
        );

        let mut watcher = Watcher::new().unwrap();
        let second = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        assert_eq!(
            second,
            Bridge {
                created: false,
                ..first
            }
        );
        let events = drain(&mut watcher).await;
        assert!(!events.contains(&Event::AddressChanged), "{events:?}");
        assert!(!events.contains(&Event::RouteChanged), "{events:?}");

        let ipv6 = |disabled, accepts_advertisements| {
            Some(Ipv6Settings {
                disabled,
                accepts_advertisements,
                eui64: true,
            })
        };
        assert_eq!(link.ipv6, ipv6(true, false));
        run("sysctl -w net.ipv6.conf.kl0.accept_ra=1");
        let link = netlink.link("kl0").await.unwrap().unwrap();
        assert_eq!(link.ipv6, ipv6(true, true));
        run("sysctl -w net.ipv6.conf.all.disable_ipv6=0");
        let link = netlink.link("kl0").await.unwrap().unwrap();
        assert_eq!(link.ipv6, ipv6(false, true));
        netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        for (parameter, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
            let found = sysctl::get(&["net", "ipv6", "conf", "kl0", parameter]).unwrap();
            assert_eq!(found, value, "{parameter} was reset");
        }
    });
}

#[test]
fn bridge_keeps_its_mac_while_ports_come_and_go() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let mac = || async { netlink.link("kl0").await.unwrap().unwrap().mac.unwrap() };
        let ports = || {
            run("ip link add klp0 address 00:00:00:00:00:07 master kl0 up type veth peer klp1");
            run("ip link del klp0");
        };
        let made = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        ports();
        assert_eq!(mac().await, made.mac);
        netlink.delete_link("kl0").await.unwrap();

        // One that somebody else made takes the lowest MAC of its ports, until it is adopted.
        run("ip link add kl0 type bridge");
        let adopted = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        assert!(!adopted.created);
        ports();
        assert_eq!(mac().await, adopted.mac);
    });
}

#[test]
fn stale_addresses_and_mtu_of_a_bridge_are_replaced() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add kl0 type bridge && ip addr add 10.9.0.1/24 dev kl0");
        // Same address, wrong prefix; and a primary of the right network that would take the right
        // address along as its secondary.
        run("ip addr add 172.17.0.1/24 dev kl0 && ip addr add 172.17.0.9/16 dev kl0");
        run("ip addr add 172.17.0.1/16 dev kl0");
        let spec = BridgeSpec {
            mtu: 1400,
            ..bridge_spec()
        };
        let bridge = netlink.ensure_bridge(&spec).await.unwrap();
        assert_eq!(addresses4(&netlink, bridge.if_index).await, spec.addresses);
        assert_eq!(netlink.link("kl0").await.unwrap().unwrap().mtu, 1400);
    });
}

#[test]
fn a_bridge_of_the_user_must_exist_and_keeps_its_own_settings() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let spec = BridgeSpec {
            name: "mybr".into(),
            user_managed: true,
            ..bridge_spec()
        };
        let error = netlink.ensure_bridge(&spec).await.unwrap_err();
        let text = "bridge device with non default name mybr must be created manually";
        assert_eq!(error.to_string(), text);

        run("ip link add mybr mtu 1300 type bridge && ip addr add 10.9.0.1/24 dev mybr");
        for _ in 0..2 {
            let bridge = netlink.ensure_bridge(&spec).await.unwrap();
            let addresses: BTreeSet<_> = addresses4(&netlink, bridge.if_index)
                .await
                .into_iter()
                .collect();
            let other = "10.9.0.1/24".parse().unwrap();
            assert_eq!(addresses, BTreeSet::from([other, spec.addresses[0]]));
        }
        let link = netlink.link("mybr").await.unwrap().unwrap();
        assert_eq!((link.mtu, link.up), (1300, true));
    });
}

#[test]
fn a_bridge_that_has_lost_its_last_port_gets_its_ethernet_address_from_the_next() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add mybr type bridge");
        let spec = BridgeSpec {
            name: "mybr".into(),
            user_managed: true,
            ..bridge_spec()
        };
        let container = anonymous_namespace();
        let mac = || async { netlink.link("mybr").await.unwrap().unwrap().mac };
        let first = netlink.ensure_bridge(&spec).await.unwrap().mac;
        for expected in [first, spec.mac] {
            let bridge = netlink.ensure_bridge(&spec).await.unwrap();
            assert_eq!(bridge.mac, expected);
            let veth = veth_spec(&container, &bridge);
            netlink.create_veth(&veth).await.unwrap();
            assert_eq!(
                mac().await,
                Some(expected),
                "what the port was told is true"
            );
            run(&format!("ip link delete {}", veth.host_name));
            assert_eq!(mac().await, Some([0; 6]));
        }
    });
}

#[test]
fn a_bridge_may_have_no_address() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let spec = BridgeSpec {
            addresses: Vec::new(),
            ..bridge_spec()
        };
        let made = netlink.ensure_bridge(&spec).await.unwrap();
        assert!(made.created);
        assert!(netlink.link("kl0").await.unwrap().unwrap().up);
        assert_eq!(addresses4(&netlink, made.if_index).await, []);
        let container = anonymous_namespace();
        let isolated = VethSpec {
            ..veth_spec(&container, &made)
        };
        netlink.create_veth(&isolated).await.unwrap();

        // The network had one before, and again later.
        run("ip addr add 172.17.0.1/16 dev kl0; ip addr add 10.9.0.1/24 dev kl0");
        netlink.ensure_bridge(&spec).await.unwrap();
        assert_eq!(addresses4(&netlink, made.if_index).await, []);
        netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let address = bridge_spec().addresses;
        assert_eq!(addresses4(&netlink, made.if_index).await, address);

        let of_the_user = BridgeSpec {
            user_managed: true,
            ..spec
        };
        netlink.ensure_bridge(&of_the_user).await.unwrap();
        assert_eq!(
            addresses4(&netlink, made.if_index).await,
            address,
            "the user's stay"
        );
    });
}

#[test]
fn many_bridges_are_made_at_once_and_one_that_fails_harms_no_other() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add kl1 type veth peer klp1");
        let specs: Vec<BridgeSpec> = (0..4)
            .map(|n| BridgeSpec {
                name: format!("kl{n}"),
                addresses: (n != 2)
                    .then(|| net(&format!("172.{}.0.1/16", 17 + n)))
                    .into_iter()
                    .collect(),
                ..bridge_spec()
            })
            .collect();
        for created in [true, false] {
            let kinds: Vec<_> = netlink.bridges().await.unwrap();
            assert_eq!(kinds.len(), if created { 0 } else { 3 }, "{kinds:?}");
            assert!(kinds.iter().all(|b| b.kind.as_deref() == Some("bridge")));
            let results = netlink.ensure_bridges(&specs).await.unwrap();
            assert_eq!(results.len(), specs.len());
            for (n, (result, spec)) in results.iter().zip(&specs).enumerate() {
                match result {
                    Ok(bridge) => {
                        assert_eq!(bridge.created, created, "{n}");
                        let link = netlink.link(&spec.name).await.unwrap().unwrap();
                        assert_eq!((link.index, link.up), (bridge.if_index, true));
                        assert_eq!(addresses4(&netlink, link.index).await, spec.addresses);
                    }
                    Err(error) => {
                        assert_eq!(n, 1, "{error}");
                        assert_eq!(error.to_string(), "existing interface kl1 is not a bridge");
                    }
                }
            }
        }
    });
}

#[test]
fn a_bridge_is_deleted_and_nothing_else_of_its_name() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        run("ip link add klp0 master kl0 type veth peer klp1");
        assert!(netlink.delete_bridge("kl0").await.unwrap());
        assert!(!netlink.delete_bridge("kl0").await.unwrap());
        let port = netlink.link("klp0").await.unwrap().unwrap();
        assert_eq!(port.master, None, "ports stay");
        assert!(!netlink.delete_bridge("klp0").await.unwrap());
        assert!(netlink.link("klp0").await.unwrap().is_some());
    });
}

#[test]
fn another_interface_of_the_bridges_name_is_left_alone() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add kl0 type veth peer klp1");
        let error = netlink.ensure_bridge(&bridge_spec()).await.unwrap_err();
        assert_eq!(error.to_string(), "existing interface kl0 is not a bridge");
        assert!(netlink.link("kl0").await.unwrap().is_some());
    });
}

#[test]
fn a_bridge_that_cannot_be_completed_is_removed() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let spec = BridgeSpec {
            mtu: 70_000,
            ..bridge_spec()
        };
        let error = netlink.ensure_bridge(&spec).await.unwrap_err();
        assert!(
            error.to_string().contains("set MTU 70000 on bridge kl0"),
            "{error}"
        );
        assert_eq!(netlink.links_with_prefix("kl").await.unwrap(), []);
    });
}

#[test]
fn a_containers_interface_is_complete() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let spec = VethSpec {
            mtu: Some(1400),
            ..veth_spec(&container, &bridge)
        };
        let host_end = netlink.create_veth(&spec).await.unwrap();

        let link = netlink.link("klv1").await.unwrap().unwrap();
        assert_eq!((link.index, link.master), (host_end, Some(bridge.if_index)));
        assert_eq!((link.mtu, link.up, link.running), (1400, true, true));
        assert!(
            run("ip link show klv1").contains("noqueue"),
            "no queue in a pair"
        );
        assert_eq!(
            sysctl::get(&["net", "ipv6", "conf", "klv1", "disable_ipv6"]).unwrap(),
            "1"
        );

        let inside = Netlink::in_namespace(container.as_fd()).unwrap();
        let eth0 = inside.link("eth0").await.unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(spec.mac), 1400));
        assert!(eth0.up && eth0.running);
        assert!(inside.link("lo").await.unwrap().unwrap().up);
        assert_eq!(addresses4(&inside, eth0.index).await, [V4]);
        assert_eq!(run_inside(&container, "ip -4 route show default"), "");
        assert_eq!(run_inside(&container, "ip -6 addr show dev eth0"), "");
        let disabled = run_inside(&container, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
        assert_eq!(disabled.trim(), "1");

        run_inside(&container, "ping -c 1 -W 1 172.17.0.1");

        assert!(netlink.delete_link("klv1").await.unwrap());
        assert!(
            !netlink.delete_link("klv1").await.unwrap(),
            "deleting twice is no error"
        );
        assert!(!netlink.delete_link_index(host_end).await.unwrap());
        assert!(inside.link("eth0").await.unwrap().is_none(), "both ends go");
    });
}

#[test]
fn making_a_containers_interface_takes_milliseconds() {
    let _undisturbed = undisturbed();
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let container = anonymous_namespace();
            let start = Instant::now();
            netlink
                .create_veth(&veth_spec(&container, &bridge))
                .await
                .unwrap();
            best = best.min(start.elapsed());
            netlink.delete_link("klv1").await.unwrap();
        }
        println!("create_veth, best of 10: {best:?}");
        assert!(best < Duration::from_secs(1), "{best:?}");
    });
}

#[test]
fn a_failed_interface_leaves_nothing() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let inside = Netlink::in_namespace(container.as_fd()).unwrap();
        let spec = veth_spec(&container, &bridge);
        let gone = async || {
            assert_eq!(netlink.links_with_prefix("klv").await.unwrap(), []);
            let names: Vec<_> = inside
                .links()
                .await
                .unwrap()
                .into_iter()
                .map(|link| link.name)
                .collect();
            assert_eq!(names, ["lo"]);
        };

        let far = VethSpec {
            addresses: &[V4, net("ff02::5/64")],
            ipv6: true,
            ..spec
        };
        let error = netlink.create_veth(&far).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("set address ff02::5/64 on"), "{text}");
        gone().await;
        assert!(
            !inside.link("lo").await.unwrap().unwrap().up,
            "lo is as it was"
        );

        let bad_mtu = VethSpec {
            mtu: Some(10),
            ..spec
        };
        netlink.create_veth(&bad_mtu).await.unwrap_err();
        gone().await;

        let no_bridge = VethSpec {
            bridge_if_index: 9999,
            ..spec
        };
        netlink.create_veth(&no_bridge).await.unwrap_err();
        gone().await;
    });
}

#[test]
fn conflicts_inside_the_container_are_named() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let spec = veth_spec(&container, &bridge);

        run_inside(&container, "ip link add other0 up type veth peer other1");
        run_inside(&container, "ip addr add 172.17.9.1/24 dev other0");
        let error = netlink.create_veth(&spec).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot program address 172.17.0.2/16 in sandbox interface because it conflicts with \
             existing route 172.17.9.0/24 dev other0"
        );

        run_inside(
            &container,
            "ip addr flush dev other0; ip addr add 10.5.0.1/24 dev other0",
        );
        let taken = VethSpec {
            container_name: "other0",
            ..spec
        };
        let error = netlink.create_veth(&taken).await.unwrap_err();
        let text = "interface other0 already exists in the container's network namespace: choose \
                    another name with com.docker.network.endpoint.ifname";
        assert_eq!(error.to_string(), text);

        run("ip link add klv1 type veth peer klv2");
        let error = netlink.create_veth(&spec).await.unwrap_err();
        assert_eq!(error.to_string(), "interface klv1 already exists");
        assert!(
            netlink.link("klv1").await.unwrap().is_some(),
            "somebody else's stays"
        );
    });
}

#[test]
fn tun_and_loopback_are_prepared_and_can_be_put_back() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip tuntap add dev kltun.0 mode tun");
        let index = netlink.link("kltun.0").await.unwrap().unwrap().index;
        netlink.set_tun_up(index, 65_535).await.unwrap();
        let tun = netlink.link("kltun.0").await.unwrap().unwrap();
        assert_eq!((tun.mtu, tun.up, tun.ethernet), (65_535, true, false));
        assert_eq!(tun.kind.as_deref(), Some("tun"));
        let mode = run("ip -d link show kltun.0");
        assert!(mode.contains("addrgenmode none"), "{mode}");

        forwarding::prepare_tun("kltun.0").unwrap();
        let value = sysctl::get(&["net", "ipv4", "conf", "kltun.0", "forwarding"]).unwrap();
        assert_eq!(value, "1");
        assert_eq!(forwarding::prepare_tun("kltun.0").unwrap(), []);
        for (name, value) in [("forwarding", "1"), ("disable_ipv6", "0")] {
            let found = sysctl::get(&["net", "ipv6", "conf", "kltun.0", name]).unwrap();
            assert_eq!(found, value, "{name}");
        }
        assert_eq!(run("ip -6 addr show dev kltun.0"), "", "no address");

        let changes = forwarding::prepare_loopback().unwrap();
        assert_eq!(changes.len(), 2);
        let lo = ["net", "ipv4", "conf", "lo", "route_localnet"];
        assert_eq!(sysctl::get(&lo).unwrap(), "1");
        assert_eq!(forwarding::prepare_loopback().unwrap(), []);
        for change in changes {
            change.undo().unwrap();
        }
        assert_eq!(sysctl::get(&lo).unwrap(), "0");
    });
}
