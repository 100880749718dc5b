//! dockerd's plugin, the daemon and dockerd itself killed in the middle of dockerd's calls.

use std::time::Duration;

use crate::dockerd::Docker;
use crate::failpoint::Failpoint;
use crate::kills::Idle;
use crate::lab::Lab;

const CREATE: &str =
    "docker network create -d tunbridge --ipam-driver tunbridge --subnet 10.60.0.0/24 n1";
const RUN: &str =
    "docker run -d --name web --network n1 --ip 10.60.0.9 -p 8080:80 busybox sleep 1000";

/// For what dockerd has forgotten to be noticed.
const COLLECTION: Duration = Duration::from_secs(40);

/// Starts a line of shell that goes on.
fn begin(docker: &Docker<'_>, line: &str) {
    docker.said(&format!(
        "rm -f /run/lab/status; {{ {line}; echo $? >/run/lab/status; }} </dev/null >/run/lab/output 2>&1 &"
    ));
}

/// Waits for its end; whether it succeeded.
fn succeeded(docker: &Docker<'_>) -> bool {
    docker.eventually("[ -s /run/lab/status ]");
    docker.said("cat /run/lab/status") == "0"
}

/// dockerd repeats a call of which it did not hear the end, but without saying again what it wants: the command fails.
#[test]
fn calls_of_which_the_plugin_dies_leave_nothing_and_can_be_repeated() {
    let lab = Lab::plain();
    let mut docker = Docker::in_lab(&lab);
    let failpoint = Failpoint::in_lab(&lab);
    docker.said(&format!("{CREATE} && {RUN} && docker rm -f web"));
    docker.said("docker network rm n1");
    let without_network = Idle::new(&lab);
    let killed = |docker: &mut Docker<'_>, step: &str, line: &str| {
        failpoint.kill_at(step);
        begin(docker, line);
        failpoint.wait();
        failpoint.expect_reached();
        docker.kill_plugin();
        docker.start_plugin();
        assert!(!succeeded(docker), "{step}");
        let said = docker.said("cat /run/lab/output");
        assert!(said.contains("repeat the command"), "{step}: {said}");
    };
    for step in ["docker.pool", "docker.address", "docker.network"] {
        killed(&mut docker, step, CREATE);
        docker.said(&format!("{CREATE} && docker network rm n1"));
    }
    let with_dockerds_addresses = "docker network create -d tunbridge --subnet 10.60.0.0/24 n1";
    killed(&mut docker, "docker.network", with_dockerds_addresses);
    docker.said(&format!(
        "{with_dockerds_addresses} && docker network rm n1"
    ));
    without_network.expect_within(COLLECTION, &docker.tunbridge, "no network");
    docker.said(&format!("{CREATE} && {RUN} && docker rm -f web"));
    let idle = Idle::new(&lab);
    for step in [
        "docker.address",
        "docker.endpoint",
        "docker.attached",
        "docker.joined",
        "docker.published",
    ] {
        killed(&mut docker, step, RUN);
        docker.said("docker start web && docker rm -f web");
    }
    docker.said(RUN);
    failpoint.kill_at("docker.detached");
    begin(&docker, "docker rm -f web");
    failpoint.wait();
    failpoint.expect_reached();
    docker.kill_plugin();
    docker.start_plugin();
    assert!(succeeded(&docker));
    idle.expect_within(COLLECTION, &docker.tunbridge, "no container");
    docker.said(&format!(
        "{RUN} && docker rm -f web && docker network rm n1"
    ));
    without_network.expect_within(COLLECTION, &docker.tunbridge, "everything is removed");
}

#[test]
fn what_is_half_made_when_dockerd_or_the_daemon_dies_stands_in_nobodys_way() {
    let lab = Lab::plain();
    let mut docker = Docker::in_lab(&lab);
    let failpoint = Failpoint::in_lab(&lab);
    docker.said(&format!("{CREATE} && {RUN} && docker rm -f web"));
    let idle = Idle::new(&lab);
    for step in ["daemon.stored", "daemon.plugged", "daemon.settled"] {
        failpoint.kill_at(step);
        begin(&docker, RUN);
        failpoint.wait();
        failpoint.expect_reached();
        assert!(docker.tunbridge.ended().is_some());
        docker.tunbridge.start_again();
        assert!(
            succeeded(&docker),
            "{step}: {}",
            docker.said("cat /run/lab/output")
        );
        docker.said("docker rm -f web");
        idle.expect(&docker.tunbridge, step);
    }
    for step in [
        "docker.address",
        "docker.attached",
        "docker.joined",
        "docker.published",
    ] {
        failpoint.pause_at(step);
        begin(&docker, RUN);
        failpoint.wait();
        docker.end_dockerd("KILL");
        failpoint.go_on();
        docker.start_dockerd();
        docker.said("docker start web && docker rm -f web");
    }
    idle.expect_within(COLLECTION, &docker.tunbridge, "dockerd");
    docker.said("docker network rm n1");
    failpoint.pause_at("docker.network");
    begin(&docker, CREATE);
    failpoint.wait();
    docker.end_dockerd("KILL");
    failpoint.go_on();
    docker.start_dockerd();
    docker.said(&format!("{CREATE} && {RUN} && docker rm -f web"));
}
