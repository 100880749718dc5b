//! `--purge`: a clean stop after which nothing of ours is left.

use std::fs;
use std::io;
use std::time::Duration;

use super::core::Core;
use crate::cli::daemon::DaemonArgs;

/// How long containers have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

impl Core {
    /// Ends and removes all containers, lets go of adopted namespaces, and removes bridge, files and
    /// state. What fails is told, the rest is still done.
    pub(super) async fn purge(&self, args: &DaemonArgs) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        let containers: Vec<(String, String)> = {
            let state = self.lock().await;
            state
                .containers()
                .map(|container| (container.id.clone(), container.name.clone()))
                .collect()
        };
        let stops = containers.iter().map(|(id, _)| self.stop(id, GRACE));
        futures_util::future::join_all(stops).await;
        for (id, name) in &containers {
            match self.remove(id, true).await {
                Err(error) if error.status != 404 => {
                    problems.push(format!("container {name}: {}", error.message))
                }
                _ => {}
            }
        }
        let state = self.lock().await;
        for network in state.networks().filter(|network| network.config.managed) {
            if let Err(error) = self.netlink.delete_bridge(&network.config.bridge).await {
                problems.push(format!("bridge {}: {error}", network.config.bridge));
            }
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
