//! `--purge`: a clean stop after which nothing of ours is left.

use std::fs;
use std::io;
use std::time::Duration;

use super::core::Core;
use super::process;
use crate::cli::daemon::DaemonArgs;
use crate::control::records::{Container, ContainerState, Kind, Process};

/// How long containers have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

impl Core {
    /// Ends and removes all containers, lets go of adopted namespaces, and removes bridge, files and
    /// state. What fails is told, the rest is still done.
    pub(super) async fn purge(&self, args: &DaemonArgs) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        let containers: Vec<Container> = self.lock().await.containers().cloned().collect();
        // The API is closed already: nobody can tell how they ended, so nobody is waited for.
        let stops = containers
            .iter()
            .filter_map(own_process)
            .map(|process| process::stop(process, GRACE));
        futures_util::future::join_all(stops).await;
        for Container { id, name, .. } in &containers {
            match self.remove(id, true).await {
                Err(error) if error.status != 404 => {
                    problems.push(format!("container {name}: {}", error.message))
                }
                _ => {}
            }
        }
        let state = self.lock().await;
        match self.netlink.links().await {
            Ok(links) => {
                for network in state.networks() {
                    if let Err(error) = self.delete_bridge(&state, network, &links).await {
                        problems.push(format!("bridge {}: {error}", network.config.bridge));
                    }
                }
            }
            Err(error) => problems.push(format!("bridges: {error}")),
        }
        for path in [
            args.state_dir.join("containers"),
            args.state_dir.join("state.redb"),
        ] {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    problems.push(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
        // Only if nobody else has put something there.
        let _ = fs::remove_dir(&args.state_dir);
        anyhow::ensure!(
            problems.is_empty(),
            "could not remove everything: {}",
            problems.join("; ")
        );
        tracing::info!(
            containers = containers.len(),
            "everything removed (--purge)"
        );
        Ok(())
    }
}

/// The process of a container that runs, if it is ours to end.
fn own_process(container: &Container) -> Option<Process> {
    match (&container.kind, &container.state) {
        (Kind::Run, ContainerState::Running { process, .. }) => *process,
        _ => None,
    }
}
