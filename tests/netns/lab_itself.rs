//! What the other tests take for granted of the lab: with no tunbridge in it.

use crate::lab::{FAR6, HOST, HOST6, LAN6, Lab, WAN6, World};

#[test]
fn both_families_reach_everybody_at_once() {
    for options in [&[][..], &["--second-uplink"], &["--far-mtu", "1280"]] {
        let lab = Lab::with_options(World::Plain, options);
        let places = [lab.host(), lab.wan(), lab.lan(), lab.far()];
        for place in &places {
            for address in place.addresses6() {
                assert!(
                    !address.contains("tentative"),
                    "{}: {address}",
                    place.name()
                );
            }
        }
        for place in &places {
            for target in [HOST6, WAN6, LAN6, FAR6] {
                place.ping(target).expect_success();
            }
        }
        let _server = lab.far().serve(&["7000"]);
        let v6 = lab.lan().tcp(&format!("[{FAR6}]:7000")).unwrap();
        assert_eq!(v6.saw_address(), LAN6);
        let big = lab.host().udp_of(4000, &format!("[{FAR6}]:7000")).unwrap();
        assert_eq!(big.saw_address(), HOST6);
        let v4 = lab.lan().tcp("192.0.2.9:7000").unwrap();
        assert_eq!(v4.saw_address(), "203.0.113.9");
    }
}

#[test]
fn prefixes_are_routed_to_the_host_on_request() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", "2001:db8:d::/64"]);
    lab.host()
        .run(&["ip", "address", "add", "2001:db8:d::7/128", "dev", "lo"])
        .expect_success();
    lab.far().ping("2001:db8:d::7").expect_success();

    let lab = Lab::with_options(World::Plain, &["--seed-article"]);
    let routes = lab.wan().run(&["ip", "-6", "route"]).stdout;
    assert!(
        routes.contains("2001:db8:ffff::/64 via 2001:db8:1::1 dev host0"),
        "{routes}"
    );
    lab.lan().ping("2001:db8:1::1").expect_success();
    lab.host().ping("2001:db8:9::9").expect_success();
}

#[test]
fn a_lab_may_have_no_ipv6() {
    let lab = Lab::with_options(World::Plain, &["--no-ipv6"]);
    for place in [lab.host(), lab.wan(), lab.lan(), lab.far()] {
        assert!(place.addresses6().is_empty(), "{}", place.name());
    }
    lab.lan().ping(HOST).expect_success();
}

#[test]
fn a_hostile_host_finds_neighbours_and_answers_nobody() {
    let lab = Lab::in_world(World::Hostile);
    lab.lan().ping(HOST6).expect_failure();
    lab.host().ping(FAR6).expect_success();
    let answer = lab.wan().ndp(&["ask", HOST6, "--interface", "host0"]);
    let mac = lab.host().mac("ext0");
    assert!(answer.starts_with(&format!("answer={mac} ")), "{answer}");
}

#[test]
fn neighbour_discovery_by_hand() {
    let lab = Lab::plain();
    let wan = lab.wan();
    let ask = |words: &[&str]| wan.ndp(&[&["ask", HOST6, "--interface", "host0"], words].concat());
    let mac = lab.host().mac("ext0");
    assert!(ask(&["--unicast", &mac]).contains(&mac));
    assert_eq!(ask(&["--hop-limit", "254", "--wait", "0.3"]), "answer=none");

    let mut heard = lab.host().hear("ext0");
    let source = wan.link_local("host0");
    wan.ndp(&["announce", "--interface", "host0", "--lifetime", "600"]);
    heard.read_until(&format!(
        "in type=134 hop-limit=255 from={source} to=ff02::1"
    ));
    let routes = lab.host().run(&["ip", "-6", "route"]).stdout;
    assert!(
        routes.contains(&format!("default via {source} dev ext0 proto ra")),
        "{routes}"
    );
    let claimed = "02:00:00:00:00:66";
    wan.ndp(&[
        "advertise",
        WAN6,
        "--claims",
        claimed,
        "--interface",
        "host0",
    ]);
    heard.read_until("type=136");
    wan.ndp(&["redirect", FAR6, HOST6, "--interface", "host0"]);
    heard.read_until("type=137");
    wan.ndp(&["echo", HOST6, "--to-mac", &mac, "--interface", "host0"]);
    heard.read_until("out type=129");
    wan.ndp(&["mld", "--interface", "host0"]);
    heard.read_until("in type=143 hop-limit=1");
}
