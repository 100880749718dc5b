//! What runtimes deleted while no daemon ran: the CNI plugin or the OCI hook has left a file for us, so that the endpoint is
//! not made again for a container that does not want it any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Files with a name that begins with a dot are still being written: whoever does asks us afterwards.
fn written(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .filter(|file| !file.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|file| file.path())
        .collect()
}

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
        assert_eq!(written(directory.path()), [directory.path().join("word")]);
    }
}
