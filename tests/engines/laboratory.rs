//! The engines in a lab as such, with the plugins that Debian packages: they work, and the machine does not notice.

use std::process::Command;

use crate::engines::{Engines, PEER};
use crate::lab::{FAR, HOST, LAN, Lab};

/// What engines would leave on a machine, one fact a line. Other labs come and go meanwhile.
fn machine() -> String {
    let facts = "find /sys/fs/cgroup -name 'tunbridge-lab-*' -prune -o -type d -print
        find /run -maxdepth 2 -path /run/tunbridge-labs -prune -o -print
        find /etc /opt -newer /proc/1 -printf '%p %T@\\n'
        ls -d /var/lib/* /etc/* /opt/*
        ls /dev/shm /var/tmp
        cut -d' ' -f5- /proc/self/mountinfo | grep -v /run/lab
        ip -o link | awk '{ print $2 }'; nft list ruleset
        sysctl -a -r '^net\\.ipv[46]\\.(conf|ip_|neigh)' 2>/dev/null
        for process in /proc/[0-9]*; do
            [ \"$(readlink $process/ns/pid)\" = \"$(readlink /proc/self/ns/pid)\" ] || continue
            grep -sE '^(conmon|podman|containerd|ctr|runc|crun|dockerd)' $process/comm
        done";
    let output = Command::new("bash").args(["-c", facts]).output().unwrap();
    let mut lines: Vec<&str> = std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn cgroups_of(holder: u32) -> String {
    let name = format!("tunbridge-lab-{holder}");
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &name])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn engines_run_and_the_machine_does_not_notice() {
    let before = machine();
    let lab = Lab::plain();
    let holder = lab.host().holder_pid();
    let engines = Engines::with_containerd(&lab);
    engines.said(&format!(
        "podman run -d --name web -p 8080:80 -p 8080:80/udp localhost/busybox {PEER} serve 80"
    ));
    engines.wait_until_it_serves("web");
    let _server = lab.far().serve(&["7000"]);
    let answer = engines.said(&format!("podman exec web {PEER} tcp {FAR} 7000"));
    assert!(answer.contains(&format!("server-saw={HOST}:")), "{answer}");
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:8080"))
            .unwrap()
            .saw_address(),
        LAN
    );
    for runtime in ["crun", "runc"] {
        let addresses = engines.said(&format!(
            "podman run --rm --runtime {runtime} localhost/busybox /bin/ip -o address show eth0"
        ));
        assert!(addresses.contains("inet 10.88.0."), "{addresses}");
    }
    let addresses = engines.said(
        "cp /etc/cni/net.d/87-podman-bridge.conflist /etc/cni/net.d/10-first.conflist
        ctr run --rm --cni localhost/busybox:latest c1 /bin/ip -o address show eth0",
    );
    assert!(addresses.contains("inet 10.88.0."), "{addresses}");
    engines.said("ctr run -d --cni localhost/busybox:latest c2 /bin/sleep 1000");
    assert!(!cgroups_of(holder).is_empty());
    // With containers still running.
    drop(lab);
    assert_eq!(cgroups_of(holder), "");
    let after = machine();
    let new: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|known| known == *line))
        .collect();
    let gone: Vec<&str> = before
        .lines()
        .filter(|line| !after.lines().any(|known| known == *line))
        .collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "new: {new:#?}\ngone: {gone:#?}"
    );
}

#[test]
fn nspawn_takes_a_namespace_that_is_there() {
    let lab = Lab::plain();
    let engines = Engines::in_lab(&lab);
    let rootfs = crate::engines::ENGINES;
    let addresses = engines.said(&format!(
        "{rootfs} rootfs /run/lab/machine && ip netns add n1 && ip -n n1 link set lo up
        systemd-nspawn -q --register=no --keep-unit -D /run/lab/machine --network-namespace-path=/run/netns/n1 \
            --pipe /bin/ip -o address"
    ));
    assert!(addresses.contains("lo    inet 127.0.0.1/8"), "{addresses}");
}
