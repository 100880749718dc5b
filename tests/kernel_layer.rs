//! The kernel layer against the real kernel. Needs root; every test works inside network namespaces
//! that it made and that vanish with its thread and descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use nix::sched::{CloneFlags, unshare};
use tunbridge::kernel::doctor::sysctl_files::SysctlPaths;
use tunbridge::kernel::doctor::{self, Network, Scope, Severity};
use tunbridge::kernel::forwarding::{self, Keeper};
use tunbridge::kernel::host_ports::host_ports;
use tunbridge::kernel::netns::{self, NetnsError};
use tunbridge::kernel::{
    Bridge, BridgeSpec, Event, Netlink, Resolved, RouteResolver, VethSpec, Watcher, sysctl,
};

/// Runs a test in a fresh network namespace with `lo` up, on a thread that ends with it.
fn in_fresh_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            run("ip link set lo up");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// An unnamed namespace, as another container runtime would hand one over.
fn anonymous_namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        netns::open_current().unwrap()
    });
    thread.join().unwrap()
}

/// Runs a command in the calling thread's namespace and returns what it prints.
fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command inside a namespace.
fn run_inside(namespace: &OwnedFd, command: &str) -> String {
    netns::run_in(namespace.as_fd(), || run(command)).unwrap()
}

fn bridge_spec() -> BridgeSpec {
    BridgeSpec {
        name: "kl0".into(),
        address: "172.17.0.1/16".parse().unwrap(),
        mtu: 1500,
        user_managed: false,
    }
}

fn veth_spec<'a>(namespace: &'a OwnedFd, bridge: &Bridge) -> VethSpec<'a> {
    VethSpec {
        host_name: "klv1",
        container_name: "eth0",
        netns: namespace.as_fd(),
        mac: [0x02, 0x42, 172, 17, 0, 2],
        address: "172.17.0.2/16".parse().unwrap(),
        gateway: Some("172.17.0.1".parse().unwrap()),
        mtu: 1500,
        bridge_if_index: bridge.if_index,
    }
}

async fn addresses4(netlink: &Netlink, if_index: u32) -> Vec<Ipv4Net> {
    let all = netlink.addresses().await.unwrap();
    let own = all
        .into_iter()
        .filter(|address| address.if_index == if_index);
    own.filter_map(|address| match address.address {
        IpNet::V4(address) => Some(address),
        IpNet::V6(_) => None,
    })
    .collect()
}

/// Waits for an event, ignoring others, and fails after two seconds.
async fn expect(watcher: &mut Watcher, wanted: Event) {
    let wait = async { while watcher.next().await.unwrap() != wanted {} };
    let seen = tokio::time::timeout(Duration::from_secs(2), wait).await;
    assert!(seen.is_ok(), "no {wanted:?}");
}

/// Reads events until none comes for a moment.
async fn drain(watcher: &mut Watcher) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(100), watcher.next()).await {
        events.push(event.unwrap());
    }
    events
}

#[test]
fn bridge_is_complete_and_making_it_again_changes_nothing() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let first = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
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
        assert_eq!(addresses4(&netlink, bridge.if_index).await, [spec.address]);
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
            assert_eq!(addresses, BTreeSet::from([other, spec.address]));
        }
        let link = netlink.link("mybr").await.unwrap().unwrap();
        assert_eq!((link.mtu, link.up), (1300, true));
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
            mtu: 1400,
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
        assert_eq!(addresses4(&inside, eth0.index).await, [spec.address]);
        let routes = run_inside(&container, "ip -4 route");
        assert!(
            routes.contains("default via 172.17.0.1 dev eth0"),
            "{routes}"
        );
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
        assert!(best < Duration::from_millis(10), "{best:?}");
    });
}

#[test]
fn a_containers_interface_without_gateway_has_no_default_route() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let spec = VethSpec {
            gateway: None,
            ..veth_spec(&container, &bridge)
        };
        netlink.create_veth(&spec).await.unwrap();
        assert_eq!(run_inside(&container, "ip -4 route show default"), "");
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
            gateway: Some("192.0.2.1".parse().unwrap()),
            ..spec
        };
        let error = netlink.create_veth(&far).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to set gateway: network is unreachable"
        );
        gone().await;
        assert!(
            !inside.link("lo").await.unwrap().unwrap().up,
            "lo is as it was"
        );

        let bad_mtu = VethSpec { mtu: 10, ..spec };
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
        run_inside(
            &container,
            "ip link set other1 up; ip route add default via 10.5.0.9",
        );
        let error = netlink.create_veth(&spec).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to set gateway: file exists");
        assert!(run_inside(&container, "ip route show default").contains("via 10.5.0.9"));

        let taken = VethSpec {
            container_name: "other0",
            ..spec
        };
        let error = netlink.create_veth(&taken).await.unwrap_err();
        let text = "interface other0 already exists in the container's network namespace";
        assert_eq!(error.to_string(), text);

        run("ip link add klv1 type veth peer klv2");
        let error = netlink.create_veth(&spec).await.unwrap_err();
        assert_eq!(error.to_string(), "interface klv1 already exists");
        assert!(
            netlink.link("klv1").await.unwrap().is_some(),
            "somebody else's stays"
        );

        assert_eq!(
            Netlink::free_name(container.as_fd(), "eth").await.unwrap(),
            "eth0"
        );
        assert_eq!(
            Netlink::free_name(container.as_fd(), "other")
                .await
                .unwrap(),
            "other2"
        );
    });
}

#[test]
fn nothing_of_ours_keeps_a_namespace_alive() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let name = format!("klpin{}", std::process::id());
        let container = netns::create_named(&name).unwrap();
        netlink
            .create_veth(&veth_spec(&container, &bridge))
            .await
            .unwrap();
        netns::remove_named(&name).unwrap();
        drop(container);
        let deadline = Instant::now() + Duration::from_secs(5);
        while netlink.link("klv1").await.unwrap().is_some() {
            assert!(
                Instant::now() < deadline,
                "the host's end outlives the container"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn named_namespaces_are_those_of_iproute2() {
    let name = format!("klname{}", std::process::id());
    let path = netns::named_path(&name).unwrap();
    let fd = netns::create_named(&name).unwrap();
    let result = std::panic::catch_unwind(|| {
        assert!(netns::list_named().unwrap().contains(&name));
        assert!(run(&format!("ip netns exec {name} ip link show lo")).contains("LOOPBACK"));
        let id = netns::id(&fd).unwrap();
        assert_eq!(netns::id(netns::open_path(&path).unwrap()).unwrap(), id);
        assert_ne!(netns::id(netns::open_current().unwrap()).unwrap(), id);
        let error = netns::create_named(&name).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("network namespace {name} already exists")
        );
        assert_eq!(
            netns::id(netns::open_path(&path).unwrap()).unwrap(),
            id,
            "untouched"
        );
    });
    netns::remove_named(&name).unwrap();
    netns::remove_named(&name).unwrap();
    assert!(!path.exists());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }

    // What an interrupted creation leaves is replaced, and removed.
    fs::write(&path, "").unwrap();
    netns::create_named(&name).unwrap();
    netns::remove_named(&name).unwrap();
    fs::write(&path, "").unwrap();
    netns::remove_named(&name).unwrap();
    assert!(!path.exists());
}

#[test]
fn an_existing_namespace_can_get_a_name() {
    let name = format!("klbind{}", std::process::id());
    let foreign = anonymous_namespace();
    netns::bind_named(&name, foreign.as_fd()).unwrap();
    let bound = netns::open_path(&netns::named_path(&name).unwrap());
    netns::remove_named(&name).unwrap();
    assert_eq!(
        netns::id(bound.unwrap()).unwrap(),
        netns::id(&foreign).unwrap()
    );

    let file = fs::File::open("/proc/self/ns/mnt").unwrap();
    let error = netns::bind_named(&name, file.as_fd()).unwrap_err();
    assert!(matches!(error, NetnsError::NotANamespace(_)), "{error}");
    assert!(!netns::named_path(&name).unwrap().exists());
}

#[test]
fn work_inside_a_namespace_leaves_the_caller_where_it_is() {
    let here = netns::id(netns::open_current().unwrap()).unwrap();
    let other = anonymous_namespace();
    let current = || netns::id(netns::open_current().unwrap()).unwrap();
    let there = netns::run_in(other.as_fd(), current).unwrap();
    assert_eq!(there, netns::id(&other).unwrap());
    assert_eq!(current(), here);

    let error = netns::run_in(other.as_fd(), || panic!("on purpose")).unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    assert_eq!(current(), here);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let there_too = runtime
        .block_on(netns::run_in_async(other, current))
        .unwrap();
    assert_eq!(there_too, there);
    assert!(netns::open_path(Path::new("/proc/self/ns/uts")).is_err());
}

#[test]
fn watcher_sees_links_addresses_routes_and_rules() {
    in_fresh_namespace(|| async {
        let mut watcher = Watcher::new().unwrap();
        for (command, event) in [
            ("ip link add kl1 type veth peer kl2", Event::LinkChanged),
            (
                "ip link set kl1 up && ip link set kl2 up",
                Event::LinkChanged,
            ),
            ("ip addr add 10.1.0.1/24 dev kl1", Event::AddressChanged),
            ("ip route add 10.2.0.0/16 via 10.1.0.2", Event::RouteChanged),
            ("ip route del 10.2.0.0/16", Event::RouteChanged),
            ("ip rule add pref 5 lookup 99", Event::RuleChanged),
            ("ip addr del 10.1.0.1/24 dev kl1", Event::AddressChanged),
            ("ip link del kl1", Event::LinkChanged),
        ] {
            drain(&mut watcher).await;
            run(command);
            expect(&mut watcher, event).await;
        }
    });
}

#[test]
fn watcher_sees_forwarding_being_switched() {
    in_fresh_namespace(|| async {
        run("ip link add kl1 type veth peer kl2");
        let index = Netlink::new()
            .unwrap()
            .link("kl1")
            .await
            .unwrap()
            .unwrap()
            .index;
        sysctl::set(&["net", "ipv4", "ip_forward"], "1").unwrap();
        let mut watcher = Watcher::new().unwrap();
        run("sysctl -w net.ipv4.ip_forward=0");
        let events = drain(&mut watcher).await;
        assert!(
            events.contains(&Event::Forwarding {
                if_index: None,
                on: false
            }),
            "{events:?}"
        );
        let one = Event::Forwarding {
            if_index: Some(index),
            on: false,
        };
        assert!(events.contains(&one), "{events:?}");
        run("sysctl -w net.ipv4.conf.kl1.forwarding=1");
        let events = drain(&mut watcher).await;
        assert_eq!(
            events,
            [Event::Forwarding {
                if_index: Some(index),
                on: true
            }]
        );
    });
}

#[test]
fn lost_notifications_are_reported_once_and_reading_goes_on() {
    in_fresh_namespace(|| async {
        run("ip link add kl1 type veth peer kl2; ip link set kl1 up; ip link set kl2 up");
        run("ip addr add 10.0.0.1/8 dev kl1");
        let mut watcher = Watcher::new().unwrap();
        run("for a in $(seq 0 199); do for b in $(seq 0 199); do \
             echo route add 10.1.$a.$b dev kl1; done; done | ip -batch -");
        let events = drain(&mut watcher).await;
        let overruns = events
            .iter()
            .filter(|event| **event == Event::Overrun)
            .count();
        assert!(overruns >= 1, "{} events without an overrun", events.len());
        run("ip addr add 10.77.0.1/32 dev kl1");
        expect(&mut watcher, Event::AddressChanged).await;
    });
}

#[test]
fn forwarding_is_set_only_if_it_is_off() {
    in_fresh_namespace(|| async {
        sysctl::set(&["net", "ipv4", "ip_forward"], "0").unwrap();
        assert!(!forwarding::ip_forward().unwrap());
        let change = forwarding::enable_ip_forward().unwrap().unwrap();
        assert_eq!(change.to_string(), "net.ipv4.ip_forward: 0 -> 1");
        assert!(forwarding::ip_forward().unwrap());
        assert_eq!(forwarding::enable_ip_forward().unwrap(), None);
        change.undo().unwrap();
        assert!(!forwarding::ip_forward().unwrap());
    });
}

#[test]
fn forwarding_is_back_within_50_ms() {
    in_fresh_namespace(|| async {
        run("ip tuntap add dev kltun mode tun");
        let index = Netlink::new()
            .unwrap()
            .link("kltun")
            .await
            .unwrap()
            .unwrap()
            .index;
        let keeper = Keeper {
            host_wide: true,
            tun: Some((index, "kltun".into())),
        };
        let mut watcher = Watcher::new().unwrap();
        assert_eq!(
            keeper.assert_all().unwrap().len(),
            1,
            "switches every interface on"
        );
        let task = tokio::spawn(async move {
            loop {
                let event = watcher.next().await.unwrap();
                keeper.on_event(&event).unwrap();
            }
        });
        let tun = ["net", "ipv4", "conf", "kltun", "forwarding"];
        let mut worst = Duration::ZERO;
        for (what, segments) in [(0, &["net", "ipv4", "ip_forward"][..]), (1, &tun[..])].repeat(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sysctl::set(segments, "0").unwrap();
            let start = Instant::now();
            while !forwarding::ip_forward().unwrap() || sysctl::get(&tun).unwrap() != "1" {
                assert!(
                    start.elapsed() < Duration::from_secs(2),
                    "reset {what} stayed"
                );
                tokio::task::yield_now().await;
            }
            worst = worst.max(start.elapsed());
        }
        println!("forwarding re-asserted, worst of 10: {worst:?}");
        assert!(worst < Duration::from_millis(50), "{worst:?}");
        task.abort();
    });
}

#[test]
fn without_the_option_only_the_tun_is_kept_forwarding() {
    in_fresh_namespace(|| async {
        run("ip tuntap add dev kltun mode tun");
        let index = Netlink::new()
            .unwrap()
            .link("kltun")
            .await
            .unwrap()
            .unwrap()
            .index;
        sysctl::set(&["net", "ipv4", "ip_forward"], "0").unwrap();
        let keeper = Keeper {
            host_wide: false,
            tun: Some((index, "kltun".into())),
        };
        let off = Event::Forwarding {
            if_index: None,
            on: false,
        };
        let changes = keeper.on_event(&off).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(
            changes[0].to_string(),
            "net.ipv4.conf.kltun.forwarding: 0 -> 1"
        );
        assert!(!forwarding::ip_forward().unwrap());
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

        run("ip route del default via 192.0.2.1");
        assert_eq!(
            route("8.8.8.8"),
            via(a, "192.0.2.2", 1500),
            "still the cached answer"
        );
        resolver.clear();
        assert_eq!(route("8.8.8.8"), via(b, "198.51.100.2", 1400));
        run("ip route flush default");
        resolver.clear();
        assert_eq!(route("8.8.8.8"), None);

        let start = Instant::now();
        for n in 0..1000u32 {
            route(&std::net::Ipv4Addr::from(0xc633_6400 + n % 200 + 3).to_string());
        }
        println!("1000 resolutions, 200 of them asked: {:?}", start.elapsed());
        assert_eq!(resolver.cached(), 201);
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

        let routes = netlink.routes4().await.unwrap();
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
                bridge: "kl0".into(),
                subnet: "172.17.0.0/16".parse().unwrap(),
                mtu: 1500,
            }],
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
