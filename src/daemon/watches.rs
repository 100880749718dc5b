//! Who waits for the end of whom: the starters of containers, and their processes.
//!
//! A watch is about one run of a container: what it finds when its process has ended may be another run, or another container
//! of the name, and is left alone then.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::containers::UNKNOWN_EXIT_CODE;
use super::core::Core;
use super::process;
use crate::api::server::ApiError;
use crate::control::records::{Container, ContainerState, Process};

/// How long an exit code may be on its way after the process has ended.
pub(super) const REPORT_GRACE: Duration = Duration::from_millis(1500);

/// How long to wait before what could not be stored is stored again.
const STORE_RETRY: Duration = Duration::from_secs(5);

impl Core {
    /// A container that was never begun goes, one that was to be started again is *exited* as before.
    async fn abandon(
        &self,
        id: &str,
        condition: &(impl Fn(&Container) -> bool + Sync),
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let Some(container) = state.container_by_id(id).filter(|c| condition(c)).cloned() else {
            return Ok(());
        };
        if container.former_exit.is_none() {
            return self.remove_locked(&mut state, &container).await;
        }
        self.dismantle(&container).await;
        tokio::task::block_in_place(|| state.cancel_restart(id))?;
        self.settle(&state).await
    }

    /// If the starter dies before it reports a process, nobody will: the container was never begun.
    pub(super) fn watch_starter(self: &Arc<Self>, container: &Container, starter: Process) {
        let (id, sandbox) = (container.id.clone(), container.sandbox_id.clone());
        let waited_for = move |container: &Container| {
            container.state == ContainerState::Created && container.sandbox_id == sandbox
        };
        let core = Arc::clone(self);
        self.spawn_watch(id.clone(), starter, async move {
            while core.still(&id, &waited_for).await {
                tracing::warn!(container = %id, "its starter died before it started anything: taken down");
                match core.abandon(&id, &waited_for).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(
                        container = %id, error = %error.message, "cannot take it down, trying again"
                    ),
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
        });
    }

    /// Waits for the end of a container's process.
    pub(super) fn watch(self: &Arc<Self>, id: String, process: Process) {
        let run = move |container: &Container| is_run(container, process);
        let core = Arc::clone(self);
        self.spawn_watch(id.clone(), process, async move {
            while core.still(&id, &run).await {
                match core.exited_if(&id, UNKNOWN_EXIT_CODE, &run).await {
                    Ok(()) => return,
                    // The disk is full, say. Until it is noted, its ports and address stay taken.
                    Err(error) => tracing::warn!(
                        container = %id, error = %error.message, "cannot note its exit, trying again"
                    ),
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
        });
    }

    /// Does `then` some time after the end of `process`, unless the container is watched anew or forgotten before:
    /// a process may live much longer than what it was watched for.
    fn spawn_watch(
        &self,
        id: String,
        process: Process,
        then: impl Future<Output = ()> + Send + 'static,
    ) {
        let (needed, forgotten) = tokio::sync::oneshot::channel::<()>();
        self.watches.lock().insert(id, needed);
        tokio::spawn(async move {
            tokio::select! {
                () = process::ended(process) => {}
                _ = forgotten => return,
            }
            tokio::time::sleep(REPORT_GRACE).await;
            then.await;
        });
    }

    /// The container is there, and as it was when it began to be watched. In the meantime it may have ended and been
    /// started again.
    async fn still(&self, id: &str, condition: &(impl Fn(&Container) -> bool + Sync)) -> bool {
        self.lock().await.container_by_id(id).is_some_and(condition)
    }
}

/// The container runs, as this process.
pub(super) fn is_run(container: &Container, process: Process) -> bool {
    matches!(&container.state, ContainerState::Running { process: Some(now), .. } if *now == process)
}
