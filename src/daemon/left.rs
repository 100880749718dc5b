//! What runtimes deleted while no daemon ran: the CNI plugin or the OCI hook has left a file for us, so that the endpoint is
//! not made again for a container that does not want it any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use crate::api::types::EndpointReference;
use crate::cni::daemon::DETACHED;

/// Detaches what the files beside `socket` name, and removes them. What cannot be read names nothing.
pub(super) async fn detach(core: &Arc<Core>, socket: &Path) {
    let Some(directory) = socket.parent().map(|parent| parent.join(DETACHED)) else {
        return;
    };
    for path in written(&directory) {
        let text = fs::read(&path).unwrap_or_default();
        if let Ok(reference) = serde_json::from_slice::<EndpointReference>(&text) {
            let EndpointReference {
                container,
                interface,
                ..
            } = &reference;
            if let Err(error) = core.detach_endpoint(&reference).await {
                tracing::warn!(%container, ?interface, error = error.message, "was deleted while no daemon ran, and cannot be detached");
                continue;
            }
            tracing::info!(%container, ?interface, "was deleted while no daemon ran");
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
    let _ = fs::remove_dir(&directory);
}

/// Files with a name that begins with a dot are still being written: whoever does asks us afterwards, or was killed.
fn written(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let (unfinished, written): (Vec<_>, Vec<_>) =
        files.partition(|file| file.file_name().as_encoded_bytes().starts_with(b"."));
    for file in unfinished {
        let age = file.metadata().and_then(|found| found.modified());
        if age.is_ok_and(|since| since.elapsed().is_ok_and(|age| age > ABANDONED)) {
            let _ = fs::remove_file(file.path());
        }
    }
    written.iter().map(fs::DirEntry::path).collect()
}

/// Nobody writes for so long.
const ABANDONED: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(written(&directory.path().join("absent")).is_empty());
        for name in ["word", ".word.17"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let (word, unfinished) = (
            directory.path().join("word"),
            directory.path().join(".word.17"),
        );
        assert_eq!(written(directory.path()), std::slice::from_ref(&word));
        assert!(unfinished.exists());
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        let file = fs::File::options().write(true).open(&unfinished).unwrap();
        file.set_modified(long_ago).unwrap();
        assert_eq!(written(directory.path()), [word]);
        assert!(!unfinished.exists());
    }
}
