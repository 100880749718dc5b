use super::*;
use proptest::prelude::*;

fn config(subnet: &str) -> PoolConfig {
    PoolConfig {
        subnet: subnet.parse().unwrap(),
        range: None,
        gateway: Gateway::First,
        auxiliary: BTreeMap::new(),
    }
}

fn pool(subnet: &str) -> Pool {
    Pool::new(&config(subnet)).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn lowest_free_and_freed_ones_again() {
    // Transcript 01, "Allocation order after a release".
    let mut pool = pool("172.17.0.0/16");
    assert_eq!(pool.gateway(), Some(ip("172.17.0.1")));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.2")));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
    assert!(pool.release(ip("172.17.0.3")));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.4")));
    assert!(pool.release(ip("172.17.0.3")));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
}

#[test]
fn fixed_cidr_and_default_gateway() {
    // Transcript 06: --bip 192.168.77.1/24 --fixed-cidr 192.168.77.128/25 --default-gateway 192.168.77.254.
    let mut pool = Pool::new(&PoolConfig {
        range: Some("192.168.77.128/25".parse().unwrap()),
        gateway: Gateway::At(ip("192.168.77.1")),
        auxiliary: [("DefaultGatewayIPv4".to_owned(), ip("192.168.77.254"))].into(),
        ..config("192.168.77.0/24")
    })
    .unwrap();
    assert_eq!(pool.allocate(), Ok(ip("192.168.77.128")));
    assert_eq!(
        pool.reserve(ip("192.168.77.5")),
        Ok(()),
        "a requested address may lie outside the range"
    );
    assert!(matches!(
        pool.reserve(ip("192.168.77.254")),
        Err(IpamError::InUse { by: "reserved", .. })
    ));
    assert!(matches!(
        pool.reserve(ip("192.168.77.1")),
        Err(IpamError::InUse {
            by: "the gateway",
            ..
        })
    ));
    for last in 129..=253 {
        assert_eq!(pool.allocate(), Ok(ip(&format!("192.168.77.{last}"))));
    }
    assert!(matches!(pool.allocate(), Err(IpamError::Exhausted { .. })));
    // A gateway that is not given is the range's first address.
    let pool = Pool::new(&PoolConfig {
        range: Some("10.0.0.128/25".parse().unwrap()),
        ..config("10.0.0.0/24")
    });
    assert_eq!(pool.unwrap().gateway(), Some(ip("10.0.0.128")));
}

#[test]
fn tiny_subnets() {
    let mut thirty = pool("10.0.0.0/30");
    assert_eq!(thirty.allocate(), Ok(ip("10.0.0.2")));
    assert!(thirty.allocate().is_err());
    let mut thirty_one = pool("10.0.0.0/31");
    assert_eq!(
        (thirty_one.gateway(), thirty_one.allocate()),
        (Some(ip("10.0.0.0")), Ok(ip("10.0.0.1")))
    );
    assert!(thirty_one.allocate().is_err());
    let mut thirty_two = pool("10.0.0.7/32");
    assert_eq!(thirty_two.gateway(), Some(ip("10.0.0.7")));
    assert!(thirty_two.allocate().is_err());
}

#[test]
fn test_point_to_point() {
    // Isolated, or inhibit_ipv4 on an internal network: both addresses of a /31 are the containers'.
    let without_gateway = |subnet: &str| {
        Pool::new(&PoolConfig {
            gateway: Gateway::Absent,
            ..config(subnet)
        })
        .unwrap()
    };
    let mut pool = without_gateway("192.168.135.0/31");
    assert_eq!(pool.gateway(), None);
    assert_eq!(pool.allocate(), Ok(ip("192.168.135.0")));
    assert_eq!(pool.allocate(), Ok(ip("192.168.135.1")));
    assert!(pool.allocate().is_err());
    let mut isolated = without_gateway("10.0.0.0/24");
    assert_eq!(isolated.allocate(), Ok(ip("10.0.0.1")));
}

#[test]
fn test_bridge_ipam_status() {
    let status = |pool: &Pool| (pool.in_use(), pool.available());
    let mut v4 = Pool::new(&PoolConfig {
        range: Some("192.168.0.64/31".parse().unwrap()),
        gateway: Gateway::At(ip("192.168.0.1")),
        auxiliary: [
            ("reserved".to_owned(), ip("192.168.0.65")),
            ("reserved_1".to_owned(), ip("192.168.0.128")),
        ]
        .into(),
        ..config("192.168.0.0/24")
    })
    .unwrap();
    let mut v6 = Pool::new(&PoolConfig {
        range: Some("2001:db8:abcd::/120".parse().unwrap()),
        gateway: Gateway::At(ip("2001:db8:abcd::1")),
        auxiliary: [
            ("reserved1".to_owned(), ip("2001:db8:abcd::2a")),
            ("reserved2".to_owned(), ip("2001:db8:abcd::8000")),
        ]
        .into(),
        ..config("2001:db8:abcd::/64")
    })
    .unwrap();
    assert_eq!((status(&v4), status(&v6)), ((5, 1), (4, 253)));
    let (from_v4, from_v6) = (v4.allocate().unwrap(), v6.allocate().unwrap());
    assert_eq!((status(&v4), status(&v6)), ((6, 0), (5, 252)));
    v4.reserve(ip("192.168.0.129")).unwrap();
    v6.reserve(ip("2001:db8:abcd::9000")).unwrap();
    assert_eq!((status(&v4), status(&v6)), ((7, 0), (6, 252)));
    for address in [from_v4, ip("192.168.0.129")] {
        assert!(v4.release(address));
    }
    for address in [from_v6, ip("2001:db8:abcd::9000")] {
        assert!(v6.release(address));
    }
    assert_eq!((status(&v4), status(&v6)), ((5, 1), (4, 253)));
    assert_eq!(status(&pool("2001:db8:abcd::/56")), (2, u64::MAX));
    assert_eq!(status(&pool("::/0")), (2, u64::MAX));
    assert_eq!(status(&pool("172.17.0.0/16")), (3, 65_533));
}

#[test]
fn huge_subnets_of_both_families() {
    let mut eight = pool("10.0.0.0/8");
    for _ in 0..70_000 {
        eight.allocate().unwrap();
    }
    assert_eq!(eight.allocate(), Ok(ip("10.1.17.114")));
    assert_eq!(pool("0.0.0.0/0").gateway(), Some(ip("0.0.0.1")));
    let mut v6 = pool("fd00::/64");
    assert_eq!(
        (v6.gateway(), v6.allocate()),
        (Some(ip("fd00::1")), Ok(ip("fd00::2")))
    );
    assert_eq!(
        v6.reserve(ip("fd00::ffff:ffff:ffff:ffff")),
        Ok(()),
        "IPv6 has no broadcast address"
    );
    assert_eq!(pool("::/0").gateway(), Some(ip("::1")));
}

#[test]
fn requested_addresses() {
    let mut pool = pool("172.17.0.0/16");
    assert_eq!(pool.reserve(ip("172.17.0.2")), Ok(()));
    assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
    assert_eq!(
        pool.reserve(ip("172.17.0.2")).unwrap_err().to_string(),
        "Address already in use: 172.17.0.2 is taken by another container: choose another --ip in 172.17.0.0/16"
    );
    assert_eq!(
        pool.reserve(ip("10.0.0.1")).unwrap_err().to_string(),
        "invalid address 10.0.0.1: It does not belong to any of this network's subnets: choose one in 172.17.0.0/16"
    );
    for reserved in ["172.17.0.0", "172.17.255.255"] {
        assert!(pool.reserve(ip(reserved)).is_err());
    }
    for never_released in [
        "172.17.0.1",
        "172.17.0.0",
        "172.17.255.255",
        "10.0.0.1",
        "172.17.9.9",
        "::1",
    ] {
        assert!(!pool.release(ip(never_released)), "{never_released}");
    }
    assert_eq!(pool.in_use(), 5);
}

#[test]
fn contradictions_have_dockers_words() {
    let error = |config: PoolConfig| Pool::new(&config).unwrap_err().to_string();
    assert_eq!(
        error(config("10.0.0.1/24")),
        "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"
    );
    let range = |range: &str| PoolConfig {
        range: Some(range.parse().unwrap()),
        ..config("10.0.0.0/24")
    };
    assert_eq!(
        error(range("10.0.0.0/16")),
        "invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24: choose a part of it"
    );
    assert_eq!(
        error(range("10.0.1.0/25")),
        "invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range: choose a part of it"
    );
    assert_eq!(
        error(PoolConfig {
            gateway: Gateway::At(ip("10.0.1.1")),
            ..config("10.0.0.0/24")
        }),
        "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't contain this address: choose one in it"
    );
    assert_eq!(
        error(PoolConfig {
            auxiliary: [("a".into(), ip("10.0.1.1"))].into(),
            ..config("10.0.0.0/24")
        }),
        "invalid auxiliary address a: parent subnet 10.0.0.0/24 doesn't contain this address: choose one in it, not 10.0.1.1"
    );
    assert_eq!(
        error(range("10.0.0.1/25")),
        "invalid ip-range 10.0.0.1/25: it should be 10.0.0.0/25"
    );
    assert_eq!(
        error(range("fd00::/120")),
        "invalid ip-range fd00::/120: parent subnet is an IPv4 block: choose a part of 10.0.0.0/24"
    );
    let gateway = |last: u8, auxiliary: u8| PoolConfig {
        gateway: Gateway::At([10, 0, 0, last].into()),
        auxiliary: [("a".into(), [10, 0, 0, auxiliary].into())].into(),
        ..config("10.0.0.0/24")
    };
    assert_eq!(
        error(gateway(255, 1)),
        "failed to allocate gateway (10.0.0.255): Address already in use: it is the network's or the broadcast address; choose another in 10.0.0.0/24"
    );
    assert_eq!(
        error(gateway(1, 1)),
        "failed to allocate gateway (10.0.0.1): Address already in use: it is an auxiliary address; choose another in 10.0.0.0/24"
    );
    assert_eq!(
        error(gateway(1, 0)),
        "failed to allocate secondary ip address (a:10.0.0.0): Address already in use: choose another in 10.0.0.0/24"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Reserve(u8),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Allocate),
        1 => any::<u8>().prop_map(Step::Reserve),
        2 => any::<u8>().prop_map(Step::Release),
    ]
}

proptest! {
    /// The pool against a model that looks at every address of a small subnet.
    #[test]
    fn agrees_with_a_naive_model(
        steps in proptest::collection::vec(step(), 0..400),
        prefix in 24_u8..=32,
        range in proptest::option::of((24_u8..=32, any::<u8>())),
        auxiliary in any::<u8>(),
        with_gateway in any::<bool>(),
    ) {
        let subnet = IpNet::new(ip("10.0.0.0"), prefix).unwrap();
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let range = range
            .map(|(prefix, last)| IpNet::new(at(last), prefix).unwrap().trunc())
            .filter(|range| subnet.contains(range));
        let reserved_anyway = prefix <= 30 && (at(auxiliary) == subnet.network() || at(auxiliary) == subnet.broadcast());
        let auxiliary = (subnet.contains(&at(auxiliary)) && !reserved_anyway).then(|| ("aux".to_owned(), at(auxiliary)));
        let wanted = if with_gateway { Gateway::First } else { Gateway::Absent };
        let config = PoolConfig { subnet, range, gateway: wanted, auxiliary: auxiliary.into_iter().collect() };

        let inside: Vec<u8> = (0..=255).filter(|&last| subnet.contains(&at(last))).collect();
        let dynamic: Vec<u8> =
            (0..=255).filter(|&last| range.unwrap_or(subnet).contains(&at(last))).collect();
        let mut reserved: BTreeSet<u8> =
            config.auxiliary.values().map(|address| u8::try_from(bits(*address) & 0xff).unwrap()).collect();
        if inside.len() > 2 {
            reserved.extend([inside[0], inside[inside.len() - 1]]);
        }
        let free = |taken: &BTreeSet<u8>| dynamic.iter().copied().find(|last| !taken.contains(last));
        let gateway = with_gateway.then(|| free(&reserved));
        let pool = Pool::new(&config);
        prop_assert_eq!(pool.is_ok(), gateway != Some(None));
        let Ok(mut pool) = pool else { return Ok(()) };
        prop_assert_eq!(pool.gateway(), gateway.flatten().map(at));
        reserved.extend(gateway.flatten());

        let mut taken = reserved.clone();
        for step in steps {
            match step {
                Step::Allocate => {
                    let expected = free(&taken);
                    prop_assert_eq!(pool.allocate().ok(), expected.map(at));
                    taken.extend(expected);
                }
                Step::Reserve(last) => {
                    let expected = inside.contains(&last) && taken.insert(last);
                    prop_assert_eq!(pool.reserve(at(last)).is_ok(), expected);
                }
                Step::Release(last) => {
                    let expected = !reserved.contains(&last) && taken.remove(&last);
                    prop_assert_eq!(pool.release(at(last)), expected);
                }
            }
            prop_assert_eq!(pool.in_use(), taken.len() as u128);
            let available = dynamic.iter().filter(|last| !taken.contains(last)).count();
            prop_assert_eq!(pool.available(), available as u64);
        }
    }
}
