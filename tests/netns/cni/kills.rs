//! Plugin and daemon killed at every step of `ADD` and `DEL`: a following `DEL` or `GC` leaves nothing, and the next `ADD`
//! has what it would have had.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use super::hosts::end_daemon;
use super::runtime::{Container, NOTHING, Runtime, own, podman, portmap};
use crate::failpoint::{Failpoint, traces};
use crate::lab::{Lab, eventually};
use crate::tunbridge_under_test::{Tunbridge, difference};

/// What a runtime does about an `ADD` of which it did not hear the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleanup {
    Delete,
    /// The container's namespace is gone, and nobody speaks of the container again.
    Collect,
}

const CLEANUPS: [Cleanup; 2] = [Cleanup::Delete, Cleanup::Collect];

/// A daemon and a runtime, and what was there without containers.
struct Bench<'lab> {
    lab: &'lab Lab,
    tunbridge: Tunbridge<'lab>,
    runtime: &'lab Runtime<'lab>,
    failpoint: Failpoint<'lab>,
    config: Value,
    idle: String,
    /// What `ADD` answers while there are no others.
    address: Value,
}

impl<'lab> Bench<'lab> {
    fn new(lab: &'lab Lab, runtime: &'lab Runtime<'lab>, config: Value) -> Self {
        let tunbridge = lab.start_daemon(&[]);
        let mut bench = Self {
            lab,
            tunbridge,
            runtime,
            failpoint: Failpoint::in_lab(lab),
            config,
            idle: String::new(),
            address: Value::Null,
        };
        let first = runtime.container("first");
        bench.address = first.add(&bench.config)["ips"].clone();
        first.del(&bench.config);
        bench.idle = bench.snapshot();
        bench
    }

    /// The host, and what the daemon has.
    fn snapshot(&self) -> String {
        let mut lines = traces(self.lab, "cni-");
        let mut held = self.tunbridge.stats().held;
        // A bridge that had a port once has one more of its own.
        held.remove("local_addresses");
        lines.extend(
            held.iter()
                .map(|(what, number)| format!("held {what} {number}")),
        );
        lines.extend(self.tunbridge.names(&["-a"]));
        lines.join("\n")
    }

    /// Whatever was made is gone, and another `ADD` gets the same.
    fn expect_nothing(&self, what: &str) {
        let mut left = String::new();
        let same = eventually(Duration::from_secs(5), || {
            left = difference(&self.idle, &self.snapshot());
            left.is_empty()
        });
        assert!(same, "{what}:\n{left}\n{}", self.tunbridge.log());
        let again = self.runtime.container("again");
        assert_eq!(again.add(&self.config)["ips"], self.address, "{what}");
        again.del(&self.config);
    }

    /// `ADD` that ends before it has answered.
    fn killed(&self, one: &Container<'_>, verb: &str, config: &Value) {
        let plugin = config["type"].as_str().unwrap();
        let outcome = one.call(plugin, verb, config, &[]);
        assert_eq!(outcome.stdout, "");
        outcome.expect_failure();
        self.failpoint.expect_reached();
    }

    fn clean_up(&self, one: &Container<'_>, cleanup: Cleanup) {
        match cleanup {
            Cleanup::Delete => {
                one.del(&self.config);
                assert_eq!(one.interfaces(), NOTHING);
            }
            Cleanup::Collect => {
                one.vanish();
                one.call(self.plugin(), "GC", &collecting(&self.config), &[])
                    .expect_success();
            }
        }
    }

    fn plugin(&self) -> &str {
        self.config["type"].as_str().unwrap()
    }
}

/// For `GC`, when no attachment is valid.
fn collecting(config: &Value) -> Value {
    let mut collecting = config.clone();
    collecting["cniVersion"] = "1.1.0".into();
    collecting["cni.dev/valid-attachments"] = json!([]);
    collecting
}

/// Of our own type, with both families, a port and a route.
fn full() -> Value {
    let mut config = own("net1");
    config["subnets"] = json!(["10.71.0.0/24", "fd71::/64"]);
    config["bridge"] = "net1-bridge".into();
    config["ipam"] = json!({"routes": [{"dst": "10.99.0.0/16"}]});
    config["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    config
}

#[test]
fn a_plugin_that_is_killed_leaves_what_deletion_and_collection_find() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let mut bench = Bench::new(&lab, &runtime, full());
    for config in [full(), podman("10.91.0.0/24")] {
        if config != bench.config {
            let first = runtime.container("first");
            bench.config = config;
            bench.address = first.add(&bench.config)["ips"].clone();
            first.del(&bench.config);
            bench.idle = bench.snapshot();
        }
        for step in ["cni.addresses", "cni.attached", "cni.routed"] {
            for cleanup in CLEANUPS {
                let one = runtime.container("one");
                bench.failpoint.kill_at(step);
                bench.killed(&one, "ADD", &bench.config);
                bench.clean_up(&one, cleanup);
                bench.expect_nothing(&format!("{step} {cleanup:?} {}", bench.plugin()));
            }
        }
        let one = runtime.container("one");
        one.add(&bench.config);
        bench.failpoint.kill_at("cni.detached");
        bench.killed(&one, "DEL", &bench.config);
        bench.expect_nothing("cni.detached");
    }
    // Others stay.
    let (keeper, one) = (runtime.container("keeper"), runtime.container("one"));
    keeper.add(&bench.config);
    bench.failpoint.kill_at("cni.attached");
    bench.killed(&one, "ADD", &bench.config);
    let mut collecting = collecting(&bench.config);
    collecting["cni.dev/valid-attachments"] = json!([{"containerID": "keeper", "ifname": "eth0"}]);
    one.call(bench.plugin(), "GC", &collecting, &[])
        .expect_success();
    assert_eq!(one.interfaces(), NOTHING);
    assert_eq!(keeper.interfaces(), ["eth0"]);
    keeper.del(&bench.config);
    bench.expect_nothing("with others");
}

#[test]
fn a_daemon_that_is_killed_at_a_step_leaves_what_deletion_and_collection_find() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let mut bench = Bench::new(&lab, &runtime, full());
    for step in [
        "daemon.network",
        "daemon.bridged",
        "daemon.stored",
        "daemon.bound",
        "daemon.fitted",
        "daemon.plugged",
        "daemon.routed",
        "daemon.settled",
    ] {
        for cleanup in CLEANUPS {
            if matches!(step, "daemon.network" | "daemon.bridged") {
                bench
                    .tunbridge
                    .cli(&["network", "rm", "net1"])
                    .expect_success();
            }
            let one = runtime.container("one");
            bench.failpoint.kill_at(step);
            let (code, text) = one.fails("ADD", &bench.config);
            assert_eq!(code, 11, "{step}: {text}");
            bench.failpoint.expect_reached();
            assert!(bench.tunbridge.ended().is_some());
            bench.tunbridge.start_again();
            bench.clean_up(&one, cleanup);
            bench.expect_nothing(&format!("{step} {cleanup:?}"));
        }
    }
    for step in [
        "daemon.going",
        "daemon.unplugged",
        "daemon.unbound",
        "daemon.forgotten",
    ] {
        for cleanup in CLEANUPS {
            let one = runtime.container("one");
            one.add(&bench.config);
            bench.failpoint.kill_at(step);
            match cleanup {
                Cleanup::Delete => {
                    one.del(&bench.config);
                    assert_eq!(one.interfaces(), NOTHING);
                }
                Cleanup::Collect => {
                    let collecting = collecting(&bench.config);
                    let (code, text) = one.fails("GC", &collecting);
                    assert_eq!(code, 11, "{step}: {text}");
                }
            }
            bench.failpoint.expect_reached();
            assert!(bench.tunbridge.ended().is_some());
            bench.tunbridge.start_again();
            if cleanup == Cleanup::Collect {
                bench.clean_up(&one, cleanup);
            }
            bench.expect_nothing(&format!("{step} {cleanup:?}"));
        }
    }
}

/// The plugin is gone, and the daemon goes on with what it was asked for.
#[test]
fn an_answer_that_nobody_waits_for_is_taken_back() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let bench = Bench::new(&lab, &runtime, full());
    for step in ["daemon.stored", "daemon.settled"] {
        for cleanup in CLEANUPS {
            let one = runtime.container("one");
            bench.failpoint.pause_at(step);
            std::thread::scope(|scope| {
                let adding = scope.spawn(|| one.call("tunbridge", "ADD", &bench.config, &[]));
                bench.failpoint.wait();
                lab.host()
                    .shell("kill -KILL $(pgrep -f ^/run/cni/tunbridge)")
                    .expect_success();
                assert_eq!(adding.join().unwrap().stdout, "");
                // It has to wait for the daemon, which is busy.
                scope.spawn(|| bench.clean_up(&one, cleanup));
                std::thread::sleep(Duration::from_millis(100));
                bench.failpoint.go_on();
            });
            bench.expect_nothing(&format!("{step} {cleanup:?}"));
        }
    }
}

/// Another plugin has given an address; it has only one.
const ONE_ADDRESS: &str = r#"#!/bin/sh
input=$(cat) book=/run/host-local/10.77.0.9
mkdir -p /run/host-local
case $CNI_COMMAND in
    ADD) if [ -e $book ]; then echo '{"code": 100, "msg": "it is taken"}'; exit 1; fi
         echo "$CNI_CONTAINERID" >$book
         echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.77.0.9/24", "gateway": "10.77.0.1"}]}' ;;
    DEL) if [ "$(cat $book)" = "$CNI_CONTAINERID" ]; then rm $book; fi ;;
    GC) rm -f $book ;;
esac
"#;

#[test]
fn an_address_of_another_ipam_plugin_is_given_back() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let program = lab.path("/run/cni/one-address");
    fs::write(&program, ONE_ADDRESS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = own("net1");
    config["bridge"] = "net1-bridge".into();
    config["ipam"] = json!({"type": "one-address"});
    let bench = Bench::new(&lab, &runtime, config);
    for step in ["cni.addresses", "cni.attached"] {
        for cleanup in CLEANUPS {
            let one = runtime.container("one");
            bench.failpoint.kill_at(step);
            bench.killed(&one, "ADD", &bench.config);
            assert!(lab.path("/run/host-local/10.77.0.9").exists());
            bench.clean_up(&one, cleanup);
            bench.expect_nothing(&format!("{step} {cleanup:?}"));
        }
    }
    let one = runtime.container("one");
    one.add(&bench.config);
    bench.failpoint.kill_at("cni.detached");
    bench.killed(&one, "DEL", &bench.config);
    one.del(&bench.config);
    bench.expect_nothing("cni.detached");
}

#[test]
fn a_network_that_was_to_be_made_anew_is_made_by_the_next() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let mut bench = Bench::new(&lab, &runtime, full());
    for (cleanup, subnet) in [
        (Cleanup::Delete, "10.72.0.0/24"),
        (Cleanup::Collect, "10.73.0.0/24"),
    ] {
        bench.config["subnets"] = json!([subnet]);
        let one = runtime.container("one");
        bench.failpoint.kill_at("cni.outdated");
        bench.killed(&one, "ADD", &bench.config);
        bench.clean_up(&one, cleanup);
        let gone = bench.tunbridge.cli(&["network", "inspect", "net1"]);
        gone.expect_failure();
        let two = runtime.container("two");
        let address = &two.add(&bench.config)["ips"][0]["address"];
        assert_eq!(*address, subnet.replace(".0/", ".2/"));
        two.del(&bench.config);
    }
    bench.config = full();
    let one = runtime.container("one");
    one.add(&bench.config);
    one.del(&bench.config);
    bench.expect_nothing("with the first subnets again");
}

#[test]
fn a_deletion_that_is_killed_without_a_daemon_is_done_by_the_next() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let mut bench = Bench::new(&lab, &runtime, full());
    for again in [false, true] {
        let one = runtime.container("one");
        one.add(&bench.config);
        bench.tunbridge.kill();
        bench.failpoint.kill_at("cni.left");
        bench.killed(&one, "DEL", &bench.config);
        assert_eq!(one.interfaces(), ["eth0"]);
        if again {
            one.del(&bench.config);
            assert_eq!(one.interfaces(), NOTHING);
        }
        bench.tunbridge.start_again();
        assert_eq!(one.interfaces(), NOTHING);
        bench.expect_nothing(&format!("again: {again}"));
    }
}

#[test]
fn ports_of_a_portmap_that_is_killed_are_free() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let bench = Bench::new(&lab, &runtime, podman("10.91.0.0/24"));
    // Killed after the first of two, and after the only one.
    for ports in [&[8080, 8081][..], &[8080]] {
        for cleanup in CLEANUPS {
            let one = runtime.container("one");
            let result = one.add(&bench.config);
            let mut chained = portmap(8080, 80, &result);
            let mapping =
                |port: &u16| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
            chained["runtimeConfig"]["portMappings"] = ports.iter().map(mapping).collect();
            bench.failpoint.kill_at("cni.published");
            bench.killed(&one, "ADD", &chained);
            if cleanup == Cleanup::Delete {
                // libcni deletes with all plugins of a chain, and has no result after a failure.
                chained["prevResult"] = Value::Null;
                one.del(&chained);
            }
            bench.clean_up(&one, cleanup);
            bench.expect_nothing(&format!("{ports:?} {cleanup:?}"));
            let two = runtime.container("two");
            chained["prevResult"] = two.add(&bench.config);
            two.add(&chained);
            two.del(&chained);
            two.del(&bench.config);
        }
    }
}

/// A runtime that was killed makes another namespace when it starts the container again.
#[test]
fn a_container_whose_former_namespace_is_dead_is_attached_anew() {
    let lab = Lab::plain();
    let runtime = Runtime::new(&lab);
    let bench = Bench::new(&lab, &runtime, full());
    let (one, mut again) = (runtime.container("one"), runtime.container("two"));
    again.id = one.id.clone();
    one.add(&bench.config);
    let alive = one.place.start(&["sleep", "1000"]);
    let (code, text) = again.fails("ADD", &bench.config);
    assert!(
        code == 100 && text.contains("in another network namespace already"),
        "{code} {text}"
    );
    assert_eq!(one.interfaces(), ["eth0"]);
    drop(alive);
    assert_eq!(again.add(&bench.config)["ips"], bench.address);
    assert_eq!(one.interfaces(), NOTHING);
    again.del(&bench.config);
    bench.expect_nothing("attached anew");
}

#[test]
fn a_plugin_that_is_killed_while_it_starts_a_daemon_leaves_one_for_the_next() {
    let lab = Lab::plain();
    lab.host()
        .run(&["ip", "netns", "add", "nested"])
        .expect_success();
    let nested = lab.place("nested");
    nested.shell("ip link set lo up").expect_success();
    let runtime = Runtime::in_host(&lab, nested.clone());
    let failpoint = Failpoint::in_lab(&lab);
    let config = full();
    for verb in ["DEL", "ADD"] {
        let one = runtime.container("one");
        failpoint.kill_at("cni.starting");
        let killed = one.call("tunbridge", "ADD", &config, &[]);
        assert_eq!(killed.expect_failure().stdout, "");
        failpoint.expect_reached();
        // At once, while it is still starting.
        one.call("tunbridge", verb, &config, &[]).expect_success();
        one.del(&config);
        assert_eq!(one.interfaces(), NOTHING);
        one.add(&config);
        one.del(&config);
        let files = lab.host().shell("ls /run/tunbridge/ns-*").stdout;
        assert!(!files.contains("detached"), "{files}");
        let sockets = lab.host().shell("ls /run/tunbridge/ns-*/tunbridge.sock");
        end_daemon(&lab, sockets.stdout.trim(), "TERM");
        let left = nested.shell("ip -br link").stdout;
        assert!(
            !left.contains("tbtun0") && !left.contains("bridge"),
            "{left}"
        );
    }
    lab.host()
        .run(&["ip", "netns", "delete", "nested"])
        .expect_success();
}
