//! Calling other plugins: those for IPAM, and a stock plugin whose name we answer to for an attachment that is not ours.
//!
//! As the specification says, they get the same variables and the same standard input as we got, and their standard
//! error is ours.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::config::{Config, MOST_INPUT};
use super::environment::{COMMAND, Environment, Verb};
use super::error::{CniError, code};
use super::fields::Field;
use super::result::CniResult;

/// An executable that is not us.
#[derive(Clone, Debug)]
pub(super) struct Delegate {
    name: String,
    program: PathBuf,
}

impl Delegate {
    /// Looks along `CNI_PATH`.
    pub(super) fn find(name: &str, path: &[PathBuf]) -> Option<Self> {
        let ourselves = std::env::current_exe()
            .ok()
            .and_then(|path| identity(&path));
        let mut candidates = path.iter().map(|directory| directory.join(name));
        let program = candidates.find(|program| {
            let found = identity(program);
            found.is_some() && found != ourselves
        })?;
        Some(Self {
            name: name.to_owned(),
            program,
        })
    }

    /// The same, as libcni words its absence.
    pub(super) fn require(name: &str, path: &[PathBuf]) -> Result<Self, CniError> {
        Self::find(name, path).ok_or_else(|| {
            let directories: Vec<String> =
                path.iter().map(|path| path.display().to_string()).collect();
            let message = format!("failed to find plugin {name:?} in path {directories:?}");
            let details = "install it, or name its directory in CNI_PATH";
            CniError::environment(message).details(details)
        })
    }

    /// Calls it, and gives its standard output; what it says about its failure is the error.
    pub(super) fn call(&self, verb: Verb, config: &Config) -> Result<Vec<u8>, CniError> {
        let failed = |problem: String| {
            let message = format!("cannot run plugin {}: {problem}", self.program.display());
            CniError::new(code::IO, message)
        };
        let mut child = Command::new(&self.program)
            .env(COMMAND, verb.text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let mut answer = Vec::new();
        // Both at once: it may answer before it has read everything.
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // That it does not read is its own affair.
                let _ = input.map(|mut input| input.write_all(&config.text));
            });
            let most = u64::try_from(MOST_INPUT).unwrap_or(u64::MAX);
            output.map(|output| output.take(most).read_to_end(&mut answer))
        })
        .transpose()
        .map_err(|error| failed(error.to_string()))?;
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        if status.success() {
            Ok(answer)
        } else {
            Err(self.failure(&answer, &status.to_string()))
        }
    }

    /// `ADD` of an IPAM plugin.
    pub(super) fn addresses(&self, config: &Config) -> Result<CniResult, CniError> {
        let answer = self.call(Verb::Add, config)?;
        let place = format!("result of IPAM plugin {}", self.name);
        let value: Value = serde_json::from_slice(&answer).map_err(|error| {
            let message = format!("cannot decode the {place}: {error}");
            CniError::new(code::DECODE, message)
        })?;
        let result = CniResult::read(&Field::new(&value, place.clone()))?;
        if result.addresses.is_empty() {
            let message = format!("the {place} has no address");
            return Err(CniError::new(code::DELEGATE, message));
        }
        Ok(result)
    }

    fn failure(&self, answer: &[u8], status: &str) -> CniError {
        let value: Value = serde_json::from_slice(answer).unwrap_or_default();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let number = value["code"]
            .as_u64()
            .and_then(|code| u32::try_from(code).ok());
        if let Some(number) = number.filter(|number| *number > 0) {
            let message = format!("plugin {}: {}", self.name, text("msg"));
            return CniError::new(number, message).details(text("details"));
        }
        let said: String = String::from_utf8_lossy(answer)
            .trim()
            .chars()
            .take(200)
            .collect();
        let message = format!("plugin {} failed: {status}", self.name);
        CniError::new(code::DELEGATE, message).details(said)
    }
}

/// Device and inode of an executable, through links.
fn identity(program: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(program).ok()?;
    let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    runs.then(|| (metadata.dev(), metadata.ino()))
}

/// The IPAM plugin of a configuration, if it has one of its own.
pub(super) fn ipam(
    environment: &Environment,
    config: &Config,
) -> Result<Option<Delegate>, CniError> {
    match &config.ipam {
        super::config::Ipam::Ours => Ok(None),
        super::config::Ipam::Delegated(name) => {
            Delegate::require(name, &environment.path).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plugin;
    use super::*;

    fn script(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn config() -> Config {
        let text = br#"{"cniVersion":"1.0.0","name":"x"}"#.to_vec();
        Config::read(text, Plugin::Tunbridge, Verb::Add).unwrap()
    }

    fn delegate(text: &str) -> (tempfile::TempDir, Delegate) {
        let directory = tempfile::tempdir().unwrap();
        script(directory.path(), "fake", text);
        let path = [directory.path().to_owned()];
        let delegate = Delegate::require("fake", &path).unwrap();
        (directory, delegate)
    }

    /// What a script makes of `ADD`. Several attempts: a child of another test may hold the script open for writing.
    fn addresses(text: &str) -> Result<CniResult, CniError> {
        let (_directory, delegate) = delegate(text);
        loop {
            match delegate.addresses(&config()) {
                Err(error) if error.message.contains("Text file busy") => {}
                outcome => return outcome,
            }
        }
    }

    #[test]
    fn it_gets_what_we_got() {
        let result = addresses(
            r#"test "$CNI_COMMAND" = ADD && grep -q '"name":"x"' && echo '{"ips":[{"address":"10.1.0.2/16"}]}'"#,
        );
        assert_eq!(result.unwrap().addresses.len(), 1);
        // It does not read.
        let result = addresses(r#"echo '{"ip4":{"ip":"10.1.0.2/16"}}'"#);
        assert_eq!(result.unwrap().addresses.len(), 1);
    }

    #[test]
    fn its_failure_is_ours() {
        let error = addresses(r#"echo '{"code":11,"msg":"full","details":"d"}'; exit 1"#);
        let error = error.unwrap_err();
        let expected = (11, "plugin fake: full", "d");
        assert_eq!(
            (error.code, error.message.as_str(), error.details.as_str()),
            expected
        );
        let error = addresses("echo oops; exit 3").unwrap_err();
        assert_eq!((error.code, error.details.as_str()), (102, "oops"));
        let error = addresses("echo oops").unwrap_err();
        assert_eq!(error.code, 6, "{error:?}");
        let error = addresses("echo '{}'").unwrap_err();
        assert_eq!(
            error.message,
            "the result of IPAM plugin fake has no address"
        );
    }

    #[test]
    fn what_is_not_there_is_named_with_the_path() {
        let error = Delegate::require("nope", &["/nonexistent".into()]).unwrap_err();
        assert_eq!(
            error.message,
            "failed to find plugin \"nope\" in path [\"/nonexistent\"]"
        );
    }
}
