//! Transcript of a real engine (20.10) with IPv6: what it printed to each command, tunbridge prints.
//!
//! As in `golden.rs`. In containers `ip` is that of iproute2, the transcript's was busybox's: what only one of them shows
//! is left out. Outside there is one router more, and the server of the transcript's `wan` is behind it.

use crate::docker::{Docker, with_each_client_in};

const TO_CONTAINERS: [&str; 2] = ["--route-v6", "2001:db8:d::/64"];
const ROUTED: [&str; 3] = ["--ipv6", "--fixed-cidr-v6", "2001:db8:d::/64"];
/// The transcript's engine was told `--ip6tables` besides.
const TRANSLATED: [&str; 3] = ["--ipv6", "--fixed-cidr-v6", "fd00:d::/64"];

/// `address NAME` and `route6 NAME`: addresses of `eth0` and routes in a container, as both kinds of `ip` show them;
/// `here` is the traffic helper in the host.
const SHOW: &str = concat!(
    r"address() { x $1 ip -o address show eth0 | sed -E 's/.*(inet6? [^ ]+).*(scope [a-z]+).*/\1 \2/'; };
    route6() { x $1 ip -6 route | sed -E 's/ proto kernel//; s/ pref medium//; s/ +$//'; };
    ping6() { x $1 ping -6 -c1 -W1 $2 | grep -o '[0-9] packets transmitted, [0-9].*received'; };
    here() { ",
    env!("CARGO_MANIFEST_DIR"),
    "/netns-scripts/peer \"$@\"; };\n"
);

/// The two containers that the transcript is about.
fn containers(docker: &Docker<'_>) {
    let ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    docker.tunbridge.server("web", &ports);
    docker.tunbridge.container("cli");
}

/// What `SHOW` helps a line to print.
#[track_caller]
fn prints(docker: &Docker<'_>, line: &str, expected: &str) {
    docker.prints(&format!("{SHOW}{line}"), expected);
}

#[test]
fn the_default_network_has_ipv6() {
    with_each_client_in(&TO_CONTAINERS, &ROUTED, |docker| {
        // Forwarding is left alone (it was 1), and the addresses are usable (they were tentative). `tbtun0` is ours.
        docker.prints(
            "sysctl net.ipv6.conf.all.forwarding net.ipv6.conf.tb0.forwarding net.ipv6.conf.ext0.accept_ra; ip -6 addr show tb0 | grep inet6 | sed 's/ nodad//'; ip -6 route | grep -v tbtun",
            "net.ipv6.conf.all.forwarding = 0
net.ipv6.conf.tb0.forwarding = 0
net.ipv6.conf.ext0.accept_ra = 1
    inet6 2001:db8:d::1/64 scope global 
    inet6 fe80::1/64 scope link 
2001:db8:1::/64 dev ext0 proto kernel metric 256 pref medium
2001:db8:d::/64 dev tb0 proto kernel metric 256 linkdown pref medium
fe80::/64 dev ext0 proto kernel metric 256 pref medium
fe80::/64 dev tb0 proto kernel metric 256 linkdown pref medium
default via 2001:db8:1::1 dev ext0 metric 1024 pref medium
",
        );
        // No netfilter at all.
        docker.prints("ip6tables-save; iptables-save | grep -c ^-A", "0\n");
        // The transcript's engine told no gateways, as it had chosen them itself; later ones do.
        docker.prints(
            r#"d network inspect -f "{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}" bridge; d network inspect -f "{{range \$k, \$v := .Options}}{{\$k}} {{\$v}};{{end}}" bridge | tr ';' '\n' | sort"#,
            "true 172.17.0.0/16 172.17.0.1 2001:db8:d::/64 2001:db8:d::1 

com.docker.network.bridge.default_bridge true
com.docker.network.bridge.enable_icc true
com.docker.network.bridge.enable_ip_masquerade true
com.docker.network.bridge.host_binding_ipv4 0.0.0.0
com.docker.network.bridge.name tb0
com.docker.network.driver.mtu 1500
",
        );
        containers(docker);
        // A short id where the transcript has that of `web`; the lines of 27 (`fe00::` for `fe00::0`).
        prints(
            docker,
            "address web; route6 web; x web cat /etc/hosts; x web sysctl net.ipv6.conf.eth0.disable_ipv6 net.ipv6.conf.eth0.accept_ra net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_dad; address cli",
            "inet 172.17.0.2/16 scope global
inet6 2001:db8:d::242:ac11:2/64 scope global
inet6 fe80::42:acff:fe11:2/64 scope link
2001:db8:d::/64 dev eth0 metric 256
fe80::/64 dev eth0 metric 256
default via 2001:db8:d::1 dev eth0 metric 1024
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
172.17.0.2\tSHORT
2001:db8:d::242:ac11:2\tSHORT
net.ipv6.conf.eth0.disable_ipv6 = 0
net.ipv6.conf.eth0.accept_ra = 1
net.ipv6.conf.all.forwarding = 0
net.ipv6.conf.eth0.accept_dad = 1
inet 172.17.0.3/16 scope global
inet6 2001:db8:d::242:ac11:3/64 scope global
inet6 fe80::42:acff:fe11:3/64 scope link
",
        );
        inspected(docker);
    });
}

fn inspected(docker: &Docker<'_>) {
    docker.prints(
        r#"d inspect web -f "{{json .NetworkSettings.Ports}}" | python3 -m json.tool; d inspect web -f "{{with index .NetworkSettings.Networks \"bridge\"}}{{.Gateway}} {{.IPAddress}} {{.IPPrefixLen}} {{.IPv6Gateway}} {{.GlobalIPv6Address}} {{.GlobalIPv6PrefixLen}} {{.MacAddress}}{{end}}""#,
        r#"{
    "80/tcp": [
        {
            "HostIp": "0.0.0.0",
            "HostPort": "8080"
        },
        {
            "HostIp": "::",
            "HostPort": "8080"
        }
    ],
    "80/udp": [
        {
            "HostIp": "0.0.0.0",
            "HostPort": "8080"
        },
        {
            "HostIp": "::",
            "HostPort": "8080"
        }
    ]
}
172.17.0.1 172.17.0.2 16 2001:db8:d::1 2001:db8:d::242:ac11:2 64 02:42:ac:11:00:02
"#,
    );
    if docker.api < 48 {
        // Later clients have no such fields.
        docker.prints(
            r#"d inspect web -f "{{with .NetworkSettings}}{{.LinkLocalIPv6Address}},{{.LinkLocalIPv6PrefixLen}},{{.Gateway}},{{.GlobalIPv6Address}},{{.GlobalIPv6PrefixLen}},{{.IPv6Gateway}},{{.MacAddress}}{{end}}""#,
            ",0,172.17.0.1,2001:db8:d::242:ac11:2,64,2001:db8:d::1,02:42:ac:11:00:02\n",
        );
    }
    // By id in the transcript.
    docker.prints(
        r#"d network inspect -f "{{range .Containers}}{{.Name}} {{.MacAddress}} {{.IPv4Address}} {{.IPv6Address}};{{end}}" bridge | tr ';' '\n' | sort"#,
        "
cli 02:42:ac:11:00:03 172.17.0.3/16 2001:db8:d::242:ac11:3/64
web 02:42:ac:11:00:02 172.17.0.2/16 2001:db8:d::242:ac11:2/64
",
    );
    // The client's order may be any; ports are held with a short queue, since nobody will come there.
    docker.prints(
        r#"d port web | sed 's/:::/[::]:/' | sort; ss -H -lntu | awk '{print $1,$2,$5}' | sort"#,
        "80/tcp -> 0.0.0.0:8080
80/tcp -> [::]:8080
80/udp -> 0.0.0.0:8080
80/udp -> [::]:8080
tcp LISTEN 0.0.0.0:8080
tcp LISTEN [::]:8080
udp UNCONN 0.0.0.0:8080
udp UNCONN [::]:8080
",
    );
}

#[test]
fn a_global_prefix_is_routed() {
    with_each_client_in(&TO_CONTAINERS, &ROUTED, |docker| {
        let _server = docker.lab.far().serve(&["7000"]);
        containers(docker);
        prints(
            docker,
            "peer web tcp 2001:db8:ffff::9 7000; peer web udp 2001:db8:ffff::9 7000; ping6 web 2001:db8:ffff::9; x web traceroute -6 -n -q1 -w1 -m3 2001:db8:ffff::9 | awk '{print $1,$2}'",
            "tcp 2001:db8:ffff::9:7000 client-at=[2001:db8:d::242:ac11:2]:PORT -> tcp server-saw=[2001:db8:d::242:ac11:2]:PORT server-at=[2001:db8:ffff::9]:7000
udp 2001:db8:ffff::9:7000 client-at=[2001:db8:d::242:ac11:2]:PORT -> udp server-saw=[2001:db8:d::242:ac11:2]:PORT server-at=[2001:db8:ffff::9]:7000 bytes=5
1 packets transmitted, 1 received
traceroute to
1 2001:db8:d::1
2 2001:db8:1::1
3 2001:db8:ffff::9
",
        );
        // The host's ports lead to the container's IPv4 address. docker-proxy led to its IPv6 address, from
        // `[2001:db8:d::1]`: that hid the client, too, and the container's own address and port do not.
        prints(
            docker,
            "peer cli tcp 2001:db8:d::242:ac11:2 80; peer cli tcp 2001:db8:1::2 8080; peer cli tcp 2001:db8:d::1 8080",
            "tcp 2001:db8:d::242:ac11:2:80 client-at=[2001:db8:d::242:ac11:3]:PORT -> tcp server-saw=[2001:db8:d::242:ac11:3]:PORT server-at=[2001:db8:d::242:ac11:2]:80
tcp 2001:db8:1::2:8080 client-at=[2001:db8:d::242:ac11:3]:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
tcp 2001:db8:d::1:8080 client-at=[2001:db8:d::242:ac11:3]:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
",
        );
        prints(
            docker,
            "here tcp 2001:db8:d::242:ac11:2 80; here tcp ::1 8080; here udp ::1 8080; here tcp 2001:db8:1::2 8080; here tcp 127.0.0.1 8080",
            "tcp 2001:db8:d::242:ac11:2:80 client-at=[2001:db8:d::1]:PORT -> tcp server-saw=[2001:db8:d::1]:PORT server-at=[2001:db8:d::242:ac11:2]:80
tcp ::1:8080 client-at=[::1]:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
udp ::1:8080 client-at=[::1]:PORT -> udp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80 bytes=5
tcp 2001:db8:1::2:8080 client-at=[2001:db8:1::2]:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
tcp 127.0.0.1:8080 client-at=127.0.0.1:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
",
        );
        let wan = docker.lab.wan();
        for (answer, saw) in [
            (wan.tcp("[2001:db8:1::2]:8080"), "172.17.0.1"),
            (wan.udp("[2001:db8:1::2]:8080"), "172.17.0.1"),
            (wan.tcp("198.51.100.2:8080"), "198.51.100.1"),
            (wan.tcp("[2001:db8:d::242:ac11:2]:80"), "2001:db8:1::1"),
        ] {
            assert_eq!(answer.unwrap().saw_address(), saw);
        }
        wan.ping("2001:db8:d::242:ac11:2").expect_success();
    });
}

#[test]
fn user_defined_networks_have_ipv6() {
    with_each_client_in(&[], &ROUTED, |docker| {
        // Refused by the transcript's engine, which had no default subnets of IPv6.
        docker.prints(
            "d network create --ipv6 n6nosub; d network rm n6nosub",
            "ID\nn6nosub\n",
        );
        // Without `Gateway` of IPv6 in the transcript.
        docker.prints(
            r#"d network create --ipv6 --subnet 2001:db8:e::/64 n6; d network inspect -f "{{.EnableIPv6}} {{json .IPAM.Options}} {{json .IPAM.Config}}" n6"#,
            "ID
true {} [{\"Subnet\":\"172.18.0.0/16\",\"Gateway\":\"172.18.0.1\"},{\"Subnet\":\"2001:db8:e::/64\",\"Gateway\":\"2001:db8:e::1\"}]
",
        );
        let tunbridge = docker.tunbridge;
        let static_address = ["--network", "n6", "--ip6", "2001:db8:e::77"];
        tunbridge.container_with("u1", &static_address);
        tunbridge.container_with("u2", &["--network", "n6"]);
        prints(
            docker,
            "address u1; address u2; route6 u2; for q in 'u1 AAAA' 'u1 A' '-x 2001:db8:e::77'; do x u2 dig @127.0.0.11 $q +short; done; x u2 cat /etc/hosts; ping6 u2 u1",
            "inet 172.18.0.2/16 scope global
inet6 2001:db8:e::77/64 scope global
inet6 fe80::42:acff:fe12:2/64 scope link
inet 172.18.0.3/16 scope global
inet6 2001:db8:e::2/64 scope global
inet6 fe80::42:acff:fe12:3/64 scope link
2001:db8:e::/64 dev eth0 metric 256
fe80::/64 dev eth0 metric 256
default via 2001:db8:e::1 dev eth0 metric 1024
2001:db8:e::77
172.18.0.2
u1.n6.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
172.18.0.3\tSHORT
2001:db8:e::2\tSHORT
1 packets transmitted, 1 received
",
        );
        docker.prints("d rm -f $(d ps -aq) >/dev/null; d network rm n6", "n6\n");
    });
}

#[test]
fn a_unique_local_prefix_is_translated() {
    with_each_client_in(&[], &TRANSLATED, |docker| {
        let _server = docker.lab.far().serve(&["7000"]);
        // Rules and forwarding in the transcript, and four proxies.
        docker.prints(
            "ip6tables-save; sysctl net.ipv6.conf.all.forwarding",
            "net.ipv6.conf.all.forwarding = 0\n",
        );
        containers(docker);
        prints(
            docker,
            "address web; d port web | sed 's/:::/[::]:/' | sort; peer web tcp 2001:db8:ffff::9 7000; peer web udp 2001:db8:ffff::9 7000; ping6 web 2001:db8:ffff::9",
            "inet 172.17.0.2/16 scope global
inet6 fd00:d::242:ac11:2/64 scope global
inet6 fe80::42:acff:fe11:2/64 scope link
80/tcp -> 0.0.0.0:8080
80/tcp -> [::]:8080
80/udp -> 0.0.0.0:8080
80/udp -> [::]:8080
tcp 2001:db8:ffff::9:7000 client-at=[fd00:d::242:ac11:2]:PORT -> tcp server-saw=[2001:db8:1::2]:PORT server-at=[2001:db8:ffff::9]:7000
udp 2001:db8:ffff::9:7000 client-at=[fd00:d::242:ac11:2]:PORT -> udp server-saw=[2001:db8:1::2]:PORT server-at=[2001:db8:ffff::9]:7000 bytes=5
1 packets transmitted, 1 received
",
        );
        // The third line: `[2001:db8:1::2]` in the transcript; here the host is its gateway to a container, always.
        prints(
            docker,
            "here tcp ::1 8080; here udp ::1 8080; here tcp 2001:db8:1::2 8080; here tcp 127.0.0.1 8080; peer cli tcp 2001:db8:1::2 8080; peer web tcp 2001:db8:1::2 8080; peer web tcp 198.51.100.2 8080",
            "tcp ::1:8080 client-at=[::1]:PORT -> tcp server-saw=[fd00:d::1]:PORT server-at=[fd00:d::242:ac11:2]:80
udp ::1:8080 client-at=[::1]:PORT -> udp server-saw=[fd00:d::1]:PORT server-at=[fd00:d::242:ac11:2]:80 bytes=5
tcp 2001:db8:1::2:8080 client-at=[2001:db8:1::2]:PORT -> tcp server-saw=[fd00:d::1]:PORT server-at=[fd00:d::242:ac11:2]:80
tcp 127.0.0.1:8080 client-at=127.0.0.1:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
tcp 2001:db8:1::2:8080 client-at=[fd00:d::242:ac11:3]:PORT -> tcp server-saw=[fd00:d::1]:PORT server-at=[fd00:d::242:ac11:2]:80
tcp 2001:db8:1::2:8080 client-at=[fd00:d::242:ac11:2]:PORT -> tcp server-saw=[fd00:d::1]:PORT server-at=[fd00:d::242:ac11:2]:80
tcp 198.51.100.2:8080 client-at=172.17.0.2:PORT -> tcp server-saw=172.17.0.1:PORT server-at=172.17.0.2:80
",
        );
        let wan = docker.lab.wan();
        for (answer, saw, at) in [
            (
                wan.tcp("[2001:db8:1::2]:8080"),
                "2001:db8:1::1",
                "[fd00:d::242:ac11:2]:80",
            ),
            (
                wan.udp("[2001:db8:1::2]:8080"),
                "2001:db8:1::1",
                "[fd00:d::242:ac11:2]:80",
            ),
            (
                wan.tcp("198.51.100.2:8080"),
                "198.51.100.1",
                "172.17.0.2:80",
            ),
        ] {
            let answer = answer.unwrap();
            assert_eq!(answer.saw_address(), saw);
            assert_eq!(answer.at.to_string(), at);
        }
    });
}
