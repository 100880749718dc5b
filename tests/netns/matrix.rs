//! Who reaches whom: every pair of networks, every protocol, directly and through published ports, over each family.
//!
//! What must happen is written down once, as rules ([`Case::expected`], from Docker's gateway modes), and compared with
//! what a client in each place really got for every target at once. An answer carries the source
//! address that the server saw, so translation is judged with it.

use std::collections::BTreeMap;

use crate::lab::{HOST, HOST6, LAN, LAN6, Lab, Place, World, in_every_world, server_command};
use crate::tunbridge_under_test::Tunbridge;

in_every_world! {
    isolation_matrix
    isolation_matrix_over_ipv6
}

/// The networks have this family alone, but for the default one, which always has IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn host(self) -> &'static str {
        match self {
            Self::V4 => HOST,
            Self::V6 => HOST6,
        }
    }

    const fn lan(self) -> &'static str {
        match self {
            Self::V4 => LAN,
            Self::V6 => LAN6,
        }
    }

    /// The router that `lan` has.
    const fn lan_router(self) -> &'static str {
        match self {
            Self::V4 => "203.0.113.1",
            Self::V6 => "2001:db8:3::1",
        }
    }

    const fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "::1",
        }
    }

    const fn forwarding(self) -> &'static str {
        match self {
            Self::V4 => "net.ipv4.ip_forward",
            Self::V6 => "net.ipv6.conf.all.forwarding",
        }
    }

    fn subnet(self, net: usize) -> String {
        match (self, net) {
            (Self::V4, 0) => "172.17.0.0/16".to_owned(),
            (Self::V4, _) => format!("10.10.{net}.0/24"),
            (Self::V6, _) => format!("fd00:10:10:a{net}::/64"),
        }
    }

    fn gateway(self, net: usize) -> String {
        match (self, net) {
            (Self::V4, 0) => "172.17.0.1".to_owned(),
            (Self::V4, _) => format!("10.10.{net}.1"),
            (Self::V6, _) => format!("fd00:10:10:a{net}::1"),
        }
    }

    /// An address before a port.
    fn at(self, address: &str) -> String {
        match self {
            Self::V4 => address.to_owned(),
            Self::V6 => format!("[{address}]"),
        }
    }
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

const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const ICC: &str = "com.docker.network.bridge.enable_icc";
/// Stands for the gateway mode of the family.
const MODE: &str = "";

/// Name, kind, an option and its value.
type Net = (&'static str, Kind, Option<(&'static str, &'static str)>);

const NETS: [Net; 9] = [
    ("bridge", Kind::Nat, None),
    ("nat1", Kind::Nat, None),
    ("nat2", Kind::Nat, None),
    ("unmasked", Kind::Unmasked, Some((MASQUERADE, "false"))),
    ("apart", Kind::Apart, Some((ICC, "false"))),
    (
        "unprotected",
        Kind::Unprotected,
        Some((MODE, "nat-unprotected")),
    ),
    ("routed", Kind::Routed, Some((MODE, "routed"))),
    ("internal", Kind::Internal, None),
    ("isolated", Kind::Isolated, Some((MODE, "isolated"))),
];

/// `network create` for one of them.
fn create(family: Family, net: usize) -> Vec<String> {
    let (name, kind, option) = NETS[net];
    let mut words = vec!["network", "create"];
    if family == Family::V6 {
        words.extend(["--ipv6", "--ipv4=false"]);
    }
    if kind.closed() {
        words.push("--internal");
    }
    let subnet = family.subnet(net);
    words.extend(["--subnet", &subnet]);
    let option = option.map(|(key, value)| {
        let key = match (key, family) {
            (MODE, Family::V4) => "com.docker.network.bridge.gateway_mode_ipv4",
            (MODE, Family::V6) => "com.docker.network.bridge.gateway_mode_ipv6",
            (key, _) => key,
        };
        format!("{key}={value}")
    });
    if let Some(option) = &option {
        words.extend(["-o", option]);
    }
    words.push(name);
    words.into_iter().map(str::to_owned).collect()
}

const ISOLATED: usize = 8;

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
            From::Lan => addresses.family.lan().to_owned(),
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
struct Addresses {
    family: Family,
    by_name: BTreeMap<String, String>,
}

impl Addresses {
    fn of(family: Family, tunbridge: &Tunbridge<'_>) -> Self {
        let key = match family {
            Family::V4 => "IPAddress",
            Family::V6 => "GlobalIPv6Address",
        };
        let of = |name: String| {
            let inspected = tunbridge.inspect(&name);
            let networks = inspected["NetworkSettings"]["Networks"]
                .as_object()
                .unwrap();
            let address = networks.values().next().unwrap()[key].as_str().unwrap();
            assert!(!address.is_empty(), "{name} has no {key}");
            (name, address.to_owned())
        };
        let names = NETS
            .iter()
            .flat_map(|net| [format!("c-{}", net.0), format!("s-{}", net.0)]);
        Self {
            family,
            by_name: names.map(of).collect(),
        }
    }

    fn client(&self, net: usize) -> String {
        self.by_name[&format!("c-{}", NETS[net].0)].clone()
    }

    fn server(&self, net: usize) -> String {
        self.by_name[&format!("s-{}", NETS[net].0)].clone()
    }

    fn gateway(&self, net: usize) -> String {
        self.family.gateway(net)
    }
}

fn direct(from: From, addresses: &Addresses) -> Vec<Case> {
    let mut cases = Vec::new();
    for net in 0..NETS.len() {
        let server = addresses.server(net);
        let at = addresses.family.at(&server);
        for (to, target) in [
            (Some(80), format!("tcp:{at}:80")),
            (Some(80), format!("udp:{at}:80")),
            (Some(81), format!("tcp:{at}:81")),
            (Some(81), format!("udp:{at}:81")),
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
        let mut at = vec![addresses.family.host().to_owned()];
        if from != From::Lan {
            at.push(addresses.gateway(net));
        }
        match from {
            From::Container(own) => at.push(addresses.gateway(own)),
            From::Host => at.push(addresses.family.loopback().to_owned()),
            From::Lan => {}
        }
        // An isolated network has no gateway: nobody is at that address.
        at.retain(|address| *address != addresses.gateway(ISOLATED));
        at.sort();
        at.dedup();
        for address in at {
            for protocol in ["tcp", "udp"] {
                cases.push(Case {
                    from,
                    to: To::Published(net),
                    target: format!(
                        "{protocol}:{}:{}",
                        addresses.family.at(&address),
                        host_port(net)
                    ),
                });
            }
        }
    }
    cases
}

fn isolation_matrix(world: World) {
    matrix(world, Family::V4, &[]);
}

fn isolation_matrix_over_ipv6(world: World) {
    let subnet = Family::V6.subnet(0);
    matrix(world, Family::V6, &["--ipv6", "--fixed-cidr-v6", &subnet]);
}

fn matrix(world: World, family: Family, flags: &[&str]) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(flags);
    for (number, (name, ..)) in NETS.iter().enumerate() {
        if *name != "bridge" {
            let words = create(family, number);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
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
    let addresses = Addresses::of(family, &tunbridge);
    for net in 0..NETS.len() {
        let subnet = family.subnet(net);
        for (place, via) in [(lab.lan(), family.lan_router()), (lab.wan(), family.host())] {
            place
                .run(&["ip", "route", "add", &subnet, "via", via])
                .expect_success();
        }
    }
    let forward = |value: u8| {
        if world == World::Plain {
            lab.host()
                .set_sysctl(&format!("{}={value}", family.forwarding()));
        }
    };
    // As open as a host can be: it would route between the bridges by itself.
    forward(1);

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
    forward(0);
    assert!(cells > 900, "the matrix is whole: {cells}");
    assert!(
        wrong.is_empty(),
        "{} of {cells} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
