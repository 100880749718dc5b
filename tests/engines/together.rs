//! Containers of several engines on one network.

use std::time::Duration;

use serde_json::json;

use crate::engines::{ENGINES, Engines, PEER};
use crate::lab::{Lab, eventually};
use crate::oci::{self, HOOK};
use crate::podman;
use crate::tunbridge_under_test::binary;

#[test]
fn containers_of_all_engines_find_each_other_by_name() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    podman::install(&engines);
    engines.said(&format!(
        "{ENGINES} rootfs /run/lab/rootfs && ln -s {} {HOOK}",
        binary()
    ));
    let mut tunbridge = lab.start_daemon(&[]);
    engines.said(&format!(
        "podman network create shop
        podman run -d --name ofpodman --network shop localhost/busybox {PEER} serve 80"
    ));
    let annotations =
        json!({"com.tunbridge.network": "shop", "com.tunbridge.resolv-conf": "resolv.conf"});
    for runtime in ["runc", "crun"] {
        let name = format!("of{runtime}");
        oci::bundle(
            &engines,
            &name,
            &annotations,
            &[PEER, "serve", "80"],
            |config| {
                config["linux"]["cgroupsPath"] = json!(format!("/{name}"));
            },
        );
        oci::run(&engines, runtime, &name);
    }
    let own = ["--network", "shop"];
    let command = [PEER, "serve", "80"];
    let place = tunbridge.run("ofours", &own, &command);
    place.wait_until_it_serves(80);

    let binary = binary();
    let all = [
        ("ofpodman", "podman exec ofpodman".to_owned()),
        ("ofrunc", "runc exec ofrunc".to_owned()),
        ("ofcrun", "crun exec ofcrun".to_owned()),
        ("ofours", format!("{binary} exec ofours --")),
    ];
    let mut names = tunbridge.names(&[]);
    names.sort_unstable();
    assert_eq!(names, ["ofcrun", "ofours", "ofpodman", "ofrunc"]);
    for restarted in [false, true] {
        if restarted {
            tunbridge.kill();
            tunbridge.start_again();
        }
        engines.said("nft flush ruleset");
        for (from, inside) in &all {
            for (to, _) in all.iter().filter(|(to, _)| to != from) {
                let ask = || engines.shell(&format!("{inside} {PEER} tcp {to} 80"));
                let answered = eventually(Duration::from_secs(20), || ask().succeeded());
                assert!(answered, "{from} asks {to}: {}", ask().output());
            }
        }
    }
    engines.said("podman rm -ft0 ofpodman; for r in runc crun; do $r kill of$r KILL; $r delete -f of$r; done");
    assert_eq!(tunbridge.names(&[]), ["ofours"]);
    tunbridge.cli(&["rm", "-f", "ofours"]).expect_success();
    tunbridge.cli(&["network", "rm", "shop"]).expect_success();
}
