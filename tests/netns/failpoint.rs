//! Steps at which what is tested is killed or held (src/failpoint.rs).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Lab, eventually};

/// For everything that runs in a lab: the file that tells.
pub(crate) const VARIABLE: (&str, &str) = ("TUNBRIDGE_FAILPOINT", "/run/lab/failpoint");

/// Tells a lab's processes where to die or to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failpoint<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Failpoint<'lab> {
    pub(crate) const fn in_lab(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn file(self) -> PathBuf {
        self.lab.path(VARIABLE.1)
    }

    fn reached(self) -> PathBuf {
        self.lab.path(&format!("{}.reached", VARIABLE.1))
    }

    /// Who gets to `step` next is killed there.
    pub(crate) fn kill_at(self, step: &str) {
        self.set("kill", step);
    }

    /// Who gets to `step` next waits there until [`Self::go_on`].
    pub(crate) fn pause_at(self, step: &str) {
        self.set("pause", step);
    }

    fn set(self, action: &str, step: &str) {
        let unfinished = self.lab.path("/run/lab/failpoint.new");
        fs::write(&unfinished, format!("{action} {step}")).unwrap();
        fs::rename(unfinished, self.file()).unwrap();
    }

    /// Somebody has got there. Whoever waits goes on.
    #[track_caller]
    pub(crate) fn expect_reached(self) {
        let step = fs::read_to_string(self.file()).unwrap_or_default();
        assert!(
            fs::remove_file(self.reached()).is_ok(),
            "not reached: {step}"
        );
    }

    /// Waits until somebody gets there.
    #[track_caller]
    pub(crate) fn wait(self) {
        let reached = eventually(Duration::from_secs(30), || self.reached().exists());
        let step = fs::read_to_string(self.file()).unwrap_or_default();
        assert!(reached, "not reached: {step}");
    }

    /// Whoever waits goes on.
    #[track_caller]
    pub(crate) fn go_on(self) {
        self.expect_reached();
    }
}

/// What containers may leave on a host and with its daemon, one fact a line, without what is another each time: a faster
/// [`Lab::snapshot`], for after each of many rounds. Namespaces whose names begin with `theirs` are somebody else's.
pub(crate) fn traces(lab: &Lab, theirs: &str) -> Vec<String> {
    let facts = r#"
        ip -o link | awk '{ sub(/@.*|:$/, "", $2); print "link", $2 }'
        ip -o address | awk '!/fe80/ { print "address", $2, $4 }'
        ip -4 route show table all | sed 's/^/route /; s/ linkdown//'
        ip -6 route show table all | grep -v -e fe80 -e multicast -e ' ff00' | sed -E 's/^/route6 /; s/ expires [0-9]+sec//; s/ linkdown//'
        ip rule | sed 's/^/rule /'
        ip -6 neighbour show proxy | sed 's/^/proxy6 /'
        nft list ruleset | sed 's/^/nft /'
        ss -Hltnu | awk '{ print "socket", $1, $5 }'
        ls /run/netns | sed 's/^/netns /'
        findmnt -rn -o TARGET | grep -vE '^(/proc|/var/lib/(containers|containerd|docker))/' | sed 's/^/mount /'
        find /run/tunbridge /run/lab/state /run/host-local /var/lib/cni -not -name log 2>/dev/null | sed 's/^/file /'
    "#;
    let listed = lab.host().shell(facts).stdout;
    let theirs = [
        format!("netns {theirs}"),
        format!("mount /run/netns/{theirs}"),
    ];
    let is_theirs = |line: &str| theirs.iter().any(|begin| line.starts_with(begin));
    let mut lines: Vec<String> = listed
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !is_theirs(line))
        .collect();
    lines.sort();
    lines
}
