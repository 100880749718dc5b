//! The sysctls of `lo` that connections from the host to its own published ports need, and what they
//! were before.
//!
//! The former values are written down before anything is changed, so that a clean stop puts them
//! back even if a daemon in between was killed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::kernel::{forwarding, sysctl};

/// Former values, to be put back at a clean stop.
#[derive(Clone, Debug)]
pub(super) struct LoopbackSysctls {
    path: PathBuf,
    former: Vec<Former>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Former {
    segments: Vec<String>,
    value: String,
}

impl LoopbackSysctls {
    /// Notes what is, and sets what is needed.
    pub(super) fn prepare(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join("loopback.json");
        let former = match read(&path) {
            Some(former) => former,
            None => {
                let former = present()?;
                write(&path, &serde_json::to_vec(&former)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                former
            }
        };
        for change in forwarding::prepare_loopback()? {
            tracing::info!("{change}");
        }
        Ok(Self { path, former })
    }

    /// Puts back what was; failures are logged.
    pub(super) fn restore(&self) {
        for Former { segments, value } in &self.former {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            // Whoever has written the file, nothing else was changed.
            if !is_ours(&segments) {
                tracing::warn!(path = %self.path.display(), ?segments, "not ours to put back");
                continue;
            }
            if let Err(error) = sysctl::ensure(&segments, value) {
                tracing::warn!(%error, "cannot put a sysctl back");
            }
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove");
            }
            _ => {}
        }
    }
}

fn is_ours(segments: &[&str]) -> bool {
    forwarding::LOOPBACK.iter().any(|ours| segments == ours)
}

/// What a daemon before us noted; `None` if there was none, or its disk failed.
fn read(path: &Path) -> Option<Vec<Former>> {
    let text = fs::read(path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(former) => Some(former),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "damaged: what the sysctls of lo were is not known");
            None
        }
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(new, path)
}

fn present() -> anyhow::Result<Vec<Former>> {
    forwarding::LOOPBACK
        .iter()
        .map(|segments| {
            Ok(Former {
                segments: segments.iter().map(|&segment| segment.to_owned()).collect(),
                value: sysctl::get(segments)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_there_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loopback.json");
        assert!(read(&path).is_none());
        fs::write(&path, "").unwrap();
        assert!(read(&path).is_none(), "of a full disk");
        let former = [Former {
            segments: vec!["net".to_owned()],
            value: "1".to_owned(),
        }];
        write(&path, &serde_json::to_vec(&former).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap()[0].value, "1");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_but_what_was_changed_is_put_back() {
        assert!(is_ours(&["net", "ipv4", "conf", "lo", "route_localnet"]));
        for foreign in [
            &["net", "ipv4", "conf", "all", "route_localnet"][..],
            &["net", "ipv4", "conf", "lo"],
            &["kernel", "core_pattern"],
            &[],
        ] {
            assert!(!is_ours(foreign), "{foreign:?}");
        }
    }
}
