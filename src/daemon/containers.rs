//! A container's life as the daemon arranges it.
//!
//! *Made*: decided and stored by `control`, then files, namespace, veth pair, steering, projection. If
//! any step fails, all of it is taken down again and the record is removed. *Started*: its process is
//! watched through a pidfd. *Ended*: the starter reports the exit code, or the pidfd tells that nobody
//! will; everything but the record and the log is taken down. *Removed*: those, too.
//!
//! What is taken down goes first and the record changes after, so that a daemon that is killed in between
//! leaves a record from which its successor can do it again.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::core::Core;
use super::process::{self, identify};
use super::start::NETNS_DIR;
use super::watches::{REPORT_GRACE, is_run};
use crate::api::server::{ApiError, Peer};
use crate::api::types::{CreateContainer, CreatedContainer, Exited, StartSpec};
use crate::control::records::{
    Container, ContainerState, Endpoint, Kind, Network, Process, RuntimeContainer,
};
use crate::control::{Creation, State, Timestamp, names};
use crate::kernel::netns;

/// What containerd, too, says when nobody can tell the exit code.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 255;

/// Exit code of what SIGKILL ended: 128 and the signal's number.
const KILLED_EXIT_CODE: &str = "137";

/// How long SIGKILL may take; as in Docker.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Core {
    pub(super) async fn create(
        self: &Arc<Self>,
        request: CreateContainer,
        peer: Peer,
    ) -> Result<CreatedContainer, ApiError> {
        let mut state = self.lock().await;
        if let Some(name) = &request.name {
            refuse_foreign_namespace(&state, name, request.attach_netns.as_deref())?;
        }
        let creation =
            tokio::task::block_in_place(|| state.create_container(&request, Timestamp::now()))?;
        let container = &creation.container;
        if let Err(error) = self.make(&mut state, &creation, peer).await {
            remove_files(&container.files);
            tokio::task::block_in_place(|| state.remove(&container.id, true))?;
            self.settle(&state).await?;
            return Err(match sharer(&state, container) {
                Some(other) => its_namespace(&other, &error),
                None => error,
            });
        }
        self.tell_container(container, "create", []);
        self.tell_networks(&state, container, "connect");
        Ok(created(creation))
    }

    /// Makes everything that a container needs which has exited and is to be started again.
    pub(super) async fn restart(
        self: &Arc<Self>,
        reference: &str,
        peer: Peer,
    ) -> Result<StartSpec, ApiError> {
        let mut state = self.lock().await;
        let container = state.container(reference)?;
        if let Some(known) = &container.runtime {
            return Err(belongs_elsewhere(container, known));
        }
        if container.kind != Kind::Run {
            return Err(ApiError::new(
                409,
                format!(
                    "container {0} was attached, there is no program to start: remove it with `tunbridge rm {0}` and attach again",
                    container.name
                ),
            ));
        }
        if container.has_exited() {
            refuse_foreign_namespace(&state, &container.name.clone(), None)?;
        }
        let creation = tokio::task::block_in_place(|| state.restart(reference))?;
        let container = &creation.container;
        if let Err(error) = self.make(&mut state, &creation, peer).await {
            tokio::task::block_in_place(|| state.cancel_restart(&container.id))?;
            self.settle(&state).await?;
            return Err(error);
        }
        self.tell_networks(&state, container, "connect");
        Ok(StartSpec {
            command: container.command.clone(),
            rootfs: container.rootfs.clone(),
            env: container.env.clone(),
            created: created(creation),
        })
    }

    /// Files, namespace, interfaces, names; whatever was made is taken down again if something fails.
    async fn make(
        self: &Arc<Self>,
        state: &mut State,
        creation: &Creation,
        peer: Peer,
    ) -> Result<(), ApiError> {
        let container = &creation.container;
        self.write_files(state, container).map_err(|error| {
            ApiError::internal(format!(
                "cannot write {}: {error}",
                container.files.display()
            ))
        })?;
        prepare(container)?;
        let made = self
            .arrange(state, container, &creation.networks, peer)
            .await;
        if made.is_err() {
            self.dismantle(container).await;
        }
        made?;
        tracing::info!(
            container = %container.name,
            address = %container.endpoint().map(addresses).unwrap_or_default(),
            ports = container.bindings.len(),
            "container made"
        );
        Ok(())
    }

    /// An adopted namespace runs already; for the others the starter is watched until it reports.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        container: &Container,
        peer: Peer,
    ) -> Result<(), ApiError> {
        let process = match container.kind {
            Kind::Run => {
                if let Some(starter) = peer.pid.and_then(|pid| identify(pid).ok()) {
                    self.watch_starter(container, starter);
                }
                return Ok(());
            }
            Kind::AttachPid(pid) => Some(identify(pid).map_err(|error| {
                ApiError::bad_request(format!(
                    "--pid {pid}: {error}: give the number of a running process"
                ))
            })?),
            Kind::AttachNetns(_) | Kind::Adopted | Kind::Delegated => None,
        };
        tokio::task::block_in_place(|| {
            state.set_started(&container.id, process, Timestamp::now())
        })?;
        if let Some(process) = process {
            self.watch(container.id.clone(), process);
        }
        Ok(())
    }

    pub(super) async fn started(
        self: &Arc<Self>,
        reference: &str,
        pid: i32,
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let process = identify(pid).map_err(|error| {
            ApiError::bad_request(format!(
                "pid {pid}: {error}: the container's process must be running"
            ))
        })?;
        let container = tokio::task::block_in_place(|| {
            state.set_started(reference, Some(process), Timestamp::now())
        })?;
        tracing::info!(container = %container.name, pid, "container started");
        self.tell_container(&container, "start", []);
        self.watch(container.id, process);
        Ok(())
    }

    /// Takes down a container's network and notes its end. Nothing happens if that was done.
    pub(super) async fn exited(&self, reference: &str, code: i32) -> Result<(), ApiError> {
        self.exited_if(reference, code, &|container| !container.has_exited())
            .await
    }

    /// What a starter says about the end. A slow one may speak of a run before the present one.
    pub(super) async fn reported(&self, reference: &str, exited: Exited) -> Result<(), ApiError> {
        let said_of = |container: &Container| match (exited.pid, &container.state) {
            (None, _) => !container.has_exited(),
            (Some(pid), ContainerState::Running { process, .. }) => {
                process.is_some_and(|process| process.pid == pid)
            }
            (Some(_), ContainerState::Created | ContainerState::Exited { .. }) => false,
        };
        self.exited_if(reference, exited.code, &said_of).await
    }

    /// The same for a container that meets a condition; nothing happens to another one.
    pub(super) async fn exited_if(
        &self,
        reference: &str,
        code: i32,
        condition: &(impl Fn(&Container) -> bool + Sync),
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let container = state.container(reference)?.clone();
        if !condition(&container) {
            return Ok(());
        }
        self.dismantle(&container).await;
        tokio::task::block_in_place(|| {
            if container.auto_remove {
                let removed = state.remove(&container.id, true);
                return removed.map(|_| remove_files(&container.files));
            }
            let ended = state.set_exited(&container.id, code, Timestamp::now());
            ended.map(drop)
        })?;
        self.settle(&state).await?;
        tracing::info!(container = %container.name, code, "container exited");
        self.tell_container(&container, "die", [("exitCode", code.to_string().as_str())]);
        self.tell_networks(&state, &container, "disconnect");
        Ok(())
    }

    /// Ends what runs, then removes the record.
    pub(super) async fn remove(&self, reference: &str, force: bool) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let container = state.removable(reference, force)?.clone();
        self.remove_locked(&mut state, &container).await
    }

    pub(super) async fn remove_locked(
        &self,
        state: &mut State,
        container: &Container,
    ) -> Result<(), ApiError> {
        if let (
            Kind::Run,
            ContainerState::Running {
                process: Some(process),
                ..
            },
        ) = (&container.kind, &container.state)
        {
            process::signal(*process, Signal::SIGKILL);
            self.tell_signal(container, Signal::SIGKILL);
        }
        // What has exited has nothing any more: its name may be somebody else's by now.
        if !matches!(container.state, ContainerState::Exited { .. }) {
            self.dismantle(container).await;
        }
        tokio::task::block_in_place(|| {
            let removed = state.remove(&container.id, true);
            removed.map(|_| remove_files(&container.files))
        })?;
        self.settle(state).await?;
        tracing::info!(container = %container.name, "container removed");
        if container.is_running() {
            self.tell_container(container, "die", [("exitCode", KILLED_EXIT_CODE)]);
        }
        self.tell_networks(state, container, "disconnect");
        self.tell_container(container, "destroy", []);
        Ok(())
    }

    /// SIGTERM, and SIGKILL after `grace`. False if it was not running.
    pub(super) async fn stop(&self, reference: &str, grace: Duration) -> Result<bool, ApiError> {
        let container = self.lock().await.container(reference)?.clone();
        let ContainerState::Running { process, .. } = container.state else {
            return Ok(false);
        };
        if let Some(known) = &container.runtime {
            return Err(belongs_elsewhere(&container, known));
        }
        match (&container.kind, process) {
            (Kind::Run, Some(process)) => {
                self.tell_signal(&container, Signal::SIGTERM);
                process::stop(process, grace).await;
                self.ended(&container.id, process).await?;
            }
            // Somebody else's process: only let go of its network.
            _ => self.exited(&container.id, 0).await?,
        }
        self.tell_container(&container, "stop", []);
        Ok(true)
    }

    /// Returns when the end of a container is noted whose process has ended. Its starter knows the exit code and tells it,
    /// if it still lives.
    async fn ended(&self, id: &str, process: Process) -> Result<(), ApiError> {
        let run = |container: &Container| is_run(container, process);
        for _ in 0..REPORT_GRACE.as_millis() / 20 {
            match self.lock().await.container(id) {
                Ok(container) if run(container) => {}
                Ok(_) | Err(_) => return Ok(()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.exited_if(id, UNKNOWN_EXIT_CODE, &run).await
    }

    /// Sends a signal to a container's process. After SIGKILL it is gone when this returns, as a rule.
    pub(super) async fn kill(&self, reference: &str, signal: i32) -> Result<(), ApiError> {
        let container = self.lock().await.container(reference)?.clone();
        let signal = Signal::try_from(signal).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid signal: {signal}: give a number from 1 to 31"
            ))
        })?;
        let refuse = |problem: String| {
            Err(ApiError::new(
                409,
                format!("Cannot kill container: {reference}: {problem}"),
            ))
        };
        match (&container.kind, &container.state) {
            (
                Kind::Run,
                ContainerState::Running {
                    process: Some(process),
                    ..
                },
            ) => {
                process::signal(*process, signal);
                self.tell_signal(&container, signal);
                if signal == Signal::SIGKILL {
                    // One that is stuck in the kernel ends when it can.
                    let ended = process::ended(*process);
                    if tokio::time::timeout(KILL_PATIENCE, ended).await.is_ok() {
                        self.ended(&container.id, *process).await?;
                    }
                }
                Ok(())
            }
            (_, ContainerState::Running { .. }) => refuse(
                "its processes are not tunbridge's: end them with the program that started them"
                    .to_owned(),
            ),
            (_, ContainerState::Created | ContainerState::Exited { .. }) => {
                refuse(format!("Container {} is not running", container.id))
            }
        }
    }

    pub(super) async fn publish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let (container, added) = tokio::task::block_in_place(|| state.publish(reference, spec))?;
        if let Err(error) = self.settle(&state).await {
            tokio::task::block_in_place(|| state.unpublish(reference, spec))?;
            return Err(error);
        }
        tracing::info!(container = %container.name, spec, bindings = added.len(), "published");
        Ok(())
    }

    pub(super) async fn unpublish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let (container, gone) = tokio::task::block_in_place(|| state.unpublish(reference, spec))?;
        self.settle(&state).await?;
        tracing::info!(container = %container.name, spec, bindings = gone.len(), "unpublished");
        Ok(())
    }

    /// Interfaces, default route, names, watch.
    async fn arrange(
        self: &Arc<Self>,
        state: &mut State,
        container: &Container,
        networks: &[Network],
        peer: Peer,
    ) -> Result<(), ApiError> {
        let adopted = match container.kind {
            Kind::Run | Kind::Delegated => None,
            Kind::AttachPid(_) | Kind::AttachNetns(_) | Kind::Adopted => {
                let new: Vec<u32> = container.endpoints().map(|(_, e)| e.number).collect();
                Some(self.fit_into_namespace(state, container, &new).await?)
            }
        };
        let container = adopted.as_ref().unwrap_or(container);
        if container.kind == Kind::Run && container.endpoint().is_none() {
            self.loopback(container).await?;
        }
        for network in networks {
            let attachment = container.attachment(&network.id);
            if let Some(endpoint) = attachment.and_then(|a| a.endpoint.as_ref()) {
                self.replace_missing_bridge(state, &network.id).await?;
                self.plug(container, network, endpoint).await?;
            }
        }
        self.route(state, container, None).await?;
        self.settle(state).await?;
        self.require_names(&container.id)?;
        self.begin(state, container, peer)
    }

    /// Takes down what a container has in the kernel; failures are logged, the rest is still done.
    pub(super) async fn dismantle(&self, container: &Container) {
        self.watches.lock().remove(&container.id);
        self.silence(&container.id).await;
        for (_, endpoint) in container.endpoints() {
            self.unplug(endpoint).await;
        }
        remove_name(container);
    }
}

/// The namespace under its name. A name that cannot be had is not taken away from whom it belongs to.
fn prepare(container: &Container) -> Result<(), ApiError> {
    let (flag, opened) = match &container.kind {
        Kind::Run => {
            return netns::create_named(&container.name)
                .map(drop)
                .map_err(|error| ApiError::internal(error.to_string()));
        }
        Kind::AttachPid(pid) => {
            let opened = netns::open_pid(pid.unsigned_abs());
            (format!("--pid {pid}"), opened)
        }
        Kind::AttachNetns(path) => (
            format!("--netns {}", path.display()),
            netns::open_path(path),
        ),
        // The caller has it.
        Kind::Adopted | Kind::Delegated => return Ok(()),
    };
    let refuse = |error: netns::NetnsError| ApiError::bad_request(format!("{flag}: {error}"));
    let namespace = opened.map_err(refuse)?;
    let own = netns::open_current().and_then(netns::id);
    if own.is_ok_and(|own| netns::id(&namespace).is_ok_and(|id| id == own)) {
        return Err(ApiError::bad_request(format!(
            "{flag}: that is the host's own network namespace: give a container's"
        )));
    }
    if owns_name(container) {
        netns::bind_named(&container.name, namespace.as_fd()).map_err(refuse)?;
    }
    Ok(())
}

/// The name of another container that has the namespace that one was to be attached to.
fn sharer(state: &State, container: &Container) -> Option<String> {
    let opened = match &container.kind {
        Kind::AttachPid(pid) => netns::open_pid(pid.unsigned_abs()),
        Kind::AttachNetns(path) => netns::open_path(path),
        Kind::Run | Kind::Adopted | Kind::Delegated => return None,
    };
    let wanted = opened.and_then(netns::id).ok()?;
    let has_it = |other: &&Container| {
        let known = other.is_running() && !other.netns.as_os_str().is_empty();
        let opened = known.then(|| netns::open_path(&other.netns).and_then(netns::id));
        opened.is_some_and(|id| id.is_ok_and(|id| id == wanted))
    };
    let mut others = state.containers().filter(|other| other.id != container.id);
    others.find(has_it).map(|other| other.name.clone())
}

fn its_namespace(name: &str, error: &ApiError) -> ApiError {
    ApiError::new(
        error.status,
        format!(
            "{}; that network namespace is container {name}'s, too: `tunbridge network connect` and `publish` give {name} more, `tunbridge rm -f {name}` lets go of it",
            error.message
        ),
    )
}

/// A namespace that somebody else has given the wanted name must stay what it is. This comes before
/// anything is stored: what is stored may be removed after a crash.
fn refuse_foreign_namespace(
    state: &State,
    name: &str,
    adopted: Option<&Path>,
) -> Result<(), ApiError> {
    if names::validate_name(name).is_err() {
        return Ok(());
    }
    let path = Path::new(NETNS_DIR).join(name);
    let mut containers = state.containers();
    let known = containers.any(|container| container.name == name && !container.has_exited())
        || adopted == Some(&path);
    if known || fs::symlink_metadata(&path).is_err() {
        return Ok(());
    }
    Err(ApiError::new(
        409,
        format!(
            "--name {name}: {} exists already and is not ours: choose another name, or remove it with `ip netns delete {name}`",
            path.display()
        ),
    ))
}

fn created(creation: Creation) -> CreatedContainer {
    let container = creation.container;
    CreatedContainer {
        id: container.id,
        name: container.name,
        hostname: container.hostname,
        netns: container.netns,
        files: container.files,
        env: creation.env,
        warnings: creation.warnings,
    }
}

/// Takes `/run/netns/NAME` away if it was made for the container. A name that stays there hinders nobody but the next of that
/// name, whereas an error here would keep the container, or at a start the daemon, for ever.
pub(super) fn remove_name(container: &Container) {
    if owns_name(container)
        && let Err(error) = netns::remove_named(&container.name)
    {
        tracing::warn!(container = %container.name, %error, "cannot remove the name of a namespace");
    }
}

/// `/run/netns/NAME` was made for it, and is not what its owner gave us.
fn owns_name(container: &Container) -> bool {
    match &container.kind {
        Kind::Run | Kind::AttachPid(_) | Kind::Adopted => true,
        Kind::AttachNetns(path) => *path != container.netns,
        Kind::Delegated => false,
    }
}

/// Only the runtime can do something to its processes.
fn belongs_elsewhere(container: &Container, known: &RuntimeContainer) -> ApiError {
    let name = &container.name;
    ApiError::new(
        409,
        format!(
            "container {name} is another runtime's ({known}): stop or restart it with the program that started it, or take only its network away with `tunbridge rm -f {name}`"
        ),
    )
}

fn addresses(endpoint: &Endpoint) -> String {
    endpoint
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn remove_files(directory: &Path) {
    if directory.as_os_str().is_empty() {
        return;
    }
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "cannot remove");
    }
}
