use std::collections::BTreeSet;

use super::*;
use crate::control::ipam::{Gateway, PoolConfig};

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn pool(subnet: &str, range: Option<&str>) -> Pool {
    Pool::new(&PoolConfig {
        subnet: subnet.parse().unwrap(),
        range: range.map(|range| range.parse().unwrap()),
        gateway: Gateway::First,
        auxiliary: Default::default(),
    })
    .unwrap()
}

fn owner<'a>(network: &'a str, container: &'a str, mac: &str) -> Owner<'a> {
    Owner {
        network,
        container,
        mac: mac.parse().unwrap(),
        secret: SECRET,
    }
}

fn from_mac(pool: &mut Pool, mac: &str) -> Result<String, String> {
    choose(pool, Ipv6Allocation::Mac, &owner("n", "c", mac))
        .map(|address| address.to_string())
        .map_err(|error| error.to_string())
}

#[test]
fn the_mac_verbatim() {
    // docker-bridge.md 3.4, the seed article, transcript 07 and 1.10's /80.
    for (subnet, mac, expected) in [
        (
            "2001:db8:1::/64",
            "02:42:ac:11:00:03",
            "2001:db8:1::242:ac11:3",
        ),
        (
            "2001:db8:ffff::/64",
            "02:42:ac:11:00:01",
            "2001:db8:ffff::242:ac11:1",
        ),
        (
            "2001:db8:d::/64",
            "02:42:ac:11:00:02",
            "2001:db8:d::242:ac11:2",
        ),
        (
            "2001:db8:cccc::/80",
            "02:42:ac:11:00:02",
            "2001:db8:cccc::242:ac11:2",
        ),
        (
            "2001:db8::/48",
            "fe:ff:ff:ff:ff:ff",
            "2001:db8::feff:ffff:ffff",
        ),
        // One bit less and there is no room: the lowest free one.
        (
            "2001:db8:cccc::/81",
            "02:42:ac:11:00:02",
            "2001:db8:cccc::2",
        ),
        (
            "2001:db8:cccc::/124",
            "02:42:ac:11:00:02",
            "2001:db8:cccc::2",
        ),
    ] {
        let found = from_mac(&mut pool(subnet, None), mac);
        assert_eq!(found.as_deref(), Ok(expected), "{subnet} {mac}");
    }
}

#[test]
fn the_mac_in_an_allocation_range() {
    let mac = "02:42:ac:11:00:02";
    let mut wide = pool("2001:db8::/48", Some("2001:db8:0:5::/64"));
    assert_eq!(
        from_mac(&mut wide, mac).as_deref(),
        Ok("2001:db8:0:5:0:242:ac11:2")
    );
    let mut narrow = pool("2001:db8::/64", Some("2001:db8::ff00/120"));
    assert_eq!(from_mac(&mut narrow, mac).as_deref(), Ok("2001:db8::ff01"));
}

#[test]
fn a_taken_address_is_named_with_its_mac() {
    let mut pool = pool("2001:db8::/64", None);
    from_mac(&mut pool, "02:42:ac:11:00:02").unwrap();
    assert_eq!(
        from_mac(&mut pool, "02:42:ac:11:00:02").unwrap_err(),
        "Address already in use: 2001:db8::242:ac11:2, which follows from MAC 02:42:ac:11:00:02, is taken by another container: choose another --mac-address, or an --ip6 in 2001:db8::/64"
    );
    let gateway = from_mac(&mut pool, "00:00:00:00:00:01").unwrap_err();
    assert!(gateway.contains("is the gateway"), "{gateway}");
}

#[test]
fn sequential_until_nothing_is_left() {
    let mut pool = pool("2001:db8::/126", None);
    let mut next = || {
        choose(
            &mut pool,
            Ipv6Allocation::Sequential,
            &owner("n", "c", "02:00:00:00:00:01"),
        )
    };
    assert_eq!(next().unwrap().to_string(), "2001:db8::2");
    assert_eq!(next().unwrap().to_string(), "2001:db8::3");
    assert_eq!(
        next().unwrap_err().to_string(),
        "no available addresses on this pool: all of 2001:db8::/126 are in use; remove containers or choose a larger subnet"
    );
}

fn from_names(pool: &mut Pool, network: &str, container: &str) -> Ipv6Addr {
    let owner = owner(network, container, "02:00:00:00:00:01");
    match choose(pool, Ipv6Allocation::Stable, &owner).unwrap() {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => panic!("{address}"),
    }
}

#[test]
fn stable_for_the_same_names_and_prefix_only() {
    let on = |subnet: &str, network: &str, container: &str| {
        from_names(&mut pool(subnet, None), network, container)
    };
    let web = on("2001:db8::/64", "net1", "web");
    // Computed apart from this with Python's hashlib: whoever changes F gives every container another address.
    assert_eq!(web.to_string(), "2001:db8::9ce0:72d4:b043:afa2");
    assert_eq!(on("2001:db8::/64", "net1", "web"), web);
    let others = [
        on("2001:db8::/64", "net1", "web2"),
        on("2001:db8::/64", "net2", "web"),
        on("2001:db8::/64", "net1w", "eb"),
        on("2001:db8::/65", "net1", "web"),
        on("2001:db8:0:1::/64", "net1", "web"),
    ];
    let identifiers: BTreeSet<u128> = others
        .iter()
        .chain([&web])
        .map(|address| address.to_bits() & u128::from(u64::MAX))
        .collect();
    assert_eq!(identifiers.len(), 6, "{others:?}");
    let mut taken = pool("2001:db8::/64", None);
    taken.reserve(web.into()).unwrap();
    assert_ne!(
        from_names(&mut taken, "net1", "web"),
        web,
        "the counter goes up"
    );
    taken.release(web.into());
    assert_eq!(from_names(&mut taken, "net1", "web"), web);
}

#[test]
fn stable_fills_a_small_pool() {
    let mut small = pool("2001:db8::/123", Some("2001:db8::10/124"));
    let names: Vec<String> = (0..15).map(|number| format!("c{number}")).collect();
    let taken: BTreeSet<Ipv6Addr> = names
        .iter()
        .map(|name| from_names(&mut small, "n", name))
        .collect();
    assert_eq!(taken.len(), 15, "the gateway has the sixteenth");
    assert!(
        taken
            .iter()
            .all(|address| small.range().unwrap().contains(&IpAddr::V6(*address)))
    );
    let owner = owner("n", "c15", "02:00:00:00:00:01");
    let error = choose(&mut small, Ipv6Allocation::Stable, &owner).unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { .. }), "{error}");
}

#[test]
fn reserved_interface_identifiers() {
    for (base, address, reserved) in [
        ("2001:db8::/64", "2001:db8::", true),
        ("2001:db8::/64", "2001:db8::1", false),
        ("2001:db8::/64", "2001:db8::200:5eff:fe00:0", true),
        ("2001:db8::/64", "2001:db8::200:5eff:fe00:5213", true),
        ("2001:db8::/64", "2001:db8::200:5eff:feff:ffff", true),
        ("2001:db8::/64", "2001:db8::200:5eff:ff00:0", false),
        ("2001:db8::/64", "2001:db8::fdff:ffff:ffff:ff7f", false),
        ("2001:db8::/64", "2001:db8::fdff:ffff:ffff:ff80", true),
        ("2001:db8::/64", "2001:db8::fdff:ffff:ffff:ffff", true),
        // In every /64 of it.
        ("2001:db8::/48", "2001:db8:0:7::", true),
        ("2001:db8::/96", "2001:db8::", true),
        ("2001:db8::/96", "2001:db8::ffff:ff7f", false),
        ("2001:db8::/96", "2001:db8::ffff:ff80", true),
        ("2001:db8::/124", "2001:db8::", true),
        ("2001:db8::/124", "2001:db8::f", false),
    ] {
        let found = is_reserved(base.parse().unwrap(), address.parse().unwrap());
        assert_eq!(found, reserved, "{address} of {base}");
    }
}
