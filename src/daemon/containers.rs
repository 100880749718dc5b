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
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::signal::Signal;

use super::core::Core;
use super::process::{self, identify};
use super::start::NETNS_DIR;
use super::watch::ipv4;
use crate::api::server::{ApiError, Peer};
use crate::api::types::{CreateContainer, CreatedContainer};
use crate::control::records::{Container, ContainerState, Endpoint, Kind, Network, Process};
use crate::control::{FileFacts, State, Timestamp, files, names};
use crate::kernel::{VethSpec, netns};
use crate::steering::ContainerPort;

/// What containerd, too, says when nobody can tell the exit code.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 255;

/// How long an exit code may be on its way after the process has ended.
const REPORT_GRACE: Duration = Duration::from_millis(1500);

/// How long to wait before what could not be stored is stored again.
const STORE_RETRY: Duration = Duration::from_secs(5);

impl Core {
    pub(super) async fn create(
        self: &Arc<Self>,
        request: CreateContainer,
        peer: Peer,
    ) -> Result<CreatedContainer, ApiError> {
        let mut state = self.lock().await;
        refuse_foreign_namespace(&state, &request)?;
        let creation =
            tokio::task::block_in_place(|| state.create_container(&request, Timestamp::now()))?;
        let container = creation.container;
        let begun = match prepare(&state, &container) {
            Ok(()) => {
                let begun = self
                    .arrange(&mut state, &container, &creation.networks, peer)
                    .await;
                if begun.is_err() {
                    self.dismantle(&container).await;
                }
                begun
            }
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            remove_files(&container.files);
            tokio::task::block_in_place(|| state.remove(&container.id, true))?;
            self.project(&state)?;
            return Err(error);
        }
        tracing::info!(
            container = %container.name,
            address = %container.endpoint().map(addresses).unwrap_or_default(),
            ports = container.bindings.len(),
            "container made"
        );
        Ok(CreatedContainer {
            id: container.id,
            name: container.name,
            hostname: container.hostname,
            netns: container.netns,
            files: container.files,
            env: Vec::new(),
            warnings: creation.warnings,
        })
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
                    self.watch_starter(container.id.clone(), starter);
                }
                return Ok(());
            }
            Kind::AttachPid(pid) => Some(identify(pid).map_err(|error| {
                ApiError::bad_request(format!(
                    "--pid {pid}: {error}: give the number of a running process"
                ))
            })?),
            Kind::AttachNetns(_) => None,
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
        self.watch(container.id, process);
        Ok(())
    }

    /// Takes down a container's network and notes its end. Nothing happens if that was done.
    pub(super) async fn exited(&self, reference: &str, code: i32) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let container = state.container(reference)?.clone();
        if matches!(container.state, ContainerState::Exited { .. }) {
            return Ok(());
        }
        self.dismantle(&container).await;
        tokio::task::block_in_place(|| {
            if container.auto_remove {
                remove_files(&container.files);
                return state.remove(&container.id, true).map(drop);
            }
            let ended = state.set_exited(&container.id, code, Timestamp::now());
            ended.map(drop)
        })?;
        self.project(&state)?;
        tracing::info!(container = %container.name, code, "container exited");
        Ok(())
    }

    /// Ends what runs, then removes the record.
    pub(super) async fn remove(&self, reference: &str, force: bool) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let container = state.removable(reference, force)?.clone();
        if let (
            Kind::Run,
            ContainerState::Running {
                process: Some(process),
                ..
            },
        ) = (&container.kind, &container.state)
        {
            process::signal(*process, Signal::SIGKILL);
        }
        // What has exited has nothing any more: its name may be somebody else's by now.
        if !matches!(container.state, ContainerState::Exited { .. }) {
            self.dismantle(&container).await;
        }
        tokio::task::block_in_place(|| {
            remove_files(&container.files);
            state.remove(&container.id, true)
        })?;
        self.project(&state)?;
        tracing::info!(container = %container.name, "container removed");
        Ok(())
    }

    /// SIGTERM, and SIGKILL after `grace`. False if it was not running.
    pub(super) async fn stop(&self, reference: &str, grace: Duration) -> Result<bool, ApiError> {
        let (id, kind, state) = {
            let state = self.lock().await;
            let container = state.container(reference)?;
            (
                container.id.clone(),
                container.kind.clone(),
                container.state.clone(),
            )
        };
        let ContainerState::Running { process, .. } = state else {
            return Ok(false);
        };
        match (kind, process) {
            (Kind::Run, Some(process)) => {
                process::stop(process, grace).await;
                // Its starter knows the exit code.
                for _ in 0..REPORT_GRACE.as_millis() / 20 {
                    match self.lock().await.container(&id) {
                        Ok(container) if container.is_running() => {}
                        Ok(_) | Err(_) => return Ok(true),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                self.exited(&id, UNKNOWN_EXIT_CODE).await?;
            }
            // Somebody else's process: only let go of its network.
            _ => self.exited(&id, 0).await?,
        }
        Ok(true)
    }

    pub(super) async fn publish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let (container, added) = tokio::task::block_in_place(|| state.publish(reference, spec))?;
        if let Err(error) = self.project(&state) {
            tokio::task::block_in_place(|| state.unpublish(reference, spec))?;
            return Err(error.into());
        }
        tracing::info!(container = %container.name, spec, bindings = added.len(), "published");
        Ok(())
    }

    pub(super) async fn unpublish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let (container, gone) = tokio::task::block_in_place(|| state.unpublish(reference, spec))?;
        self.project(&state)?;
        tracing::info!(container = %container.name, spec, bindings = gone.len(), "unpublished");
        Ok(())
    }

    /// Interface, steering, projection, watch.
    async fn arrange(
        self: &Arc<Self>,
        state: &mut State,
        container: &Container,
        networks: &[Network],
        peer: Peer,
    ) -> Result<(), ApiError> {
        for network in networks {
            self.connect(container, network).await?;
        }
        self.project(state)?;
        self.begin(state, container, peer)
    }

    /// Veth pair and steering.
    pub(super) async fn connect(
        &self,
        container: &Container,
        network: &Network,
    ) -> Result<(), ApiError> {
        let endpoint = container.endpoint().ok_or_else(|| {
            ApiError::internal(format!("container {} has no endpoint", container.name))
        })?;
        let bridge = self.facts.lock().bridge.ok_or_else(|| {
            ApiError::internal(format!("bridge {} is missing", network.config.bridge))
        })?;
        let namespace = netns::open_path(&container.netns)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let address = endpoint.address(true).ok_or_else(|| {
            ApiError::internal(format!("container {} has no address", container.name))
        })?;
        let veth = VethSpec {
            host_name: &endpoint.host_interface,
            container_name: &endpoint.interface,
            netns: namespace.as_fd(),
            mac: endpoint.mac.octets(),
            address: ipv4(address).map_err(|error| ApiError::internal(error.to_string()))?,
            gateway: endpoint.gateways.iter().find_map(|gateway| match gateway {
                IpAddr::V4(gateway) => Some(*gateway),
                IpAddr::V6(_) => None,
            }),
            mtu: network.config.mtu,
            bridge_if_index: bridge.if_index,
            bridge_mac: bridge.mac,
        };
        let if_index = self.netlink.create_veth(&veth).await.map_err(|error| {
            ApiError::internal(format!("failed to set up container networking: {error}"))
        })?;
        self.steer(container, network, if_index)
    }

    /// Attaches steering to the host's end of a container's veth pair.
    pub(super) fn steer(
        &self,
        container: &Container,
        network: &Network,
        if_index: u32,
    ) -> Result<(), ApiError> {
        let (Some(endpoint), Some(bridge)) = (container.endpoint(), self.facts.lock().bridge)
        else {
            return Ok(());
        };
        let Some(address) = endpoint.addresses.first().map(IpNet::addr) else {
            return Ok(());
        };
        self.steering.lock().attach_container(&ContainerPort {
            if_index,
            address,
            mac: endpoint.mac.octets(),
            bridge_if_index: bridge.if_index,
            bridge_mac: bridge.mac,
            icc: network.config.icc,
            linked: false,
            internal: false,
            container: endpoint.number,
        })?;
        Ok(())
    }

    /// Takes down what a container has in the kernel; failures are logged, the rest is still done.
    pub(super) async fn dismantle(&self, container: &Container) {
        for endpoint in container
            .attachments
            .iter()
            .filter_map(|a| a.endpoint.as_ref())
        {
            // The programs go with the interface: not for a moment does it carry frames without them.
            let link = self.netlink.link(&endpoint.host_interface).await;
            if let Err(error) = self.netlink.delete_link(&endpoint.host_interface).await {
                tracing::warn!(interface = %endpoint.host_interface, %error, "cannot remove interface");
            }
            if let Ok(Some(link)) = link {
                self.steering.lock().detach_container(link.index);
            }
        }
        if owns_name(container)
            && let Err(error) = netns::remove_named(&container.name)
        {
            tracing::warn!(container = %container.name, %error, "cannot remove namespace");
        }
    }

    /// If the starter dies before it reports a process, nobody will: the container was never begun.
    fn watch_starter(self: &Arc<Self>, id: String, starter: Process) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            process::ended(starter).await;
            tokio::time::sleep(REPORT_GRACE).await;
            let abandoned = core
                .lock()
                .await
                .container(&id)
                .is_ok_and(|container| container.state == ContainerState::Created);
            if !abandoned {
                return;
            }
            tracing::warn!(container = %id, "its starter died before it started anything: removed");
            while let Err(error) = core.remove(&id, true).await {
                if error.status == 404 {
                    return;
                }
                tracing::warn!(container = %id, error = %error.message, "cannot remove, trying again");
                tokio::time::sleep(STORE_RETRY).await;
            }
        });
    }

    /// Waits for the end of a container's process.
    pub(super) fn watch(self: &Arc<Self>, id: String, process: Process) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            process::ended(process).await;
            tokio::time::sleep(REPORT_GRACE).await;
            while let Err(error) = core.exited(&id, UNKNOWN_EXIT_CODE).await {
                if error.status == 404 {
                    return;
                }
                // The disk is full, say. Until it is noted, its ports and address stay taken.
                tracing::warn!(container = %id, error = %error.message, "cannot note its exit, trying again");
                tokio::time::sleep(STORE_RETRY).await;
            }
        });
    }
}

/// Files, and the namespace under its name. A name that cannot be had is not taken away from whom it
/// belongs to.
fn prepare(state: &State, container: &Container) -> Result<(), ApiError> {
    write_files(state, container).map_err(|error| {
        ApiError::internal(format!(
            "cannot write {}: {error}",
            container.files.display()
        ))
    })?;
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

/// A namespace that somebody else has given the wanted name must stay what it is. This comes before
/// anything is stored: what is stored may be removed after a crash.
fn refuse_foreign_namespace(state: &State, request: &CreateContainer) -> Result<(), ApiError> {
    let Some(name) = request
        .name
        .as_deref()
        .filter(|name| names::validate_name(name).is_ok())
    else {
        return Ok(());
    };
    let path = Path::new(NETNS_DIR).join(name);
    let mut containers = state.containers();
    let known = containers.any(|container| container.name == name)
        || request.attach_netns.as_ref() == Some(&path);
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

/// `/run/netns/NAME` was made for it, and is not what its owner gave us.
pub(super) fn owns_name(container: &Container) -> bool {
    !matches!(&container.kind, Kind::AttachNetns(path) if *path == container.netns)
}

fn addresses(endpoint: &Endpoint) -> String {
    endpoint
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn write_files(state: &State, container: &Container) -> io::Result<()> {
    fs::create_dir_all(&container.files)?;
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let texts = state.files(
        container,
        &FileFacts {
            resolv_conf: &read(files::RESOLV_CONF),
            systemd_resolv_conf: &read(files::SYSTEMD_RESOLV_CONF),
            // Every new namespace's lo has ::1, if the kernel has IPv6.
            ipv6_loopback: Path::new("/proc/net/if_inet6").exists(),
        },
    );
    fs::write(container.files.join("hosts"), texts.hosts)?;
    fs::write(container.files.join("hostname"), texts.hostname)?;
    fs::write(container.files.join("resolv.conf"), texts.resolv_conf)
}

pub(super) fn remove_files(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "cannot remove");
    }
}
