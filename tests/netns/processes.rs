//! Commands in a place of a lab: what they said, and those that go on.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lab::Place;

/// What a command that ended left behind.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    what: String,
    /// Exit status, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// Of the command that is described as `what`.
    pub(crate) fn new(what: String, output: &Output) -> Self {
        Self {
            what,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Exit status 0?
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Everything it printed.
    pub(crate) fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Itself, if the exit status is 0.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert!(
            self.succeeded(),
            "{} (exit {:?})\n{}",
            self.what,
            self.code,
            self.output()
        );
        self
    }

    /// Itself, if the exit status is another.
    #[track_caller]
    pub(crate) fn expect_failure(self) -> Self {
        assert!(
            !self.succeeded(),
            "{} should have failed\n{}",
            self.what,
            self.output()
        );
        self
    }

    /// What the traffic helper said of an exchange.
    pub(crate) fn answer(&self) -> Result<Answer, String> {
        let text = format!("{}\n{}", self.what, self.output());
        if self.succeeded() {
            Answer::parse(&self.stdout).ok_or(text)
        } else {
            Err(text)
        }
    }
}

/// What a client and its server say of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The address from which the client believes to talk.
    pub(crate) client: SocketAddr,
    /// The address that the server saw as its client's.
    pub(crate) saw: SocketAddr,
    /// The address at which the server was reached, as it sees it.
    pub(crate) at: SocketAddr,
}

impl Answer {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name))?
                .parse()
                .ok()
        };
        Some(Self {
            client: field("client-at=")?,
            saw: field("server-saw=")?,
            at: field("server-at=")?,
        })
    }

    /// The address that the server saw, without port.
    pub(crate) fn saw_address(&self) -> String {
        self.saw.ip().to_string()
    }
}

/// A command that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    entered: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pid_in_lab: String,
    holder_pid: u32,
}

impl Running {
    pub(crate) fn spawn(place: &Place, words: &[&str], exec: &str) -> Self {
        let wrapper = format!("echo $$; {exec}");
        let mut entered = place
            .command(&[&["bash", "-c", &wrapper], words].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        let stdin = entered.stdin.take();
        let stdout = BufReader::new(entered.stdout.take().expect("stdout is piped"));
        let mut running = Self {
            entered,
            stdin,
            stdout,
            pid_in_lab: String::new(),
            holder_pid: place.holder_pid(),
        };
        running.pid_in_lab = running.read_line();
        running
    }

    /// Process number as the lab sees it.
    pub(crate) fn pid(&self) -> &str {
        &self.pid_in_lab
    }

    /// Reads until a line contains `text`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line = self.read_line();
            assert!(!line.is_empty(), "it ended before it said {text:?}");
        }
    }

    /// The next line of its output, without the end of line; empty at the end of the output.
    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("readable output");
        line.trim_end().to_owned()
    }

    /// Gives it a line of input.
    pub(crate) fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        writeln!(stdin, "{line}").expect("writable input");
    }

    /// Sends a signal (`TERM`, `KILL`, …).
    pub(crate) fn signal(&self, name: &str) {
        let holder = self.holder_pid.to_string();
        Command::new("nsenter")
            .args([
                "--target",
                &holder,
                "--mount",
                "--pid",
                "--",
                "kill",
                "-s",
                name,
                &self.pid_in_lab,
            ])
            .stderr(Stdio::null())
            .status()
            .expect("nsenter runs");
    }

    /// Exit status if it ended within `limit`; `Some(None)` if a signal ended it.
    pub(crate) fn ended_within(&mut self, limit: Duration) -> Option<Option<i32>> {
        let mut status = None;
        eventually(limit, || {
            status = self.entered.try_wait().expect("a child");
            status.is_some()
        });
        status.map(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.entered.try_wait(), Ok(Some(_))) {
            self.signal("KILL");
            // nsenter repeats its child's fate; an error would mean that it was waited for already.
            let _ = self.entered.wait();
        }
    }
}

/// Connections that are open at the same time.
#[derive(Debug)]
pub(crate) struct Held {
    /// `held=N echoed=N failed=N …`
    pub(crate) report: String,
    /// The client.
    pub(crate) running: Running,
}

impl Held {
    /// Closes them.
    pub(crate) fn release(self) {
        drop(self.running);
    }
}

/// Asks again and again until the answer is yes or the time is over.
pub(crate) fn eventually(limit: Duration, mut question: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if question() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
