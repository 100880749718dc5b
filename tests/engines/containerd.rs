//! containerd's `ctr`, and systemd-nspawn: programs that are given a namespace or ask CNI for a network.

use std::time::Duration;

use crate::engines::{ENGINES, Engines, PEER};
use crate::lab::{FAR, HOST, LAN, Lab, eventually};
use crate::tunbridge_under_test::binary;

#[test]
fn ctr_runs_containers_on_our_plugin() {
    let lab = Lab::plain();
    let engines = Engines::with_containerd(&lab);
    engines.said(&format!(
        "rm /etc/cni/net.d/*; {} cni install --dir /opt/cni/bin --conf-dir /etc/cni/net.d --name shop --subnet 10.7.0.0/24",
        binary()
    ));
    let tunbridge = lab.start_daemon(&[]);
    let _server = lab.far().serve(&["7000"]);
    let mounts = format!(
        "--mount type=bind,src=/usr,dst=/usr,options=rbind:ro --mount type=bind,src={0},dst={0},options=rbind:ro",
        PEER.trim_end_matches("/peer")
    );
    let run = format!("ctr run --cni {mounts}");
    let mut web = engines.start(&format!(
        "exec {run} --rm localhost/busybox:latest web {PEER} serve 80"
    ));
    web.read_until("listening");
    engines.said("nft flush ruleset");
    let view =
        engines.said("ctr tasks exec --exec-id e1 web /bin/sh -c 'ip -o -4 address; ip route'");
    assert!(view.contains("eth0    inet 10.7.0.2/24"), "{view}");
    assert!(view.contains("default via 10.7.0.1 dev eth0"), "{view}");
    let answer = engines.said(&format!(
        "{run} --rm localhost/busybox:latest c2 {PEER} tcp {FAR} 7000"
    ));
    assert!(answer.contains(&format!("server-saw={HOST}:")), "{answer}");
    let answer = engines.said(&format!(
        "{run} --rm localhost/busybox:latest c3 {PEER} tcp 10.7.0.2 80"
    ));
    assert!(answer.contains("server-saw=10.7.0.3:"), "{answer}");
    // No port mappings come from ctr: they are added by hand.
    let name = tunbridge.names(&[]).remove(0);
    tunbridge
        .cli(&["publish", &name, "8080:80"])
        .expect_success();
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:8080"))
            .unwrap()
            .saw_address(),
        LAN
    );
    // Its DEL comes with an empty CNI_NETNS.
    engines.said("ctr tasks kill -s KILL web");
    assert!(web.ended_within(Duration::from_secs(30)).is_some());
    assert!(
        eventually(Duration::from_secs(20), || tunbridge
            .names(&["-a"])
            .is_empty()),
        "{:?}",
        tunbridge.names(&["-a"])
    );
}

#[test]
fn namespaces_prepared_beforehand_are_for_ctr_and_nspawn() {
    let lab = Lab::plain();
    let engines = Engines::with_containerd(&lab);
    let tunbridge = lab.start_daemon(&[]);
    let _server = lab.far().serve(&["7000"]);
    engines.said("ip netns add prepared");
    tunbridge
        .cli(&[
            "attach",
            "--name",
            "vm",
            "--netns",
            "/run/netns/prepared",
            "-p",
            "8080:80",
        ])
        .expect_success();
    engines.said("nft flush ruleset");
    let view = engines.said(
        "ctr run --rm --with-ns network:/run/netns/prepared localhost/busybox:latest c1 /bin/ip -o -4 address",
    );
    assert!(view.contains("lo    inet 127.0.0.1/8"), "{view}");
    assert!(view.contains("eth0    inet 172.17.0.2/16"), "{view}");
    let view = engines.said(&format!(
        "{ENGINES} rootfs /run/lab/machine
        systemd-nspawn -q --register=no --keep-unit -D /run/lab/machine --network-namespace-path=/run/netns/prepared \
            --pipe /bin/sh -c 'ip -o -4 address; nc {FAR} 7000 </dev/null'"
    ));
    assert!(view.contains("eth0    inet 172.17.0.2/16"), "{view}");
    assert!(view.contains(&format!("server-saw={HOST}:")), "{view}");
    tunbridge.cli(&["rm", "-f", "vm"]).expect_success();
    engines.said("ip netns del prepared");
}
