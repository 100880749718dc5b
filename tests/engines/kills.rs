//! Engines, hooks and dockerd's plugin killed in the middle: what their own commands, or one of ours, leave.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engines::Engines;
use crate::failpoint::{Failpoint, VARIABLE, traces};
use crate::lab::{Lab, eventually};
use crate::oci::{RUNTIMES, bundle, run, with_hook};
use crate::tunbridge_under_test::{Tunbridge, difference};

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
