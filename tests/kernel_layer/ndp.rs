//! The neighbour discovery proxy between a host and its provider's router; router advertisements.

use std::net::Ipv6Addr;

use tunbridge::kernel::{NdpCounts, NdpProxy};

use super::*;

/// A host with `kla`, whose provider's router has only the prefix 2001:db8:1::/64 on the link, on `klp`.
struct Link {
    router: OwnedFd,
}

/// Addresses on the host's `lo`: the kernel takes packets for them from `kla`, but does not answer for them there.
const CONTAINER: &str = "2001:db8:1::c:5";
const OTHER: &str = "2001:db8:1::c:6";

impl Link {
    fn new() -> Self {
        let router = anonymous_namespace();
        let fast = "sysctl -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0";
        run(fast);
        run_inside(&router, fast);
        let link = Self { router };
        link.plug();
        run(&format!(
            "ip addr add {CONTAINER}/128 dev lo; ip addr add {OTHER}/128 dev lo"
        ));
        link
    }

    fn plug(&self) {
        use std::os::fd::AsRawFd;
        // iproute2 finds a namespace by a path.
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.router.as_raw_fd()
        );
        run(&format!(
            "ip link add kla type veth peer name klp netns {path}"
        ));
        run("ip addr add 2001:db8:1::2/64 dev kla nodad; ip link set kla up");
        self.at_router("ip addr add 2001:db8:1::1/64 dev klp nodad; ip link set klp up");
    }

    fn at_router(&self, command: &str) -> String {
        run_inside(&self.router, command)
    }

    /// The same while tasks of ours run; whether it succeeds.
    async fn router_can(&self, command: &str) -> bool {
        let namespace = self.router.try_clone().unwrap();
        let command = command.to_owned();
        let work = move || {
            let output = || Command::new("sh").args(["-c", &command]).output().unwrap();
            netns::run_in(namespace.as_fd(), output).unwrap()
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap()
            .status
            .success()
    }

    async fn reaches(&self, address: &str) -> bool {
        self.at_router("ip -6 neigh flush dev klp");
        self.router_can(&format!("ping -6 -c 2 -i 0.2 -W 1 {address}"))
            .await
    }

    fn neighbour(&self, address: &str) -> String {
        self.at_router(&format!("ip -6 neigh show {address} dev klp"))
    }

    /// Sends a frame from the router's interface.
    fn send(&self, frame: &[u8]) {
        let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
        self.at_router(&format!(
            "python3 -c 'import socket; s = socket.socket(17, 3); s.bind((\"klp\", 0)); \
             s.send(bytes.fromhex(\"{hex}\"))'"
        ));
    }

    /// A router advertisement: default router for half an hour, and a prefix with its preferred lifetime in seconds.
    async fn advertise(&self, prefix: &str, preferred: u32) {
        let command = format!(
            "python3 -c 'import socket, struct; s = socket.socket(10, 3, 58); \
             s.setsockopt(41, 18, 255); s.setsockopt(41, 17, socket.if_nametoindex(\"klp\")); \
             s.sendto(struct.pack(\"!BBHBBHII\", 134, 0, 0, 64, 0, 1800, 0, 0) \
             + struct.pack(\"!BBBBIII\", 3, 4, 64, 0xc0, 7200, {preferred}, 0) \
             + socket.inet_pton(10, \"{prefix}\"), (\"ff02::1\", 0))'"
        );
        // The interface may not be ready yet.
        let start = Instant::now();
        while !self.router_can(&command).await {
            assert!(start.elapsed() < Duration::from_secs(5), "cannot advertise");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(5), "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn gets_default_route(&self) {
        let start = Instant::now();
        while !has_advertised_route() {
            assert!(start.elapsed() < Duration::from_secs(5), "no default route");
            self.advertise("2001:db8:1::", 3600).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn has_advertised_route() -> bool {
    run("ip -6 route show default").contains("proto ra")
}

fn set_of(addresses: &[&str]) -> BTreeSet<Ipv6Addr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

fn mac(interface: &str) -> String {
    run(&format!("ip -br link show {interface}"))
        .split_ascii_whitespace()
        .nth(2)
        .unwrap()
        .to_owned()
}

fn groups() -> BTreeSet<String> {
    let shown = run("ip -6 maddr show dev kla");
    shown.lines().skip(1).map(str::to_owned).collect()
}

/// A solicitation for the container's address, sent to everybody, with a right checksum after `change`.
fn solicitation(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let source: Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    let target: Ipv6Addr = CONTAINER.parse().unwrap();
    let group: Ipv6Addr = "ff02::1:ff0c:5".parse().unwrap();
    let mut frame = vec![
        0x33, 0x33, 0xff, 0x0c, 0, 5, 2, 0, 0, 0, 0, 0x99, 0x86, 0xdd,
    ];
    frame.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(source.octets().into_iter().chain(group.octets()));
    frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(
        target
            .octets()
            .into_iter()
            .chain([1, 1, 2, 0, 0, 0, 0, 0x99]),
    );
    change(&mut frame);
    let mut sum = 58 + frame.len() as u64 - 54;
    for pair in frame[22..].chunks(2) {
        sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    }
    let sum = u16::try_from(0xffff - sum % 0xffff).unwrap();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_router_with_only_an_on_link_prefix_reaches_proxied_addresses() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        link.gets_default_route().await;
        assert!(!link.reaches(CONTAINER).await, "nobody answers for it");
        let before = groups();
        let proxy = NdpProxy::open("kla").unwrap();
        assert!(!link.reaches(CONTAINER).await, "not without addresses");
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
        assert!(
            groups()
                .iter()
                .any(|group| group.contains("ff02::1:ff0c:5"))
        );

        assert!(link.reaches(CONTAINER).await);
        assert!(
            link.neighbour(CONTAINER).contains(&mac("kla")),
            "{}",
            link.neighbour(CONTAINER)
        );
        assert!(!link.reaches(OTHER).await, "not for others");
        assert!(
            link.reaches("2001:db8:1::2").await,
            "the host answers for itself"
        );

        // The host is no router, and has its default route from one.
        let forwarding = sysctl::get(&["net", "ipv6", "conf", "all", "forwarding"]).unwrap();
        assert_eq!(forwarding, "0");
        assert!(has_advertised_route());
        let counts = proxy.counts();
        assert!(counts.answered >= 1 && counts.foreign >= 1, "{counts:?}");

        // "Is it still there?" is asked of it alone.
        link.at_router(&format!(
            "ip neigh replace {CONTAINER} lladdr {} dev klp nud probe",
            mac("kla")
        ));
        link.until("no answer to a unicast question", || {
            link.neighbour(CONTAINER).contains("REACHABLE")
        })
        .await;

        proxy.set_addresses(&set_of(&[OTHER])).unwrap();
        assert!(!link.reaches(CONTAINER).await);
        assert!(link.reaches(OTHER).await);
        drop(proxy);
        assert!(!link.reaches(OTHER).await);
        link.until("groups stay", || groups() == before).await;
    });
}

#[test]
fn what_is_no_valid_question_is_not_answered() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        let proxy = NdpProxy::open("kla").unwrap();
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
        let settled = async || {
            tokio::time::sleep(Duration::from_millis(150)).await;
            proxy.counts()
        };
        let none = NdpCounts::default();
        assert_eq!(settled().await, none);
        link.send(&solicitation(|frame| frame[21] = 64));
        let counts = NdpCounts {
            hop_limit: 1,
            ..none
        };
        assert_eq!(settled().await, counts);
        link.send(&solicitation(|frame| frame[79] = 9));
        let counts = NdpCounts {
            malformed: 1,
            ..counts
        };
        assert_eq!(settled().await, counts);
        let mut damaged = solicitation(|_| {});
        damaged[57] ^= 1;
        link.send(&damaged);
        let counts = NdpCounts {
            checksum: 1,
            ..counts
        };
        assert_eq!(settled().await, counts);
        // Cut, too long, of another VLAN, to somebody else.
        link.send(&solicitation(|_| {})[..70]);
        let counts = NdpCounts {
            malformed: 2,
            ..counts
        };
        assert_eq!(settled().await, counts);
        let mut long = solicitation(|_| {});
        long.resize(1400, 0);
        link.send(&long);
        let counts = NdpCounts {
            malformed: 3,
            ..counts
        };
        assert_eq!(settled().await, counts);
        let mut tagged = solicitation(|_| {});
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        link.send(&tagged);
        let mut elsewhere = solicitation(|_| {});
        elsewhere[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
        link.send(&elsewhere);
        assert_eq!(settled().await, counts);
        link.send(&solicitation(|_| {}));
        let counts = NdpCounts {
            answered: 1,
            ..counts
        };
        assert_eq!(settled().await, counts);

        // Another machine takes the address, and asks first whether it may.
        link.at_router("sysctl -w net.ipv6.conf.klp.accept_dad=1");
        link.at_router(&format!("ip addr add {CONTAINER}/128 dev klp"));
        let shown = || link.at_router(&format!("ip -6 addr show dev klp to {CONTAINER}"));
        link.until("it waits for ever", || !shown().contains("tentative"))
            .await;
        assert!(!shown().contains("dadfailed"), "{}", shown());
        assert_eq!(settled().await.probes, 1);
    });
}

#[test]
fn thousands_of_addresses_are_answered_for() {
    in_fresh_namespace(|| async {
        const MANY: u32 = 5000;
        let link = Link::new();
        let before = groups();
        let proxy = NdpProxy::open("kla").unwrap();
        let address = |n: u32| {
            Ipv6Addr::from(
                0x2001_0db8_0001_0000_0000_0000_0000_0000_u128 | u128::from(n * 7 + 0x1_0000),
            )
        };
        let all: BTreeSet<Ipv6Addr> = (0..MANY).map(address).collect();
        let start = Instant::now();
        proxy.set_addresses(&all).unwrap();
        println!("{MANY} addresses: {:?}", start.elapsed());
        assert_eq!(groups().len(), before.len() + MANY as usize);
        let start = Instant::now();
        proxy.set_addresses(&all).unwrap();
        println!("again: {:?}", start.elapsed());
        for n in [0, 1, MANY / 2, MANY - 1] {
            // There is nobody at the address; that it was resolved is all.
            let address = address(n).to_string();
            link.router_can(&format!("ping -6 -c 1 -W 1 {address}"))
                .await;
            let shown = link.neighbour(&address);
            assert!(shown.contains(&mac("kla")), "{n}: {shown}");
        }
        proxy.set_addresses(&BTreeSet::new()).unwrap();
        assert_eq!(groups(), before);
    });
}

#[test]
fn a_proxy_survives_what_happens_to_its_interface() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        let proxy = NdpProxy::open("kla").unwrap();
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
        assert!(link.reaches(CONTAINER).await);
        run("ip link set kla down");
        tokio::time::sleep(Duration::from_millis(50)).await;
        run("ip link set kla up; ip addr add 2001:db8:1::2/64 dev kla nodad");
        let reached = async || {
            let start = Instant::now();
            while !link.reaches(CONTAINER).await {
                assert!(start.elapsed() < Duration::from_secs(10), "not any more");
            }
        };
        reached().await;
        run("ip link set kla address 02:00:00:00:00:42");
        reached().await;
        assert!(link.neighbour(CONTAINER).contains("02:00:00:00:00:42"));

        // Opened while it is down.
        drop(proxy);
        run("ip link set kla down");
        let proxy = NdpProxy::open("kla").unwrap();
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
        run("ip link set kla up; ip addr add 2001:db8:1::2/64 dev kla nodad");
        reached().await;

        // One that is made anew is another interface.
        run("ip link del kla");
        proxy.set_addresses(&set_of(&[OTHER])).unwrap_err();
        link.plug();
        assert!(!link.reaches(CONTAINER).await);
        let index = nix::net::if_::if_nametoindex("kla").unwrap();
        assert_ne!(proxy.if_index(), index);
        drop(proxy);
        let proxy = NdpProxy::open("kla").unwrap();
        assert_eq!(proxy.if_index(), index);
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
        reached().await;
    });
}

#[test]
fn a_proxy_is_for_interfaces_with_ethernet_and_ipv6() {
    in_fresh_namespace(|| async {
        let error = NdpProxy::open("lo").unwrap_err();
        assert_eq!(error.to_string(), "its frames have no Ethernet header");
        let error = NdpProxy::open("kl9").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        run("ip link add kla mtu 1000 type veth peer klp");
        let proxy = NdpProxy::open("kla").unwrap();
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap_err();
        run("ip link set kla mtu 1500");
        proxy.set_addresses(&set_of(&[CONTAINER])).unwrap();
    });
}

#[test]
fn forwarding_on_the_tun_costs_no_default_route_from_advertisements() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        run("ip tuntap add dev kltun mode tun; ip tuntap add dev klother mode tun");
        // What all this is for: the flag of any interface makes the kernel forget.
        link.gets_default_route().await;
        sysctl::set(&["net", "ipv6", "conf", "klother", "forwarding"], "1").unwrap();
        assert!(!has_advertised_route());
        run("ip link del klother");
        link.gets_default_route().await;
        let value = |interface: &str, name: &str| {
            sysctl::get(&["net", "ipv6", "conf", interface, name]).unwrap()
        };
        forwarding::prepare_tun("kltun").unwrap();
        assert_eq!(value("kltun", "forwarding"), "1");
        assert!(has_advertised_route());
        for interface in ["all", "default", "kla", "lo"] {
            assert_eq!(value(interface, "forwarding"), "0", "{interface}");
        }
        assert_eq!(value("kla", "accept_ra"), "1");
        assert!(!forwarding::ipv6_forwarding().unwrap());

        // Somebody clears everything; the keeper sets it again, and the uplink is as it was.
        let index = nix::net::if_::if_nametoindex("kltun").unwrap();
        let keeper = Keeper {
            host_wide_v4: false,
            host_wide_v6: false,
            tun: Some((index, "kltun".into())),
        };
        let mut watcher = Watcher::new().unwrap();
        run("sysctl -w net.ipv6.conf.all.forwarding=0");
        let mut changes = Vec::new();
        for event in drain(&mut watcher).await {
            changes.extend(keeper.on_event(&event).unwrap());
        }
        let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["net.ipv6.conf.kltun.forwarding: 0 -> 1"]);
        assert!(has_advertised_route());

        // For the whole host, as --ip-forward wants it.
        let keeper = Keeper {
            host_wide_v6: true,
            ..keeper
        };
        keeper.assert_all().unwrap();
        assert!(forwarding::ipv6_forwarding().unwrap());
        assert_eq!(forwarding::enable_ipv6_forwarding().unwrap(), []);
        for interface in ["all", "default", "kla", "kltun"] {
            assert_eq!(value(interface, "forwarding"), "1", "{interface}");
        }
        run("sysctl -w net.ipv6.conf.all.forwarding=0");
        for event in drain(&mut watcher).await {
            keeper.on_event(&event).unwrap();
        }
        assert_eq!(
            (value("all", "forwarding"), value("default", "forwarding")),
            ("1".into(), "1".into())
        );
    });
}

#[test]
fn the_resolver_follows_a_prefix_that_changes() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        run("ip addr flush dev kla scope global");
        let netlink = Netlink::new().unwrap();
        let resolver = RouteResolver::new().unwrap();
        let index = netlink.link("kla").await.unwrap().unwrap().index;
        let source = |to: &str| {
            resolver.clear();
            let resolved: Option<Resolved> = resolver.route(to.parse().unwrap());
            resolved.map(|resolved| {
                assert_eq!((resolved.if_index, resolved.mtu), (index, 1500));
                resolved.source.to_string()
            })
        };
        assert_eq!(source("2001:db8:ffff::1"), None);
        let own = |prefix: &str| {
            let shown = run("ip -6 -o addr show dev kla scope global");
            let mut words = shown.split_ascii_whitespace();
            words
                .find(|word| word.starts_with(prefix))
                .map(|word| word.split('/').next().unwrap().to_owned())
        };
        link.advertise("2001:db8:1::", 3600).await;
        link.until("no address", || own("2001:db8:1:").is_some())
            .await;
        let first = own("2001:db8:1:");
        assert_eq!(source("2001:db8:ffff::1"), first);
        assert_eq!(source("2001:db8:1::1"), first);

        // The provider gives another prefix, and takes the first one back.
        link.advertise("2001:db8:2::", 3600).await;
        link.until("no address", || own("2001:db8:2:").is_some())
            .await;
        link.advertise("2001:db8:1::", 0).await;
        let deprecated = || run("ip -6 addr show dev kla deprecated").contains("2001:db8:1:");
        link.until("still preferred", deprecated).await;
        let second = own("2001:db8:2:");
        assert_eq!(source("2001:db8:ffff::1"), second);
        let addresses = netlink.addresses().await.unwrap();
        let old = addresses
            .iter()
            .find(|a| Some(a.address.addr().to_string()) == first);
        assert!(old.unwrap().deprecated);
        // With a unique local address as well, the one that fits the destination is taken.
        run("ip addr add fd00:1::2/64 dev kla nodad; ip -6 route add fd00::/8 via fd00:1::1");
        assert_eq!(source("2001:db8:ffff::1"), second);
        assert_eq!(source("fd00:2::1"), Some("fd00:1::2".to_owned()));
        // One that detection of duplicates is not through with.
        run("sysctl -w net.ipv6.conf.kla.accept_dad=1 net.ipv6.conf.kla.dad_transmits=100");
        run("ip addr add 2001:db8:ffff::9/128 dev kla");
        assert_eq!(source("2001:db8:ffff::1"), second);
        let addresses = netlink.addresses().await.unwrap();
        let new = addresses
            .iter()
            .find(|a| a.address.to_string() == "2001:db8:ffff::9/128");
        assert!(new.unwrap().tentative);

        // The route is marked as what it is.
        let routes = netlink.routes().await.unwrap();
        let default = routes
            .iter()
            .find(|r| r.destination == net("::/0") && r.table == 254);
        assert!(default.unwrap().advertised);
    });
}

#[test]
fn the_doctor_sees_what_is_in_the_way_of_ipv6() {
    in_fresh_namespace(|| async {
        let link = Link::new();
        link.gets_default_route().await;
        let netlink = Netlink::new().unwrap();
        let spec = BridgeSpec {
            addresses: vec![net("172.17.0.1/16"), net("2001:db8:1:0:c::1/80")],
            ipv6: true,
            ..bridge_spec()
        };
        netlink.ensure_bridge(&spec).await.unwrap();
        let prefix = net("2001:db8:1:0:c::/80");
        let mut scope = Scope {
            networks: vec![Network {
                name: "bridge".into(),
                default: true,
                bridge: "kl0".into(),
                managed: true,
                internal: false,
                subnets: vec![net("172.17.0.0/16"), prefix],
                routed: vec![prefix],
                ndp_proxy: Vec::new(),
                mtu: 1500,
            }],
            ..Scope::default()
        };
        let problems = async |scope: &Scope| -> Vec<(String, String)> {
            let findings = doctor::examine(&netlink, scope).await.unwrap();
            let problems = findings.into_iter().filter(|finding| {
                let text = [&finding.subject, &finding.fix]
                    .map(String::as_str)
                    .concat();
                finding.severity > Severity::Ok
                    && (text.contains("ipv6") || text.contains("IPv6") || text.contains("2001:"))
            });
            problems
                .map(|finding| (finding.subject, finding.fix))
                .collect()
        };
        let place = "prefix 2001:db8:1:0:c::/80 of network bridge";
        let of_prefix = problems(&scope).await;
        assert!(
            of_prefix.contains(&(place.into(), "tunbridge daemon --ndp-proxy kla".into())),
            "{of_prefix:?}"
        );
        scope.networks[0].ndp_proxy.push("kla".into());
        assert_eq!(problems(&scope).await, []);

        // As another program leaves it that needs forwarding.
        run("sysctl -w net.ipv6.conf.kla.accept_ra=2; sysctl -w net.ipv6.conf.kla.forwarding=1");
        run("sysctl -w net.ipv6.conf.kla.accept_ra=1");
        let fix = "sysctl -w net.ipv6.conf.kla.accept_ra=2";
        let found = problems(&scope).await;
        assert_eq!(found, [("net.ipv6.conf.kla.accept_ra".into(), fix.into())]);
        run(fix);
        assert_eq!(problems(&scope).await, []);

        run("sysctl -w net.ipv6.conf.kla.disable_ipv6=1");
        let found = problems(&scope).await;
        let fix = "sysctl -w net.ipv6.conf.kla.disable_ipv6=0";
        assert_eq!(found, [("IPv6 default route".into(), fix.into())]);
    });
}
