//! `tunbridge daemon --purge`: ends every container that `run` started and removes everything of ours.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::Context;

use super::process;
use super::start::{NETNS_DIR, TUN_NAME, open_store};
use crate::cli::daemon::DaemonArgs;
use crate::control::records::{Container, ContainerState, Kind};
use crate::kernel::{Netlink, netns};

/// How long containers have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Removes containers, interfaces, namespaces and the state. Failures are told, the rest is still done.
pub(super) async fn purge(args: &DaemonArgs) -> anyhow::Result<()> {
    // Opening the state proves that no daemon uses it.
    let store = open_store(&args.state_dir)?;
    let records = store.load()?;
    let netlink = Netlink::new().context("cannot open a netlink socket")?;
    let mut problems = Vec::new();

    let stops = records.containers.iter().filter_map(|container| match (&container.kind, &container.state) {
        (Kind::Run, ContainerState::Running { process: Some(process), .. }) => {
            Some(process::stop(*process, GRACE))
        }
        _ => None,
    });
    futures_util::future::join_all(stops).await;
    for container in &records.containers {
        remove_container(&netlink, container, &mut problems).await;
    }
    for network in records.networks.iter().filter(|network| network.config.managed) {
        if let Err(error) = netlink.delete_link(&network.config.name).await {
            problems.push(format!("bridge {}: {error}", network.config.name));
        }
    }
    if let Err(error) = netlink.delete_link(TUN_NAME).await {
        problems.push(format!("{TUN_NAME}: {error}"));
    }
    drop(store);
    for path in [args.state_dir.join("containers"), args.state_dir.join("state.redb"), args.socket.clone()] {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                problems.push(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }
    // Somebody else's files may be in them; then they stay.
    let _ = fs::remove_dir(&args.state_dir);
    if let Some(directory) = args.socket.parent() {
        let _ = fs::remove_dir(directory);
    }
    anyhow::ensure!(problems.is_empty(), "could not remove everything: {}", problems.join("; "));
    tracing::info!(containers = records.containers.len(), networks = records.networks.len(), "removed");
    Ok(())
}

async fn remove_container(netlink: &Netlink, container: &Container, problems: &mut Vec<String>) {
    for endpoint in container.attachments.iter().filter_map(|a| a.endpoint.as_ref()) {
        if let Err(error) = netlink.delete_link(&endpoint.host_interface).await {
            problems.push(format!("interface {}: {error}", endpoint.host_interface));
        }
    }
    let theirs = matches!(&container.kind, Kind::AttachNetns(path) if *path == container.netns);
    if !theirs
        && container.endpoint().is_some()
        && let Err(error) = netns::remove_named(&container.name)
    {
        problems.push(format!("namespace {NETNS_DIR}/{}: {error}", container.name));
    }
}
