//! What the runtime says of a container: its state on standard input, and config.json in its bundle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::HookError;
use crate::control::names::{MAX_RUNTIME_ID_LEN, is_identifier};

/// Octets of a state, which repeats the annotations.
pub(super) const MOST_STATE: u64 = 4 << 20;
/// Octets of a config.json.
pub(super) const MOST_CONFIG: u64 = 16 << 20;

pub(super) type Annotations = BTreeMap<String, String>;

/// A point in a container's life. Where a state says `created`, crun means the same as runc with `creating`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Creating,
    Created,
    Stopped,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) id: String,
    pub(super) status: Status,
    pub(super) pid: Option<u32>,
    pub(super) bundle: PathBuf,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Sent {
    id: Option<String>,
    status: Option<String>,
    pid: Option<i64>,
    bundle: Option<PathBuf>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Config {
    annotations: Option<Annotations>,
}

impl State {
    /// The state that a runtime writes to a hook.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn read(input: impl Read) -> Result<Self, HookError> {
        let wrong = |problem: String| Err(HookError::State(problem));
        let octets = match bounded(input, MOST_STATE) {
            Ok(octets) => octets,
            Err(problem) => return wrong(problem),
        };
        if octets.iter().all(u8::is_ascii_whitespace) {
            return wrong(
                "there is none: a runtime calls this program (hooks in config.json), see docs/drop-in.md"
                    .to_owned(),
            );
        }
        let sent: Sent = match serde_json::from_slice(&octets) {
            Ok(sent) => sent,
            Err(error) => return wrong(format!("it is no JSON of a container's state: {error}")),
        };
        let Some(id) = sent.id.filter(|id| !id.is_empty()) else {
            return wrong("it has no id".to_owned());
        };
        if !is_identifier(&id) || id.len() > MAX_RUNTIME_ID_LEN {
            let shown: String = id.chars().take(80).collect();
            return wrong(format!(
                "id {shown:?}: use at most 1024 letters, digits, '_', '.' and '-', a letter or digit first"
            ));
        }
        let status = match sent.status.as_deref() {
            Some("creating") => Status::Creating,
            Some("created") => Status::Created,
            Some("stopped") => Status::Stopped,
            other => {
                let shown: String = other.unwrap_or("none").chars().take(80).collect();
                return wrong(format!(
                    "status {shown:?}: this hook belongs under createRuntime or prestart, and under poststop"
                ));
            }
        };
        let bundle = sent.bundle.unwrap_or_default();
        if status != Status::Stopped && !bundle.is_absolute() {
            return wrong(format!("bundle {bundle:?}: an absolute path is wanted"));
        }
        // runc says nothing and crun 0 where there is no process.
        let pid = match sent.pid {
            None | Some(0) => None,
            Some(pid) => match u32::try_from(pid) {
                Ok(pid) => Some(pid),
                Err(_) => return wrong(format!("pid {pid} is no process number")),
            },
        };
        Ok(Self {
            id,
            status,
            pid,
            bundle,
            annotations: sent.annotations.unwrap_or_default(),
        })
    }

    /// The container's annotations: those of the state, or if it has none those of the bundle.
    ///
    /// # Errors
    /// If config.json cannot be read.
    pub(super) fn annotations(&self) -> Result<Annotations, HookError> {
        if !self.annotations.is_empty() {
            return Ok(self.annotations.clone());
        }
        let path = self.bundle.join("config.json");
        config(&path).map_err(|problem| HookError::File {
            file: path.display().to_string(),
            problem,
        })
    }
}

fn config(path: &Path) -> Result<Annotations, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is no file".to_owned());
    }
    let octets = bounded(file, MOST_CONFIG)?;
    let config: Config = serde_json::from_slice(&octets)
        .map_err(|error| format!("it is no JSON of a container's configuration: {error}"))?;
    Ok(config.annotations.unwrap_or_default())
}

fn bounded(input: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let read = input.take(most + 1).read_to_end(&mut octets);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if octets.len() as u64 > most {
        return Err(format!("it has more than {most} octets"));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<State, String> {
        State::read(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn states_of_runc_and_crun_are_understood() {
        let state = read(
            r#"{"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":14747,"bundle":"/b"}"#,
        )
        .unwrap();
        assert_eq!(
            (state.status, state.pid, state.id.as_str()),
            (Status::Creating, Some(14747), "web")
        );
        let state = read(
            r#"{"ociVersion":"1.0","id":"web","pid":14842,"root":"/r","bundle":"/b","status":"created","annotations":{"a":"b"}}"#,
        )
        .unwrap();
        assert_eq!(state.status, Status::Created);
        assert_eq!(state.annotations().unwrap()["a"], "b");
        for stopped in [
            r#"{"ociVersion":"1.0.2-dev","id":"web","status":"stopped","bundle":"/b"}"#,
            r#"{"ociVersion":"1.0","id":"web","pid":0,"root":"/r","bundle":"/b","status":"stopped"}"#,
        ] {
            let state = read(stopped).unwrap();
            assert_eq!((state.status, state.pid), (Status::Stopped, None));
        }
    }

    #[test]
    fn annotations_of_the_bundle_count_if_the_state_has_none() {
        let bundle = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"id":"web","status":"creating","pid":1,"bundle":{:?}}}"#,
            bundle.path()
        );
        let state = read(&text).unwrap();
        let error = state.annotations().unwrap_err().to_string();
        assert!(error.contains("config.json: No such file"), "{error}");
        let config = bundle.path().join("config.json");
        for (content, wrong) in [
            ("{\"annotations\":{\"a\":\"b\"},\"process\":{}}", ""),
            ("{}", ""),
            ("{\"annotations\":[]}", "it is no JSON of a container's"),
            (
                "{\"annotations\":{\"a\":1}}",
                "it is no JSON of a container's",
            ),
        ] {
            std::fs::write(&config, content).unwrap();
            match state.annotations() {
                Ok(_) => assert_eq!(wrong, "", "{content}"),
                Err(error) => assert!(error.to_string().contains(wrong), "{content}: {error}"),
            }
        }
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        let error = state.annotations().unwrap_err().to_string();
        assert!(error.contains("it is no file"), "{error}");
    }

    #[test]
    fn what_is_no_state_is_refused_with_a_sentence() {
        let long = format!(
            r#"{{"id":"{}","status":"creating","bundle":"/b"}}"#,
            "a".repeat(1025)
        );
        for (text, words) in [
            ("", "a runtime calls this program"),
            (" \n", "a runtime calls this program"),
            ("{", "it is no JSON of a container's state"),
            ("[]", "it is no JSON of a container's state"),
            ("{}", "it has no id"),
            (r#"{"id":"","status":"creating"}"#, "it has no id"),
            (
                r#"{"id":"../x","status":"creating","bundle":"/b"}"#,
                "id \"../x\": use",
            ),
            (
                r#"{"id":"a+b","status":"creating","bundle":"/b"}"#,
                "id \"a+b\": use",
            ),
            (&long, "use at most 1024"),
            (r#"{"id":"a"}"#, "status \"none\": this hook belongs"),
            (
                r#"{"id":"a","status":"running","bundle":"/b"}"#,
                "status \"running\": this hook belongs",
            ),
            (
                r#"{"id":"a","status":"creating"}"#,
                "an absolute path is wanted",
            ),
            (
                r#"{"id":"a","status":"creating","bundle":"b"}"#,
                "an absolute path is wanted",
            ),
            (
                r#"{"id":"a","status":"creating","bundle":"/b","pid":-3}"#,
                "pid -3 is no process number",
            ),
            (
                r#"{"id":"a","status":"creating","bundle":"/b","pid":99999999999}"#,
                "is no process number",
            ),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert!(
                error.starts_with("the state on standard input: "),
                "{error}"
            );
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn no_more_is_read_than_a_state_can_have() {
        let error = State::read(std::io::repeat(b' ')).unwrap_err().to_string();
        assert!(error.contains("it has more than 4194304 octets"), "{error}");
    }
}
