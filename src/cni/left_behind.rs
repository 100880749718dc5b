//! Containers of which a runtime was killed before it took them back.
//!
//! The namespace is there because the daemon keeps it. A runtime that speaks of the same container again has made it another
//! one; the former container is dead if nobody is in the old one.

use serde_json::Value;

use crate::api::client::Client;
use crate::api::types::{EndpointReference, Runtime};
use crate::control::inspect::{RUNTIME_ID_LABEL, RUNTIME_LABEL};
use crate::kernel::netns::{self, NamespaceId};

/// Whether the daemon knows a container of this id in another namespace, in which no process is any more. What has become of
/// its interfaces is no matter.
pub(crate) fn is_left_behind(
    client: &Client,
    runtime: Runtime,
    id: &str,
    new: NamespaceId,
) -> bool {
    let Ok(known) = client.get::<Vec<Value>>("/containers/json?all=1") else {
        return false;
    };
    let is_it = |container: &&Value| {
        let labels = &container["Labels"];
        labels[RUNTIME_LABEL] == serde_json::json!(runtime) && labels[RUNTIME_ID_LABEL] == id
    };
    let name = known
        .iter()
        .find(is_it)
        .and_then(|container| container["Names"][0].as_str());
    let path = name.map(|name| netns::named_path(name.trim_start_matches('/')));
    let Some(Ok(path)) = path else { return false };
    let Ok(old) = netns::open_path(&path).and_then(netns::id) else {
        return false;
    };
    old != new && !netns::have_processes(&[old])
}

/// All of such a container, whoever asked for it.
pub(crate) fn all_of(runtime: Runtime, id: &str) -> EndpointReference {
    EndpointReference {
        runtime,
        container: id.to_owned(),
        owner: None,
        network: None,
        interface: None,
    }
}
