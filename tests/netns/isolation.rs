//! Who may not reach whom, and neighbours on one bridge.

use std::time::Duration;

use crate::lab::{FAR, HOST, Lab, World, eventually, in_every_world};

in_every_world! {
    containers_on_one_bridge_reach_each_other
    containers_without_icc_do_not_reach_each_other
    a_container_address_is_not_reachable_from_outside
    a_container_cannot_use_an_address_that_is_not_its_own
    packets_that_no_route_would_carry_are_dropped
    no_ethernet_address_leads_past_the_forwarder
}

fn containers_on_one_bridge_reach_each_other(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    tunbridge.server("c2", &[]);
    // br_netfilter hands even frames that a bridge switches to the FORWARD hook.
    let setting = "net.bridge.bridge-nf-call-iptables";
    let before = lab.host().sysctl(setting);
    lab.host().set_sysctl(&format!("{setting}=1"));

    for answer in [
        c1.tcp("172.17.0.3:80"),
        c1.udp("172.17.0.3:80"),
        c1.udp_of(4000, "172.17.0.3:80"),
    ] {
        assert_eq!(
            answer.unwrap().saw_address(),
            "172.17.0.2",
            "nothing is translated in between"
        );
    }
    let reply = c1.ping("172.17.0.3").expect_success();
    assert!(
        reply.stdout.contains("ttl=64"),
        "no router in between: {}",
        reply.stdout
    );
    c1.transfer("get", "172.17.0.3:80", 32 << 20)
        .expect_success();
    lab.host().set_sysctl(&format!("{setting}={before}"));
}

fn containers_without_icc_do_not_reach_each_other(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&["--icc=false"]);
    let c1 = tunbridge.container("c1");
    tunbridge.server("c2", &["-p", "8080:80"]);
    let _server = lab.far().serve(&["7000"]);

    c1.impatient().tcp("172.17.0.3:80").unwrap_err();
    c1.impatient().udp("172.17.0.3:80").unwrap_err();
    c1.ping("172.17.0.3").expect_failure();
    assert_eq!(
        c1.tcp("192.0.2.9:7000").unwrap().saw_address(),
        HOST,
        "the outside is another matter"
    );
    lab.lan().tcp("198.51.100.2:8080").unwrap();
}

fn a_container_address_is_not_reachable_from_outside(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80"]);
    // As bad as it gets: the network knows a way to the container, and the host is a router.
    lab.lan()
        .run(&["ip", "route", "add", "172.17.0.0/16", "via", "203.0.113.1"])
        .expect_success();
    lab.wan()
        .run(&["ip", "route", "add", "172.17.0.0/16", "via", HOST])
        .expect_success();
    if world == World::Plain {
        lab.host().set_sysctl("net.ipv4.ip_forward=1");
    }

    for stranger in [lab.lan().impatient(), lab.wan().impatient()] {
        stranger.tcp("172.17.0.2:80").unwrap_err();
        stranger.udp("172.17.0.2:80").unwrap_err();
        stranger.ping("172.17.0.2").expect_failure();
    }
    lab.lan()
        .tcp("198.51.100.2:8080")
        .expect("the published port is open all the while");
    if world == World::Plain {
        lab.host().set_sysctl("net.ipv4.ip_forward=0");
    }
}

fn a_container_cannot_use_an_address_that_is_not_its_own(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    tunbridge.container("c2");
    let _server = lab.far().serve(&["7000"]);

    let gateway_mac = lab.host().mac("tb0");
    let knock = |extra: &[&str], source: &str| {
        c1.crafted_syn(
            &[&["--to-mac", gateway_mac.as_str()], extra].concat(),
            source,
            "192.0.2.9:7000",
        )
    };
    assert_eq!(
        knock(&[], "172.17.0.2:5001"),
        "accepted",
        "with its own address it works"
    );

    let frauds: [(&[&str], &str); 5] = [
        (&[], "172.17.0.3:5002"),
        (&[], "10.66.66.66:5003"),
        (&[], "198.51.100.2:5004"),
        (&["--mac", "02:42:ac:11:00:03"], "172.17.0.2:5005"),
        (&["--mac", "02:42:ac:11:00:03"], "172.17.0.3:5006"),
    ];
    for (extra, source) in frauds {
        let before = tunbridge.dropped(&["spoof"]);
        assert_eq!(knock(extra, source), "none", "{source} {extra:?}");
        assert!(
            eventually(Duration::from_secs(1), || tunbridge.dropped(&["spoof"])
                > before),
            "{source} {extra:?} is counted: {:?}",
            tunbridge.stats()
        );
    }
    assert!(lab.far().shell("ip neighbour").succeeded());
    c1.tcp("192.0.2.9:7000")
        .expect("and honest traffic goes on");
}

fn packets_that_no_route_would_carry_are_dropped(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let web = tunbridge.server("web", &["-p", "8080:80"]);
    let gateway_mac = lab.host().mac("tb0");
    let to_host = lab.host().mac("ext0");

    // From a container, with its own source address, to destinations that are not on any network.
    // (Groups and broadcasts are the bridge's.)
    let total = || {
        tunbridge.stats().dropped.values().sum::<u64>()
            + tunbridge.stats().steering.values().sum::<u64>()
    };
    for destination in ["127.0.0.1:80", "0.0.0.0:80", "240.0.0.1:80"] {
        let before = total();
        let options = ["--to-mac", gateway_mac.as_str(), "--wait", "0.3"];
        assert_eq!(
            web.crafted_syn(&options, "172.17.0.2:5001", destination),
            "none"
        );
        assert!(
            eventually(Duration::from_secs(1), || total() > before),
            "{destination} is counted"
        );
    }
    // From outside to the published port, from sources that cannot be outside.
    for source in [
        "0.0.0.0:5002",
        "127.0.0.1:5002",
        "198.51.100.2:5002",
        "172.17.0.2:5002",
        "224.0.0.1:5002",
    ] {
        let before = total();
        let options = [
            "--interface",
            "host0",
            "--to-mac",
            to_host.as_str(),
            "--wait",
            "0.3",
        ];
        assert_eq!(
            lab.wan().crafted_syn(&options, source, "198.51.100.2:8080"),
            "none"
        );
        assert!(
            eventually(Duration::from_secs(1), || total() > before),
            "{source} is counted"
        );
    }
    web.ping(FAR).expect_success();
}

#[test]
fn what_comes_out_of_the_host_carries_the_hosts_address() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);
    let tcpdump = "exec tcpdump -nl --immediate-mode -i host0 dst net 192.0.2.0/24 and ip 2>&1";
    let mut capture = lab.wan().start(&["bash", "-c", tcpdump]);
    capture.read_until("listening on");

    c1.tcp("192.0.2.9:7000").unwrap();
    c1.udp_of(4000, "192.0.2.9:7000").unwrap();
    c1.ping(FAR).expect_success();
    c1.impatient().tcp("192.0.2.77:7000").unwrap_err();
    capture.signal("INT");
    let mut seen = Vec::new();
    loop {
        let line = capture.read_line();
        match line.split_once(" IP ") {
            Some((_, packet)) => seen.push(packet.to_owned()),
            None if line.contains("packets captured") => break,
            None => {}
        }
    }
    assert!(seen.len() > 6, "{seen:?}");
    let foreign: Vec<_> = seen
        .iter()
        .filter(|packet| !packet.starts_with(HOST))
        .collect();
    assert!(
        foreign.is_empty(),
        "untranslated packets left the host: {foreign:?}"
    );
}

fn no_ethernet_address_leads_past_the_forwarder(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);
    // As bad as it gets: the host routes, and the outside would answer.
    lab.wan()
        .run(&["ip", "route", "add", "172.17.0.0/16", "via", HOST])
        .expect_success();
    let watching = "timeout 3 tcpdump -lnc 1 -i host0 src net 172.17.0.0/16 2>/dev/null";
    let mut watcher = lab.wan().start(&["bash", "-c", watching]);
    if world == World::Plain {
        lab.host().set_sysctl("net.ipv4.ip_forward=1");
    }
    std::thread::sleep(Duration::from_millis(500));

    // The bridge takes frames to any of its ports' addresses for its own.
    let ports = lab
        .host()
        .shell("ip -j link show master tb0 | jq -r .[].address; cat /sys/class/net/tb0/address")
        .expect_success()
        .stdout;
    assert_eq!(ports.lines().count(), 2, "{ports}");
    for (number, mac) in ports.lines().enumerate() {
        let answer = c1.crafted_syn(
            &["--to-mac", mac],
            &format!("172.17.0.2:{}", 5001 + number),
            "192.0.2.9:7000",
        );
        assert_ne!(answer, "none", "{mac} is the gateway's");
    }
    assert_eq!(watcher.read_line(), "", "left the host untranslated");
    if world == World::Plain {
        lab.host().set_sysctl("net.ipv4.ip_forward=0");
    }
}
