//! Transcript of a real engine (20.10) with networks that users define: what it printed to each command, tunbridge prints.
//!
//! Containers are started with tunbridge's own command, there being no images; all else is typed as it was then, into
//! Debian's client of that time and into the one in PATH. Differences from the transcript have a comment, and a line in
//! `docs/parity.md`. Bridges are `tb0` and `tb-…` instead of `docker0` and `br-…`.

use serde_json::{Value, json};

use crate::docker::{Docker, with_each_client, with_each_client_and_dns};

/// `EnableIPv4` is in what clients since 1.48 get.
fn for_client(docker: &Docker<'_>, text: &str) -> String {
    if docker.api < 48 {
        return text.to_owned();
    }
    let ipv6 = "        \"EnableIPv6\"";
    text.replace(ipv6, &format!("        \"EnableIPv4\": true,\n{ipv6}"))
}

#[test]
fn networks_are_made_and_inspected() {
    with_each_client(&[], |docker| {
        docker.prints("d network create net1", "ID\n");
        let net1 = r#"[
    {
        "Name": "net1",
        "Id": "ID",
        "Created": "TIME",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": "172.18.0.0/16",
                    "Gateway": "172.18.0.1"
                }
            ]
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {
            "Network": ""
        },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {}
    }
]
"#;
        docker.prints("d network inspect net1", &for_client(docker, net1));
        docker.prints("d inspect net1", &for_client(docker, net1));
        let net5 = r#"ID
[
    {
        "Name": "net5",
        "Id": "ID",
        "Created": "TIME",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": "10.5.0.0/16",
                    "IPRange": "10.5.7.0/24",
                    "Gateway": "10.5.0.254",
                    "AuxiliaryAddresses": {
                        "printer": "10.5.7.1"
                    }
                }
            ]
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {
            "Network": ""
        },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {
            "com.docker.network.bridge.name": "brfive",
            "com.docker.network.driver.mtu": "1420"
        },
        "Labels": {
            "a": "b"
        }
    }
]
"#;
        docker.prints(
            "d network create --subnet 10.5.0.0/16 --ip-range 10.5.7.0/24 --gateway 10.5.0.254 --aux-address printer=10.5.7.1 --opt com.docker.network.bridge.name=brfive --opt com.docker.network.driver.mtu=1420 --label a=b net5 && d network inspect net5",
            &for_client(docker, net5),
        );
        docker.prints(
            r#"d network create --internal isol; d network create --opt com.docker.network.bridge.enable_icc=false noicc; d network create --opt com.docker.network.bridge.enable_ip_masquerade=false nomasq; d network create --opt com.docker.network.bridge.host_binding_ipv4=127.0.0.1 bind127 ; d network ls --format "{{.Name}} {{.Driver}} {{.Scope}} internal={{.Internal}} ipv6={{.IPv6}}""#,
            "ID
ID
ID
ID
bind127 bridge local internal=false ipv6=false
bridge bridge local internal=false ipv6=false
host host local internal=false ipv6=false
isol bridge local internal=true ipv6=false
net1 bridge local internal=false ipv6=false
net5 bridge local internal=false ipv6=false
noicc bridge local internal=false ipv6=false
nomasq bridge local internal=false ipv6=false
none null local internal=false ipv6=false
",
        );
        // One link of tunbridge's own is there, too; routes as in the transcript, but in the order of the table.
        docker.prints(
            r#"ip -o -4 addr | awk "{print \$2,\$4}" | grep -v ^tbtun; ip route | grep -v tbtun | sort"#,
            "lo 127.0.0.1/8
ext0 198.51.100.2/24
tb0 172.17.0.1/16
tb-SHORT 172.18.0.1/16
brfive 10.5.0.254/16
tb-SHORT 172.19.0.1/16
tb-SHORT 172.20.0.1/16
tb-SHORT 172.21.0.1/16
tb-SHORT 172.22.0.1/16
10.5.0.0/16 dev brfive proto kernel scope link src 10.5.0.254 linkdown 
172.17.0.0/16 dev tb0 proto kernel scope link src 172.17.0.1 linkdown 
172.18.0.0/16 dev tb-SHORT proto kernel scope link src 172.18.0.1 linkdown 
172.19.0.0/16 dev tb-SHORT proto kernel scope link src 172.19.0.1 linkdown 
172.20.0.0/16 dev tb-SHORT proto kernel scope link src 172.20.0.1 linkdown 
172.21.0.0/16 dev tb-SHORT proto kernel scope link src 172.21.0.1 linkdown 
172.22.0.0/16 dev tb-SHORT proto kernel scope link src 172.22.0.1 linkdown 
198.51.100.0/24 dev ext0 proto kernel scope link src 198.51.100.2 
default via 198.51.100.1 dev ext0 
",
        );
        // No netfilter at all.
        docker.prints("iptables-save | grep -cE ^-A", "0\n");
        // Interfaces are named after the network's id.
        docker.prints(
            r#"ip link show "tb-$(d network inspect -f "{{.Id}}" net1 | cut -c1-12)" >/dev/null && echo there"#,
            "there\n",
        );
    });
}

/// The containers that the rest of the transcript is about.
fn containers(docker: &Docker<'_>) {
    docker.session(
        "d network create net1; d network create --subnet 10.5.0.0/16 --ip-range 10.5.7.0/24 --gateway 10.5.0.254 --aux-address printer=10.5.7.1 --opt com.docker.network.bridge.name=brfive --opt com.docker.network.driver.mtu=1420 --label a=b net5",
    );
    let tunbridge = docker.tunbridge;
    let aliases = "--network net1 --network-alias svc --network-alias a2";
    let words = |line: &'static str| -> Vec<&'static str> { line.split_whitespace().collect() };
    tunbridge.container_with("alpha", &words(aliases));
    tunbridge.server(
        "beta",
        &words("--network net1 --network-alias svc --hostname bhost"),
    );
    tunbridge.server("foxtrot", &words("--network net5"));
    tunbridge.container_with("golf", &words("--network net5 --ip 10.5.9.9"));
}

#[test]
fn containers_have_addresses_and_files() {
    with_each_client_and_dns(&[], |docker| {
        containers(docker);
        docker.prints(
            r#"for c in alpha beta foxtrot golf; do x $c ip -o -4 addr show eth0 | cut -d: -f2 | sed 's/\\.*//'; done"#,
            " eth0    inet 172.18.0.2/16 brd 172.18.255.255 scope global eth0
 eth0    inet 172.18.0.3/16 brd 172.18.255.255 scope global eth0
 eth0    inet 10.5.7.0/16 brd 10.5.255.255 scope global eth0
 eth0    inet 10.5.9.9/16 brd 10.5.255.255 scope global eth0
",
        );
        docker.prints(
            "x foxtrot ip link show eth0 | grep -oE 'mtu [0-9]+|UP,LOWER_UP|link/ether .*brd.*' | sed 's/ link-netn.*//'; x foxtrot ip route; ip link show brfive | grep -oE 'mtu [0-9]+|UP,LOWER_UP'",
            "UP,LOWER_UP
mtu 1420
link/ether 02:42:0a:05:07:00 brd ff:ff:ff:ff:ff:ff
default via 10.5.0.254 dev eth0 
10.5.0.0/16 dev eth0 proto kernel scope link src 10.5.7.0 
UP,LOWER_UP
mtu 1420
",
        );
        // Without "Error response from daemon", and behind Docker's words comes what to do.
        docker.prints(
            "(t run --rm --network net5 --ip 10.5.9.9 -- true; t run --rm --network net5 --ip 10.6.0.1 -- true) 2>&1 | grep -oE '^tunbridge: (Address already in use|invalid address 10.6.0.1: It does not belong to any of this network.s subnets)'",
            "tunbridge: Address already in use
tunbridge: invalid address 10.6.0.1: It does not belong to any of this network's subnets
",
        );
        // Refused by the transcript's engine, allowed since 29.
        docker.prints(
            "t run --rm --network net1 --ip 172.18.0.99 -- ip -o -4 addr show eth0 | awk '{print $4}'",
            "172.18.0.99/16\n",
        );
        // A short id where the transcript has that of `alpha`; the lines of 27 (`fe00::` for `fe00::0`).
        docker.prints(
            "x alpha cat /etc/hosts",
            "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
172.18.0.2\tSHORT
",
        );
        docker.prints(
            "x alpha cat /etc/resolv.conf",
            "# Generated by tunbridge.
# This file can be edited; tunbridge will not make further changes once it
# has been modified.

nameserver 127.0.0.11
search wan.example
options timeout:1 attempts:1 ndots:0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [host(192.0.2.9)]
# Overrides: []
# Option ndots from: internal
",
        );
        docker.prints(
            "t run --rm --network net1 --dns 203.0.113.53 --dns-search corp.example -- grep -v ^# /etc/resolv.conf",
            "\nnameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 attempts:1 ndots:0\n\n",
        );
    });
}

/// Header and sections of what dig prints, without what is another every time.
fn dig(docker: &Docker<'_>, container: &str, words: &str) -> String {
    docker.session(&format!(
        r"x {container} dig @127.0.0.11 {words} | grep -E '^;; (->>|flags)|^[^;]' | sed -E 's/, id: [0-9]+//; s/^;; ->>HEADER<<- opcode: QUERY, //; s/[[:space:]]+/ /g'"
    ))
}

#[test]
fn names_are_answered() {
    with_each_client_and_dns(&[], |docker| {
        containers(docker);
        let local = |flags: &str, answers: u8, rest: &str| {
            format!(
                "status: NOERROR\n;; flags: {flags}; QUERY: 1, ANSWER: {answers}, AUTHORITY: 0, ADDITIONAL: 0\n{rest}"
            )
        };
        // dig asks with EDNS; the transcript's engine answered without, ours with: the same without EDNS.
        for (words, expected) in [
            (
                "beta A +norecurse +noedns",
                local("qr ra", 1, "beta. 600 IN A 172.18.0.3\n"),
            ),
            ("beta AAAA +noedns", local("qr rd ra", 0, "")),
            ("beta MX +noedns", local("qr rd ra", 0, "")),
            (
                "beta.net1 +noedns",
                local("qr rd ra", 1, "beta.net1. 600 IN A 172.18.0.3\n"),
            ),
            (
                "-x 172.18.0.3 +noedns",
                local(
                    "qr rd ra",
                    1,
                    "3.0.18.172.in-addr.arpa. 600 IN PTR beta.net1.\n",
                ),
            ),
            (
                "-x 203.0.113.9 +noedns",
                local("qr aa rd ra", 0, "").replace("NOERROR", "NXDOMAIN"),
            ),
            (
                "www.wan.example A +noedns",
                local("qr aa rd ra", 1, "www.wan.example. 60 IN A 203.0.113.9\n"),
            ),
            (
                "servfail.wan.example A +noedns",
                local("qr rd ra", 0, "").replace("NOERROR", "SERVFAIL"),
            ),
            (
                "nx.wan.example A +noedns",
                local("qr aa rd ra", 0, "").replace("NOERROR", "NXDOMAIN"),
            ),
        ] {
            assert_eq!(dig(docker, "alpha", words), expected, "{words}");
        }
        docker.prints(
            "for q in '+tcp beta' bhost BETA a2; do x alpha dig @127.0.0.11 $q A +short; done; for i in 1 2 3; do x alpha dig @127.0.0.11 svc A +short | sort; done",
            "172.18.0.3
172.18.0.3
172.18.0.3
172.18.0.2
172.18.0.2
172.18.0.3
172.18.0.2
172.18.0.3
172.18.0.2
172.18.0.3
",
        );
        docker.prints(
            "x alpha dig @127.0.0.11 foxtrot +noedns | grep -o 'status: [A-Z]*'; x foxtrot dig @127.0.0.11 beta +noedns | grep -o 'status: [A-Z]*'",
            "status: NXDOMAIN\nstatus: NXDOMAIN\n",
        );
        docker.prints(
            "x alpha dig @127.0.0.11 big.wan.example TXT +noedns | grep -cE '^big.*TXT'; x alpha dig @127.0.0.11 big.wan.example TXT +noedns | grep -oE '\\((TCP|UDP)\\)'",
            "20\n(TCP)\n",
        );
        docker.prints(
            "x alpha ss -H -lntu | awk '{print $1,$2,$5}' | sed 's/:[0-9]*$/:PORT/' | sort",
            "tcp LISTEN 127.0.0.11:PORT\nudp UNCONN 127.0.0.11:PORT\n",
        );
        let _server = docker.lab.lan().serve(&["7000"]);
        docker.prints(
            "peer alpha tcp beta 80; peer alpha tcp 203.0.113.9 7000; peer foxtrot tcp 203.0.113.9 7000",
            "tcp beta:80 client-at=172.18.0.2:PORT -> tcp server-saw=172.18.0.2:PORT server-at=172.18.0.3:80
tcp 203.0.113.9:7000 client-at=172.18.0.2:PORT -> tcp server-saw=198.51.100.2:PORT server-at=203.0.113.9:7000
tcp 203.0.113.9:7000 client-at=10.5.7.0:PORT -> tcp server-saw=198.51.100.2:PORT server-at=203.0.113.9:7000
",
        );
    });
}

/// Whether pings are answered: the line that counts.
const PING: &str =
    "ping() { x $1 ping -c1 -W1 $2 | grep -o '[0-9] packets transmitted, [0-9].*received'; };";

#[test]
fn networks_are_isolated() {
    with_each_client_and_dns(&[], |docker| {
        containers(docker);
        let _server = docker.lab.lan().serve(&["7000"]);
        docker.prints(
            &format!("{PING} peer alpha tcp 10.5.7.0 80 >/dev/null || echo none; ping alpha 10.5.7.0; ping alpha 10.5.0.254"),
            "none
1 packets transmitted, 0 received
1 packets transmitted, 1 received
",
        );
        let host = docker.lab.host().tcp("10.5.7.0:80").unwrap();
        assert_eq!(host.saw_address(), "10.5.0.254");

        // --internal. No default route, as since 28.
        docker.session("d network create --internal isol");
        let tunbridge = docker.tunbridge;
        tunbridge.container_with("i1", &["--network", "isol"]);
        tunbridge.server("i2", &["--network", "isol"]);
        docker.prints(
            &format!(r#"{PING} x i1 ip route; peer i1 tcp 203.0.113.9 7000 | grep -o unreachable; peer i1 tcp i2 80; x i1 dig @127.0.0.11 www.wan.example | grep -o SERVFAIL; ping i1 $(d network inspect -f "{{{{(index .IPAM.Config 0).Gateway}}}}" isol); x i1 grep -v '^#' /etc/resolv.conf"#),
            "172.19.0.0/16 dev eth0 proto kernel scope link src 172.19.0.2 
unreachable
tcp i2:80 client-at=172.19.0.2:PORT -> tcp server-saw=172.19.0.2:PORT server-at=172.19.0.3:80
SERVFAIL
1 packets transmitted, 1 received

nameserver 127.0.0.11
search wan.example
options timeout:1 attempts:1 ndots:0

",
        );
        tunbridge.container_with("i3", &["--network", "isol", "-p", "8095:80"]);
        docker.prints("d port i3; d rm -f i3 >/dev/null", "");

        // enable_icc=false
        docker.session("d network create --opt com.docker.network.bridge.enable_icc=false noicc");
        tunbridge.container_with("n1", &["--network", "noicc"]);
        tunbridge.server("n2", &["--network", "noicc", "-p", "8096:80"]);
        docker.prints(
            &format!("{PING} peer n1 tcp n2 80 >/dev/null 2>&1 || echo none; ping n1 n2; peer n1 tcp 203.0.113.9 7000; peer n1 tcp 172.20.0.1 8096"),
            "none
1 packets transmitted, 0 received
tcp 203.0.113.9:7000 client-at=172.20.0.2:PORT -> tcp server-saw=198.51.100.2:PORT server-at=203.0.113.9:7000
tcp 172.20.0.1:8096 client-at=172.20.0.2:PORT -> tcp server-saw=172.20.0.1:PORT server-at=172.20.0.3:80
",
        );

        // enable_ip_masquerade=false: its own address outside.
        docker.session(
            "d network create --opt com.docker.network.bridge.enable_ip_masquerade=false nomasq",
        );
        tunbridge.container_with("m1", &["--network", "nomasq"]);
        docker.prints(
            "timeout 5 tcpdump -lnni ext0 -c 1 tcp port 7000 2>/dev/null | grep -oE 'IP [0-9.]+ > [0-9.]+: Flags .S.' | sed -E 's/\\.[0-9]+ >/.PORT >/' & sleep 1.2; peer m1 tcp 203.0.113.9 7000 >/dev/null 2>&1; wait",
            "IP 172.21.0.2.PORT > 203.0.113.9.7000: Flags [S]\n",
        );

        // host_binding_ipv4=127.0.0.1
        docker.session(
            "d network create --opt com.docker.network.bridge.host_binding_ipv4=127.0.0.1 bind127",
        );
        tunbridge.container_with("m2", &["--network", "bind127", "-p", "8097:80"]);
        docker.prints(
            "d port m2; ss -H -ltn | grep 8097 | awk '{print $1,$4}'",
            "80/tcp -> 127.0.0.1:8097\nLISTEN 127.0.0.1:8097\n",
        );
    });
}

#[test]
fn containers_are_connected_and_disconnected() {
    with_each_client_and_dns(&[], |docker| {
        containers(docker);
        let _server = docker.lab.lan().serve(&["7000"]);
        docker.prints(
            "d network connect --alias extra --ip 10.5.9.77 net5 alpha; x alpha ip -o -4 addr | awk '{print $2,$4}'; x alpha ip route; x alpha tail -2 /etc/hosts",
            "lo 127.0.0.1/8
eth0 172.18.0.2/16
eth1 10.5.9.77/16
default via 172.18.0.1 dev eth0 
10.5.0.0/16 dev eth1 proto kernel scope link src 10.5.9.77 
172.18.0.0/16 dev eth0 proto kernel scope link src 172.18.0.2 
172.18.0.2\tSHORT
10.5.9.77\tSHORT
",
        );
        endpoints(docker);
        docker.prints(
            "x foxtrot dig @127.0.0.11 +short extra; peer alpha tcp foxtrot 80",
            "10.5.9.77
tcp foxtrot:80 client-at=10.5.9.77:PORT -> tcp server-saw=10.5.9.77:PORT server-at=10.5.7.0:80
",
        );
        // The transcript's engine gave the next interface the next number, later ones the lowest free.
        let show = "x alpha ip -o -4 addr | awk '{print $2,$4}'; x alpha ip route";
        docker.prints(
            &format!("d network disconnect net1 alpha; {show}; peer alpha tcp 203.0.113.9 7000; d network connect net1 alpha; {show}"),
            "lo 127.0.0.1/8
eth1 10.5.9.77/16
default via 10.5.0.254 dev eth1 
10.5.0.0/16 dev eth1 proto kernel scope link src 10.5.9.77 
tcp 203.0.113.9:7000 client-at=10.5.9.77:PORT -> tcp server-saw=198.51.100.2:PORT server-at=203.0.113.9:7000
lo 127.0.0.1/8
eth1 10.5.9.77/16
eth0 172.18.0.2/16
default via 172.18.0.1 dev eth0 
10.5.0.0/16 dev eth1 proto kernel scope link src 10.5.9.77 
172.18.0.0/16 dev eth0 proto kernel scope link src 172.18.0.2 
",
        );
        // After Docker's words comes what to do, cut off here.
        let cut =
            "| sed -E 's/^(Error response from daemon: [^:]*):.*/\\1/; /^exit status/d; /^$/d'";
        docker.prints(
            &format!("(d network connect net1 alpha; d network disconnect net1 foxtrot; d network connect bridge alpha; x alpha ip -o -4 addr | awk '{{print $2,$4}}'; d network connect host alpha; d network connect none alpha) 2>&1 {cut}"),
            "Error response from daemon: endpoint with name alpha already exists in network net1
Error response from daemon: container ID is not connected to network net1
lo 127.0.0.1/8
eth1 10.5.9.77/16
eth0 172.18.0.2/16
eth2 172.17.0.2/16
Error response from daemon: container cannot be disconnected from host network or connected to host network
Error response from daemon: container cannot be connected to multiple networks with one of the networks in private (none) mode
",
        );
        let listed = r#"{
  "ID": {
    "Name": "alpha",
    "EndpointID": "ID",
    "MacAddress": "02:42:ac:12:00:02",
    "IPv4Address": "172.18.0.2/16",
    "IPv6Address": ""
  },
  "ID": {
    "Name": "beta",
    "EndpointID": "ID",
    "MacAddress": "02:42:ac:12:00:03",
    "IPv4Address": "172.18.0.3/16",
    "IPv6Address": ""
  }
}
"#;
        let listed = docker.session("true") + listed;
        // The words of 28, with the containers' names in place of the network's id.
        docker.prints(
            "d network rm net1 2>&1 | grep -oE '^Error response from daemon: [^:]*: network net1 has active endpoints .name:\"(alpha|beta)\" id:\"SHORT\"|^Error response from daemon: [^:]*: network net1 has active endpoints'",
            "Error response from daemon: error while removing network: network net1 has active endpoints\n",
        );
        // By id in the transcript: by name here, so that it is the same every time.
        docker.prints(
            "d network inspect net1 | jq '.[0].Containers | to_entries | sort_by(.value.Name) | from_entries'",
            &listed,
        );
    });
}

/// `NetworkSettings.Networks` of a container that was given one network and connected to another.
fn endpoints(docker: &Docker<'_>) {
    let printed = docker.session("d inspect alpha | jq '.[0].NetworkSettings.Networks'");
    if docker.api < 44 {
        // No options are null however they came about; the transcript has {} for those of `connect`.
        assert_eq!(
            printed,
            r#"{
  "net1": {
    "IPAMConfig": null,
    "Links": null,
    "Aliases": [
      "svc",
      "a2",
      "SHORT"
    ],
    "NetworkID": "ID",
    "EndpointID": "ID",
    "Gateway": "172.18.0.1",
    "IPAddress": "172.18.0.2",
    "IPPrefixLen": 16,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "02:42:ac:12:00:02",
    "DriverOpts": null
  },
  "net5": {
    "IPAMConfig": {
      "IPv4Address": "10.5.9.77"
    },
    "Links": null,
    "Aliases": [
      "extra",
      "SHORT"
    ],
    "NetworkID": "ID",
    "EndpointID": "ID",
    "Gateway": "10.5.0.254",
    "IPAddress": "10.5.9.77",
    "IPPrefixLen": 16,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "02:42:0a:05:09:4d",
    "DriverOpts": null
  }
}
"#
        );
    } else {
        let networks: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(networks["net5"]["Aliases"], json!(["extra"]));
        assert_eq!(
            networks["net5"]["DNSNames"],
            json!(["alpha", "extra", "SHORT"])
        );
        let keys: Vec<&String> = networks["net1"].as_object().unwrap().keys().collect();
        let expected = "IPAMConfig Links Aliases MacAddress DriverOpts GwPriority NetworkID EndpointID Gateway \
                        IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames";
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    }
    let keys = docker.session("d inspect alpha | jq -r '.[0].NetworkSettings | keys_unsorted[]'");
    let expected = if docker.api < 45 {
        "Bridge SandboxID HairpinMode LinkLocalIPv6Address LinkLocalIPv6PrefixLen Ports SandboxKey \
         SecondaryIPAddresses SecondaryIPv6Addresses EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen \
         IPAddress IPPrefixLen IPv6Gateway MacAddress Networks"
    } else {
        "Bridge SandboxID SandboxKey Ports HairpinMode LinkLocalIPv6Address LinkLocalIPv6PrefixLen \
         SecondaryIPAddresses SecondaryIPv6Addresses EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen \
         IPAddress IPPrefixLen IPv6Gateway MacAddress Networks"
    };
    assert_eq!(
        keys.lines().collect::<Vec<_>>(),
        expected.split_whitespace().collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_be_made_what_is_pruned_and_what_happened() {
    with_each_client(&[], |docker| {
        containers(docker);
        // Docker's words, then what to do, which is cut off.
        let said = |line: &str| {
            docker.session(&format!(
                "({line}) 2>&1 | sed -E '/^exit status/d; /^$/d; /--help/d'"
            ))
        };
        for (line, expected) in [
            (
                "d network create net1",
                "Error response from daemon: network with name net1 already exists",
            ),
            (
                "d network create --subnet 10.5.3.0/24 overlap",
                "Error response from daemon: invalid pool request: Pool overlaps with other one on this address space",
            ),
            (
                "d network create --subnet 10.9.0.0/24 --gateway 10.8.0.1 bad",
                "no matching subnet for gateway 10.8.0.1\n",
            ),
            (
                "d network create --subnet 10.9.0.0/24 --ip-range 10.8.0.0/24 bad",
                "no matching subnet for range 10.8.0.0/24\n",
            ),
            (
                "d network create --gateway 10.9.0.1 bad",
                "every ip-range or gateway must have a corresponding subnet\n",
            ),
            // Taken by the transcript's engine.
            (
                "d network create --subnet 10.9.0.5/24 hostbits",
                "Error response from daemon: invalid network config: invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
            ),
            (
                "d network create --opt com.docker.network.driver.mtu=abc x",
                "Error response from daemon: failed to parse com.docker.network.driver.mtu value: abc",
            ),
            // The kernel's error in the transcript.
            (
                "d network create --opt com.docker.network.bridge.name=averyveryverylongname x",
                "Error response from daemon: ",
            ),
            ("d network create 'bad name'", "ID\n"),
            ("d network create --subnet 10.9.0.0/30 tiny", "ID\n"),
            (
                "t run --rm --network tiny -- ip -o -4 addr show eth0 | awk '{print $4}'",
                "10.9.0.2/30\n",
            ),
            (
                "t run -d --name t1 --network tiny -- sleep 100 >/dev/null",
                "",
            ),
            (
                "t run --rm --network tiny -- true",
                "tunbridge: no available IPv4 addresses on this network's address pools: tiny (ID)",
            ),
            ("d rm -f t1 >/dev/null; d network rm tiny", "tiny\n"),
            // No gateway is left in the transcript; it is as in later engines.
            (
                "d network create --subnet 10.9.0.0/31 t31 && d network rm t31",
                "ID\nt31\n",
            ),
        ] {
            let printed = said(line);
            let as_expected = if expected.ends_with('\n') || expected.is_empty() {
                printed == expected
            } else {
                printed.starts_with(expected) && printed.lines().count() == 1
            };
            assert!(as_expected, "{line}\n{printed}wanted: {expected}");
        }
        docker.prints(
            "d network create isol >/dev/null; d network prune -f; d network ls --format '{{.Name}}'",
            "Deleted Networks:\nbad name\nisol\n\nbridge\nhost\nnet1\nnet5\nnone\n",
        );
        // To the second: the end is to come.
        docker.prints(
            r#"d events --since 1m --until -2s --filter type=network --format "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}""#,
            "create net1 bridge
create net5 bridge
connect net1 bridge
connect net1 bridge
connect net5 bridge
connect net5 bridge
create bad name bridge
create tiny bridge
connect tiny bridge
disconnect tiny bridge
connect tiny bridge
disconnect tiny bridge
destroy tiny bridge
create t31 bridge
destroy t31 bridge
create isol bridge
destroy bad name bridge
destroy isol bridge
",
        );
        docker.prints(
            "d rm -f $(d ps -aq) >/dev/null; d network prune -f; ip -br link | awk '{print $1}' | grep -vE '^(lo|ext0@.*|tbtun0)$'",
            "Deleted Networks:\nnet1\nnet5\n\ntb0\n",
        );
    });
}
