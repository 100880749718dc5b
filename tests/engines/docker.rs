//! dockerd with our network and IPAM driver: what containers have and who sees whom, under restarts of everybody.

use std::time::Duration;

use serde_json::Value;

use crate::dockerd::Docker;
use crate::engines::{Engines, PEER};
use crate::lab::{FAR, FAR6, HOST, HOST6, LAN, LAN6, Lab, eventually};
use crate::podman;

/// Transcript 10 and 03: the same container, with our driver in place of the stub, and reached like one on docker's bridge.
#[test]
fn published_ports_and_who_is_seen() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    let _far = lab.far().serve(&["7000"]);
    docker.said("docker network create -d tunbridge --subnet 10.60.0.0/24 --gateway 10.60.0.1 n1");
    docker.serve(
        "web",
        "--network n1 --ip 10.60.0.200 --hostname webhost -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 -p 9000-9002:9000-9002 -p 81",
        "80 81 9000-9002",
    );
    let addresses =
        docker.said("docker exec web ip -o -4 address show eth0; docker exec web ip route");
    for line in [
        "inet 10.60.0.200/24",
        "default via 10.60.0.1 dev eth0",
        "10.60.0.0/24 dev eth0 scope link  src 10.60.0.200",
    ] {
        assert!(addresses.contains(line), "{addresses}");
    }
    let settings: Value = serde_json::from_str(
        &docker.said("docker inspect web -f '{{json .NetworkSettings.Networks.n1}}'"),
    )
    .unwrap();
    assert_eq!(settings["Gateway"], "10.60.0.1");
    assert_eq!(settings["IPAddress"], "10.60.0.200");
    assert_eq!(settings["MacAddress"], "02:42:0a:3c:00:c8");
    for shows in [
        "docker port web",
        "docker ps --format '{{.Ports}}'",
        "docker inspect web -f '{{range .NetworkSettings.Ports}}{{.}}{{end}}'",
    ] {
        assert_eq!(docker.said(shows), "", "{shows}");
    }
    for flushed in [false, true] {
        if flushed {
            lab.host()
                .run(&["nft", "flush", "ruleset"])
                .expect_success();
        }
        docker.web_is_reached();
        assert_eq!(docker.saw("web", "tcp", FAR, 7000), HOST);
        assert_eq!(docker.saw("web", "udp", FAR, 7000), HOST);
        let local = lab.host().tcp("127.0.0.1:8081").unwrap();
        assert_eq!(local.saw_address(), "10.60.0.1");
        assert!(lab.lan().impatient().tcp(&format!("{HOST}:8081")).is_err());
        let six = lab.lan().tcp(&format!("[{HOST6}]:8080"));
        assert!(six.is_ok(), "{six:?}");
    }
    // A port of dockerd's choice it cannot show; ours can.
    let port = docker
        .tunbridge
        .cli(&["port", "web", "81/tcp"])
        .expect_success();
    let port = port
        .stdout
        .lines()
        .next()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:{port}"))
            .unwrap()
            .saw_address(),
        LAN
    );
    docker.said("docker restart -t0 web");
    docker.wait_for("web", "80");
    docker.web_is_reached();
    docker.said("docker rm -f web");
    for to in ["8080", "9001"] {
        assert!(lab.lan().impatient().tcp(&format!("{HOST}:{to}")).is_err());
    }
    assert!(docker.tunbridge.names(&["-a"]).is_empty());
    docker.said("docker network rm n1");
    assert_eq!(
        docker
            .tunbridge
            .cli(&["network", "ls", "-q"])
            .stdout
            .lines()
            .count(),
        3
    );
    let links = lab.host().run(&["ip", "-br", "link"]).stdout;
    assert!(!links.contains("veth") && !links.contains("tb-"), "{links}");
}

#[test]
fn containers_of_dockerd_and_of_ours_find_each_other_by_name() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker
        .tunbridge
        .cli(&["network", "create", "--subnet", "10.70.0.0/24", "shop"])
        .expect_success();
    docker.said(
        "docker network create -d tunbridge --ipam-driver tunbridge \
            --ipam-opt com.tunbridge.network=shop --subnet 10.70.0.0/24 dshop",
    );
    assert_eq!(docker.network_behind("dshop"), "shop");
    docker
        .tunbridge
        .server("own", &["--network", "shop", "--network-alias", "mine"]);
    docker.serve("web", "--network dshop --network-alias www", "80");
    docker.run("other", "--network dshop --ip 10.70.0.50", "sleep 1000");
    lab.host()
        .run(&["nft", "flush", "ruleset"])
        .expect_success();
    // dockerd's names, from ours.
    for name in ["web", "www", "web.shop", "other"] {
        let found = || docker.finds("own", name);
        assert!(
            eventually(Duration::from_secs(10), found),
            "{name}: {}",
            docker.logs()
        );
    }
    let answer = docker
        .tunbridge
        .cli(&["exec", "own", PEER, "tcp", "web", "80"]);
    assert_eq!(answer.answer().unwrap().saw_address(), "10.70.0.2");
    // Ours, from dockerd's.
    for name in ["own", "mine", "own.shop"] {
        docker.eventually(&format!("docker exec web grep -qw {name} /etc/hosts"));
        assert_eq!(docker.saw("web", "tcp", name, 80), "10.70.0.3", "{name}");
    }
    // dockerd's own names stay dockerd's.
    assert_eq!(docker.saw("other", "tcp", "www", 80), "10.70.0.50");
    // Addresses come from one place.
    let next = docker
        .tunbridge
        .container_with("next", &["--network", "shop"]);
    let address = next.shell("ip -o -4 address show eth0").stdout;
    assert!(address.contains("10.70.0.4/24"), "{address}");
    let refusal = docker.refused("docker run --rm --network dshop --ip 10.70.0.4 busybox true");
    assert!(
        refusal.contains("Address already in use: 10.70.0.4 is taken by container next"),
        "{refusal}"
    );
    let refusal = docker.tunbridge.cli(&[
        "run",
        "--rm",
        "--network",
        "shop",
        "--ip",
        "10.70.0.50",
        "--",
        "true",
    ]);
    assert!(
        refusal
            .expect_failure()
            .output()
            .contains("leased to docker")
    );
    // Renamed, stopped, gone.
    docker.said("docker rename web shopweb");
    assert!(eventually(Duration::from_secs(10), || {
        docker.finds("own", "shopweb") && !docker.finds("own", "web")
    }));
    docker.tunbridge.cli(&["rm", "-f", "own"]).expect_success();
    docker.eventually("! docker exec shopweb grep -qw own /etc/hosts");
    docker.said("docker rm -f shopweb other");
    docker.said("docker network rm dshop");
    // A shared one is only let go.
    docker
        .tunbridge
        .cli(&["network", "inspect", "shop"])
        .expect_success();
    assert!(docker.finds("next", "next"));
    let again = docker
        .tunbridge
        .container_with("again", &["--network", "shop", "--ip", "10.70.0.50"]);
    assert!(
        again
            .shell("ip -o -4 address")
            .stdout
            .contains("10.70.0.50")
    );
}

#[test]
fn connect_disconnect_internal_and_ipv6() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    let _far = lab.far().serve(&["7000"]);
    docker.said(
        "docker network create -d tunbridge --ipv6 --subnet 10.66.0.0/24 --subnet fd00:66::/64 s6
        docker network create -d tunbridge --subnet 10.67.0.0/24 -o com.docker.network.driver.mtu=1400 s4
        docker network create -d tunbridge --ipam-driver tunbridge auto
        docker network create -d tunbridge --internal int",
    );
    // Our IPAM driver, for a network of its own and for docker's own bridge driver, which needs its rules.
    let auto = docker.said("docker run --rm --network auto busybox ip -o -4 address show eth0");
    assert!(auto.contains(".0.2/"), "{auto}");
    docker.said(
        "docker network create -d bridge --ipam-driver tunbridge --subnet 10.78.0.0/24 bridged",
    );
    let bridged = docker.said(
        "docker run --rm --network bridged --ip 10.78.0.55 busybox ip -o -4 address show eth0",
    );
    assert!(bridged.contains("10.78.0.55/24"), "{bridged}");
    let clash = docker
        .tunbridge
        .cli(&["network", "create", "--subnet", "10.78.0.0/25", "clash"]);
    assert!(clash.expect_failure().output().contains("overlaps"));
    docker.said("docker network rm bridged auto");
    let pools = "curl -s --unix-socket /run/tunbridge/tunbridge.sock http://x/tunbridge/pools";
    assert_eq!(docker.said(pools), "[]");
    docker.serve(
        "six",
        "--network s6 --mac-address 02:aa:00:00:00:01 -p 8080:80",
        "80",
    );
    let addresses = docker.said("docker exec six ip -o address; docker exec six ip -6 route; docker exec six ip link show eth0");
    for text in [
        "10.66.0.2/24",
        "fd00:66::2/64",
        "default via fd00:66::1",
        "02:aa:00:00:00:01",
    ] {
        assert!(addresses.contains(text), "{addresses}");
    }
    for flushed in [false, true] {
        if flushed {
            lab.host()
                .run(&["nft", "flush", "ruleset"])
                .expect_success();
        }
        let six = lab.lan().tcp(&format!("[{HOST6}]:8080")).unwrap();
        assert_eq!(six.saw_address(), LAN6);
        assert_eq!(docker.saw("six", "tcp", FAR6, 7000), format!("[{HOST6}]"));
    }
    docker.run("both", "--network s4", "sleep 1000");
    docker.said("docker network connect --ip 10.66.0.77 --alias al s6 both");
    let both = docker.said("docker exec both ip -o -4 address; docker exec both ip link");
    assert!(
        both.contains("10.67.0.2/24") && both.contains("10.66.0.77/24"),
        "{both}"
    );
    assert!(both.contains("mtu 1400"), "{both}");
    assert_eq!(docker.saw("both", "tcp", "six", 80), "10.66.0.77");
    docker.said("docker exec six ping -c1 -W2 al");
    docker.said("docker network disconnect s6 both");
    let both = docker.said("docker exec both ip -o -4 address; docker exec both ip route");
    assert!(
        !both.contains("10.66.0") && both.contains("default via 10.67.0.1"),
        "{both}"
    );
    assert_eq!(docker.saw("both", "tcp", FAR, 7000), HOST);
    let internal = docker.said("docker run --rm --network int busybox ip route");
    assert!(!internal.contains("default"), "{internal}");
    let unreachable = docker.refused(&format!(
        "docker run --rm --network int busybox ping -c1 -W1 {FAR}"
    ));
    assert!(unreachable.contains("unreachable"), "{unreachable}");
}

#[test]
fn everybody_may_restart() {
    let lab = Lab::plain();
    let mut docker = Docker::in_lab(&lab);
    let _far = lab.far().serve(&["7000"]);
    docker.said("docker network create -d tunbridge --subnet 10.60.0.0/24 n1");
    docker.serve(
        "web",
        "--network n1 --restart always --network-alias www -p 8080:80 -p 8080:80/udp -p 9000-9002:9000-9002",
        "80 9000-9002",
    );
    let network = docker.network_behind("n1");
    docker
        .tunbridge
        .container_with("own", &["--network", &network]);
    // Its address is leased.
    docker.said(
        "docker network create -d tunbridge --ipam-driver tunbridge --subnet 10.61.0.0/24 n2",
    );
    docker.serve(
        "pinned",
        "--network n2 --ip 10.61.0.50 --restart always -p 8090:80",
        "80",
    );
    let well = |docker: &Docker<'_>| {
        docker.wait_for("web", "80");
        docker.wait_for("pinned", "80");
        docker.web_is_reached();
        let pinned = docker.lab.lan().tcp(&format!("{HOST}:8090")).unwrap();
        assert_eq!(pinned.at.ip().to_string(), "10.61.0.50");
        assert_eq!(docker.saw("web", "tcp", FAR, 7000), HOST);
        let found = || docker.finds("own", "www");
        assert!(
            eventually(Duration::from_secs(10), found),
            "{}",
            docker.logs()
        );
    };
    well(&docker);
    docker.tunbridge.kill();
    docker.tunbridge.start_again();
    well(&docker);
    docker.kill_plugin();
    well(&docker);
    docker.start_plugin();
    docker.said("docker restart -t0 web");
    well(&docker);
    docker.end_dockerd("TERM");
    docker.start_dockerd();
    well(&docker);
    docker.end_dockerd("TERM");
    docker.tunbridge.kill();
    docker.kill_plugin();
    docker.tunbridge.start_again();
    docker.start_plugin();
    docker.start_dockerd();
    lab.host()
        .run(&["nft", "flush", "ruleset"])
        .expect_success();
    well(&docker);
    // Killed, with what it has never taken back.
    docker.end_dockerd("KILL");
    docker.start_dockerd();
    well(&docker);
    assert_eq!(docker.tunbridge.names(&[]).len(), 3);
    docker.said("docker rm -f web pinned");
    assert_eq!(docker.tunbridge.names(&["-a"]), ["own"]);
}

#[test]
fn what_dockerd_has_forgotten_goes() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker.said("docker network create -d tunbridge --subnet 10.60.0.0/24 n1");
    let id = docker.said("docker network inspect -f '{{.Id}}' n1");
    // As a dockerd does that dies before it writes down what it has made.
    let endpoint = "ab".repeat(32);
    let call = |call: &str, body: &str| {
        docker.said(&format!(
            "curl -s --unix-socket /run/docker/plugins/tunbridge.sock -X POST -d '{body}' http://x/{call}"
        ))
    };
    let body = format!(
        r#"{{"NetworkID":"{id}","EndpointID":"{endpoint}","Interface":{{"Address":"10.60.0.2/24"}}}}"#
    );
    assert!(call("NetworkDriver.CreateEndpoint", &body).contains("02:42:0a:3c:00:02"));
    assert_eq!(docker.tunbridge.names(&[]).len(), 1);
    let gone = || docker.tunbridge.names(&["-a"]).is_empty();
    assert!(
        eventually(Duration::from_secs(40), gone),
        "{}",
        docker.logs()
    );
    docker.run("web", "--network n1", "sleep 1000");
    assert_eq!(docker.tunbridge.names(&[]).len(), 1);
}

/// Behind dockerd's own words.
#[test]
fn refusals_read_well() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker.said("docker network create -d tunbridge --subnet 10.60.0.0/24 n1");
    docker.run("web", "--network n1 -p 8080:80", "sleep 1000");
    let _stranger = lab.host().serve(&["7777"]);
    let network = docker.network_behind("n1");
    docker
        .tunbridge
        .container_with("own", &["--network", &network, "--ip", "10.60.0.9"]);
    docker
        .tunbridge
        .cli(&["network", "create", "--subnet", "10.70.0.0/24", "shop"])
        .expect_success();
    for (line, words) in [
        (
            "docker run --rm --network n1 -p 8080:80 busybox true",
            "remote: Bind for 0.0.0.0:8080 failed: port is already allocated (in -p \"8080:80/tcp\"): choose another host port, or stop container ",
        ),
        (
            "docker run --rm --network n1 -p 7777:80 busybox true",
            "remote: failed to bind host port 0.0.0.0:7777/tcp: address already in use",
        ),
        (
            "docker run --rm --name c9 --network n1 --ip 10.60.0.9 busybox true",
            "failed to create endpoint c9 on network n1: remote: Address already in use: 10.60.0.9 is taken by container own",
        ),
        (
            "docker run --rm --network n1 -p 80:80/sctp busybox true",
            "remote: port 80/sctp cannot be published or exposed: tunbridge forwards tcp and udp, leave it out",
        ),
        (
            "docker network create -d tunbridge -o com.docker.network.bridge.enable_iccc=false bad",
            "remote: option com.docker.network.bridge.enable_iccc is not known",
        ),
        (
            "docker network create -d tunbridge -o com.docker.network.driver.mtu=x bad",
            "remote: failed to parse com.docker.network.driver.mtu value: x",
        ),
        (
            "docker network create -d tunbridge --subnet 10.70.0.0/25 bad",
            "remote: invalid pool request: Pool overlaps with other one on this address space",
        ),
        (
            "docker network create -d tunbridge --ipam-driver tunbridge --ipam-opt com.tunbridge.network=shop --subnet 10.72.0.0/24 bad",
            "com.tunbridge.network: network shop has subnet 10.70.0.0/24, not 10.72.0.0/24: give --subnet 10.70.0.0/24",
        ),
        (
            "docker network create -d tunbridge --ipam-driver tunbridge --ipam-opt com.tunbridge.network=nope --subnet 10.72.0.0/24 bad",
            "com.tunbridge.network: tunbridge has no network nope: make it first",
        ),
        (
            "docker network create -d tunbridge --ipam-driver tunbridge --ipam-opt com.tunbridge.network=shop bad",
            "remote: com.tunbridge.network: give the subnet of network shop, too: --subnet 10.70.0.0/24",
        ),
        (
            "docker network create -d tunbridge -o com.tunbridge.network=nope bad",
            "remote: com.tunbridge.network: tunbridge has no network nope: make it first",
        ),
    ] {
        let refusal = docker.refused(line);
        assert!(refusal.contains(words), "{line}\n{refusal}");
    }
    // Nothing is left of any of them.
    assert_eq!(
        docker.said("docker network ls --filter driver=tunbridge -q | wc -l"),
        "1"
    );
    assert_eq!(docker.tunbridge.names(&["-a"]).len(), 2);
}

/// What podman's suite of plugins does on its side, and dockerd on its.
#[test]
fn a_podman_and_a_dockerd_container_meet_on_one_network() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    podman::install(&engines);
    let docker = Docker::beside(engines, "");
    docker.said(&format!(
        "podman network create --subnet 10.89.7.0/24 shop
        podman run -d --name ofpodman --network shop localhost/busybox {PEER} serve 80
        docker network create -d tunbridge --ipam-driver tunbridge \
            --ipam-opt com.tunbridge.network=shop --subnet 10.89.7.0/24 shop"
    ));
    docker.serve(
        "ofdockerd",
        "--network shop --network-alias other -p 8080:80",
        "80",
    );
    lab.host()
        .run(&["nft", "flush", "ruleset"])
        .expect_success();
    docker.eventually(&format!("docker exec ofdockerd {PEER} tcp ofpodman 80"));
    for name in ["ofdockerd", "other"] {
        docker.eventually(&format!("podman exec ofpodman {PEER} tcp {name} 80"));
    }
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:8080"))
            .unwrap()
            .saw_address(),
        LAN
    );
    // Whoever comes gets an address that neither of the two has.
    docker.said("podman run -d --name third --network shop localhost/busybox /bin/sleep 1000");
    docker.run("fourth", "--network shop", "sleep 1000");
    let addresses = docker.said(
        "podman exec third ip -o -4 address show eth0; docker exec fourth ip -o -4 address show eth0",
    );
    assert!(
        addresses.contains("10.89.7.4/24") && addresses.contains("10.89.7.5/24"),
        "{addresses}"
    );
    docker.said("docker rm -f ofdockerd fourth; docker network rm shop");
    docker.said("podman exec ofpodman ping -c1 -W2 third; podman rm -fat0");
}

#[test]
fn with_live_restore_containers_run_on_without_dockerd() {
    let lab = Lab::plain();
    let mut docker = Docker::beside(Engines::in_lab(&lab), "--live-restore");
    docker.said("docker network create -d tunbridge --subnet 10.60.0.0/24 n1");
    docker.serve(
        "web",
        "--network n1 -p 8080:80 -p 8080:80/udp -p 9001:80",
        "80",
    );
    let flush = || {
        lab.host()
            .run(&["nft", "flush", "ruleset"])
            .expect_success();
    };
    for signal in ["TERM", "KILL"] {
        docker.end_dockerd(signal);
        docker.web_is_reached();
        flush();
        docker.web_is_reached();
        docker.start_dockerd();
        docker.web_is_reached();
        flush();
        docker.web_is_reached();
    }
    let refusal = docker.refused("docker run --rm --network n1 --ip 10.60.0.2 busybox true");
    assert!(refusal.contains("Address already in use"), "{refusal}");
    docker.run("other", "--network n1", "sleep 1000");
    assert_eq!(docker.saw("other", "tcp", "web", 80), "10.60.0.3");
    docker.said("docker restart -t0 web");
    docker.wait_for("web", "80");
    docker.web_is_reached();
    docker.said("docker rm -f web other");
    assert!(docker.tunbridge.names(&["-a"]).is_empty());
}

#[test]
fn dockerd_goes_over_and_back() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab).kill_and_install();
    // Here is no systemd.
    let units = "systemctl() {
            case \"$*\" in
            'enable --now tunbridge tunbridge-docker-plugin')
                tunbridge docker-plugin >/dev/null 2>&1 &
                until [ -S /run/docker/plugins/tunbridge.sock ]; do sleep 0.05; done ;;
            'disable --now tunbridge-docker-plugin')
                local pid
                pid=$(pgrep -f '^tunbridge docker-plugin') && kill $pid
                while [ -d /proc/$pid ]; do sleep 0.05; done ;;
            *) return 1 ;;
            esac
        }";
    docker.said("rm -f /run/docker/plugins/tunbridge.sock");
    let over = crate::documents::commands("dockerd", "Over");
    docker.said(&format!("{units}\n{over}"));
    let url = format!("http://{HOST}:8080/passwd");
    let fetched = || lab.lan().run(&["curl", "-sf", "-m", "2", &url]);
    assert!(eventually(Duration::from_secs(10), || {
        fetched().stdout.starts_with("root:")
    }));
    assert_eq!(docker.tunbridge.names(&[]), ["web"]);
    let inspect = crate::documents::quoted("tunbridge network inspect docker-$(");
    assert!(docker.said(&inspect).contains("10.60.0.0/24"));
    let back = crate::documents::commands("dockerd", "Back");
    docker.said(&format!("{units}\n{back}"));
    assert!(docker.tunbridge.names(&["-a"]).is_empty());
    let driver = docker.said("docker network inspect -f '{{.Driver}}' shop");
    assert_eq!(driver, "bridge");
    docker.said("docker run --rm --network shop busybox true");
}
