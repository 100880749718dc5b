use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::control::portspec::PortSpec;

/// Holds nothing; refuses the ports that "another program" has.
#[derive(Debug, Default)]
struct Paper {
    foreign: BTreeSet<u16>,
    held: Arc<Mutex<Vec<u16>>>,
}

impl HoldPorts for Paper {
    fn hold(&self, _: Transport, _: IpAddr, port: u16) -> Result<HeldPort, HoldError> {
        if self.foreign.contains(&port) {
            return Err(HoldError::InUse);
        }
        self.held.lock().push(port);
        Ok(HeldPort::without_socket())
    }
}

fn allocator(foreign: impl IntoIterator<Item = u16>) -> PortAllocator {
    let paper = Paper {
        foreign: foreign.into_iter().collect(),
        ..Paper::default()
    };
    PortAllocator::new(Arc::new(paper), 32_768..=60_999, [])
}

fn request(spec: &str) -> PortRequest {
    let parsed: PortSpec = spec.parse().unwrap();
    PortRequest {
        spec: spec.to_owned(),
        transport: parsed.transport,
        addresses: vec![
            parsed
                .host_address
                .unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()),
        ],
        host: parsed.host,
        container: parsed.container,
    }
}

fn requests(specs: &[&str]) -> Vec<PortRequest> {
    specs.iter().map(|spec| request(spec)).collect()
}

fn ports(leases: &[Vec<PortLease>]) -> Vec<Vec<u16>> {
    leases
        .iter()
        .map(|leases| leases.iter().map(PortLease::host_port).collect())
        .collect()
}

#[test]
fn ephemeral_ports_go_on_after_the_last_one() {
    // Transcript 03: the first is 32768; after a restart it is a later one, not the lowest free.
    let allocator = allocator([]);
    let first = allocator.allocate(&requests(&["80", "81"])).unwrap();
    assert_eq!(ports(&first), [[32_768], [32_769]]);
    drop(first);
    let second = allocator.allocate(&requests(&["80"])).unwrap();
    assert_eq!(ports(&second), [[32_770]]);
    assert_eq!(
        ports(&allocator.allocate(&requests(&["80/udp"])).unwrap()),
        [[32_768]],
        "per protocol"
    );
    assert_eq!(
        ports(&allocator.allocate(&requests(&["127.0.0.1::80"])).unwrap()),
        [[32_768]],
        "per address"
    );
}

#[test]
fn the_search_wraps_and_ends() {
    let allocator = PortAllocator::new(Arc::new(Paper::default()), 100..=103, [101]);
    let a = allocator.allocate(&requests(&["80", "80"])).unwrap();
    assert_eq!(ports(&a), [[100], [102]]);
    drop(a);
    let b = allocator.allocate(&requests(&["80-82"])).unwrap();
    assert_eq!(ports(&b), [[103, 100, 102]]);
    assert_eq!(
        allocator
            .allocate(&requests(&["80"]))
            .unwrap_err()
            .to_string(),
        "all ports are allocated: none of 100-103 is free on 0.0.0.0 (in -p \"80\"): give a larger range, or stop a container that publishes one"
    );
    assert_eq!(
        ports(&allocator.allocate(&requests(&["101:80"])).unwrap()),
        [[101]],
        "reserved, but asked for"
    );
    let range = PortAllocator::new(Arc::new(Paper::default()), 100..=103, [101]);
    assert_eq!(
        ports(&range.allocate(&requests(&["101-102:80"])).unwrap()),
        [[101]],
        "a range that was asked for"
    );
}

#[test]
fn a_range_for_one_container_port() {
    // Transcript 03: r1 and r2, both -p 9000-9002:80.
    let allocator = allocator([]);
    let held: Vec<_> = (0..3)
        .map(|_| allocator.allocate(&requests(&["9000-9002:80"])).unwrap())
        .collect();
    assert_eq!(
        held.iter()
            .map(|leases| leases[0][0].host_port())
            .collect::<Vec<_>>(),
        [9000, 9001, 9002]
    );
    let full = allocator
        .allocate(&requests(&["9000-9002:80"]))
        .unwrap_err();
    assert!(
        full.to_string().starts_with("all ports are allocated"),
        "{full}"
    );
    // Another range over the same ports has its own last one.
    assert_eq!(
        ports(&allocator.allocate(&requests(&["9001-9005:80"])).unwrap()),
        [[9003]]
    );
}

#[test]
fn exact_ports_come_before_ranges_of_the_same_container() {
    let allocator = allocator([]);
    let leases = allocator
        .allocate(&requests(&["9000-9002:80", "9000:81", "9001:82"]))
        .unwrap();
    assert_eq!(ports(&leases), [[9002], [9000], [9001]]);
}

#[test]
fn wildcard_and_specific_addresses_conflict() {
    let allocator = allocator([]);
    let specific = allocator
        .allocate(&requests(&["127.0.0.1:80:80", "198.51.100.2:80:80"]))
        .unwrap();
    assert_eq!(
        allocator
            .allocate(&requests(&["80:80"]))
            .unwrap_err()
            .to_string(),
        "Bind for 0.0.0.0:80 failed: port is already allocated (in -p \"80:80\"): choose another host port, or stop the container that publishes it"
    );
    assert!(
        allocator.allocate(&requests(&["80:80/udp"])).is_ok(),
        "another protocol"
    );
    drop(specific);
    let _wildcard = allocator.allocate(&requests(&["80:80"])).unwrap();
    assert!(
        allocator
            .allocate(&requests(&["127.0.0.1:80:80"]))
            .unwrap_err()
            .to_string()
            .starts_with("Bind for 127.0.0.1:80 failed: port is already allocated")
    );
}

#[test]
fn all_or_nothing() {
    let allocator = allocator([8099]);
    let _other = allocator.allocate(&requests(&["8005:80"])).unwrap();
    assert!(
        allocator
            .allocate(&requests(&["8000-8009:8000-8009", "9000:80"]))
            .is_err()
    );
    assert_eq!(
        allocator
            .allocate(&requests(&["9000:80", "8099:80"]))
            .unwrap_err()
            .to_string(),
        "failed to bind host port 0.0.0.0:8099/tcp: address already in use (in -p \"8099:80\"): choose another host port, or stop the program that has it (`ss -lntup` shows it)"
    );
    assert!(
        allocator
            .allocate(&requests(&[
                "8000-8004:8000-8004",
                "8006-8009:8006-8009",
                "9000:80"
            ]))
            .is_ok()
    );
}

#[test]
fn ten_attempts_when_the_kernel_refuses() {
    let leases = allocator(32_768..32_777)
        .allocate(&requests(&["80"]))
        .unwrap();
    assert_eq!(ports(&leases), [[32_777]], "nine refusals are survived");
    let refused = allocator(32_768..32_778)
        .allocate(&requests(&["80"]))
        .unwrap_err();
    assert!(
        matches!(refused, PortError::Refused { port: 32_777, .. }),
        "{refused}"
    );
}

/// On all addresses of both families.
fn both(spec: &str) -> PortRequest {
    PortRequest {
        addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        ..request(spec)
    }
}

fn taken(leases: &[Vec<PortLease>]) -> Vec<(String, u16, u16)> {
    let leases = leases.iter().flatten();
    leases
        .map(|l| (l.address().to_string(), l.host_port(), l.container_port()))
        .collect()
}

#[test]
fn both_families_have_the_same_port() {
    let allocator = allocator([]);
    let all =
        |port, container| ["0.0.0.0", "::"].map(|address| (address.to_owned(), port, container));
    let six = allocator.allocate(&requests(&["[::1]:32768:80"])).unwrap();
    let ephemeral = allocator.allocate(&[both("80")]).unwrap();
    assert_eq!(
        taken(&ephemeral),
        all(32_769, 80),
        "free in one is not enough"
    );
    let range = allocator.allocate(&[both("9000-9001:7000-7001")]).unwrap();
    let expected = [
        ("0.0.0.0", 9000, 7000),
        ("0.0.0.0", 9001, 7001),
        ("::", 9000, 7000),
        ("::", 9001, 7001),
    ];
    assert_eq!(
        taken(&range),
        expected.map(|(a, h, c)| (a.to_owned(), h, c))
    );
    // Families do not conflict with each other, only within themselves.
    let four = allocator.allocate(&requests(&["32768:80"])).unwrap();
    let error = allocator.allocate(&[both("32768:80")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Bind for 0.0.0.0:32768 failed"),
        "{error}"
    );
    drop(four);
    let error = allocator.allocate(&[both("32768:80")]).unwrap_err();
    assert!(
        error.to_string().starts_with("Bind for [::]:32768 failed"),
        "{error}"
    );
    drop(six);
    assert_eq!(
        taken(&allocator.allocate(&[both("32768:80")]).unwrap()),
        all(32_768, 80)
    );
}

/// Refuses one family.
#[derive(Debug)]
struct OnlyIpv4(Arc<Mutex<u32>>);

impl HoldPorts for OnlyIpv4 {
    fn hold(&self, _: Transport, address: IpAddr, _: u16) -> Result<HeldPort, HoldError> {
        *self.0.lock() += 1;
        match address {
            IpAddr::V4(_) => Ok(HeldPort::without_socket()),
            IpAddr::V6(_) => Err(HoldError::InUse),
        }
    }
}

#[test]
fn what_one_family_refuses_is_not_kept_in_the_other() {
    let asked = Arc::new(Mutex::new(0));
    let holder = Arc::new(OnlyIpv4(Arc::clone(&asked)));
    let allocator = PortAllocator::new(holder, 100..=200, []);
    let error = allocator
        .allocate(&[both("80:80")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("failed to bind host port [::]:80/tcp: address already in use"),
        "{error}"
    );
    let error = allocator.allocate(&[both("80")]).unwrap_err().to_string();
    assert!(
        error.starts_with("failed to bind host port [::]:109/tcp"),
        "{error}"
    );
    assert_eq!(*asked.lock(), 2 + 2 * MAX_ATTEMPTS);
    let marked: u32 = allocator
        .0
        .lock()
        .maps
        .values()
        .map(|map| map.used.len())
        .sum();
    assert_eq!(marked, 0);
    allocator.allocate(&requests(&["80:80"])).unwrap();
}

#[test]
fn sysctl_texts() {
    assert_eq!(
        parse_local_port_range("32768\t60999\n"),
        Some(32_768..=60_999)
    );
    for bad in ["", "1", "9 1", "0 5", "a b", "1 2 3", "1 70000"] {
        assert_eq!(parse_local_port_range(bad), None, "{bad}");
    }
    assert_eq!(
        parse_reserved_ports("8080,9148-9150\n"),
        BTreeSet::from([8080, 9148, 9149, 9150])
    );
    assert_eq!(parse_reserved_ports("\n"), BTreeSet::new());
}

#[test]
fn real_sockets_of_a_large_range() {
    use crate::control::port_holder::Sockets;
    if !crate::control::test_netns::may_open_files(11_000) {
        return;
    }
    crate::control::test_netns::in_fresh_netns(|| {
        let allocator = PortAllocator::new(Arc::new(Sockets), 32_768..=60_999, []);
        let before = std::time::Instant::now();
        let leases = allocator
            .allocate(&requests(&["20000-29999:20000-29999/udp"]))
            .unwrap();
        let held = before.elapsed();
        assert_eq!(leases[0].len(), 10_000);
        assert!(std::net::UdpSocket::bind("127.0.0.1:29999").is_err());
        drop(leases);
        println!(
            "10,000 UDP ports: allocated in {held:?}, released in {:?}",
            before.elapsed() - held
        );
        assert!(std::net::UdpSocket::bind("127.0.0.1:29999").is_ok());
        assert!(held < std::time::Duration::from_secs(30), "{held:?}");
    });
}

/// The limit is the process's, so the test lowers it in a child: itself.
#[test]
fn running_out_of_descriptors_names_the_limit() {
    use crate::control::port_holder::Sockets;
    const CHILD: &str = "TUNBRIDGE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let allocator = PortAllocator::new(Arc::new(Sockets), 32_768..=60_999, []);
        let error = allocator
            .allocate(&requests(&["127.0.0.1:40000-40099:1-100/udp"]))
            .unwrap_err();
        println!("CHILD SAYS {error}");
        return;
    }
    let name = "control::port_allocator::tests::running_out_of_descriptors_names_the_limit";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("CHILD SAYS failed to bind host port 127.0.0.1:400")
            && said.contains("the daemon's limit is 64; raise it (`ulimit -n`, or LimitNOFILE="),
        "{said}"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(Vec<String>),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        Just(""),
        Just("127.0.0.1:"),
        Just("10.0.0.1:"),
        Just("0.0.0.0:")
    ];
    let spec = (address, 1_u16..12, 0_u16..4, 0_usize..4, any::<bool>()).prop_map(
        |(address, port, more, form, udp)| {
            let protocol = if udp { "/udp" } else { "" };
            let end = port + more;
            let text = match form {
                0 => format!("{address}{port}:80"),
                1 => format!("{address}{port}-{end}:{port}-{end}"),
                2 => format!("{address}{port}-{end}:80"),
                _ if address.is_empty() => "80".to_owned(),
                _ => format!("{address}:80"),
            };
            text + protocol
        },
    );
    prop_oneof![
        3 => proptest::collection::vec(spec, 1..4).prop_map(Step::Allocate),
        2 => any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    /// No two leases conflict, a failure changes nothing, what is asked for is what is given, and a
    /// refusal of exact ports has a reason.
    #[test]
    fn leases_never_conflict(
        steps in proptest::collection::vec(step(), 0..60),
        foreign in proptest::collection::btree_set(1_u16..16, 0..4),
    ) {
        let paper = Paper { foreign: foreign.clone(), ..Paper::default() };
        let allocator = PortAllocator::new(Arc::new(paper), 5..=15, []);
        let mut live: Vec<Vec<Vec<PortLease>>> = Vec::new();
        let tuples = |live: &[Vec<Vec<PortLease>>]| -> Vec<(Transport, IpAddr, u16)> {
            live.iter().flatten().flatten().map(|l| (l.transport(), l.address(), l.host_port())).collect()
        };
        for step in steps {
            match step {
                Step::Release(index) if !live.is_empty() => {
                    let index = index % live.len();
                    drop(live.swap_remove(index));
                }
                Step::Release(_) => {}
                Step::Allocate(specs) => {
                    let requests: Vec<PortRequest> = specs.iter().map(|spec| request(spec)).collect();
                    match allocator.allocate(&requests) {
                        Ok(leases) => {
                            for (request, leases) in requests.iter().zip(&leases) {
                                prop_assert_eq!(leases.len(), request.container.len());
                                for lease in leases {
                                    let allowed = match &request.host {
                                        HostPorts::Exact(r) | HostPorts::AnyOf(r) => r.clone(),
                                        HostPorts::Ephemeral => 5..=15,
                                    };
                                    prop_assert!(allowed.contains(&lease.host_port()));
                                }
                            }
                            live.push(leases);
                        }
                        Err(PortError::AlreadyAllocated { .. } | PortError::Exhausted { .. }) => {}
                        Err(PortError::Refused { port, .. }) => prop_assert!(foreign.contains(&port)),
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
            }
            let tuples = tuples(&live);
            for (i, &(t, a, p)) in tuples.iter().enumerate() {
                prop_assert!(!foreign.contains(&p));
                for &(u, b, q) in &tuples[..i] {
                    let conflict = t == u && p == q && (a == b || a.is_unspecified() || b.is_unspecified());
                    prop_assert!(!conflict, "{:?}", tuples);
                }
            }
            let marked: u32 = allocator.0.lock().maps.values()
                .map(|map| map.used.len()).sum();
            prop_assert_eq!(marked as usize, tuples.len(), "nothing is left behind");
        }
    }
}
