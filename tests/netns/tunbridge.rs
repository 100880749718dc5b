//! The daemon of a lab and its command line.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tunbridge::api::types::{Flow, Stats};

use crate::lab::{Lab, Outcome, Place, Running, World, eventually, server_command};

/// In the lab's own /run.
const STATE_DIR: &str = "/run/lab/state";

/// The program under test; `TB_BINARY=netns-scripts/oracle` puts the kernel's NAT in its place.
pub(crate) fn binary() -> String {
    std::env::var("TB_BINARY").map_or_else(
        |_| env!("CARGO_BIN_EXE_tunbridge").to_owned(),
        |path| {
            fs::canonicalize(path)
                .expect("TB_BINARY exists")
                .display()
                .to_string()
        },
    )
}

/// A running daemon in a lab's host. When dropped it is stopped with `--purge` in force, and the host's network
/// must then be exactly what it was before the start.
#[derive(Debug)]
pub(crate) struct Tunbridge<'lab> {
    lab: &'lab Lab,
    daemon: Running,
    flags: Vec<String>,
    log: PathBuf,
    before: String,
}

/// The command line, whether or not a daemon runs.
pub(crate) fn cli(lab: &Lab, words: &[&str]) -> Outcome {
    lab.host().run(&[&[binary().as_str()], words].concat())
}

/// The command line as somebody else than root.
pub(crate) fn cli_without_rights(lab: &Lab, words: &[&str]) -> Outcome {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
    ];
    lab.host()
        .run(&[&nobody[..], &[binary().as_str()], words].concat())
}

/// Starts a daemon that is expected to refuse: what it said.
pub(crate) fn daemon_that_refuses(lab: &Lab, flags: &[&str]) -> Outcome {
    let words = [
        "timeout",
        "10",
        &binary(),
        "daemon",
        "--state-dir",
        STATE_DIR,
    ];
    lab.host().run(&[&words[..], flags].concat())
}

impl Lab {
    /// Starts the daemon in the host and waits until it answers.
    pub(crate) fn start_daemon(&self, flags: &[&str]) -> Tunbridge<'_> {
        let before = self.snapshot();
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let file = format!(
            "daemon-{}.log",
            self.host()
                .run(&["readlink", "/proc/self/ns/net"])
                .stdout
                .trim()
        );
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
        // Left by an earlier run whose namespace had the same number, or not there.
        let _ = fs::remove_file(&log);
        let daemon = start(self, &flags, &log);
        let mut tunbridge = Tunbridge {
            lab: self,
            daemon,
            flags,
            log,
            before,
        };
        tunbridge.wait_until_it_answers();
        tunbridge
    }
}

fn start(lab: &Lab, flags: &[String], log: &std::path::Path) -> Running {
    let binary = binary();
    // Who starts it may not care who writes its files.
    let mut words = vec![
        "sh",
        "-c",
        "umask 0; exec \"$@\"",
        "sh",
        binary.as_str(),
        "daemon",
        "--purge",
        "--state-dir",
        STATE_DIR,
    ];
    words.extend(flags.iter().map(String::as_str));
    lab.host().start_logging_to(log, &words)
}

impl Tunbridge<'_> {
    fn wait_until_it_answers(&mut self) {
        let mut ended = false;
        let answers = eventually(Duration::from_secs(60), || {
            ended = self.daemon.ended_within(Duration::ZERO).is_some();
            ended || self.cli(&["ps"]).succeeded()
        });
        assert!(
            answers && !ended,
            "the daemon does not answer (ended: {ended})\n{}",
            self.log()
        );
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `tunbridge WORDS…`.
    pub(crate) fn cli(&self, words: &[&str]) -> Outcome {
        cli(self.lab, words)
    }

    /// `tunbridge run -d --name NAME OPTIONS… -- COMMAND…`
    pub(crate) fn run(&self, name: &str, options: &[&str], command: &[&str]) -> Place {
        let words = [&["run", "-d", "--name", name], options, &["--"], command].concat();
        self.cli(&words).expect_success();
        self.lab.apply_world();
        self.lab.place(name)
    }

    /// A container that does nothing, for commands to run in.
    pub(crate) fn container(&self, name: &str) -> Place {
        self.container_with(name, &[])
    }

    /// The same with options of `run`.
    pub(crate) fn container_with(&self, name: &str, options: &[&str]) -> Place {
        self.run(name, options, &["sleep", "100000"])
    }

    /// A container with a TCP and UDP server on port 80.
    pub(crate) fn server(&self, name: &str, options: &[&str]) -> Place {
        let command = server_command(&["80"]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let place = self.run(name, options, &command);
        place.wait_until_it_serves(80);
        place
    }

    /// The JSON that `tunbridge WORDS… --json` prints.
    fn json<T: DeserializeOwned>(&self, words: &[&str]) -> T {
        let outcome = self.cli(&[words, &["--json"]].concat()).expect_success();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    }

    /// `tunbridge stats`.
    pub(crate) fn stats(&self) -> Stats {
        self.json(&["stats"])
    }

    /// `tunbridge flows`.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        self.json(&["flows"])
    }

    /// `tunbridge inspect NAME`, the one element of it.
    pub(crate) fn inspect(&self, name: &str) -> serde_json::Value {
        let outcome = self.cli(&["inspect", name]).expect_success();
        let mut list: Vec<serde_json::Value> =
            serde_json::from_str(&outcome.stdout).expect("a JSON array");
        assert_eq!(list.len(), 1, "one container of that name");
        list.remove(0)
    }

    /// Names of the containers that `tunbridge ps OPTIONS…` lists. The table itself is no place to search
    /// for a short name: an id may contain it.
    pub(crate) fn names(&self, options: &[&str]) -> Vec<String> {
        let words = [&["ps", "--json"], options].concat();
        let outcome = self.cli(&words).expect_success();
        let list: Vec<serde_json::Value> =
            serde_json::from_str(&outcome.stdout).expect("a JSON array");
        let name = |container: &serde_json::Value| {
            let name = container["Names"][0].as_str().expect("a name");
            name.trim_start_matches('/').to_owned()
        };
        list.iter().map(name).collect()
    }

    /// Sum of all drop counters, in the forwarder and in the steering programs, whose name contains
    /// one of `words`.
    pub(crate) fn dropped(&self, words: &[&str]) -> u64 {
        let stats = self.stats();
        let counters = stats.dropped.iter().chain(&stats.steering);
        counters
            .filter(|(name, _)| words.iter().any(|word| name.contains(word)))
            .map(|(_, count)| count)
            .sum()
    }

    /// Its process number in the lab.
    pub(crate) fn pid(&self) -> &str {
        self.daemon.pid()
    }

    /// Kills the daemon as the kernel's out-of-memory killer would.
    pub(crate) fn kill(&mut self) {
        self.daemon.signal("KILL");
        assert!(
            self.daemon.ended_within(Duration::from_secs(5)).is_some(),
            "SIGKILL ends everything"
        );
    }

    /// Waits for the daemon to end by itself: `Some(exit status)` if it does.
    pub(crate) fn ended(&mut self) -> Option<Option<i32>> {
        self.daemon.ended_within(Duration::from_secs(10))
    }

    /// Starts the daemon again with the same flags.
    pub(crate) fn start_again(&mut self) {
        self.daemon = start(self.lab, &self.flags, &self.log);
        self.wait_until_it_answers();
    }

    /// The same with others.
    pub(crate) fn start_again_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.start_again();
    }

    /// Ends the daemon politely and checks that it leaves nothing.
    pub(crate) fn stop_and_leave_nothing(&mut self) {
        self.stop();
        let after = self.lab.snapshot();
        let difference = difference(&self.before, &after);
        assert!(
            difference.is_empty(),
            "the daemon left or changed:\n{difference}"
        );
    }

    /// Ends the daemon politely.
    pub(crate) fn stop(&mut self) {
        self.daemon.signal("TERM");
        let ended = self.daemon.ended_within(Duration::from_secs(20));
        assert_eq!(
            ended,
            Some(Some(0)),
            "exit status after SIGTERM\n{}",
            self.log()
        );
    }
}

impl Drop for Tunbridge<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (stats, log) = (self.cli(&["stats"]).output(), self.log());
            let tail = log.lines().count().saturating_sub(80);
            let tail: Vec<&str> = log.lines().skip(tail).collect();
            eprintln!(
                "---- stats\n{stats}\n---- end of {}\n{}",
                self.log.display(),
                tail.join("\n")
            );
            return;
        }
        if self.daemon.ended_within(Duration::ZERO).is_none() {
            self.stop_and_leave_nothing();
        }
        if let Err(error) = fs::remove_file(&self.log) {
            eprintln!("{}: {error}", self.log.display());
        }
    }
}

/// Lines that only one of two snapshots has.
pub(crate) fn difference(before: &str, after: &str) -> String {
    let only = |mark: char, these: &str, others: &str| -> Vec<String> {
        let others: std::collections::HashSet<&str> = others.lines().collect();
        these
            .lines()
            .filter(|line| !others.contains(line))
            .map(|line| format!("{mark} {line}\n"))
            .collect()
    };
    [only('-', before, after), only('+', after, before)]
        .concat()
        .concat()
}

/// Octets of a big transfer: 1 GiB, less where it is repeated; `TB_BIG` (MiB) overrides.
pub(crate) fn big(world: World) -> u64 {
    let default = if matches!(world, World::Plain) {
        1024
    } else {
        256
    };
    let mebibytes = std::env::var("TB_BIG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default);
    mebibytes << 20
}
