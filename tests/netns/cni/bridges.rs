//! Bridges that were there before the network: those of stock plugins, which come back after a restart of the host.

use std::time::Duration;

use super::runtime::{NOTHING, Runtime, left, podman};
use crate::lab::{Lab, eventually};

const BRIDGE: &str = "cni-podman1";
const ADD_BRIDGE: &str = "ip link add cni-podman1 type bridge && ip link set cni-podman1 up && ip address replace 10.91.0.1/24 dev cni-podman1";
const DELETE_BRIDGE: &str = "ip link delete cni-podman1";

fn is_there(lab: &Lab) -> bool {
    let shown = lab.host().run(&["ip", "link", "show", BRIDGE]);
    shown.succeeded()
}

#[test]
fn a_bridge_that_a_configuration_names_is_made_again() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = podman("10.91.0.0/24");
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    // After a restart of the host.
    lab.host().shell(ADD_BRIDGE).expect_success();
    one.add(&config);
    one.del(&config);
    tunbridge.kill();
    lab.host().shell(DELETE_BRIDGE).expect_success();
    tunbridge.start_again();
    assert!(
        !is_there(&lab),
        "its user may be a little later than we are"
    );
    one.add(&config);
    one.place.ping("10.91.0.1").expect_success();
    one.del(&config);
    // What we have made goes with the network, and what we have found does not.
    tunbridge.cli(&["network", "rm", "mynet"]).expect_success();
    assert!(!is_there(&lab));
    lab.host().shell(ADD_BRIDGE).expect_success();
    one.add(&config);
    one.del(&config);
    // While nobody needs it, its user may be about to make it himself.
    lab.host().shell(DELETE_BRIDGE).expect_success();
    let said = || tunbridge.cli(&["doctor"]).stdout;
    let noticed = eventually(Duration::from_secs(20), || {
        said().contains("The next container on the network has it made again")
    });
    assert!(noticed && !is_there(&lab), "{}", said());
    one.add(&config);
    one.place.ping("10.91.0.1").expect_success();
    two.add(&config);
    two.place.ping("10.91.0.2").expect_success();
    one.del(&config);
    two.del(&config);
    assert!(!said().contains(BRIDGE), "{}", said());
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

#[test]
fn a_bridge_that_goes_under_containers_is_made_again() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = podman("10.91.0.0/24");
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    lab.host().shell(ADD_BRIDGE).expect_success();
    one.add(&config);
    two.add(&config);
    lab.host().shell(DELETE_BRIDGE).expect_success();
    for address in ["10.91.0.1", "10.91.0.3"] {
        let ping = || one.place.run(&["ping", "-c1", "-W1", address]);
        let answered = eventually(Duration::from_secs(20), || ping().succeeded());
        assert!(answered, "{address}: {}", tunbridge.log());
    }
    one.del(&config);
    two.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

#[test]
fn a_bridge_of_the_user_is_missed_and_left_to_him() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    lab.host().shell(ADD_BRIDGE).expect_success();
    let option = format!("com.docker.network.bridge.name={BRIDGE}");
    let create = [
        "network",
        "create",
        "--subnet",
        "10.91.0.0/24",
        "-o",
        &option,
        "mine",
    ];
    tunbridge.cli(&create).expect_success();
    lab.host().shell(DELETE_BRIDGE).expect_success();
    let said = || tunbridge.cli(&["doctor"]).stdout;
    let noticed = eventually(Duration::from_secs(20), || {
        said().contains("ip link add cni-podman1 type bridge")
    });
    assert!(noticed, "{}", said());
    let run = ["run", "--rm", "--network", "mine", "--", "true"];
    let refused = tunbridge.cli(&run).expect_failure().output();
    assert!(
        refused.contains("cni-podman1 must be created manually"),
        "{refused}"
    );
    assert!(!is_there(&lab));
    lab.host().shell(ADD_BRIDGE).expect_success();
    let works = eventually(Duration::from_secs(20), || tunbridge.cli(&run).succeeded());
    assert!(works, "{}", said());
    // What the doctor reads is looked at again a moment later.
    let content = eventually(Duration::from_secs(20), || !said().contains("is gone"));
    assert!(content, "{}", said());
    tunbridge.cli(&["network", "rm", "mine"]).expect_success();
    assert!(is_there(&lab));
    lab.host().shell(DELETE_BRIDGE).expect_success();
}

/// A user who has gone back cleans up: his containers are on the bridges that we have made.
#[test]
fn a_bridge_on_which_others_are_stays() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&["--bip", "10.90.0.1/24"]);
    let runtime = Runtime::new(&lab);
    let config = podman("10.91.0.0/24");
    let one = runtime.container("one");
    let stranger = "ip netns add cni-stranger && ip link add stranger0 type veth peer name eth0 netns cni-stranger
        ip -n cni-stranger address add 10.91.0.77/24 dev eth0 && ip -n cni-stranger link set eth0 up
        ip link set stranger0 up master cni-podman1";
    let ping = || {
        let host = lab.host();
        host.shell("ping -c1 -W2 10.91.0.77").expect_success();
    };
    let left = "bridge cni-podman1 stays, because interfaces that are not tunbridge's are on it (stranger0)";
    let make = || {
        one.add(&config);
        one.del(&config);
        lab.host().shell(stranger).expect_success();
        ping();
    };
    let clean = || {
        let line =
            format!("ip link delete stranger0 && ip netns delete cni-stranger && {DELETE_BRIDGE}");
        lab.host().shell(&line).expect_success();
    };
    let remove: [&[&str]; 2] = [&["network", "rm", "mynet"], &["network", "prune", "-f"]];
    for words in remove {
        make();
        let said = tunbridge.cli(words).expect_success();
        assert!(said.stderr.contains(left), "{}", said.output());
        assert!(said.stdout.contains("mynet"), "{}", said.output());
        assert_eq!(
            tunbridge
                .cli(&["network", "ls", "-q"])
                .stdout
                .lines()
                .count(),
            3
        );
        ping();
        clean();
    }
    // The default network's, when it gets another one; and all at the end.
    make();
    lab.host()
        .shell("ip link add stranger1 type veth peer name stranger2 && ip link set stranger1 up master tb0")
        .expect_success();
    tunbridge.stop();
    ping();
    let log = tunbridge.log();
    assert!(log.contains(left), "{log}");
    assert!(log.contains("bridge tb0 stays"), "{log}");
    clean();
    lab.host()
        .shell("ip link delete stranger1; ip link delete tb0")
        .expect_success();
    tunbridge.start_again();
    one.add(&config);
    one.del(&config);
}
