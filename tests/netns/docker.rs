//! A `docker` client in a lab's host that speaks to tunbridge, and lines of shell as in a transcript.

use std::path::PathBuf;

use crate::docker_clients::docker_clients;
use crate::lab::{FAR, Lab, Outcome, Running, World};
use crate::tunbridge_under_test::{Tunbridge, binary};

/// Files that clients write, in the lab's own /run.
const CONFIG: &str = "/run/lab/docker-config";

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");

/// What is another every time: ids, short ids, times, ports of clients.
const NORMALISE: &str = r"
s/\b[0-9a-f]{64}\b/ID/g
s/\b[0-9a-f]{12}\b/SHORT/g
s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/g
s/(client-at|server-saw)=([0-9.]+|\[[0-9a-f:]+\]):[0-9]+/\1=\2:PORT/g";

/// A client, and a daemon for it.
#[derive(Debug)]
pub(crate) struct Docker<'lab> {
    /// Where it runs.
    pub(crate) lab: &'lab Lab,
    /// With whom it speaks.
    pub(crate) tunbridge: &'lab Tunbridge<'lab>,
    program: PathBuf,
    /// The API that it speaks: 41 for 1.41.
    pub(crate) api: u32,
}

/// Runs a test with each client that there is, in a lab of its own, with a daemon that has these flags.
pub(crate) fn with_each_client(flags: &[&str], test: impl Fn(&Docker<'_>)) {
    in_labs(&[], |_| (), flags, test);
}

/// The same with options of `lab.sh`.
pub(crate) fn with_each_client_in(options: &[&str], flags: &[&str], test: impl Fn(&Docker<'_>)) {
    in_labs(options, |_| (), flags, test);
}

/// The same where the host's resolv.conf is that of the transcripts, with the name server `dns` of the helper.
pub(crate) fn with_each_client_and_dns(flags: &[&str], test: impl Fn(&Docker<'_>)) {
    in_labs(&[], name_server, flags, test);
}

fn in_labs<T>(
    options: &[&str],
    prepare: impl Fn(&Lab) -> T,
    flags: &[&str],
    test: impl Fn(&Docker<'_>),
) {
    for program in docker_clients() {
        let lab = Lab::with_options(World::Plain, options);
        let _prepared = prepare(&lab);
        let tunbridge = lab.start_daemon(flags);
        let mut docker = Docker {
            lab: &lab,
            tunbridge: &tunbridge,
            program,
            api: 0,
        };
        let version = docker.said("version -f {{.Client.APIVersion}}");
        let minor = version.trim().strip_prefix("1.").expect("API 1.x");
        docker.api = minor.parse().expect("a number");
        test(&docker);
    }
}

fn name_server(lab: &Lab) -> Running {
    let text = format!(r"nameserver {FAR}\nsearch wan.example\noptions timeout:1 attempts:1\n");
    let file = "/run/lab/resolv.conf";
    lab.host()
        .shell(&format!(
            "printf '{text}' >{file} && mount --bind {file} /etc/resolv.conf"
        ))
        .expect_success();
    let mut server = lab.far().start(&[PEER, "dns"]);
    assert!(server.read_line().starts_with("listening"));
    server
}

impl Docker<'_> {
    /// `docker WORDS…`
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        let config = format!("DOCKER_CONFIG={CONFIG}");
        let program = self.program.display().to_string();
        let client = [
            "env",
            "DOCKER_HOST=unix:///run/tunbridge/tunbridge.sock",
            &config,
            "TZ=UTC",
            &program,
        ];
        self.lab.host().run(&[&client, words].concat())
    }

    /// What `docker WORDS…`, given as one line, prints if all is well.
    #[track_caller]
    pub(crate) fn said(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run(&words).expect_success().stdout
    }

    /// The same with words that have blanks in them.
    #[track_caller]
    pub(crate) fn said_to(&self, words: &[&str]) -> String {
        self.run(words).expect_success().stdout
    }

    /// What it complains of.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run(&words).expect_failure().stderr
    }

    /// What a line of a transcript prints to both outputs, with ids, times and ports of clients replaced. `d` is docker,
    /// `t` tunbridge, `peer CONTAINER …` the traffic helper in a container, `x CONTAINER …` another command
    /// there, `environment CONTAINER` the variables of its process.
    pub(crate) fn session(&self, line: &str) -> String {
        let binary = binary();
        let program = self.program.display();
        let script = format!(
            r#"export DOCKER_HOST=unix:///run/tunbridge/tunbridge.sock DOCKER_CONFIG={CONFIG} TZ=UTC PEER_WAIT=1
            d() {{ {program} "$@"; }}
            t() {{ {binary} "$@"; }}
            x() {{ local name=$1; shift; {binary} exec "$name" -- "$@"; }}
            peer() {{ local name=$1; shift; x "$name" {PEER} "$@"; }}
            environment() {{ xargs -0n1 </proc/"$(d inspect -f '{{{{.State.Pid}}}}' "$1")"/environ; }}
            {{
            {line}
            }} 2>&1 | sed -E '{NORMALISE}'"#
        );
        self.lab.host().shell(&script).stdout
    }

    /// Asserts what a line of a transcript prints.
    #[track_caller]
    pub(crate) fn prints(&self, line: &str, expected: &str) {
        let printed = self.session(line);
        assert!(
            printed == expected,
            "API 1.{}: [host]# {line}\n---- expected\n{expected}\n---- printed\n{printed}",
            self.api
        );
    }
}
