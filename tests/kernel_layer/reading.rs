//! What the kernel knows: routes, links, ports; and the doctor.

use super::*;

#[test]
fn resolver_follows_two_uplinks() {
    in_fresh_namespace(|| async {
        for (name, address, mtu) in [
            ("kla", "192.0.2.2/24", 1500),
            ("klb", "198.51.100.2/24", 1400),
        ] {
            run(&format!(
                "ip link add {name} mtu {mtu} type veth peer {name}p mtu {mtu}"
            ));
            run(&format!("ip addr add {address} dev {name}"));
            run(&format!("ip link set {name} up; ip link set {name}p up"));
        }
        run("ip route add default via 192.0.2.1 metric 10");
        run("ip route add default via 198.51.100.1 metric 20");
        run("ip route add 203.0.113.0/24 via 198.51.100.1 mtu 1280");
        run("ip route add unreachable 10.66.0.0/16; ip route add prohibit 10.67.0.0/16");
        run("ip route add blackhole 10.68.0.0/16");

        let netlink = Netlink::new().unwrap();
        let index = async |name: &str| netlink.link(name).await.unwrap().unwrap().index;
        let (a, b) = (index("kla").await, index("klb").await);
        let resolver = RouteResolver::new().unwrap();
        let route = |to: &str| resolver.route(to.parse().unwrap());
        let via = |if_index, source: &str, mtu| {
            Some(Resolved {
                if_index,
                source: source.parse::<IpAddr>().unwrap(),
                mtu,
            })
        };

        assert_eq!(route("8.8.8.8"), via(a, "192.0.2.2", 1500));
        assert_eq!(route("198.51.100.7"), via(b, "198.51.100.2", 1400));
        assert_eq!(route("203.0.113.5"), via(b, "198.51.100.2", 1280));
        for nowhere in [
            "10.66.0.1",
            "10.67.0.1",
            "10.68.0.1",
            "192.0.2.2",
            "127.0.0.1",
            "192.0.2.255",
            "224.0.0.1",
            "255.255.255.255",
            "2001:db8::1",
        ] {
            assert_eq!(route(nowhere), None, "{nowhere}");
        }

        run("ip link set kla mtu 1450");
        resolver.clear();
        assert_eq!(route("8.8.8.8"), via(a, "192.0.2.2", 1450));

        run("ip route del default via 192.0.2.1");
        assert_eq!(
            route("8.8.8.8"),
            via(a, "192.0.2.2", 1450),
            "still the cached answer"
        );
        resolver.clear();
        assert_eq!(route("8.8.8.8"), via(b, "198.51.100.2", 1400));
        run("ip route flush default");
        resolver.clear();
        assert_eq!(route("8.8.8.8"), None);

        let start = Instant::now();
        for n in 0..1000u32 {
            route(&Ipv4Addr::from(0xc633_6400 + n % 200 + 3).to_string());
        }
        println!("1000 resolutions, 200 of them asked: {:?}", start.elapsed());
        assert_eq!(resolver.cached(), 201);
        let many = u32::try_from(CACHE_CAPACITY).unwrap();
        for address in (0x0a00_0000..0x0a00_0000 + many).map(Ipv4Addr::from) {
            let _ = resolver.route(address.into());
            assert!(resolver.cached() <= CACHE_CAPACITY);
        }
    });
}

#[test]
fn routes_links_and_addresses_are_read() {
    in_fresh_namespace(|| async {
        run("ip link add kla type veth peer klap; ip addr add 192.0.2.2/24 dev kla");
        run("ip link set kla up; ip link set klap up");
        run("ip route add default via 192.0.2.1 metric 10 src 192.0.2.2 mtu 1400");
        run("ip route add 10.0.0.0/8 nexthop via 192.0.2.3 nexthop via 192.0.2.4");
        let netlink = Netlink::new().unwrap();
        let links = netlink.links().await.unwrap();
        let kla = links.iter().find(|link| link.name == "kla").unwrap();
        assert!(kla.ethernet && kla.kind.as_deref() == Some("veth"));
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback && !lo.ethernet && lo.mac.is_none() && lo.kind.is_none());

        let routes = netlink.routes().await.unwrap();
        let described: Vec<_> = routes
            .iter()
            .filter(|route| route.table == 254)
            .map(|route| (route.describe(&links), route.priority, route.mtu))
            .collect();
        let plain = |text: &str| (text.to_owned(), 0, None);
        assert!(described.contains(&("default via 192.0.2.1 dev kla".into(), 10, Some(1400))));
        assert!(described.contains(&plain("192.0.2.0/24 dev kla")));
        let multipath = "10.0.0.0/8 via 192.0.2.3 dev kla via 192.0.2.4 dev kla";
        assert!(described.contains(&plain(multipath)), "{described:?}");
        assert!(
            netlink
                .link("no-such-interface-name")
                .await
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn doctor_looks_at_the_live_host() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        run("ip link add kla.1 mtu 1400 type veth peer klap mtu 1400");
        run("ip addr add 172.17.5.1/24 dev kla.1; ip link set kla.1 up; ip link set klap up");
        sysctl::set(&["net", "ipv4", "ip_forward"], "0").unwrap();
        sysctl::set(&["net", "ipv4", "conf", "kla.1", "route_localnet"], "1").unwrap();
        sysctl::set(&["net", "ipv4", "ip_local_port_range"], "32768 62000").unwrap();

        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("10-hardening.conf");
        fs::write(&conf, "# hardened\nnet.ipv4.ip_forward = 0\n").unwrap();
        let scope = Scope {
            tun: None,
            networks: vec![Network {
                name: "bridge".into(),
                default: true,
                bridge: "kl0".into(),
                managed: true,
                internal: false,
                subnets: vec!["172.17.0.0/16".parse().unwrap()],
                routed: Vec::new(),
                ndp_proxy: Vec::new(),
                mtu: 1500,
            }],
            ports: BTreeSet::new(),
            external_ports: vec![61_000..=65_534],
            keeps_forwarding: false,
            sysctl_paths: SysctlPaths {
                directories: vec![directory.path().to_owned()],
                sysctl_conf: "/nonexistent".into(),
            },
        };
        let findings = doctor::examine(&netlink, &scope).await.unwrap();
        assert!(
            findings.is_sorted_by(|a, b| a.severity >= b.severity),
            "worst first"
        );
        let problems: BTreeSet<(Severity, &str)> = findings
            .iter()
            .filter(|f| f.severity > Severity::Ok && !f.subject.contains("bridge-nf"))
            .map(|f| (f.severity, f.subject.as_str()))
            .collect();
        let place = format!("{}:2", conf.display());
        let expected = BTreeSet::from([
            (Severity::Error, "subnet 172.17.0.0/16 of network bridge"),
            (Severity::Warning, "net.ipv4.conf.kla/1.route_localnet"),
            (Severity::Warning, "net.ipv4.ip_local_port_range"),
            (Severity::Note, "MTU of network bridge"),
            (Severity::Note, place.as_str()),
        ]);
        assert_eq!(problems, expected);

        // The commands do what they say.
        for finding in &findings {
            if finding.fix.starts_with("sysctl -w net.ipv4") || finding.fix.starts_with("sed ") {
                run(&finding.fix);
            }
        }
        let again = doctor::examine(&netlink, &scope).await.unwrap();
        let left: BTreeSet<&str> = again
            .iter()
            .filter(|f| f.severity > Severity::Ok && !f.subject.contains("bridge-nf"))
            .map(|f| f.subject.as_str())
            .collect();
        let expected = [
            "MTU of network bridge",
            "subnet 172.17.0.0/16 of network bridge",
        ];
        assert_eq!(left, BTreeSet::from(expected));
    });
}

#[test]
fn ports_of_the_hosts_sockets_are_found() {
    in_fresh_namespace(|| async {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::]:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let udp6 = UdpSocket::bind("[::]:0").unwrap();
        let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();

        let found = host_ports().unwrap();
        let listening: BTreeSet<u16> = found.tcp.listening.iter().collect();
        let expected = BTreeSet::from([port(tcp.local_addr()), port(tcp6.local_addr())]);
        assert_eq!(listening, expected);
        assert!(found.tcp.in_use.contains(port(client.local_addr())));
        assert!(found.tcp.in_use.contains(port(tcp.local_addr())));
        let listening: BTreeSet<u16> = found.udp.listening.iter().collect();
        let expected = BTreeSet::from([port(udp.local_addr()), port(udp6.local_addr())]);
        assert_eq!(listening, expected);
        assert!(found.udp.in_use.contains(port(connected.local_addr())));

        // Bound but neither listening nor connected: only newer kernels tell.
        let bound = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .unwrap();
        use std::os::fd::AsRawFd;
        let address = nix::sys::socket::SockaddrIn::new(0, 0, 0, 0, 33_333);
        nix::sys::socket::bind(bound.as_raw_fd(), &address).unwrap();
        let found = host_ports().unwrap();
        assert!(found.tcp.in_use.contains(33_333));
        assert!(!found.tcp.listening.contains(33_333));
    });
}

/// The kernel makes one list at a time per socket, and the daemon asks for several things at once.
#[test]
fn lists_that_are_asked_for_at_the_same_time_are_all_answered() {
    in_fresh_namespace(|| async {
        for n in 0..40 {
            run(&format!("ip link add kld{n} type veth peer kldp{n}"));
        }
        let netlink = Netlink::new().unwrap();
        for _ in 0..20 {
            let clone = netlink.clone();
            let (links, routes, addresses, again) = tokio::join!(
                netlink.links(),
                netlink.routes(),
                clone.addresses(),
                clone.links()
            );
            routes.unwrap();
            addresses.unwrap();
            assert_eq!(links.unwrap().len(), again.unwrap().len());
        }
    });
}

/// A container may make more routes than anybody wants to read.
#[test]
fn the_routes_of_a_container_are_read_up_to_a_number() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let many = "ip link set lo up; for a in $(seq 80); do for b in $(seq 250); do \
             echo route add 11.1.$a.$b/32 dev lo; done; done | ip -batch -";
        run_inside(&container, many);
        let inside = Netlink::in_namespace(container.as_fd()).unwrap();
        let read = inside.routes().await.unwrap().len();
        assert!((8000..9000).contains(&read), "{read}");
        // There is nothing left on the way that would be taken for another answer.
        assert_eq!(inside.links().await.unwrap().len(), 1);
        netlink
            .create_veth(&veth_spec(&container, &bridge))
            .await
            .unwrap();
        run(many);
        assert!(netlink.routes().await.unwrap().len() > 20_000);
    });
}
