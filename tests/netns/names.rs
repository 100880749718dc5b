//! Names inside containers, from end to end: the daemon as it is, through kills, exits, reconnects and changes of the
//! host's resolv.conf. What Docker's own tests ask is in `moby/names.rs`, rates and limits in `names_under_load.rs`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::lab::{FAR, FAR_TOO, Lab, Place, eventually};
use crate::message::{A, NOERROR, PTR, SERVFAIL, answers, query, query_with_edns, rcode, reply};
use crate::name_server::NameServer;
use crate::tunbridge_under_test::Tunbridge;

/// Where a container asks.
pub(crate) const RESOLVER: &str = "127.0.0.11:53";

/// The addresses of a name that does not exist.
const NOBODY: [IpAddr; 0] = [];

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");

/// Gives the lab's host a resolv.conf of its own, or another text for it; the machine's stays what it is.
pub(crate) fn set_resolv_conf(lab: &Lab, text: &str) {
    let line = format!(
        "mkdir -p /run/lab && printf '{text}' >/run/lab/resolv.conf && \
         {{ mountpoint -q /etc/resolv.conf || mount --bind /run/lab/resolv.conf /etc/resolv.conf; }}"
    );
    lab.host().shell(&line).expect_success();
}

/// `tunbridge network create OPTIONS… NAME`.
pub(crate) fn create(tunbridge: &Tunbridge<'_>, name: &str, options: &[&str]) {
    let words = [&["network", "create"], options, &[name]].concat();
    tunbridge.cli(&words).expect_success();
}

pub(crate) fn ask(container: &Place, query: &[u8]) -> Vec<u8> {
    container.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(RESOLVER).unwrap();
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).unwrap();
        socket.send(query).unwrap();
        let mut buffer = vec![0; 4096];
        let length = socket.recv(&mut buffer).expect("a reply");
        buffer.truncate(length);
        buffer
    })
}

fn ask_tcp(container: &Place, query: &[u8]) -> Vec<u8> {
    container.inside(|| {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, query].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).unwrap();
        message
    })
}

/// The IPv4 addresses of a name, sorted; none if there is no such name. Asked once.
pub(crate) fn addresses(container: &Place, name: &str) -> Vec<IpAddr> {
    let reply = ask(container, &query(1, name, A));
    if rcode(&reply) != NOERROR {
        return Vec::new();
    }
    let octets = |data: Vec<u8>| <[u8; 4]>::try_from(data).unwrap();
    let mut list: Vec<IpAddr> = answers(&reply)
        .into_iter()
        .map(|data| Ipv4Addr::from(octets(data)).into())
        .collect();
    list.sort_unstable();
    list
}

/// A container's address on a network.
pub(crate) fn address(tunbridge: &Tunbridge<'_>, container: &str, network: &str) -> IpAddr {
    let inspected = tunbridge.inspect(container);
    let address = &inspected["NetworkSettings"]["Networks"][network]["IPAddress"];
    address.as_str().unwrap().parse().unwrap()
}

/// A server whose every answer is 203.0.113.`last`.
pub(crate) fn answering(place: &Place, address: &str, last: u8) -> NameServer {
    NameServer::start(place, address, move |query| {
        Some(reply(query, NOERROR, &[(A, vec![203, 0, 113, last])]))
    })
}

pub(crate) fn outside(last: u8) -> [IpAddr; 1] {
    [Ipv4Addr::new(203, 0, 113, last).into()]
}

#[test]
fn names_survive_a_killed_daemon() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\n"));
    let _server = answering(&lab.far(), FAR, 9);
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "one"]);
    let c2 = tunbridge.container_with("c2", &["--network", "one"]);
    let mut own = c1.start(&[PEER, "dns"]);
    assert!(own.read_line().starts_with("listening"));
    let on_lo = |place: &Place| {
        let outcome = place.shell("tc qdisc show dev lo clsact; tc filter show dev lo egress; tc filter show dev lo ingress");
        let text = outcome.expect_success().stdout;
        let (qdiscs, programs) = ("qdisc clsact", "tb_dns_redirect direct-action");
        (text.matches(qdiscs).count(), text.matches(programs).count())
    };
    for _ in 0..3 {
        tunbridge.kill();
        assert_eq!(on_lo(&c1), (1, 1), "what a dead daemon leaves");
        let unanswered = c2.run(&["dig", "+short", "+tries=1", "+time=1", "@127.0.0.11", "c1"]);
        assert!(!unanswered.succeeded(), "{}", unanswered.output());
        tunbridge.start_again();
        for place in [&c1, &c2] {
            for name in ["c1", "c2"] {
                let expected = [address(&tunbridge, name, "one")];
                assert_eq!(addresses(place, name), expected);
                let reply = ask_tcp(place, &query(1, name, A));
                assert_eq!(answers(&reply).len(), 1);
            }
            assert_eq!(addresses(place, "www.wan.example"), outside(9));
            assert_eq!(on_lo(place), (1, 1));
            let sockets = place.shell("ss -Hlntu src 127.0.0.11").stdout;
            assert_eq!(
                sockets.lines().count(),
                2,
                "one of UDP, one of TCP: {sockets}"
            );
        }
        let words = ["dig", "+short", "@172.18.0.2", "www.wan.example"];
        assert_eq!(
            c2.run(&words).stdout.trim(),
            "203.0.113.9",
            "c1's own server"
        );
        own.read_until("www.wan.example");
    }
    // A container that leaves its last network of names has its port 53 back, 127.0.0.11 included.
    tunbridge
        .cli(&["network", "connect", "bridge", "c1"])
        .expect_success();
    tunbridge
        .cli(&["network", "disconnect", "one", "c1"])
        .expect_success();
    assert_eq!(on_lo(&c1).1, 0);
    let words = [
        "dig",
        "+short",
        "+tcp",
        "+tries=1",
        "@127.0.0.11",
        "www.wan.example",
    ];
    assert_eq!(c1.run(&words).stdout.trim(), "203.0.113.9");
}

/// A container with rights over its own network may make its `lo` unusable. Whom that concerns is itself.
#[test]
fn a_container_that_cannot_have_a_resolver_harms_nobody_else() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, "");
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    create(&tunbridge, "two", &[]);
    let good = tunbridge.container_with("good", &["--network", "one"]);
    let bad = tunbridge.container_with("bad", &["--network", "one"]);
    let late = tunbridge.container("late");
    // A filter for another protocol in the place of ours.
    for place in [&bad, &late] {
        place
            .shell("tc qdisc replace dev lo clsact; tc filter del dev lo egress; tc filter add dev lo egress protocol ip prio 1 bpf bytecode '1,6 0 0 0,'")
            .expect_success();
    }
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(
        addresses(&good, "bad"),
        [address(&tunbridge, "bad", "one")],
        "{}",
        tunbridge.log()
    );
    let warnings = |log: &str| log.matches("no names there").count();
    assert_eq!(warnings(&tunbridge.log()), 1, "{}", tunbridge.log());
    let refused = tunbridge
        .cli(&["network", "connect", "one", "late"])
        .expect_failure();
    assert!(
        refused.stderr.contains("cannot serve names") && refused.stderr.lines().count() == 1,
        "{}",
        refused.stderr
    );
    assert!(!late.run(&["ip", "link", "show", "eth1"]).succeeded());
    tunbridge
        .cli(&["network", "connect", "two", "bad"])
        .expect_success();
    tunbridge.container_with("another", &["--network", "one"]);
    assert_eq!(addresses(&good, "another").len(), 1);
    // As soon as it can be, it is served.
    for place in [&bad, &late] {
        place.shell("tc qdisc del dev lo clsact").expect_success();
    }
    for name in ["late", "good"] {
        let network = if name == "late" { "one" } else { "two" };
        let words = ["network", "connect", network, name];
        tunbridge.cli(&words).expect_success();
    }
    assert_eq!(addresses(&bad, "good").len(), 1);
    assert_eq!(addresses(&late, "good").len(), 1);
}

/// What in the lab refers to a network namespace: processes, their threads and descriptors, mounts. Not what is elsewhere:
/// numbers of namespaces that are gone are given to new ones at once.
fn holders(lab: &Lab, inode: u64) -> String {
    let line = format!(
        "grep -l 'net:\\[{inode}\\]' /proc/[0-9]*/mountinfo; \
         find /proc/[0-9]*/task/*/ns/net /proc/[0-9]*/task/*/fd -lname 'net:\\[{inode}\\]'"
    );
    lab.host()
        .shell(&format!("{{ {line}; }} 2>/dev/null"))
        .stdout
}

#[test]
fn nothing_keeps_the_namespace_of_a_container_that_has_exited() {
    let lab = Lab::plain();
    // Nobody answers, so questions are under way when the container exits.
    let silent = NameServer::start(&lab.far(), FAR, |_| None);
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\n"));
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let ways: [&[&str]; 3] = [
        &["stop", "-t", "0", "c1"],
        &["rm", "-f", "c1"],
        &["the process is killed"],
    ];
    for (round, way) in ways.iter().enumerate() {
        for dns in [&[][..], &["--dns", FAR]] {
            let options = [&["--network", "one", "--rm"], dns].concat();
            let c1 = tunbridge.container_with("c1", &options);
            let inode = std::fs::metadata(c1.namespace()).unwrap().ino();
            assert!(!holders(&lab, inode).is_empty(), "it lives");
            // Goes when the namespace does, whatever it was that kept it.
            c1.shell("ip link add witness type veth peer name witness netns wan")
                .expect_success();
            let asked = silent.udp_count();
            c1.inside(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for n in 0..50 {
                    socket
                        .send_to(&query(n, "www.wan.example", A), RESOLVER)
                        .unwrap();
                    let mut stream = TcpStream::connect(RESOLVER).unwrap();
                    stream
                        .write_all(&[0, 40, 1, 2][..usize::from(n % 5)])
                        .unwrap();
                }
            });
            let under_way = eventually(Duration::from_secs(3), || silent.udp_count() >= asked + 50);
            assert!(under_way, "{}", silent.udp_count() - asked);
            if round < 2 {
                tunbridge.cli(way).expect_success();
            } else {
                let pid = tunbridge.inspect("c1")["State"]["Pid"].to_string();
                lab.host().run(&["kill", "-9", &pid]).expect_success();
            }
            let gone = eventually(Duration::from_secs(3), || {
                !lab.wan().shell("ip link show witness").succeeded()
            });
            assert!(gone, "{round}: {way:?} {dns:?}\n{}", holders(&lab, inode));
            assert_eq!(holders(&lab, inode), "", "{round}: {way:?} {dns:?}");
            assert!(!tunbridge.names(&["-a"]).contains(&"c1".to_owned()));
        }
    }
}

#[test]
fn answers_follow_at_once() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, "");
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &["--subnet", "10.60.0.0/24"]);
    let asker = tunbridge.container_with("asker", &["--network", "one", "--ip", "10.60.0.200"]);
    tunbridge.container("moving");
    for last in 10..25 {
        let ip = format!("10.60.0.{last}");
        let words = [
            "network", "connect", "--ip", &ip, "--alias", "it", "one", "moving",
        ];
        tunbridge.cli(&words).expect_success();
        for name in ["moving", "it", "moving.one"] {
            assert_eq!(addresses(&asker, name), [ip.parse::<IpAddr>().unwrap()]);
        }
        let reverse = format!("{last}.0.60.10.in-addr.arpa");
        assert_eq!(
            answers(&ask(&asker, &query(1, &reverse, PTR))),
            [b"\x06moving\x03one\x00"]
        );
        let words = ["network", "disconnect", "one", "moving"];
        tunbridge.cli(&words).expect_success();
        assert_eq!(addresses(&asker, "moving"), NOBODY);
        assert_eq!(rcode(&ask(&asker, &query(1, &reverse, PTR))), SERVFAIL);
    }
    // Started again, after others have taken the addresses that it had.
    tunbridge.container_with("restarted", &["--network", "one"]);
    for round in 0..4 {
        let before = address(&tunbridge, "restarted", "one");
        assert_eq!(addresses(&asker, "restarted"), [before]);
        tunbridge
            .cli(&["stop", "-t", "0", "restarted"])
            .expect_success();
        assert_eq!(addresses(&asker, "restarted"), NOBODY);
        let ip = before.to_string();
        let options = ["--network", "one", "--ip", &ip];
        tunbridge.container_with(&format!("other{round}"), &options);
        tunbridge.cli(&["start", "restarted"]).expect_success();
        let now = address(&tunbridge, "restarted", "one");
        assert_ne!(now, before);
        assert_eq!(addresses(&asker, "restarted"), [now]);
        let restarted = lab.place("restarted");
        assert_eq!(
            addresses(&restarted, "restarted"),
            [now],
            "its own resolver is there, too"
        );
        tunbridge
            .cli(&["restart", "-t", "0", "restarted"])
            .expect_success();
        let now = address(&tunbridge, "restarted", "one");
        assert_eq!(addresses(&asker, "restarted"), [now]);
    }
    // The end of a former run is noticed for seconds: it is not this one's.
    let now = address(&tunbridge, "restarted", "one");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(addresses(&asker, "restarted"), [now], "{}", tunbridge.log());
    tunbridge.cli(&["rm", "-f", "restarted"]).expect_success();
    assert_eq!(addresses(&asker, "restarted"), NOBODY);
}

/// Queries of every kind, over UDP and TCP: none may be answered with anything but SERVFAIL.
fn all_fail(container: &Place) {
    // A, NS, CNAME, SOA, NULL, PTR, MX, TXT, AAAA, SRV, NAPTR, DS, HTTPS, ANY, and one that nobody knows.
    for rtype in [1, 2, 5, 6, 10, 12, 15, 16, 28, 33, 35, 43, 65, 255, 65_280] {
        for name in [
            "secret.wan.example",
            "secret",
            "9.113.0.203.in-addr.arpa",
            "",
        ] {
            for message in [query(1, name, rtype), query_with_edns(1, name, rtype, 1232)] {
                assert_eq!(rcode(&ask(container, &message)), SERVFAIL, "{rtype} {name}");
                assert_eq!(
                    rcode(&ask_tcp(container, &message)),
                    SERVFAIL,
                    "{rtype} {name}"
                );
            }
        }
    }
    let mut chaos = query(1, "version.bind", 16);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(rcode(&ask(container, &chaos)), SERVFAIL);
    assert_eq!(rcode(&ask_tcp(container, &chaos)), SERVFAIL);
}

#[test]
fn no_query_leaves_an_internal_network() {
    let lab = Lab::plain();
    // The first never answers, so that a question may wait for its turn with the second.
    let first = NameServer::start(&lab.far(), FAR, |_| None);
    let second = answering(&lab.far(), FAR_TOO, 10);
    let sink = || first.count() + second.count();
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\nnameserver {FAR_TOO}\\n"));
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "inside", &["--internal"]);
    create(&tunbridge, "inside2", &["--internal"]);
    create(&tunbridge, "open", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "inside", "--network", "inside2"]);
    all_fail(&c1);
    assert_eq!(sink(), 0);
    assert_eq!(addresses(&c1, "c1").len(), 1, "its own names it has");
    for _ in 0..3 {
        tunbridge
            .cli(&["network", "connect", "open", "c1"])
            .expect_success();
        let before = (first.count(), second.count());
        // Both ways: the first server has the query when the way out is taken away.
        let waiting = std::thread::scope(|scope| {
            let udp = scope.spawn(|| ask(&c1, &query(1, "secret.wan.example", A)));
            let tcp = scope.spawn(|| ask_tcp(&c1, &query(1, "secret.wan.example", A)));
            let both = eventually(Duration::from_secs(2), || first.count() >= before.0 + 2);
            assert!(both, "{} {}", first.count(), before.0);
            tunbridge
                .cli(&["network", "disconnect", "open", "c1"])
                .expect_success();
            let since = Instant::now();
            let replies = (udp.join().unwrap(), tcp.join().unwrap());
            assert!(
                since.elapsed() < Duration::from_secs(3),
                "{:?}",
                since.elapsed()
            );
            replies
        });
        assert_eq!((rcode(&waiting.0), rcode(&waiting.1)), (SERVFAIL, SERVFAIL));
        let left = sink();
        all_fail(&c1);
        tunbridge
            .cli(&["network", "disconnect", "inside2", "c1"])
            .expect_success();
        all_fail(&c1);
        tunbridge
            .cli(&["network", "connect", "inside2", "c1"])
            .expect_success();
        all_fail(&c1);
        assert_eq!(sink(), left);
        assert_eq!(
            second.count(),
            before.1,
            "the second server was never asked"
        );
    }
    let left = sink();
    tunbridge.kill();
    tunbridge.start_again();
    all_fail(&c1);
    tunbridge
        .cli(&["restart", "-t", "0", "c1"])
        .expect_success();
    all_fail(&lab.place("c1"));
    // A server that only the container itself could ask, but cannot reach.
    let options = ["--network", "inside", "--dns", FAR_TOO];
    let c2 = tunbridge.container_with("c2", &options);
    assert_eq!(
        rcode(&ask(&c2, &query(1, "secret.wan.example", A))),
        SERVFAIL
    );
    assert_eq!(
        rcode(&ask_tcp(&c2, &query(1, "secret.wan.example", A))),
        SERVFAIL
    );
    assert_eq!(sink(), left);
}

#[test]
fn of_equal_names_on_two_networks_the_gateways_counts() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, "");
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "a", &["--subnet", "10.61.0.0/24"]);
    create(&tunbridge, "b", &["--subnet", "10.62.0.0/24"]);
    tunbridge.container_with("xx", &["--network", "name=a,alias=svc"]);
    tunbridge.container_with("yy", &["--network", "name=b,alias=svc"]);
    let in_a = [address(&tunbridge, "xx", "a")];
    let in_b = [address(&tunbridge, "yy", "b")];
    let by_name = tunbridge.container_with("by-name", &["--network", "b", "--network", "a"]);
    let options = ["--network", "a", "--network", "name=b,gw-priority=1"];
    let by_priority = tunbridge.container_with("by-priority", &options);
    assert_eq!(addresses(&by_name, "svc"), in_a);
    assert_eq!(addresses(&by_priority, "svc"), in_b);
    for place in [&by_name, &by_priority] {
        assert_eq!(addresses(place, "svc.a"), in_a);
        assert_eq!(addresses(place, "svc.b"), in_b);
    }
    // The same container on both, with the same alias.
    let words = ["network", "connect", "--alias", "svc", "b", "xx"];
    tunbridge.cli(&words).expect_success();
    assert_eq!(addresses(&by_name, "svc"), in_a);
    let both = [in_b[0], address(&tunbridge, "xx", "b")];
    assert_eq!(addresses(&by_priority, "svc"), both);
    tunbridge
        .cli(&["network", "disconnect", "a", "by-name"])
        .expect_success();
    assert_eq!(addresses(&by_name, "svc"), both);
    tunbridge
        .cli(&["network", "connect", "a", "by-name"])
        .expect_success();
    assert_eq!(addresses(&by_name, "svc"), in_a);
    // Links, too.
    let options = ["--network", "a", "--link", "xx:db"];
    let linked = tunbridge.container_with("linked", &options);
    tunbridge
        .cli(&["network", "connect", "--link", "yy:db", "b", "linked"])
        .expect_success();
    assert_eq!(addresses(&linked, "db"), in_a);
    tunbridge
        .cli(&["network", "disconnect", "a", "linked"])
        .expect_success();
    assert_eq!(addresses(&linked, "db"), in_b);
}

#[test]
fn names_that_are_equal_to_dns_share_their_answers() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, "");
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let asker = tunbridge.container_with("asker", &["--network", "one"]);
    tunbridge.container_with("web", &["--network", "one"]);
    tunbridge.container_with("Web", &["--network", "one"]);
    let (lower, upper) = (
        address(&tunbridge, "web", "one"),
        address(&tunbridge, "Web", "one"),
    );
    assert_ne!(lower, upper);
    for name in ["web", "Web", "WEB", "weB.One"] {
        assert_eq!(addresses(&asker, name), [lower, upper], "{name}");
    }
    tunbridge.cli(&["stop", "-t", "0", "web"]).expect_success();
    assert_eq!(addresses(&asker, "web"), [upper]);
    // A container whose name is an alias of another, of whom one is stopped, too.
    tunbridge.container_with("other", &["--network", "one", "--network-alias", "db"]);
    tunbridge.container_with("db", &["--network", "one"]);
    let mut both = [
        address(&tunbridge, "other", "one"),
        address(&tunbridge, "db", "one"),
    ];
    both.sort_unstable();
    assert_eq!(addresses(&asker, "db"), both);
    tunbridge
        .cli(&["network", "disconnect", "one", "db"])
        .expect_success();
    assert_eq!(
        addresses(&asker, "db"),
        [address(&tunbridge, "other", "one")]
    );
    // The pointer of an address is its own container's name, never the alias.
    let IpAddr::V4(upper) = upper else { panic!() };
    let [a, b, c, d] = upper.octets();
    let reply = ask(
        &asker,
        &query(1, &format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR),
    );
    assert_eq!(answers(&reply), [b"\x03Web\x03one\x00"]);
}
