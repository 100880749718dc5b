//! What else was recorded of podman (transcripts 20, 21 and 31): flags of one container, both networks at once, every
//! version of a configuration, also under `ctr`.

use crate::engines::{Engines, PEER};
use crate::lab::{FAR, HOST6, Lab};
use crate::podman::{FIRST, Line, Plugins, both, compare, install, ours};
use crate::tunbridge_under_test::binary;

const VIEW: &[Line] = &[
    // podman tells the plugins nothing of --dns, and leaves out what they answer.
    (
        "x l1 cat /etc/resolv.conf",
        "search corp.example\nnameserver 203.0.113.53\noptions ndots:2",
        None,
    ),
    // Debian's plugins make a default route for each network, of which the one made first counts, and podman has no order.
    // Here there is one, of the network whose name comes first, as with Docker.
    (
        "x two /bin/ip route | sed 's/eth[01]/DEV/' | sort",
        "10.88.0.0/16 dev DEV scope link  src 10.88.0.2 \n10.90.0.0/24 dev DEV scope link  src 10.90.0.10 \n\
         default via 10.88.0.1 dev DEV \ndefault via 10.90.0.1 dev DEV",
        Some(
            "10.88.0.0/16 dev DEV scope link  src 10.88.0.2 \n10.90.0.0/24 dev DEV scope link  src 10.90.0.2 \n\
             default via 10.90.0.1 dev DEV",
        ),
    ),
    (
        "x two PEER tcp 192.0.2.9 7000; x two PEER tcp 10.90.0.9 80 | sed 's/10.90.0.10:/10.90.0.2:/g'",
        "saw 198.51.100.2 at 192.0.2.9:7000\nsaw 10.90.0.2 at 10.90.0.9:80",
        None,
    ),
    (
        "podman run --rm --network logged:ip=10.90.0.78,mac=02:11:22:33:44:66,alias=foo,interface_name=net7 localhost/busybox \
         sh -c 'cat /sys/class/net/net7/address; /bin/ip -o -4 addr show net7' | awk '{ print $1, $4 }'",
        "02:11:22:33:44:66 \n2: 10.90.0.78/24",
        None,
    ),
    (
        "podman run --rm --network logged --ip 10.91.0.5 localhost/busybox true 2>&1 | grep -o 'requested static ip.*'",
        "requested static ip 10.91.0.5 not in any subnet on network logged",
        None,
    ),
    (
        "peer udp 127.0.0.1 8081",
        "saw 10.90.0.1 at 10.90.0.9:81",
        None,
    ),
];

#[test]
fn flags_of_a_container_and_two_networks_at_once() {
    both(|plugins, engines| {
        let lab = engines.lab;
        let _server = lab.far().serve(&["7000"]);
        engines.said(&format!(
            "echo nameserver {FAR} >/etc/resolv.conf
            podman network create --subnet 10.90.0.0/24 logged
            podman run -d --name l1 --network logged --ip 10.90.0.9 -p 8080:80 -p 127.0.0.1:8081:81/udp --hostname lhost \
                --network-alias web1 --dns 203.0.113.53 --dns-search corp.example --dns-opt ndots:2 --label x=y \
                localhost/busybox {PEER} serve 80 81
            podman run -d --name two --network podman --network logged localhost/busybox sleep 1000"
        ));
        engines.wait_until_it_serves("l1");
        lab.apply_world();
        compare(engines, plugins, VIEW);
        // Over IPv6, a container of IPv4.
        let six = lab.lan().impatient().tcp(&format!("[{HOST6}]:8080"));
        let seen = six.ok().map(|answer| answer.saw_address());
        let expected = (plugins == Plugins::Ours).then_some("10.90.0.1");
        assert_eq!(seen.as_deref(), expected, "{plugins:?}");
    });
}

#[test]
fn an_alias_in_the_long_form_only_our_name_server_and_another_runtime() {
    ours(|engines, _| {
        engines.said(&format!(
            "echo nameserver {FAR} >/etc/resolv.conf
            {} cni install --dir {FIRST} --name own --subnet 10.7.0.0/24
            podman run -d --name web --network own:alias=foo,ip=10.7.0.9 localhost/busybox {PEER} serve 80",
            binary()
        ));
        engines.wait_until_it_serves("web");
        engines.said("nft flush ruleset");
        let client = "podman run --rm --network own --dns 127.0.0.11 localhost/busybox";
        let servers = engines.said(&format!("{client} grep nameserver /etc/resolv.conf"));
        assert_eq!(servers, "nameserver 127.0.0.11");
        for name in ["foo", "web"] {
            let answer = engines.said(&format!("{client} {PEER} tcp {name} 80"));
            assert!(answer.contains("server-at=10.7.0.9:80"), "{answer}");
        }
        for runtime in ["crun", "runc"] {
            for name in ["10.7.0.1", "foo"] {
                engines.said(&format!(
                    "podman run --rm --runtime {runtime} --cap-add NET_RAW --network own localhost/busybox /bin/ping -c1 -W2 {name}"
                ));
            }
        }
    });
}

/// Transcripts 20 and 31: libcni of Debian 12 reads results up to 1.0.0.
#[test]
fn configurations_of_every_version() {
    let lab = Lab::plain();
    let engines = Engines::with_containerd(&lab);
    install(&engines);
    engines.said(&format!(
        "{} cni install --no-conf --dir /opt/cni/bin --alias bridge --alias portmap",
        binary()
    ));
    let tunbridge = lab.start_daemon(&[]);
    let write = |version: &str| {
        let file = format!(
            r#"{{"cniVersion": "{version}", "name": "ver", "plugins": [
                {{"type": "bridge", "bridge": "cniver0", "isGateway": true, "ipMasq": true, "ipam": {{
                    "type": "host-local", "ranges": [[{{"subnet": "10.93.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
                {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
        );
        engines.said(&format!(
            "echo '{file}' >/etc/cni/net.d/00-ver.conflist; nft flush ruleset"
        ));
    };
    let look = "/bin/sh -c '/bin/ip -o -4 address show eth0; /bin/ip route'";
    let podman = format!("podman run --rm --network ver -p 8080:80 localhost/busybox {look}");
    let ctr = format!("ctr run --rm --cni localhost/busybox:latest c1 {look}");
    for version in ["0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        write(version);
        for line in [&podman, &ctr] {
            let seen = engines.said(line);
            for text in ["inet 10.93.0.2/24", "default via 10.93.0.1 dev eth0"] {
                assert!(seen.contains(text), "{version} {line}: {seen}");
            }
            assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new(), "{version}");
        }
    }
    write("1.1.0");
    for line in [&podman, &ctr] {
        let error = engines.refused(line);
        let words = "unsupported CNI result version \"1.1.0\"";
        assert!(error.contains(words), "{error}");
        assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new(), "{line}");
    }
    // That one ctr forgets.
    engines.said("ctr tasks rm -f c1; ctr containers rm c1");
}
