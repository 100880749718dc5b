//! From outside, from the host and from containers to published ports.

use crate::lab::{GATEWAY, HOST, LAN, Lab, World, in_every_world};
use crate::tunbridge_under_test::big;

in_every_world! {
    a_client_outside_reaches_a_published_port_and_the_container_sees_its_address
    the_host_reaches_a_published_port_at_each_of_its_addresses
    a_container_reaches_itself_through_the_host
    a_container_reaches_another_through_the_host
    a_port_published_on_loopback_is_the_hosts_alone
    a_port_published_on_one_address_is_not_on_another
    a_big_transfer_with_a_published_server_arrives_intact
    ten_thousand_short_connections_to_a_published_port_succeed
    big_datagrams_reach_a_published_port
    a_published_port_without_a_server_refuses
    a_range_of_ten_thousand_ports_works_at_both_ends
}

fn a_client_outside_reaches_a_published_port_and_the_container_sees_its_address(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for answer in [
        lab.lan().tcp("198.51.100.2:8080"),
        lab.lan().udp("198.51.100.2:8080"),
    ] {
        let answer = answer.unwrap();
        assert_eq!(answer.saw_address(), LAN);
        assert_eq!(
            answer.saw, answer.client,
            "address and port are the client's own"
        );
        assert_eq!(answer.at.to_string(), "172.17.0.2:80");
    }
}

fn the_host_reaches_a_published_port_at_each_of_its_addresses(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for address in ["127.0.0.1:8080", "198.51.100.2:8080", "172.17.0.1:8080"] {
        for answer in [lab.host().tcp(address), lab.host().udp(address)] {
            assert_eq!(answer.unwrap().saw_address(), GATEWAY, "to {address}");
        }
    }
    lab.host()
        .transfer("get", "127.0.0.1:8080", 8 << 20)
        .expect_success();
    lab.host()
        .transfer("put", "198.51.100.2:8080", 8 << 20)
        .expect_success();
}

fn a_container_reaches_itself_through_the_host(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let web = tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for address in ["198.51.100.2:8080", "172.17.0.1:8080"] {
        for answer in [web.tcp(address), web.udp(address)] {
            assert_eq!(answer.unwrap().saw_address(), GATEWAY, "to {address}");
        }
    }
}

fn a_container_reaches_another_through_the_host(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let c1 = tunbridge.container("c1");

    for address in ["198.51.100.2:8080", "172.17.0.1:8080"] {
        for answer in [c1.tcp(address), c1.udp(address)] {
            assert_eq!(answer.unwrap().saw_address(), GATEWAY, "to {address}");
        }
    }
    c1.transfer("get", "198.51.100.2:8080", 8 << 20)
        .expect_success();
}

fn a_port_published_on_loopback_is_the_hosts_alone(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "127.0.0.1:8081:80", "-p", "8080:80"]);
    let c1 = tunbridge.container("c1");

    assert_eq!(
        lab.host().tcp("127.0.0.1:8081").unwrap().saw_address(),
        GATEWAY
    );
    for stranger in [lab.lan().impatient(), lab.wan().impatient(), c1.impatient()] {
        stranger.tcp("198.51.100.2:8081").unwrap_err();
    }

    // A neighbour on the host's own link can name any address (CVE-2020-8558).
    let (wan, to_host) = (lab.wan(), lab.host().mac("ext0"));
    let options = ["--interface", "host0", "--to-mac", to_host.as_str()];
    let knock = |source: &str, destination: &str| wan.crafted_syn(&options, source, destination);
    assert_eq!(
        knock("198.51.100.1:5001", "198.51.100.2:8080"),
        "accepted",
        "such packets do arrive"
    );
    assert_eq!(knock("198.51.100.1:5002", "127.0.0.1:8081"), "none");
    assert_eq!(knock("198.51.100.1:5003", "127.0.0.1:8080"), "none");
    assert_eq!(knock("127.0.0.1:5004", "127.0.0.1:8081"), "none");
}

fn a_port_published_on_one_address_is_not_on_another(world: World) {
    let lab = Lab::with_options(world, &["--second-uplink"]);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "198.18.0.2:8082:80"]);

    assert_eq!(
        lab.wan().tcp("198.18.0.2:8082").unwrap().saw_address(),
        "198.18.0.1"
    );
    lab.wan().impatient().tcp("198.51.100.2:8082").unwrap_err();
    lab.host().impatient().tcp("127.0.0.1:8082").unwrap_err();
    assert_eq!(
        lab.host().tcp("198.18.0.2:8082").unwrap().saw_address(),
        GATEWAY
    );
}

fn a_big_transfer_with_a_published_server_arrives_intact(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80"]);

    lab.lan()
        .transfer("get", "198.51.100.2:8080", big(world) / 4)
        .expect_success();
    lab.lan()
        .transfer("put", "198.51.100.2:8080", big(world) / 4)
        .expect_success();
}

fn ten_thousand_short_connections_to_a_published_port_succeed(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80"]);

    lab.lan()
        .many_short_connections("198.51.100.2:8080", 10_000)
        .expect_success();
}

fn big_datagrams_reach_a_published_port(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80/udp"]);

    assert_eq!(
        lab.lan()
            .udp_of(4000, "198.51.100.2:8080")
            .unwrap()
            .saw_address(),
        LAN
    );
    assert_eq!(
        lab.host()
            .udp_of(4000, "127.0.0.1:8080")
            .unwrap()
            .saw_address(),
        GATEWAY
    );
}

fn a_published_port_without_a_server_refuses(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("idle", &["-p", "8090:9999", "-p", "8090:9999/udp"]);

    for place in [lab.lan(), lab.host()] {
        for answer in [
            place.tcp("198.51.100.2:8090"),
            place.udp("198.51.100.2:8090"),
        ] {
            assert!(
                answer.unwrap_err().contains("Connection refused"),
                "from {}",
                place.name()
            );
        }
    }
}

fn a_range_of_ten_thousand_ports_works_at_both_ends(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let began = std::time::Instant::now();
    // Each port of each family is a descriptor of the daemon, and machines have as few as 20,000 of them.
    let range = ["-p", "0.0.0.0:20000-29999:20000-29999/udp"];
    let range = tunbridge.container_with("range", &range);
    let took = began.elapsed();
    assert!(took.as_secs() < 10, "publishing took {took:?}");
    let _server = range.serve(&["20000", "25000", "29999"]);

    for port in [20_000, 25_000, 29_999] {
        let answer = lab.lan().udp(&format!("{HOST}:{port}")).unwrap();
        assert_eq!(
            (answer.saw_address().as_str(), answer.at.port()),
            (LAN, port)
        );
    }
    for port in [20_000, 29_999] {
        assert_eq!(
            lab.host()
                .udp(&format!("127.0.0.1:{port}"))
                .unwrap()
                .saw_address(),
            GATEWAY
        );
    }
    lab.lan().impatient().udp("198.51.100.2:30000").unwrap_err();
    eprintln!("10,000 ports published in {took:?}");
}
