//! runc and crun with `tunbridge oci-hook`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engines::{ENGINES, Engines, PEER};
use crate::lab::{HOST, HOST6, LAN, LAN6, Lab, eventually};
use crate::tunbridge_under_test::{Tunbridge, binary};

pub(crate) const RUNTIMES: [&str; 2] = ["runc", "crun"];
/// Where crun puts what hooks say.
const ERRORS: &str = "/run/lab/hooks.err";
pub(crate) const HOOK: &str = "/usr/local/bin/tunbridge-oci-hook";

pub(crate) fn with_hook(test: impl Fn(&Engines<'_>, &mut Tunbridge<'_>)) {
    let lab = Lab::plain();
    let engines = Engines::in_lab(&lab);
    engines.said(&format!(
        "{ENGINES} rootfs /run/lab/rootfs && ln -s {} {HOOK}",
        binary()
    ));
    let mut tunbridge = lab.start_daemon(&[]);
    tunbridge
        .cli(&["network", "create", "--subnet", "10.5.0.0/24", "front"])
        .expect_success();
    tunbridge
        .cli(&["network", "create", "--subnet", "10.6.0.0/24", "back"])
        .expect_success();
    test(&engines, &mut tunbridge);
    assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
    tunbridge
        .cli(&["network", "rm", "front", "back"])
        .expect_success();
}

/// A bundle /run/lab/NAME; `change` may do to its config.json what it likes.
pub(crate) fn bundle(
    engines: &Engines<'_>,
    name: &str,
    annotations: &Value,
    args: &[&str],
    change: impl Fn(&mut Value),
) {
    let scripts = PEER.trim_end_matches("/peer");
    let bind = |from: &str, to: &str| json!({"destination": to, "source": from, "type": "bind", "options": ["rbind", "ro"]});
    let directory = format!("/run/lab/{name}");
    let capabilities = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"];
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PEER_WAIT=2"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "/run/lab/rootfs"},
        "mounts": [
            {"destination": "/proc", "source": "proc", "type": "proc"},
            {"destination": "/dev", "source": "tmpfs", "type": "tmpfs"},
            {"destination": "/sys", "source": "sysfs", "type": "sysfs", "options": ["ro"]},
            bind("/usr", "/usr"),
            bind(scripts, scripts),
            bind(&format!("{directory}/resolv.conf"), "/etc/resolv.conf"),
            bind(&format!("{directory}/hosts"), "/etc/hosts"),
        ],
        "hooks": {"createRuntime": [{"path": HOOK}], "poststop": [{"path": HOOK}]},
        "annotations": annotations,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
    });
    config["annotations"]["run.oci.hooks.stderr"] = json!(ERRORS);
    change(&mut config);
    let inside = engines.path(&directory);
    fs::create_dir_all(&inside).unwrap();
    for file in ["resolv.conf", "hosts"] {
        fs::write(inside.join(file), "").unwrap();
    }
    fs::write(inside.join("config.json"), config.to_string()).unwrap();
}

/// What a runtime and its hooks complain of. crun keeps what hooks say to itself, but for this annotation.
fn refused(engines: &Engines<'_>, runtime: &str, bundle: &str, name: &str) -> String {
    engines.refused(&format!(
        "rm -f {ERRORS}; {runtime} run -b /run/lab/{bundle} {name}; status=$?; cat {ERRORS} 2>/dev/null; exit $status"
    ))
}

pub(crate) fn run(engines: &Engines<'_>, runtime: &str, name: &str) {
    engines.said(&format!(
        "{runtime} run -d -b /run/lab/{name} {name} >/run/lab/{name}.log 2>&1 </dev/null || {{ cat /run/lab/{name}.log; exit 1; }}"
    ));
}

#[test]
fn containers_of_runc_and_crun_are_on_their_networks() {
    with_hook(|engines, tunbridge| {
        let lab = engines.lab;
        for runtime in RUNTIMES {
            let files = json!({
                "com.tunbridge.network": "front,ip=10.5.0.9,mac=02:00:00:00:00:09,alias=shop,back",
                "com.tunbridge.publish": "8080:80, 8080:80/udp",
                "com.tunbridge.name": "web",
                "com.tunbridge.dns-search": "corp.example",
                "com.tunbridge.resolv-conf": "resolv.conf",
                "com.tunbridge.hosts": "hosts",
                "org.example.other": "x",
            });
            bundle(engines, "server", &files, &[PEER, "serve", "80"], |_| ());
            run(engines, runtime, "server");
            let inside = |words: &str| engines.said(&format!("{runtime} exec server {words}"));
            let addresses = inside("/bin/ip -o -4 address");
            for address in [
                "lo    inet 127.0.0.1/8",
                "eth0    inet 10.5.0.9/24",
                "eth1    inet 10.6.0.2/24",
            ] {
                assert!(addresses.contains(address), "{runtime}: {addresses}");
            }
            assert_eq!(
                inside("/bin/cat /sys/class/net/eth0/address"),
                "02:00:00:00:00:09"
            );
            assert!(
                inside("/bin/ip route").contains("default via 10.6.0.1 dev eth1"),
                "{}",
                inside("/bin/ip route")
            );
            assert_eq!(
                inside("/bin/grep -v ^# /etc/resolv.conf"),
                "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:0"
            );
            assert!(inside("/bin/cat /etc/hosts").ends_with("10.5.0.9\tweb\n10.6.0.2\tweb"));
            engines.said("nft flush ruleset");
            let to = format!("{HOST}:8080");
            assert!(eventually(Duration::from_secs(20), || lab
                .lan()
                .tcp(&to)
                .is_ok()));
            assert_eq!(lab.lan().tcp(&to).unwrap().saw_address(), LAN);
            assert_eq!(lab.lan().udp(&to).unwrap().saw_address(), LAN);
            assert_eq!(tunbridge.names(&[]), ["web"]);

            let client = json!({"com.tunbridge.network": "front", "com.tunbridge.resolv-conf": "resolv.conf"});
            bundle(
                engines,
                "client",
                &client,
                &[PEER, "tcp", "shop", "80"],
                |_| (),
            );
            let printed = engines.said(&format!("{runtime} run -b /run/lab/client client"));
            assert!(printed.contains("server-saw=10.5.0.2:"), "{printed}");

            engines.said(&format!(
                "{runtime} kill server KILL; {runtime} delete -f server"
            ));
            assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new(), "{runtime}");
            assert!(lab.lan().impatient().tcp(&to).is_err());
        }
    });
}

#[test]
fn a_container_without_annotations_has_the_default_network_and_none_has_none() {
    with_hook(|engines, _| {
        for runtime in RUNTIMES {
            let show = ["/bin/ip", "-o", "-4", "address"];
            bundle(engines, "plain", &json!({}), &show, |_| ());
            let printed = engines.said(&format!("{runtime} run -b /run/lab/plain plain"));
            assert!(printed.contains("eth0    inet 172.17.0.2/16"), "{printed}");
            let none = json!({"com.tunbridge.network": "none"});
            bundle(engines, "none", &none, &show, |_| ());
            let printed = engines.said(&format!("{runtime} run -b /run/lab/none none"));
            assert!(!printed.contains("eth0"), "{printed}");
        }
    });
}

/// Transcript 30: `linux.namespaces[].path`. Such a namespace outlives the container.
#[test]
fn a_namespace_that_is_there_is_taken() {
    with_hook(|engines, tunbridge| {
        let lab = engines.lab;
        let words = "network create --ipv6 --subnet 10.7.0.0/24 --subnet fd00:7::/64 six";
        let words: Vec<&str> = words.split(' ').collect();
        tunbridge.cli(&words).expect_success();
        for runtime in RUNTIMES {
            engines.said("ip netns add there");
            let annotations =
                json!({"com.tunbridge.network": "six", "com.tunbridge.publish": "8080:80"});
            let in_it = |hooks: bool| {
                bundle(
                    engines,
                    "web",
                    &annotations,
                    &[PEER, "serve", "80"],
                    |config| {
                        config["linux"]["namespaces"][1]["path"] = json!("/run/netns/there");
                        if !hooks {
                            config.as_object_mut().unwrap().remove("hooks");
                        }
                    },
                );
                run(engines, runtime, "web");
                let seen = engines.said(&format!("{runtime} exec web /bin/ip -o address"));
                for address in ["eth0    inet 10.7.0.2/24", "eth0    inet6 fd00:7::2/64"] {
                    assert!(seen.contains(address), "{runtime}: {seen}");
                }
                engines.said("nft flush ruleset");
                for (to, seen) in [
                    (format!("{HOST}:8080"), LAN),
                    (format!("[{HOST6}]:8080"), LAN6),
                ] {
                    let ask = || lab.lan().impatient().tcp(&to);
                    assert!(eventually(Duration::from_secs(20), || ask().is_ok()));
                    assert_eq!(ask().unwrap().saw_address(), seen);
                }
                engines.said(&format!("{runtime} kill web KILL; {runtime} delete -f web"));
            };
            in_it(true);
            assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
            let links = engines.said("ip -n there -br link");
            assert!(!links.contains("eth0"), "{links}");
            // Prepared, and without a hook.
            let words = "attach --name vm --network six --netns /run/netns/there -p 8080:80";
            let words: Vec<&str> = words.split(' ').collect();
            tunbridge.cli(&words).expect_success();
            in_it(false);
            assert_eq!(tunbridge.names(&[]), ["vm"]);
            tunbridge.cli(&["rm", "-f", "vm"]).expect_success();
            engines.said("ip netns del there");
        }
        tunbridge.cli(&["network", "rm", "six"]).expect_success();
    });
}

#[test]
fn a_hook_that_fails_stops_the_container_and_leaves_nothing() {
    with_hook(|engines, tunbridge| {
        for runtime in RUNTIMES {
            for (annotations, words) in [
                (
                    json!({"com.tunbridge.network": "nowhere"}),
                    "network nowhere not found",
                ),
                (
                    json!({"com.tunbridge.network": "front,nowhere"}),
                    "network nowhere not found",
                ),
                (
                    json!({"com.tunbridge.network": "front,ip=10.9.0.1"}),
                    "10.9.0.1",
                ),
                (
                    json!({"com.tunbridge.publish": "8080:80x"}),
                    "80x (in annotation com.tunbridge.publish ",
                ),
                (
                    json!({"com.tunbridge.netwrok": "front"}),
                    "com.tunbridge.netwrok",
                ),
                (
                    json!({"com.tunbridge.resolv-conf": "absent"}),
                    "/run/lab/bad/absent",
                ),
                (
                    json!({"com.tunbridge.resolv-conf": "../../etc/resolv.conf"}),
                    "below the bundle",
                ),
            ] {
                bundle(engines, "bad", &annotations, &["/bin/true"], |_| ());
                let error = refused(engines, runtime, "bad", "bad");
                assert!(error.contains(words), "{runtime} {annotations}: {error}");
                assert_eq!(
                    tunbridge.names(&["-a"]),
                    Vec::<String>::new(),
                    "{annotations}"
                );
                engines.shell(&format!("{runtime} delete -f bad"));
            }
            // No namespace of its own.
            bundle(engines, "bad", &json!({}), &["/bin/true"], |config| {
                config["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .remove(1);
            });
            let error = refused(engines, runtime, "bad", "bad");
            assert!(error.contains("network namespace"), "{error}");
            engines.shell(&format!("{runtime} delete -f bad"));
        }
    });
}

#[test]
fn a_runtime_that_is_killed_leaves_nothing_in_the_way_of_the_next() {
    with_hook(|engines, tunbridge| {
        for runtime in RUNTIMES {
            let annotations = json!({"com.tunbridge.network": "front,ip=10.5.0.9", "com.tunbridge.publish": "8080:80"});
            // The runtime waits for a second hook.
            bundle(
                engines,
                "web",
                &annotations,
                &["/bin/sleep", "1000"],
                |config| {
                    let wait = json!({"path": "/bin/sleep", "args": ["sleep", "1000"]});
                    config["hooks"]["createRuntime"]
                        .as_array_mut()
                        .unwrap()
                        .push(wait);
                },
            );
            let running = engines.start(&format!(
                "exec {runtime} run -b /run/lab/web web 2>/dev/null"
            ));
            let attached = || tunbridge.names(&[]) == ["web"];
            assert!(eventually(Duration::from_secs(10), attached), "{runtime}");
            drop(running);
            assert!(attached(), "{runtime} has told nobody");
            engines.said("nft flush ruleset");
            // Not as it was made any more.
            engines.said("ip -n web link set eth0 mtu 1400");
            engines.shell(&format!("{runtime} delete -f web"));

            bundle(
                engines,
                "web",
                &annotations,
                &["/bin/sleep", "1000"],
                |_| (),
            );
            run(engines, runtime, "web");
            let addresses = engines.said(&format!("{runtime} exec web /bin/ip -o -4 address"));
            assert!(
                addresses.contains("eth0    inet 10.5.0.9/24"),
                "{addresses}"
            );
            // While it runs, nobody else takes its place, whatever it has done to its interface.
            engines.said("ip -n web link set eth0 mtu 1400");
            let other = if runtime == "runc" { "crun" } else { "runc" };
            bundle(engines, "other", &annotations, &["/bin/true"], |config| {
                config["linux"]["cgroupsPath"] = json!("/other");
            });
            let error = refused(
                engines,
                &format!("{other} --root /run/lab/{other}"),
                "other",
                "web",
            );
            assert!(
                error.contains("is in another network namespace already"),
                "{error}"
            );
            let addresses = engines.said(&format!("{runtime} exec web /bin/ip -o -4 address"));
            assert!(addresses.contains("10.5.0.9/24"), "{other}: {addresses}");
            engines.said(&format!("{runtime} kill web KILL; {runtime} delete -f web"));
        }
    });
}

#[test]
fn the_hook_by_itself() {
    with_hook(|engines, _| {
        let ask = |state: &Value| engines.shell(&format!("{HOOK} <<<'{state}'"));
        // Nobody knows it.
        for stopped in [
            json!({"id": "a", "status": "stopped", "bundle": "/b"}),
            json!({"id": "a", "status": "stopped", "pid": 0}),
        ] {
            let outcome = ask(&stopped).expect_success();
            assert_eq!(outcome.output(), "");
        }
        let outcome =
            ask(&json!({"id": "a", "status": "creating", "bundle": "/run/lab", "pid": 1}))
                .expect_failure();
        assert_eq!(outcome.stdout, "");
        assert!(
            outcome
                .stderr
                .starts_with("tunbridge: /run/lab/config.json: "),
            "{}",
            outcome.stderr
        );
        assert_eq!(outcome.stderr.lines().count(), 1);
        let outcome = engines
            .shell(&format!("head -c 10000000 /dev/zero | {HOOK}"))
            .expect_failure();
        assert!(
            outcome.stderr.contains("it has more than"),
            "{}",
            outcome.stderr
        );
    });
}

#[test]
fn a_daemon_that_is_away_is_told_of_and_catches_up() {
    with_hook(|engines, tunbridge| {
        for runtime in RUNTIMES {
            bundle(engines, "web", &json!({}), &["/bin/sleep", "1000"], |_| ());
            run(engines, runtime, "web");
            tunbridge.kill();
            engines.said("nft flush ruleset");
            bundle(engines, "late", &json!({}), &["/bin/true"], |_| ());
            let error = refused(engines, runtime, "late", "late");
            assert!(error.contains("or `tunbridge daemon`"), "{error}");
            engines.shell(&format!("{runtime} delete -f late"));
            engines.said(&format!("{runtime} kill web KILL; {runtime} delete -f web"));
            tunbridge.start_again();
            assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new(), "{runtime}");
        }
    });
}

#[test]
fn a_word_that_was_left_is_about_one_bundle_and_until_the_next_container() {
    with_hook(|engines, tunbridge| {
        let stopped = |bundle: &str| {
            let state = json!({"id": "web", "status": "stopped", "bundle": bundle});
            engines.said(&format!("{HOOK} <<<'{state}'"));
        };
        bundle(engines, "web", &json!({}), &["/bin/sleep", "1000"], |_| ());
        run(engines, "runc", "web");
        let address = || engines.said("runc exec web /bin/ip -o -4 address show eth0");
        let before = address();
        // Another runtime's container of the same id has ended.
        stopped("/run/lab/other");
        assert_eq!(address(), before);
        tunbridge.kill();
        stopped("/run/lab/other");
        tunbridge.start_again();
        assert_eq!(address(), before);
        engines.said("runc kill web KILL; runc delete -f web");

        // The daemon has started just before the word was left.
        tunbridge.kill();
        stopped("/run/lab/web");
        engines.said("cp -r /run/tunbridge/detached /run/lab/words");
        tunbridge.start_again();
        engines.said("cp -r /run/lab/words /run/tunbridge/detached");
        run(engines, "runc", "web");
        let before = address();
        tunbridge.kill();
        tunbridge.start_again();
        assert_eq!(address(), before);
        engines.said("runc kill web KILL; runc delete -f web");
    });
}

#[test]
fn a_runtime_in_another_hosts_namespace_has_a_daemon_there() {
    with_hook(|engines, tunbridge| {
        bundle(engines, "web", &json!({}), &["/bin/sleep", "1000"], |_| ());
        engines.said(
            "nsenter --net=/run/netns/wan runc run -d -b /run/lab/web web >/run/lab/web.log 2>&1 </dev/null \
                || { cat /run/lab/web.log; exit 1; }",
        );
        let addresses = engines.said("runc exec web /bin/ip -o -4 address");
        assert!(
            addresses.contains("eth0    inet 172.17.0.2/16"),
            "{addresses}"
        );
        engines.said("nsenter --net=/run/netns/wan ip link show tb0");
        assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
        engines.said("runc kill web KILL; nsenter --net=/run/netns/wan runc delete -f web");
        // It would end by itself in a minute.
        engines.said(
            "pid=$(nsenter --net=/run/netns/wan ss -Hxlp | sed -n 's/.*ns-[0-9]*.tunbridge.sock.*pid=\\([0-9]*\\).*/\\1/p')
            kill $pid && while [ -d /proc/$pid ]; do sleep 0.05; done
            nsenter --net=/run/netns/wan ip link show tb0 && exit 1; true",
        );
    });
}
