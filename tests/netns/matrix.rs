//! Who reaches whom: every pair of networks, every protocol, directly and through published ports.
//!
//! What must happen is written down once, as rules ([`Case::expected`], from Docker's gateway modes), and compared with
//! what a client in each place really got for every target at once. An answer carries the source
//! address that the server saw, so translation is judged with it.

use std::collections::BTreeMap;

use crate::lab::{HOST, LAN, Lab, Place, World, in_every_world, server_command};
use crate::tunbridge_under_test::Tunbridge;

in_every_world! {
    isolation_matrix
}

/// How a network deals with the rest of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Gateway mode `nat`, the default.
    Nat,
    /// The same without masquerading.
    Unmasked,
    /// The same, containers kept apart.
    Apart,
    /// Gateway mode `nat-unprotected`.
    Unprotected,
    /// Gateway mode `routed`.
    Routed,
    /// `--internal`.
    Internal,
    /// `--internal`, gateway mode `isolated`.
    Isolated,
}

impl Kind {
    const fn closed(self) -> bool {
        matches!(self, Self::Internal | Self::Isolated)
    }

    const fn masquerades(self) -> bool {
        !matches!(self, Self::Unmasked | Self::Routed)
    }

    /// `-p` gives it a port of the host.
    const fn publishes(self) -> bool {
        !self.closed() && !matches!(self, Self::Routed)
    }
}

/// Name, kind, first three octets of its subnet, options of `network create`.
type Net = (&'static str, Kind, &'static str, &'static [&'static str]);

const NETS: [Net; 9] = [
    ("bridge", Kind::Nat, "172.17.0", &[]),
    ("nat1", Kind::Nat, "10.10.1", &[]),
    ("nat2", Kind::Nat, "10.10.2", &[]),
    (
        "unmasked",
        Kind::Unmasked,
        "10.10.3",
        &["-o", "com.docker.network.bridge.enable_ip_masquerade=false"],
    ),
    (
        "apart",
        Kind::Apart,
        "10.10.4",
        &["-o", "com.docker.network.bridge.enable_icc=false"],
    ),
    (
        "unprotected",
        Kind::Unprotected,
        "10.10.5",
        &[
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected",
        ],
    ),
    (
        "routed",
        Kind::Routed,
        "10.10.6",
        &["-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"],
    ),
    ("internal", Kind::Internal, "10.10.7", &["--internal"]),
    (
        "isolated",
        Kind::Isolated,
        "10.10.8",
        &[
            "--internal",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=isolated",
        ],
    ),
];

/// Port in the container that is published; 81 is not.
const PUBLISHED: u16 = 80;

fn host_port(net: usize) -> u16 {
    8000 + u16::try_from(net).unwrap()
}

/// Where a question comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// A container of this network, with this address.
    Container(usize),
    Host,
    /// Outside, with routes to every subnet.
    Lan,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// The server's own address and this port; `None`: a ping.
    Direct(usize, Option<u16>),
    /// The server's published port at an address of the host.
    Published(usize),
}

#[derive(Debug)]
struct Case {
    from: From,
    to: To,
    target: String,
}

impl Case {
    /// The source address that the server must see; `echo` for a ping; `None`: no answer at all.
    fn expected(&self, addresses: &Addresses) -> Option<String> {
        let kind = |net: usize| NETS[net].1;
        let (server, open) = match self.to {
            To::Direct(net, port) => {
                let open = match (self.from, kind(net)) {
                    (From::Container(own), kind) if own == net => kind != Kind::Apart,
                    (From::Container(own), _) if kind(own).closed() => false,
                    (From::Host, Kind::Isolated) => false,
                    (From::Host, _) | (_, Kind::Unprotected) => true,
                    (_, Kind::Routed) => port.is_none_or(|port| port == PUBLISHED),
                    _ => false,
                };
                (net, open)
            }
            To::Published(net) => {
                let internal = matches!(self.from, From::Container(own) if kind(own).closed());
                (net, kind(net).publishes() && !internal)
            }
        };
        if !open {
            return None;
        }
        if matches!(self.to, To::Direct(_, None)) {
            return Some("echo".to_owned());
        }
        let gateway = || addresses.gateway(server);
        Some(match self.from {
            From::Lan => LAN.to_owned(),
            From::Host => gateway(),
            From::Container(own) => match self.to {
                To::Direct(net, _) if own == net => addresses.client(own),
                // A neighbour would answer the client itself, past the translation.
                To::Published(net) if own == net => gateway(),
                _ if kind(own).masquerades() => gateway(),
                To::Direct(..) | To::Published(_) => addresses.client(own),
            },
        })
    }
}

/// Who has which address.
struct Addresses(BTreeMap<String, String>);

impl Addresses {
    fn of(tunbridge: &Tunbridge<'_>) -> Self {
        let of = |name: String| {
            let inspected = tunbridge.inspect(&name);
            let networks = inspected["NetworkSettings"]["Networks"]
                .as_object()
                .unwrap();
            let address = networks.values().next().unwrap()["IPAddress"]
                .as_str()
                .unwrap()
                .to_owned();
            (name, address)
        };
        let names = NETS
            .iter()
            .flat_map(|net| [format!("c-{}", net.0), format!("s-{}", net.0)]);
        Self(names.map(of).collect())
    }

    fn client(&self, net: usize) -> String {
        self.0[&format!("c-{}", NETS[net].0)].clone()
    }

    fn server(&self, net: usize) -> String {
        self.0[&format!("s-{}", NETS[net].0)].clone()
    }

    fn gateway(&self, net: usize) -> String {
        format!("{}.1", NETS[net].2)
    }
}

fn direct(from: From, addresses: &Addresses) -> Vec<Case> {
    let mut cases = Vec::new();
    for net in 0..NETS.len() {
        let server = addresses.server(net);
        for (to, target) in [
            (Some(80), format!("tcp:{server}:80")),
            (Some(80), format!("udp:{server}:80")),
            (Some(81), format!("tcp:{server}:81")),
            (Some(81), format!("udp:{server}:81")),
            (None, format!("icmp:{server}")),
        ] {
            cases.push(Case {
                from,
                to: To::Direct(net, to),
                target,
            });
        }
    }
    cases
}

/// Through each address of the host that the client may use: the uplink's and, from inside, the gateways, the
/// client's own and a foreign one; for the host its loopback, too.
fn published(from: From, addresses: &Addresses) -> Vec<Case> {
    let mut cases = Vec::new();
    for net in 0..NETS.len() {
        let mut at = vec![HOST.to_owned()];
        if from != From::Lan {
            at.push(addresses.gateway(net));
        }
        match from {
            From::Container(own) => at.push(addresses.gateway(own)),
            From::Host => at.push("127.0.0.1".to_owned()),
            From::Lan => {}
        }
        // An isolated network has no gateway: nobody is at that address.
        at.retain(|address| !address.starts_with("10.10.8."));
        at.sort();
        at.dedup();
        for address in at {
            for protocol in ["tcp", "udp"] {
                cases.push(Case {
                    from,
                    to: To::Published(net),
                    target: format!("{protocol}:{address}:{}", host_port(net)),
                });
            }
        }
    }
    cases
}

fn isolation_matrix(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    for (number, (name, _, prefix, options)) in NETS.iter().enumerate() {
        if *name != "bridge" {
            let subnet = format!("{prefix}.0/24");
            let words = [
                &["network", "create", "--subnet", &subnet],
                *options,
                &[name],
            ]
            .concat();
            tunbridge.cli(&words).expect_success();
        }
        let port = host_port(number);
        let (tcp, udp) = (
            format!("{port}:{PUBLISHED}"),
            format!("{port}:{PUBLISHED}/udp"),
        );
        let command = server_command(&["80", "81"]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let options = ["--network", name, "-p", &tcp, "-p", &udp];
        tunbridge
            .run(&format!("s-{name}"), &options, &command)
            .wait_until_it_serves(81);
        tunbridge.container_with(&format!("c-{name}"), &["--network", name]);
    }
    let addresses = Addresses::of(&tunbridge);
    for (_, _, prefix, _) in NETS {
        let subnet = format!("{prefix}.0/24");
        for (place, via) in [(lab.lan(), "203.0.113.1"), (lab.wan(), HOST)] {
            place
                .run(&["ip", "route", "add", &subnet, "via", via])
                .expect_success();
        }
    }
    if world == World::Plain {
        // As open as a host can be: it would route between the bridges by itself.
        lab.host().set_sysctl("net.ipv4.ip_forward=1");
    }

    let mut wrong = Vec::new();
    let mut cells = 0;
    let places: Vec<(From, Place)> = (0..NETS.len())
        .map(|net| {
            (
                From::Container(net),
                lab.place(&format!("c-{}", NETS[net].0)),
            )
        })
        .chain([(From::Host, lab.host()), (From::Lan, lab.lan())])
        .collect();
    for (from, place) in places {
        let mut cases = direct(from, &addresses);
        cases.extend(published(from, &addresses));
        let targets: Vec<&str> = cases.iter().map(|case| case.target.as_str()).collect();
        let answers = place.probe(&targets);
        cells += cases.len();
        for (case, answer) in cases.iter().zip(answers) {
            let expected = case.expected(&addresses);
            let nobody = match answer.as_str() {
                "none" | "unreachable" => true,
                // A port of the host that nobody has: the host itself says so.
                "refused" => matches!(case.to, To::Published(_)),
                _ => false,
            };
            let got = (!nobody).then_some(answer);
            if got != expected {
                wrong.push(format!("{case:?}: {got:?}, expected {expected:?}"));
            }
        }
    }
    if world == World::Plain {
        lab.host().set_sysctl("net.ipv4.ip_forward=0");
    }
    assert!(cells > 900, "the matrix is whole: {cells}");
    assert!(
        wrong.is_empty(),
        "{} of {cells} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
