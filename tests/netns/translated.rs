//! IPv6 clients of published ports whose container is reached over IPv4.

use crate::lab::{GATEWAY, LAN6, Lab, World, in_every_world};

const PORT: &str = "[2001:db8:1::2]:8080";

in_every_world! {
    ipv6_clients_reach_a_container_with_ipv4_alone
    the_host_reaches_it_at_each_of_its_ipv6_addresses
    a_container_with_ipv6_reaches_it_by_an_address_of_the_host
    big_transfers_cross_the_families_intact
    a_narrow_uplink_lets_everything_across
    a_narrow_link_further_out_is_told_across_the_families
    a_port_without_a_server_refuses_across_the_families
}

fn ipv6_clients_reach_a_container_with_ipv4_alone(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for answer in [lab.lan().tcp(PORT), lab.lan().udp(PORT)] {
        let answer = answer.unwrap();
        assert_eq!(answer.saw_address(), GATEWAY);
        assert_eq!(answer.at.to_string(), "172.17.0.2:80");
    }
    let flows = tunbridge.cli(&["flows"]).expect_success().stdout;
    let crossing = flows.lines().filter(|line| line.contains(LAN6));
    assert!(crossing.clone().count() == 2, "{flows}");
    assert!(
        crossing.clone().all(|line| line.contains(GATEWAY)),
        "{flows}"
    );
    lab.lan()
        .many_short_connections(PORT, 2000)
        .expect_success();
}

fn the_host_reaches_it_at_each_of_its_ipv6_addresses(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for address in ["[::1]:8080", PORT] {
        for answer in [lab.host().tcp(address), lab.host().udp(address)] {
            assert_eq!(answer.unwrap().saw_address(), GATEWAY, "to {address}");
        }
        lab.host()
            .transfer("get", address, 8 << 20)
            .expect_success();
        lab.host()
            .transfer("put", address, 8 << 20)
            .expect_success();
        lab.host().udp_of(4000, address).unwrap();
    }
}

fn a_container_with_ipv6_reaches_it_by_an_address_of_the_host(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let create = "network create --ipv6 --subnet fd00:66::/64 six";
    let words: Vec<&str> = create.split(' ').collect();
    tunbridge.cli(&words).expect_success();
    let c6 = tunbridge.container_with("c6", &["--network", "six"]);

    for answer in [c6.tcp(PORT), c6.udp(PORT)] {
        assert_eq!(answer.unwrap().saw_address(), GATEWAY);
    }
    c6.transfer("get", PORT, 8 << 20).expect_success();
    c6.transfer("put", PORT, 8 << 20).expect_success();
}

fn big_transfers_cross_the_families_intact(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for verb in ["get", "put"] {
        lab.lan().transfer(verb, PORT, 64 << 20).expect_success();
    }
    for octets in [1, 1200, 1232, 1400, 1452, 1472, 4000, 20_000] {
        lab.lan().udp_of(octets, PORT).unwrap();
    }
}

fn a_narrow_uplink_lets_everything_across(world: World) {
    let lab = Lab::with_options(world, &["--mtu", "1400"]);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for verb in ["get", "put"] {
        lab.lan().transfer(verb, PORT, 32 << 20).expect_success();
    }
    // The server lets its datagrams be cut.
    for octets in [1300, 1350, 4000] {
        lab.lan().udp_of(octets, PORT).unwrap();
    }
}

fn a_narrow_link_further_out_is_told_across_the_families(world: World) {
    let lab = Lab::with_options(world, &["--far-mtu", "1300"]);
    let tunbridge = lab.start_daemon(&[]);
    let web = tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    for verb in ["get", "put"] {
        lab.far().transfer(verb, PORT, 32 << 20).expect_success();
    }
    let route = web.run(&["ip", "route", "get", GATEWAY]).expect_success();
    assert!(route.stdout.contains("mtu 1280"), "{}", route.stdout);
    lab.far().udp_of(4000, PORT).unwrap();
}

fn a_port_without_a_server_refuses_across_the_families(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("idle", &["-p", "8080:9999", "-p", "8080:9999/udp"]);

    for place in [lab.lan(), lab.host()] {
        for answer in [place.tcp(PORT), place.udp(PORT)] {
            assert!(
                answer.unwrap_err().contains("Connection refused"),
                "from {}",
                place.name()
            );
        }
    }
}
