//! What runtimes deleted while no daemon ran: the CNI plugin has taken the interface away itself and left a file for
//! us, so that the endpoint is not made again for a container that does not want it any more.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::core::Core;
use crate::api::types::EndpointReference;
use crate::cni::daemon::DETACHED;

/// Detaches what the files beside `socket` name, and removes them. What cannot be read names nothing.
pub(super) async fn detach(core: &Arc<Core>, socket: &Path) {
    let Some(directory) = socket.parent().map(|parent| parent.join(DETACHED)) else {
        return;
    };
    let Ok(files) = fs::read_dir(&directory) else {
        return;
    };
    for file in files.flatten() {
        let path = file.path();
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
