//! Engines, hooks and dockerd's plugin killed in the middle: what their own commands, or one of ours, leave.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engines::Engines;
use crate::failpoint::{Failpoint, VARIABLE, traces};
use crate::lab::{Lab, eventually};
use crate::oci::{RUNTIMES, bundle, run, with_hook};
use crate::tunbridge_under_test::{Tunbridge, binary, difference};

/// What is there without containers, and that it is all that is there.
pub(crate) struct Idle<'a> {
    lab: &'a Lab,
    traces: Vec<String>,
}

/// Records, interfaces and leases, with what containers leave on a host.
fn everything(lab: &Lab) -> Vec<String> {
    let mut all = traces(lab, "netns-");
    let leases = "curl -s --unix-socket /run/tunbridge/tunbridge.sock http://x/tunbridge/pools | jq -c '.[]'";
    let leases = lab.host().shell(leases).expect_success().stdout;
    all.extend(leases.lines().map(|pool| format!("pool {pool}")));
    all
}

impl<'a> Idle<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self {
            lab,
            traces: everything(lab),
        }
    }

    #[track_caller]
    pub(crate) fn expect(&self, tunbridge: &Tunbridge<'_>, what: &str) {
        self.expect_within(Duration::from_secs(5), tunbridge, what);
    }

    #[track_caller]
    pub(crate) fn expect_within(&self, limit: Duration, tunbridge: &Tunbridge<'_>, what: &str) {
        let mut left = String::new();
        let same = eventually(limit, || {
            left = difference(&self.traces.join("\n"), &everything(self.lab).join("\n"));
            left += &tunbridge.names(&["-a"]).join("\n");
            left.is_empty()
        });
        assert!(same, "{what}:\n{left}\n{}", tunbridge.log());
    }
}

/// A bundle `web` whose hooks have the failpoint.
fn web(engines: &Engines<'_>, change: impl Fn(&mut Value)) {
    let annotations = json!({
        "com.tunbridge.network": "front,back", "com.tunbridge.publish": "8080:80",
        "com.tunbridge.resolv-conf": "resolv.conf",
    });
    let sleep = ["/bin/sleep", "1000"];
    bundle(engines, "web", &annotations, &sleep, |config| {
        for stage in ["createRuntime", "poststop"] {
            let (name, file) = VARIABLE;
            config["hooks"][stage][0]["env"] = json!([format!("{name}={file}")]);
        }
        change(config);
    });
}

fn runs_and_goes(engines: &Engines<'_>, tunbridge: &Tunbridge<'_>, idle: &Idle<'_>, runtime: &str) {
    run(engines, runtime, "web");
    let addresses = engines.said(&format!("{runtime} exec web /bin/ip -o -4 address"));
    for address in ["10.5.0.2/24", "10.6.0.2/24"] {
        assert!(addresses.contains(address), "{addresses}");
    }
    engines.said(&format!("{runtime} kill web KILL; {runtime} delete -f web"));
    idle.expect(tunbridge, runtime);
}

#[test]
fn hooks_runtimes_and_daemons_that_are_killed_leave_nothing_in_the_end() {
    with_hook(|engines, tunbridge| {
        let lab = engines.lab;
        let failpoint = Failpoint::in_lab(lab);
        web(engines, |_| ());
        run(engines, "runc", "web");
        engines.said("runc kill web KILL; runc delete -f web");
        let idle = Idle::new(lab);
        for runtime in RUNTIMES {
            let refused = || {
                engines.refused(&format!("{runtime} run -b /run/lab/web web"));
                failpoint.expect_reached();
            };
            // The runtime gives the container up, and runc calls poststop. crun tells nobody.
            for step in ["oci.attached", "oci.written"] {
                failpoint.kill_at(step);
                refused();
                engines.shell(&format!("{runtime} delete -f web"));
                if runtime == "crun" {
                    assert_eq!(tunbridge.names(&["-a"]), ["web"], "{step}");
                    // The second is in the way of the next container.
                    if step == "oci.attached" {
                        tunbridge.cli(&["rm", "-f", "web"]).expect_success();
                    }
                }
                if (runtime, step) != ("crun", "oci.written") {
                    idle.expect(tunbridge, &format!("{runtime} {step}"));
                }
            }
            runs_and_goes(engines, tunbridge, &idle, runtime);
            for step in ["daemon.stored", "daemon.plugged", "daemon.settled"] {
                failpoint.kill_at(step);
                refused();
                engines.shell(&format!("{runtime} delete -f web"));
                assert!(tunbridge.ended().is_some());
                tunbridge.start_again();
                idle.expect(tunbridge, &format!("{runtime} {step}"));
            }
            // Nobody tells the daemon: it goes with the next container of that id, or by hand.
            for by_hand in [false, true] {
                run(engines, runtime, "web");
                failpoint.kill_at("oci.stopped");
                engines.shell(&format!("{runtime} kill web KILL; {runtime} delete -f web"));
                failpoint.expect_reached();
                assert_eq!(tunbridge.names(&["-a"]), ["web"], "{runtime}");
                if by_hand {
                    tunbridge.cli(&["rm", "-f", "web"]).expect_success();
                    idle.expect(tunbridge, runtime);
                }
                engines.shell(&format!("{runtime} delete -f web"));
                runs_and_goes(engines, tunbridge, &idle, runtime);
            }
            // The runtime itself, while its hook is at work.
            for by_hand in [false, true] {
                failpoint.pause_at("oci.attached");
                let running = engines.start(&format!("exec {runtime} run -b /run/lab/web web"));
                failpoint.wait();
                drop(running);
                failpoint.go_on();
                assert!(eventually(Duration::from_secs(10), || !engines
                    .shell("pgrep -x tunbridge-oci-h")
                    .succeeded()));
                engines.shell(&format!("{runtime} delete -f web"));
                assert_eq!(tunbridge.names(&["-a"]), ["web"], "{runtime}");
                if by_hand {
                    tunbridge.cli(&["rm", "-f", "web"]).expect_success();
                    idle.expect(tunbridge, runtime);
                }
                runs_and_goes(engines, tunbridge, &idle, runtime);
            }
        }
    });
}

/// A plugin behind Debian's that waits while it is told to.
const HOLD: &str = r#"#!/bin/sh
input=$(cat)
case $CNI_COMMAND in
    VERSION) echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.4.0"]}'; exit ;;
    ADD) if [ -e /run/lab/hold ]; then mv /run/lab/hold /run/lab/held; while [ -e /run/lab/held ]; do sleep 0.05; done; fi ;;
esac
echo "$input" | jq .prevResult
"#;

const PODMAN: &str = "podman run -d --name web -p 8080:80 localhost/busybox sleep 1000";

/// What there is to compare with: the container cannot be started at once, and its interface stays for good.
#[test]
fn a_podman_that_is_killed_leaves_an_interface_with_the_stock_plugins() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    engines.said("mkdir -p /usr/local/libexec/cni");
    fs::write(engines.path("/usr/local/libexec/cni/hold"), HOLD).unwrap();
    engines.said(
        "chmod +x /usr/local/libexec/cni/hold; touch /run/lab/hold; cd /etc/cni/net.d
        jq '.plugins += [{\"type\": \"hold\"}]' 87-podman-bridge.conflist >new && mv new 87-podman-bridge.conflist",
    );
    let podman = engines.start(&format!("exec {PODMAN}"));
    let held = engines.path("/run/lab/held");
    assert!(eventually(Duration::from_secs(30), || held.exists()));
    drop(podman);
    fs::remove_file(held).unwrap();
    let refusal = engines.refused("podman start web");
    assert!(refusal.contains("duplicate allocation"), "{refusal}");
    engines.said("podman rm -ft0 web");
    let links = engines.said("ip -br link show type veth | grep -c ^veth");
    assert_eq!(links, "1");
}

#[test]
fn what_a_podman_that_is_killed_leaves_goes_with_the_next_start_or_by_hand() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    crate::podman::install(&engines);
    let mut tunbridge = lab.start_daemon(&[]);
    let failpoint = Failpoint::in_lab(&lab);
    engines.said(&format!("{PODMAN} && podman rm -ft0 web"));
    let idle = Idle::new(&lab);
    for step in ["daemon.stored", "cni.attached", "cni.published"] {
        for by_hand in [false, true] {
            failpoint.pause_at(step);
            let podman = engines.start(&format!("exec {PODMAN}"));
            failpoint.wait();
            drop(podman);
            failpoint.go_on();
            let ended = || {
                !engines
                    .shell("pgrep -f ^/usr/local/libexec/cni")
                    .succeeded()
            };
            assert!(eventually(Duration::from_secs(10), ended), "{step}");
            assert_eq!(tunbridge.names(&["-a"]), ["web"], "{step}");
            if by_hand {
                // podman's own mounts are in its way, if it was killed between two of them.
                engines.said(
                    "findmnt -rno TARGET | grep overlay-containers | xargs -r umount; podman rm -ft0 web",
                );
                tunbridge.cli(&["rm", "-f", "web"]).expect_success();
                idle.expect(&tunbridge, step);
                engines.said(PODMAN);
            } else {
                engines.said("podman start web");
            }
            let addresses = engines.said("podman exec web /bin/ip -o -4 address");
            assert!(addresses.contains("10.88.0.2/16"), "{step}: {addresses}");
            engines.said("podman rm -ft0 web");
            idle.expect(&tunbridge, step);
        }
    }
    // podman's own.
    engines.said("umount /run/netns/netns-*; rm /run/netns/netns-*");
    tunbridge.stop_and_leave_nothing();
}

#[test]
fn what_a_ctr_that_is_killed_leaves_goes_with_the_next_of_that_name_or_by_hand() {
    let lab = Lab::plain();
    let engines = Engines::with_containerd(&lab);
    engines.said(&format!(
        "rm /etc/cni/net.d/*; {} cni install --dir /opt/cni/bin --conf-dir /etc/cni/net.d --name shop --subnet 10.7.0.0/24",
        binary()
    ));
    let tunbridge = lab.start_daemon(&[]);
    let failpoint = Failpoint::in_lab(&lab);
    let run = "ctr run --rm --cni localhost/busybox:latest web /bin/ip -o -4 address";
    engines.said(run);
    let idle = Idle::new(&lab);
    for step in ["daemon.stored", "cni.attached"] {
        for by_hand in [false, true] {
            failpoint.pause_at(step);
            let ctr = engines.start(&format!("exec {run}"));
            failpoint.wait();
            drop(ctr);
            failpoint.go_on();
            let ended = || !engines.shell("pgrep -f ^/opt/cni/bin").succeeded();
            assert!(eventually(Duration::from_secs(10), ended), "{step}");
            engines.said("ctr tasks delete -f web; ctr containers delete web");
            assert_eq!(tunbridge.names(&["-a"]), ["default-web"], "{step}");
            if by_hand {
                tunbridge.cli(&["rm", "-f", "default-web"]).expect_success();
                idle.expect(&tunbridge, step);
            }
            let addresses = engines.said(run);
            assert!(addresses.contains("10.7.0.2/24"), "{step}: {addresses}");
            idle.expect(&tunbridge, step);
        }
    }
}
