//! One call of the plugin, as libcni makes it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A network namespace without a name.
#[derive(Debug)]
pub(crate) struct Namespace(Child);

impl Namespace {
    /// `setup` is done in it.
    pub(crate) fn with(setup: &str) -> Self {
        let make = format!("{setup} echo ready && exec cat");
        // `cat` ends with its input, so with this process, too.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &make])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "these tests need root");
        Self(holder)
    }

    pub(crate) fn new() -> Self {
        Self::with("")
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Names of the interfaces in it.
    pub(crate) fn interfaces(&self) -> String {
        let pid = self.0.id().to_string();
        let words = ["--net", "--target", &pid, "ip", "-br", "link"];
        let listed = Command::new("nsenter").args(words).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a call has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!(self.success, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Nothing was to be said, and nothing was.
    #[track_caller]
    pub(crate) fn silent(&self) {
        assert!(self.success && self.stdout.is_empty(), "{self:?}");
    }

    /// Version, number, and text with details.
    #[track_caller]
    pub(crate) fn error(&self) -> (String, u64, String) {
        assert!(!self.success, "{self:?}");
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON value: {error}: {self:?}"));
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let details = text("details");
        let message = match details.as_str() {
            "" => text("msg"),
            details => format!("{}: {details}", text("msg")),
        };
        (text("cniVersion"), value["code"].as_u64().unwrap(), message)
    }

    #[track_caller]
    pub(crate) fn expect_error(&self, code: u64, words: &[&str]) {
        let (_, found, message) = self.error();
        assert_eq!(found, code, "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }
}

/// A directory of plugins: ours under all its names, and scripts.
#[derive(Debug)]
pub(crate) struct Plugins {
    directory: TempDir,
}

impl Plugins {
    pub(crate) fn new() -> Self {
        let directory = TempDir::with_prefix("tbcni-").unwrap();
        for name in [
            "tunbridge",
            "tunbridge-cni",
            "bridge",
            "portmap",
            "bandwidth",
            "firewall",
        ] {
            let program = env!("CARGO_BIN_EXE_tunbridge");
            symlink(program, directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A shell script in a directory of its own, as a plugin.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let directory = self.path().join("scripts");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        // Written by another process: a child of another test cannot hold it open for writing.
        let mut writer = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\n{text}\n");
        writer
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(writer.wait().unwrap().success());
        assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o100, 0);
        directory
    }

    pub(crate) fn call(&self, name: &str) -> Call {
        let mut command = Command::new(self.path().join(name));
        command.env_remove("TUNBRIDGE_SOCKET");
        let path = format!(
            "{}:{}",
            self.path().display(),
            self.path().join("scripts").display()
        );
        command.env("CNI_PATH", path);
        Call { command }
    }
}

/// A call before it is made.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
}

impl Call {
    pub(crate) fn set(mut self, variable: &str, value: &str) -> Self {
        self.command.env(variable, value);
        self
    }

    pub(crate) fn unset(mut self, variable: &str) -> Self {
        self.command.env_remove(variable);
        self
    }

    /// The variables of one attachment.
    pub(crate) fn attachment(self, verb: &str, netns: &str) -> Self {
        self.set("CNI_COMMAND", verb)
            .set("CNI_CONTAINERID", "c1")
            .set("CNI_NETNS", netns)
            .set("CNI_IFNAME", "eth0")
    }

    pub(crate) fn socket(self, socket: &Path) -> Self {
        let socket = socket.to_str().unwrap().to_owned();
        self.set("TUNBRIDGE_SOCKET", &socket)
    }

    pub(crate) fn with(mut self, input: impl AsRef<[u8]>) -> Answer {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_vec();
        // Who does not read it all says so by his answer.
        let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        Answer {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn with_config(self, config: &Value) -> Answer {
        self.with(config.to_string())
    }
}
