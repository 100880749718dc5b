//! Paths that are narrower than the container's interface.

use crate::lab::{FAR, GATEWAY, HOST, Lab, WAN, World, in_every_world};

in_every_world! {
    a_narrow_uplink_is_told_to_the_container
    a_narrow_link_further_out_is_told_to_the_container
    a_narrow_uplink_is_told_to_clients_of_a_published_port
    a_network_with_a_small_mtu_works
}

fn a_narrow_uplink_is_told_to_the_container(world: World) {
    let lab = Lab::with_options(world, &["--mtu", "1400"]);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container_with("c1", &[]);
    let _server = lab.far().serve(&["7000"]);

    c1.ping_unfragmented(1400, FAR).expect_success();
    let refused = c1.ping_unfragmented(1500, FAR).expect_failure();
    assert!(
        refused.stdout.contains(&format!("From {GATEWAY}")),
        "{}",
        refused.stdout
    );
    assert!(
        refused.output().contains("mtu = 1400") || refused.output().contains("mtu=1400"),
        "{}",
        refused.output()
    );

    // Segments and super-packets of 1500 octets, until the container has learnt.
    c1.run(&["ip", "route", "flush", "cache"]);
    c1.transfer("put", "192.0.2.9:7000", 32 << 20)
        .expect_success();
    c1.transfer("get", "192.0.2.9:7000", 32 << 20)
        .expect_success();
    let learnt = c1.run(&["ip", "route", "get", FAR]).expect_success();
    assert!(learnt.stdout.contains("mtu 1400"), "{}", learnt.stdout);
    assert_eq!(
        c1.udp_of(4000, "192.0.2.9:7000").unwrap().saw_address(),
        HOST
    );
}

fn a_narrow_link_further_out_is_told_to_the_container(world: World) {
    let lab = Lab::with_options(world, &["--far-mtu", "1300"]);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    // The router's error names a packet of the host's; the container must recognise its own.
    let refused = c1.ping_unfragmented(1400, FAR).expect_failure();
    assert!(
        refused.stdout.contains(&format!("From {WAN}")),
        "{}",
        refused.stdout
    );
    assert!(
        refused.output().contains("mtu = 1300") || refused.output().contains("mtu=1300"),
        "{}",
        refused.output()
    );
    c1.run(&["ip", "route", "flush", "cache"]);
    c1.transfer("put", "192.0.2.9:7000", 32 << 20)
        .expect_success();
    let learnt = c1.run(&["ip", "route", "get", FAR]).expect_success();
    assert!(learnt.stdout.contains("mtu 1300"), "{}", learnt.stdout);
}

fn a_narrow_uplink_is_told_to_clients_of_a_published_port(world: World) {
    let lab = Lab::with_options(world, &["--mtu", "1400"]);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    lab.lan()
        .transfer("get", "198.51.100.2:8080", 32 << 20)
        .expect_success();
    lab.lan()
        .transfer("put", "198.51.100.2:8080", 32 << 20)
        .expect_success();
    lab.lan().udp_of(4000, "198.51.100.2:8080").unwrap();
}

fn a_network_with_a_small_mtu_works(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&["--mtu", "1300"]);
    let web = tunbridge.server("web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let _server = lab.far().serve(&["7000"]);

    let link = web
        .run(&["ip", "-o", "link", "show", "eth0"])
        .expect_success();
    assert!(link.stdout.contains("mtu 1300"), "{}", link.stdout);
    web.transfer("get", "192.0.2.9:7000", 32 << 20)
        .expect_success();
    lab.lan()
        .transfer("put", "198.51.100.2:8080", 32 << 20)
        .expect_success();
    lab.host()
        .transfer("put", "127.0.0.1:8080", 32 << 20)
        .expect_success();
    assert_eq!(
        web.udp_of(4000, "192.0.2.9:7000").unwrap().saw_address(),
        HOST
    );
    lab.lan().udp_of(4000, "198.51.100.2:8080").unwrap();
}
