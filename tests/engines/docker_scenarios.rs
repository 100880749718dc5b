//! What was recorded of dockerd with a stub for a driver (docker-transcripts 10 and 11), with ours: what else a container has,
//! IPv6, restarts without us, UDP from hand to hand.

use std::time::Duration;

use crate::dockerd::Docker;
use crate::engines::PEER;
use crate::lab::{FAR, FAR6, HOST, HOST6, LAN6, Lab, eventually};

/// Transcript 10: a network with all flags, and what dockerd writes and shows of a container there.
#[test]
fn flags_files_and_what_dockerd_shows() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker.said(
        "docker network create -d tunbridge --subnet 10.60.0.0/24 --gateway 10.60.0.1 --ip-range 10.60.0.64/26 \
            --aux-address x=10.60.0.64 -o com.docker.network.driver.mtu=1400 -o com.example.key=val --label l=1 snet",
    );
    let shown = docker
        .said("docker network inspect snet -f '{{json .IPAM}} {{json .Options}} {{json .Labels}}'");
    for text in [
        "10.60.0.64/26",
        r#""x":"10.60.0.64""#,
        r#""com.example.key":"val""#,
        r#""l":"1""#,
    ] {
        assert!(shown.contains(text), "{shown}");
    }
    docker.serve(
        "web",
        "--network name=snet,driver-opt=com.example.ep=1,alias=al --hostname webhost -p 8080:80 -p 127.0.0.1:8081:81/udp -p 82",
        "80 81",
    );
    let seen = docker.said(
        "docker exec web ip -o address show eth0; docker exec web ip link show eth0; docker exec web cat /etc/hosts /etc/resolv.conf",
    );
    for text in [
        "inet 10.60.0.65/24",
        "mtu 1400",
        "10.60.0.65\twebhost",
        "nameserver 127.0.0.11",
    ] {
        assert!(seen.contains(text), "{text}: {seen}");
    }
    docker.said("docker exec web ping -c1 -W2 10.60.0.1 && docker exec web ping -c1 -W2 al");
    docker.run("other", "", "sleep 1000");
    docker.said("docker network connect --driver-opt com.example.ep=2 --ip 10.60.0.77 --alias zz snet other");
    let routes = docker.said("docker exec other ip route");
    assert!(
        routes.contains("10.60.0.0/24 dev eth1 scope link  src 10.60.0.77"),
        "{routes}"
    );
    assert!(
        routes.contains("default via 172.18.0.1 dev eth0"),
        "{routes}"
    );
    assert_eq!(docker.saw("other", "tcp", "web", 80), "10.60.0.77");
    docker.said("docker exec web ping -c1 -W2 zz");
    for flushed in [false, true] {
        if flushed {
            flush(&lab);
        }
        let local = lab.host().udp("127.0.0.1:8081").unwrap();
        assert_eq!(local.saw_address(), "10.60.0.1");
        assert!(lab.lan().impatient().udp(&format!("{HOST}:8081")).is_err());
    }
    assert_eq!(
        docker.said("docker network ls -q --filter name=gwbridge"),
        ""
    );
    docker.said("docker rm -f web other; docker network rm snet");
}

/// Transcript 11.
#[test]
fn containers_of_an_internal_network_see_each_other_only() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    let _far = lab.far().serve(&["7000"]);
    docker.said(
        "docker network create -d tunbridge --internal --attachable --subnet 10.68.0.0/24 int",
    );
    docker.serve("one", "--network int", "80");
    docker.run("two", "--network int", "sleep 1000");
    for flushed in [false, true] {
        if flushed {
            flush(&lab);
        }
        assert_eq!(docker.saw("two", "tcp", "one", 80), "10.68.0.3");
        assert_eq!(docker.saw("two", "udp", "10.68.0.2", 80), "10.68.0.3");
        docker.refused(&format!("docker exec two {PEER} tcp {FAR} 7000"));
    }
}

/// Transcript 10: nothing of a network is asked for again; endpoints of IPv6 are.
#[test]
fn a_network_of_ipv6_outlives_everybody() {
    let lab = Lab::plain();
    let mut docker = Docker::in_lab(&lab);
    let _far = lab.far().serve(&["7000"]);
    docker.said(
        "docker network create -d tunbridge --ipv6 --subnet 10.66.0.0/24 --subnet FD00:66::/64 s6
        docker network create -d tunbridge --ipam-driver tunbridge --ipv6 --subnet 10.67.0.0/24 --subnet FD00:67:0:0::/64 l6",
    );
    docker.serve("six", "--network s6 --restart always -p 8080:80", "80");
    docker.serve(
        "leased",
        "--network l6 --ip6 fd00:67::50 --restart always -p 8090:80",
        "80",
    );
    let well = |docker: &Docker<'_>| {
        docker.wait_for("six", "80");
        docker.wait_for("leased", "80");
        let seen =
            docker.said("docker exec six ip -o address show eth0; docker exec six ip -6 route");
        for text in ["10.66.0.2/24", "fd00:66::2/64", "default via fd00:66::1"] {
            assert!(seen.contains(text), "{text}: {seen}");
        }
        for (port, at) in [("8080", "fd00:66::2"), ("8090", "fd00:67::50")] {
            let answer = docker.lab.lan().tcp(&format!("[{HOST6}]:{port}")).unwrap();
            assert_eq!(answer.saw_address(), LAN6);
            assert_eq!(answer.at.ip().to_string(), at);
        }
        assert_eq!(docker.saw("six", "tcp", FAR6, 7000), format!("[{HOST6}]"));
        assert_eq!(
            docker.saw("leased", "udp", FAR6, 7000),
            format!("[{HOST6}]")
        );
    };
    well(&docker);
    flush(&lab);
    well(&docker);
    docker.tunbridge.kill();
    docker.tunbridge.start_again();
    well(&docker);
    for signal in ["TERM", "KILL"] {
        docker.end_dockerd(signal);
        docker.kill_plugin();
        docker.start_plugin();
        docker.start_dockerd();
        well(&docker);
        flush(&lab);
        well(&docker);
    }
    // Longer than what is unknown to dockerd stays; the pool is known by its value.
    std::thread::sleep(Duration::from_secs(25));
    docker.said("docker restart -t0 leased");
    well(&docker);
    docker.said("docker rm -f six leased; docker network rm s6 l6");
    let pools = "curl -s --unix-socket /run/tunbridge/tunbridge.sock http://x/tunbridge/pools";
    assert_eq!(docker.said(pools), "[]");
    assert!(docker.tunbridge.names(&["-a"]).is_empty());
}

/// Transcript 10: a container starts, or dockerd does, while the driver is away.
#[test]
fn without_the_plugin_containers_wait_for_it() {
    let lab = Lab::plain();
    let mut docker = Docker::in_lab(&lab);
    docker.said(
        "docker network create -d tunbridge --subnet 10.67.0.0/24 s7
        docker create --name waits --network s7 -p 8080:80 busybox sleep 1000",
    );
    docker.kill_plugin();
    let refusal = docker.refused("docker start waits");
    let words = "failed to create endpoint waits on network s7";
    assert!(refusal.contains(words), "{refusal}");
    docker.end_dockerd("TERM");
    docker.said("rm -f /run/docker/plugins/tunbridge.sock");
    docker.start_dockerd();
    let listed = docker.said("docker network ls --format '{{.Name}} {{.Driver}}'");
    assert!(listed.contains("s7 tunbridge"), "{listed}");
    let refusal = docker.refused("docker start waits");
    assert!(
        refusal.contains("plugin \"tunbridge\" not found"),
        "{refusal}"
    );
    docker.start_plugin();
    docker.said("docker start waits");
    let address = docker.said("docker exec waits ip -o -4 address show eth0");
    assert!(address.contains("10.67.0.2/24"), "{address}");
    let named = || docker.tunbridge.names(&[]) == ["waits"];
    assert!(eventually(Duration::from_secs(10), named));
}

/// A client that goes on from the same port is answered by whoever has the published port now, at once.
#[test]
fn udp_follows_the_container_that_has_the_port_now() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker.said(
        "docker network create -d tunbridge --ipv6 --subnet 10.60.0.0/24 --subnet fd00:60::/64 n1",
    );
    let (four, six) = (format!("{HOST}:8080"), format!("[{HOST6}]:8080"));
    let clients = [
        (lab.lan(), &four),
        (lab.lan(), &six),
        (lab.host(), &four),
        (lab.host(), &six),
    ];
    let ask = |turn: usize| {
        let (place, to) = &clients[turn];
        place.impatient().ask_from_port("udp", 40000, to)
    };
    for turn in 10..13 {
        if turn == 11 {
            flush(&lab);
        }
        let options =
            format!("--network n1 --ip 10.60.0.{turn} --ip6 fd00:60::{turn} -p 8080:80/udp");
        docker.serve("server", &options, "80");
        for client in 0..clients.len() {
            let address = match client % 2 {
                0 => format!("10.60.0.{turn}"),
                _ => format!("fd00:60::{turn}"),
            };
            assert_eq!(ask(client).unwrap().at.ip().to_string(), address);
        }
        docker.said("docker rm -f server");
    }
    // And nobody answers for a dead one.
    for client in 0..clients.len() {
        assert!(ask(client).is_err(), "client {client}");
    }
}

/// What dockerd still needs, `prune` leaves; of what it never heard, the plugin takes away.
#[test]
fn what_dockerd_needs_is_kept_and_what_it_lost_goes() {
    let lab = Lab::plain();
    let docker = Docker::in_lab(&lab);
    docker.said(
        "docker network create -d tunbridge --subnet 10.60.0.0/24 n1
        docker create --name stopped --network n1 busybox sleep 1000",
    );
    let network = docker.network_behind("n1");
    let prune = docker.tunbridge.cli(&["network", "prune", "-f"]);
    assert!(!prune.expect_success().stdout.contains(&network));
    let refusal = docker.tunbridge.cli(&["network", "rm", &network]);
    let refusal = refusal.expect_failure().output();
    assert!(refusal.contains("in use by dockerd"), "{refusal}");
    docker.said("docker start stopped");
    // As a dockerd that dies before it writes the network down.
    let call = |id: &str, subnet: &str| {
        let body = format!(r#"{{"NetworkID":"{id}","IPv4Data":[{{"Pool":"{subnet}"}}]}}"#);
        docker.said(&format!(
            "curl -s --unix-socket /run/docker/plugins/tunbridge.sock -X POST -d '{body}' http://x/NetworkDriver.CreateNetwork"
        ))
    };
    assert_eq!(call(&"ab".repeat(32), "10.61.0.0/24"), "{}");
    let names = || {
        docker
            .tunbridge
            .cli(&["network", "ls", "--format", "{{.Name}}"])
            .stdout
    };
    assert!(names().contains("docker-abababababab"));
    let gone = || !names().contains("docker-abababababab");
    assert!(
        eventually(Duration::from_secs(90), gone),
        "{}",
        docker.logs()
    );
    assert!(names().contains(&network));
    docker.said("docker network create -d tunbridge --subnet 10.61.0.0/24 again");
}

fn flush(lab: &Lab) {
    lab.host()
        .run(&["nft", "flush", "ruleset"])
        .expect_success();
}
