//! podman 4.3.1, with Debian's plugins and with ours in their place.
//!
//! Ours are links named like Debian's in a directory that podman searches first; networks and commands are the same. What
//! differs stands in the table, with the reason.

use std::time::Duration;

use crate::engines::{Engines, PEER};
use crate::lab::{FAR, FAR6, HOST, HOST6, LAN, LAN6, Lab, World, eventually};
use crate::tunbridge_under_test::{Tunbridge, binary};

/// The directory that podman searches first of all.
pub(crate) const FIRST: &str = "/usr/local/libexec/cni";

/// Whose plugins answer to `bridge`, `portmap` and `firewall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugins {
    Stock,
    Ours,
}

pub(crate) fn install(engines: &Engines<'_>) {
    engines.said(&format!(
        "{} cni install --no-conf --dir {FIRST} --alias bridge --alias portmap --alias firewall",
        binary()
    ));
}

/// A lab with podman on our plugins.
pub(crate) fn ours(test: impl Fn(&Engines<'_>, &mut Tunbridge<'_>)) {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    install(&engines);
    let mut tunbridge = lab.start_daemon(&[]);
    test(&engines, &mut tunbridge);
    engines.said("podman pod rm -fat0; podman rm -fat0");
}

pub(crate) fn both(test: impl Fn(Plugins, &Engines<'_>) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let lab = Lab::plain();
            test(Plugins::Stock, &Engines::with_podman(&lab));
        });
        scope.spawn(|| {
            let lab = Lab::with_options(World::Flushing, &[]);
            let engines = Engines::with_podman(&lab);
            install(&engines);
            let _tunbridge = lab.start_daemon(&[]);
            test(Plugins::Ours, &engines);
            engines.said("podman rm -fat0");
        });
    });
}

/// A line, what it prints with Debian's plugins, and what with ours if that is something else.
pub(crate) type Line = (&'static str, &'static str, Option<&'static str>);

/// `x CONTAINER …` is a command in a container, `peer` the traffic helper; ports of clients are masked.
const VIEW: &[Line] = &[
    (
        "addresses w1; addresses w2",
        "lo 127.0.0.1/8\nlo ::1/128\neth0 10.88.0.2/16\nlo 127.0.0.1/8\nlo ::1/128\neth0 10.89.5.9/24\neth0 fd00:5::2/64",
        None,
    ),
    (
        "x w1 /bin/ip route; x w2 /bin/ip route; x w2 /bin/ip -6 route | grep -v -e fe80 -e ff00",
        "default via 10.88.0.1 dev eth0 \n10.88.0.0/16 dev eth0 scope link  src 10.88.0.2 \n\
         default via 10.89.5.1 dev eth0 \n10.89.5.0/24 dev eth0 scope link  src 10.89.5.9 \n\
         fd00:5::/64 dev eth0  metric 256 \ndefault via fd00:5::1 dev eth0  metric 1024",
        None,
    ),
    (
        "x w2 cat /sys/class/net/eth0/address",
        "02:11:22:33:44:55",
        None,
    ),
    ("x w1 cat /sys/class/net/eth0/mtu", "1500", None),
    (
        "x w1 tail -n 2 /etc/hosts; x w2 tail -n 3 /etc/hosts",
        "10.88.0.1\thost.containers.internal\n10.88.0.2\th1 w1\n\
         10.89.5.1\thost.containers.internal\n10.89.5.9\tSHORT w2\nfd00:5::2\tSHORT w2",
        None,
    ),
    // Ours answers names; podman adds the host's own.
    (
        "x w1 grep nameserver /etc/resolv.conf",
        "nameserver 192.0.2.9",
        Some("nameserver 127.0.0.11\nnameserver 192.0.2.9"),
    ),
    (
        "podman port w1; podman port w2",
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> 0.0.0.0:9000\n80/tcp -> 127.0.0.1:8081\n80/udp -> 0.0.0.0:8080\n81/tcp -> 0.0.0.0:9001\n\
         80/tcp -> 0.0.0.0:8090\n80/tcp -> ::1:8091",
        None,
    ),
    (
        "podman inspect w2 --format '{{json .NetworkSettings.Networks}}'",
        r#"{"both":{"EndpointID":"","Gateway":"10.89.5.1","IPAddress":"10.89.5.9","IPPrefixLen":24,"IPv6Gateway":"fd00:5::1","GlobalIPv6Address":"fd00:5::2","GlobalIPv6PrefixLen":64,"MacAddress":"02:11:22:33:44:55","NetworkID":"both","DriverOpts":null,"IPAMConfig":null,"Links":null,"Aliases":["SHORT"]}}"#,
        None,
    ),
    // The host itself.
    (
        "peer tcp 127.0.0.1 8080; peer udp 127.0.0.1 8080",
        "saw 10.88.0.1 at 10.88.0.2:80\nsaw 10.88.0.1 at 10.88.0.2:80",
        None,
    ),
    (
        "peer tcp 127.0.0.1 8081; peer tcp 127.0.0.1 9001",
        "saw 10.88.0.1 at 10.88.0.2:80\nsaw 10.88.0.1 at 10.88.0.2:81",
        None,
    ),
    (
        "peer tcp 10.88.0.2 80; peer udp 10.88.0.2 80",
        "saw 10.88.0.1 at 10.88.0.2:80\nsaw 10.88.0.1 at 10.88.0.2:80",
        None,
    ),
    // As Docker without its proxy: the host is the gateway to its containers, whatever address of its own it calls.
    (
        "peer tcp 198.51.100.2 8080; peer udp 198.51.100.2 8080",
        "saw 198.51.100.2 at 10.88.0.2:80\nsaw 198.51.100.2 at 10.88.0.2:80",
        Some("saw 10.88.0.1 at 10.88.0.2:80\nsaw 10.88.0.1 at 10.88.0.2:80"),
    ),
    // The plugin's rules for IPv6 leave loopback out.
    (
        "PEER_WAIT=1 peer tcp ::1 8091",
        "none",
        Some("saw fd00:5::1 at [fd00:5::2]:80"),
    ),
    ("peer udp 127.0.0.1 8081", "refused", None),
    // Containers.
    (
        "x w1 PEER tcp 192.0.2.9 7000; x w1 PEER udp 192.0.2.9 7000",
        "saw 198.51.100.2 at 192.0.2.9:7000\nsaw 198.51.100.2 at 192.0.2.9:7000",
        None,
    ),
    (
        "x w2 PEER tcp 2001:db8:ffff::9 7000",
        "saw 2001:db8:1::2 at [2001:db8:ffff::9]:7000",
        None,
    ),
    (
        "x w3 PEER tcp 10.88.0.2 80; x w3 PEER udp 10.88.0.2 80",
        "saw 10.88.0.3 at 10.88.0.2:80\nsaw 10.88.0.3 at 10.88.0.2:80",
        None,
    ),
    (
        "x w1 PEER tcp 198.51.100.2 8080",
        "saw 10.88.0.1 at 10.88.0.2:80",
        None,
    ),
    (
        "x w1 PEER tcp 198.51.100.2 8090",
        "saw 10.89.5.1 at 10.89.5.9:80",
        None,
    ),
    // Networks are isolated from each other, as Docker's are.
    (
        "PEER_WAIT=1 x w1 PEER tcp 10.89.5.9 80",
        "saw 10.89.5.1 at 10.89.5.9:80",
        Some("none"),
    ),
    (
        "PEER_WAIT=1 x w3 PEER tcp w1 80",
        "unknown",
        Some("saw 10.88.0.3 at 10.88.0.2:80"),
    ),
];

/// Of `podman inspect`: what it says of the networks.
const SETTINGS: &str = r#"--format '{{json .NetworkSettings.Networks}}' | jq -c '.[] | [.Gateway, .IPAddress, .IPPrefixLen, .IPv6Gateway, .GlobalIPv6Address]'"#;

const FUNCTIONS: &str = r#"
x() { podman exec ${PEER_WAIT:+-e PEER_WAIT=$PEER_WAIT} "$@"; }
peer() { PEER "$@"; }
addresses() { x "$1" /bin/ip -o addr | grep -v fe80 | awk '{ print $2, $4 }'; }
"#;

/// Runs a line of a table.
fn view(engines: &Engines<'_>, line: &str) -> String {
    let script = format!("{FUNCTIONS}\n{{ {line} ; }} 2>&1")
        .replace("SETTINGS", SETTINGS)
        .replace("PEER ", &format!("{PEER} "));
    let printed = engines.shell(&script).stdout;
    let mut lines: Vec<String> = printed.lines().map(mask).collect();
    if line.starts_with("podman port") {
        // Not in the same order every time.
        lines.sort_by_key(|line| (line.contains("809"), line.clone()));
    }
    lines.join("\n").trim_end().to_owned()
}

/// Asserts what the lines of a table print.
pub(crate) fn compare(engines: &Engines<'_>, plugins: Plugins, table: &[Line]) {
    let mut wrong = Vec::new();
    for (line, stock, different) in table {
        let expected = match (plugins, different) {
            (Plugins::Ours, Some(different)) => different,
            _ => stock,
        };
        let mut printed = view(engines, line);
        // The host's own ruleset comes and goes: it drops the answer to a datagram that the host sent while
        // there was none, and nobody repeats a datagram.
        if printed != *expected && line.contains("peer udp") {
            printed = view(engines, line);
        }
        if printed != *expected {
            wrong.push(format!(
                "{line}\n---- expected\n{expected}\n---- printed\n{printed}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{plugins:?}\n{}", wrong.join("\n"));
}

fn mask(line: &str) -> String {
    let without_port = |address: &str| {
        let (host, _) = address.rsplit_once(':').expect("a port");
        host.trim_matches(['[', ']']).to_owned()
    };
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(name))
    };
    if let (Some(saw), Some(at)) = (field("server-saw="), field("server-at=")) {
        return format!("saw {} at {at}", without_port(saw));
    }
    for (words, short) in [
        ("Connection refused", "refused"),
        ("timed out", "none"),
        ("name resolution", "unknown"),
        ("unreachable", "none"),
    ] {
        if line.contains("error: ") && line.contains(words) {
            return short.to_owned();
        }
    }
    let is_short_id = |word: &str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut masked = line.to_owned();
    for word in line
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| is_short_id(word))
    {
        masked = masked.replace(word, "SHORT");
    }
    masked
}

#[test]
fn containers_see_what_they_see_with_debians_plugins() {
    both(|plugins, engines| {
        let lab = engines.lab;
        let _server = lab.far().serve(&["7000"]);
        engines.said(&format!(
            "echo nameserver {FAR} >/etc/resolv.conf
            podman network create --subnet 10.89.5.0/24 --ipv6 --subnet fd00:5::/64 both
            podman run -d --name w1 --hostname h1 -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 \
                -p 9000-9001:80-81 localhost/busybox {PEER} serve 80 81
            podman run -d --name w2 --network both --ip 10.89.5.9 --mac-address 02:11:22:33:44:55 \
                -p 8090:80 -p '[::1]:8091:80' localhost/busybox {PEER} serve 80
            podman run -d --name w3 localhost/busybox sleep 1000
"
        ));
        engines.wait_until_it_serves("w1");
        engines.wait_until_it_serves("w2");
        lab.apply_world();
        compare(engines, plugins, VIEW);
        // From outside.
        let lan = lab.lan().impatient();
        for (to, seen) in [
            (format!("{HOST}:8080"), Some(LAN)),
            (format!("{HOST}:9001"), Some(LAN)),
            (format!("{HOST}:8081"), None),
        ] {
            let saw = lan.tcp(&to).ok().map(|answer| answer.saw_address());
            assert_eq!(saw.as_deref(), seen, "{plugins:?}: {to}");
        }
        assert_eq!(lan.udp(&format!("{HOST}:8080")).unwrap().saw_address(), LAN);
        assert_eq!(
            lan.tcp(&format!("[{HOST6}]:8090")).unwrap().saw_address(),
            LAN6
        );
        let _ = FAR6;
    });
}

#[test]
fn ports_that_conmon_holds_are_published_and_those_of_strangers_are_not() {
    ours(|engines, tunbridge| {
        let lab = engines.lab;
        engines.said(&format!(
            "podman run -d --name web -p 8080:80 -p 8080:80/udp localhost/busybox {PEER} serve 80"
        ));
        engines.wait_until_it_serves("web");
        let sockets = engines.said("ss -Hlntup | grep :8080");
        assert!(
            sockets.lines().all(|line| line.contains("conmon")),
            "{sockets}"
        );
        assert_eq!(sockets.lines().count(), 2, "{sockets}");
        engines.said("nft flush ruleset");
        for _ in 0..2 {
            assert_eq!(
                lab.lan()
                    .tcp(&format!("{HOST}:8080"))
                    .unwrap()
                    .saw_address(),
                LAN
            );
            assert_eq!(
                lab.lan()
                    .udp(&format!("{HOST}:8080"))
                    .unwrap()
                    .saw_address(),
                LAN
            );
            assert!(lab.host().tcp("127.0.0.1:8080").is_ok());
            // Also after the daemon has come back and found conmon's sockets.
            tunbridge.kill();
            tunbridge.start_again();
        }
        // podman reserves the port itself, and complains itself.
        let _stranger = lab.host().serve(&["8081"]);
        let error = engines.refused("podman run --rm -p 8081:80 localhost/busybox true");
        assert!(
            error.contains("8081") && error.contains("in use"),
            "{error}"
        );
        // Where it does not, we do.
        let error = engines.refused(
            "sed 's/^.engine.$/&\\nenable_port_reservation = false/' /etc/containers/containers.conf >/run/lab/c.conf
            CONTAINERS_CONF=/run/lab/c.conf podman run --rm -p 8081:80 localhost/busybox true",
        );
        assert!(
            error.contains("8081") && error.contains("already in use"),
            "{error}"
        );
        // One who has it at one address is in the way there, and nowhere else.
        let _local = lab
            .host()
            .start(&["socat", "TCP-LISTEN:8082,bind=127.0.0.1,fork", "-"]);
        let listens = "for i in $(seq 100); do ss -Hltn sport = :8082 | grep -q . && exit; sleep 0.05; done; exit 1";
        engines.said(listens);
        for reserves in ["", "CONTAINERS_CONF=/run/lab/c.conf"] {
            for port in ["127.0.0.1:8081", "127.0.0.1:8082", "8082"] {
                let error = engines.refused(&format!(
                    "{reserves} podman run --rm -p {port}:80 localhost/busybox true"
                ));
                assert!(error.contains("already in use"), "{port}: {error}");
            }
        }
        engines.said(&format!(
            "podman run -d --name other -p {HOST}:8082:80 localhost/busybox {PEER} serve 80"
        ));
        engines.wait_until_it_serves("other");
        let other = lab.lan().tcp(&format!("{HOST}:8082"));
        assert_eq!(other.unwrap().saw_address(), LAN);
        engines.said("podman rm -ft0 other");
        // Another container's.
        let error = engines.refused("podman run --rm -p 8080:80 localhost/busybox true");
        assert!(error.contains("8080"), "{error}");
        assert!(
            engines
                .said("podman ps -a --format '{{.Names}} {{.Status}}'")
                .contains("web Up")
        );
    });
}

#[test]
fn a_container_goes_through_everything_that_podman_does_with_networks() {
    ours(|engines, _tunbridge| {
        let lab = engines.lab;
        engines.said(&format!(
            "podman network create one && podman network create two
            podman run -d --name web --network one -p 8080:80 localhost/busybox {PEER} serve 80
            podman run -d --name client --network one --network two localhost/busybox sleep 1000"
        ));
        let asks = |from: &str, name: &str| {
            let line = format!("podman exec -e PEER_WAIT=1 {from} {PEER} tcp {name} 80");
            let mut outcome = engines.shell(&line);
            eventually(Duration::from_secs(20), || {
                outcome = engines.shell(&line);
                outcome.succeeded()
            });
            outcome.answer()
        };
        let addresses = |name: &str| {
            engines.said(&format!(
                "podman exec {name} /bin/ip -o -4 address | awk '$2 != \"lo\" {{ print $2, $4 }}'"
            ))
        };
        // podman has no order of networks.
        let both = addresses("client");
        for address in ["10.89.0.3/24", "10.89.1.2/24"] {
            assert!(both.contains(address), "{both}");
        }
        assert!(asks("client", "web").is_ok());

        engines.said("podman network connect two web && nft flush ruleset");
        assert_eq!(addresses("web"), "eth0 10.89.0.2/24\neth1 10.89.1.3/24");
        assert!(asks("client", "10.89.1.3").is_ok());
        engines.said("podman network disconnect two web");
        assert_eq!(addresses("web"), "eth0 10.89.0.2/24");
        let gone = engines.shell(&format!(
            "podman exec -e PEER_WAIT=1 client {PEER} tcp 10.89.1.3 80"
        ));
        assert!(!gone.succeeded(), "{}", gone.output());
        // podman hands aliases to networks that ask for them, as those of `cni install` do.
        engines.said(&format!(
            "{} cni install --dir {FIRST} --name own --subnet 10.7.0.0/24
            podman network connect --alias shop own web && podman network connect own client",
            binary()
        ));
        assert!(asks("client", "shop").is_ok());
        engines.said("podman network disconnect own web; podman network disconnect own client");

        for verb in [
            "network reload web",
            "restart -t0 web",
            "stop -t0 web && podman start web",
        ] {
            engines.said(&format!("podman {verb}"));
            assert_eq!(addresses("web").lines().count(), 1, "{verb}");
            assert!(
                asks("client", "web").is_ok(),
                "{verb}: {:?}",
                asks("client", "web")
            );
            let published = lab.lan().tcp(&format!("{HOST}:8080"));
            assert_eq!(published.unwrap().saw_address(), LAN, "{verb}");
        }
        // DEL and ADD at once, again and again.
        engines.said("for i in 1 2 3 4 5; do podman network reload -a; done");
        assert!(asks("client", "web").is_ok());

        engines.said(&format!(
            "sed /^volumes/d /etc/containers/containers.conf >/run/lab/plain.conf # a pod hands them on to its containers
            CONTAINERS_CONF=/run/lab/plain.conf podman pod create --name pod --network one -p 8090:80 --infra-image localhost/busybox --infra-command '/bin/sleep 1000'
            podman run -d --pod pod --name inpod localhost/busybox {PEER} serve 80"
        ));
        let published = || lab.lan().tcp(&format!("{HOST}:8090"));
        assert!(
            eventually(Duration::from_secs(20), || published().is_ok()),
            "{:?}",
            published()
        );
        assert!(asks("client", "pod").is_ok());
        engines
            .said("podman pod rm -ft0 pod; podman rm -ft0 web client; podman network rm one two");
    });
}

/// A client that goes on from the same port is answered by whoever has the published port now, at once.
#[test]
fn udp_follows_the_container_that_has_the_port_now() {
    ours(|engines, _tunbridge| {
        let lab = engines.lab;
        engines
            .said("podman network create --ipv6 --subnet 10.89.7.0/24 --subnet fd00:7::/64 both");
        let (four, six) = (format!("{HOST}:8080"), format!("[{HOST6}]:8080"));
        let clients = [
            (lab.lan(), &four),
            (lab.lan(), &six),
            (lab.host(), &four),
            (lab.host(), &six),
        ];
        let ask = |client: usize| {
            let (place, to) = &clients[client];
            place.impatient().ask_from_port("udp", 40000, to)
        };
        for turn in 10..13 {
            if turn == 11 {
                engines.said("nft flush ruleset");
            }
            engines.said(&format!(
                "podman run -d --name server{turn} --network both --ip 10.89.7.{turn} --ip6 fd00:7::{turn} \
                    -p 8080:80/udp localhost/busybox {PEER} serve 80"
            ));
            engines.wait_until_it_serves(&format!("server{turn}"));
            for client in 0..clients.len() {
                let address = match client % 2 {
                    0 => format!("10.89.7.{turn}"),
                    _ => format!("fd00:7::{turn}"),
                };
                // The very first answer.
                assert_eq!(ask(client).unwrap().at.ip().to_string(), address);
            }
            engines.said(&format!("podman rm -ft0 server{turn}"));
        }
        // And nobody answers for a dead one.
        for client in 0..clients.len() {
            assert!(ask(client).is_err(), "client {client}");
        }
    });
}

#[test]
fn a_daemon_that_is_away_is_told_of_and_catches_up() {
    ours(|engines, tunbridge| {
        let lab = engines.lab;
        engines.said(&format!(
            "podman run -d --name stays -p 8080:80 localhost/busybox {PEER} serve 80
            podman run -d --name goes -p 8081:80 localhost/busybox /bin/sleep 1000"
        ));
        engines.wait_until_it_serves("stays");
        tunbridge.kill();
        let error = engines.refused("podman run --rm localhost/busybox /bin/true");
        assert!(error.contains("tunbridge daemon"), "{error}");
        assert_eq!(engines.said("podman ps -aq | wc -l"), "2");
        engines.said("podman rm -ft0 goes");
        tunbridge.start_again();
        assert!(
            eventually(Duration::from_secs(20), || tunbridge.names(&["-a"])
                == ["stays"]),
            "{:?}",
            tunbridge.names(&["-a"])
        );
        let published = lab.lan().tcp(&format!("{HOST}:8080"));
        assert_eq!(published.unwrap().saw_address(), LAN);
        engines.said("podman run --rm -p 8081:80 localhost/busybox /bin/true");
        // Without a daemon nobody knows whose container it is, so Debian's portmap was asked, too: it looks into its tables.
        engines.said("nft flush ruleset");
    });
}

#[test]
fn fifty_at_once() {
    ours(|engines, tunbridge| {
        engines.said(
            "for i in $(seq 50); do podman run -d --name c$i -p $((10000 + i)):80 localhost/busybox /bin/sleep 1000 >/run/lab/$i.out 2>&1 & done
            wait
            cat /run/lab/*.out | grep -vE '^[0-9a-f]{64}$' || true",
        );
        let addresses = engines.said(
            "podman inspect $(podman ps -q) --format '{{.NetworkSettings.IPAddress}}' | sort -u | wc -l",
        );
        assert_eq!(addresses, "50");
        assert_eq!(tunbridge.names(&[]).len(), 50);
        engines.said("for i in $(seq 50); do podman rm -ft0 c$i >/dev/null & done; wait");
        assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
    });
}
