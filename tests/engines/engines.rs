//! Engines in a lab, and lines of shell for them.

use std::path::PathBuf;

use crate::lab::{Lab, Outcome, Running};

/// What lays engines over labs.
pub(crate) const ENGINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/engines.sh");
/// The traffic helper, at the same place in every container of podman.
pub(crate) const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");

/// A lab in which engines are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engines<'lab> {
    /// Where they are.
    pub(crate) lab: &'lab Lab,
}

impl<'lab> Engines<'lab> {
    /// Lays the engines over a lab. Before a daemon is started there, which compares what it leaves.
    pub(crate) fn in_lab(lab: &'lab Lab) -> Self {
        lab.host().run(&[ENGINES, "install"]).expect_success();
        Self { lab }
    }

    /// With podman and its image.
    pub(crate) fn with_podman(lab: &'lab Lab) -> Self {
        let engines = Self::in_lab(lab);
        lab.host().run(&[ENGINES, "podman"]).expect_success();
        engines
    }

    /// With containerd, too.
    pub(crate) fn with_containerd(lab: &'lab Lab) -> Self {
        let engines = Self::with_podman(lab);
        lab.host().run(&[ENGINES, "containerd"]).expect_success();
        engines
    }

    /// Runs a line of shell as an engine's command.
    pub(crate) fn shell(&self, line: &str) -> Outcome {
        self.lab.host().run(&[ENGINES, "run", "bash", "-c", line])
    }

    /// What it prints if all is well, without blanks at the end.
    #[track_caller]
    pub(crate) fn said(&self, line: &str) -> String {
        let outcome = self.shell(line).expect_success();
        outcome.stdout.trim_end().to_owned()
    }

    /// What it complains of.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str) -> String {
        self.shell(line).expect_failure().output()
    }

    /// Starts a line of shell that goes on.
    pub(crate) fn start(&self, line: &str) -> Running {
        self.lab.host().start(&[ENGINES, "run", "bash", "-c", line])
    }

    /// Waits until the traffic helper serves port 80 in a container of podman.
    pub(crate) fn wait_until_it_serves(&self, name: &str) {
        self.said(&format!(
            "for i in $(seq 200); do
                podman exec {name} ss -H4ltn 'sport = :80' | grep -q . && exit 0
                sleep 0.05
            done; exit 1"
        ));
    }

    /// A file of the lab as the test can open it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.lab.path(inside)
    }
}
