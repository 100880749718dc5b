//! The driver that dockerd loads for networks made with `docker network create -d tunbridge`: libnetwork's remote
//! protocol for network drivers and for IPAM drivers.
//!
//! # Theory of operation
//!
//! ```text
//!  dockerd ── POST /NetworkDriver.…, /IpamDriver.… ──► plugin socket ─► server ─► network_driver ─┐
//!     ▲                                                                      └──► ipam_driver ────┼─► daemon's API
//!     └── GET /networks, /containers, /events ── dockerd ◄── companion (names, what is left over) ┘
//! ```
//!
//! A process of its own, without state: a docker network is a network of the daemon that bears the label
//! [`label_of`] its docker id, a docker endpoint is a container of [`Runtime::Docker`](crate::api::types::Runtime)
//! whose runtime's id is the endpoint's, a lease is the daemon's. dockerd never repeats `CreateNetwork`, and may
//! repeat any other call; so every call finds what it needs in the daemon, and may come twice.
//!
//! | call | what happens |
//! |---|---|
//! | CreateNetwork | a network of that subnet is made; or, with `com.tunbridge.network` or a pool of an existing network, that one is used |
//! | CreateEndpoint | interface in dockerd's namespace, addresses and MAC as given |
//! | Join | name of the interface, gateways; dockerd moves it into the container |
//! | ProgramExternalConnectivity | ports are published, all or none |
//! | Revoke…, Leave, DeleteEndpoint | the same backwards |
//!
//! Failures are `{"Err": sentence}` (`{"Error": sentence}` from the IPAM driver) with status 200, as Go's plugins
//! answer: dockerd prints the sentence behind its own. Limits are those of the daemon's API: connections, time for
//! heads and bodies, octets of a body.
//!
//! What dockerd tells no driver, names of containers and of their aliases, the companion asks its API for, if its socket
//! answers; without it everything else works.

mod companion;
mod daemon;
mod dockerd;
mod hosts;
mod ipam_driver;
mod network_driver;
mod port_map;
mod protocol;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::api::client::Client;
use crate::api::server::serve_router;
use crate::api::types::DOCKER_NETWORK;
use daemon::Daemon;
use dockerd::Dockerd;

pub use companion::accompany;
pub use server::router;

/// Where dockerd looks for the driver `tunbridge`.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/tunbridge.sock";

/// Where dockerd listens.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// `-o com.tunbridge.network=NAME`, `--ipam-opt com.tunbridge.network=NAME`: a network that there is already.
pub const NETWORK_OPTION: &str = "com.tunbridge.network";

/// The label of a network that is the docker network `id`: [`OWN`] or [`SHARED`], a space, and whose it is
/// ([`Plugin::owner`]).
pub fn label_of(id: &str) -> String {
    format!("{DOCKER_NETWORK}{id}")
}

/// Made for a docker network, and removed with it.
pub const OWN: &str = "own";

/// Was there before, and stays.
pub const SHARED: &str = "shared";

/// Driver option of an endpoint: id of the docker network that it is on. Several may be one network of ours.
const DOCKER_NETWORK_OPTION: &str = "com.tunbridge.docker-network";

/// What `tunbridge docker-plugin` is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The daemon's socket.
    pub daemon: PathBuf,
    /// Where to listen for dockerd.
    pub plugin_socket: PathBuf,
    /// Where dockerd listens.
    pub docker_socket: PathBuf,
}

/// What answers dockerd.
#[derive(Debug)]
pub struct Plugin {
    /// Where it listens, by which it knows its own: another dockerd may have another plugin, and the same daemon.
    owner: String,
    daemon: Daemon,
    dockerd: Dockerd,
    /// Something has changed about which the companion wants to know.
    changed: Arc<Notify>,
    /// What has just been made, of which dockerd's lists do not know yet: ids of endpoints, addresses.
    recent: Mutex<BTreeMap<String, Instant>>,
    /// What was made for a dockerd that has started, until its API has answered. Only so long, what else there is may be a
    /// former one's.
    starting: Mutex<Option<BTreeSet<String>>>,
}

impl Plugin {
    /// One that asks these two.
    pub fn new(settings: &Settings) -> Self {
        // dockerd calls a driver as its socket is called.
        let stem = settings.plugin_socket.file_stem();
        let driver = stem.map_or_else(
            || "tunbridge".to_owned(),
            |stem| stem.to_string_lossy().into_owned(),
        );
        let socket = std::path::absolute(&settings.plugin_socket);
        let socket = socket.unwrap_or_else(|_| settings.plugin_socket.clone());
        Self {
            owner: socket.display().to_string(),
            daemon: Daemon::new(Client::new(&settings.daemon)),
            dockerd: Dockerd::new(Client::new(&settings.docker_socket), driver),
            changed: Arc::default(),
            recent: Mutex::default(),
            starting: Mutex::default(),
        }
    }

    /// The value of [`label_of`] a docker network of this plugin's.
    fn label(&self, how: &str) -> String {
        format!("{how} {}", self.owner)
    }

    /// dockerd has started: it says so once. What was made just now was a former one's.
    fn activated(&self) {
        *self.starting.lock() = Some(BTreeSet::new());
        self.recent.lock().clear();
        self.changed.notify_one();
    }

    /// Its API has answered: from now on it says itself what it has.
    fn answered(&self) {
        *self.starting.lock() = None;
    }

    fn is_starting(&self) -> bool {
        self.starting.lock().is_some()
    }

    /// An endpoint or an address is about to be dockerd's.
    fn note(&self, what: impl ToString) {
        let now = Instant::now();
        let what = what.to_string();
        if let Some(made) = self.starting.lock().as_mut() {
            made.insert(what.clone());
        }
        let mut recent = self.recent.lock();
        recent.retain(|_, since| now.duration_since(*since) < GRACE);
        recent.insert(what, now);
    }

    /// An endpoint or an address is dockerd's no more.
    fn forget(&self, what: &str) {
        if let Some(made) = self.starting.lock().as_mut() {
            made.remove(what);
        }
    }

    /// A former dockerd made it. Unknown, and said not to be, once dockerd has started.
    fn is_former(&self, what: &str) -> bool {
        let made = self.starting.lock();
        made.as_ref().is_some_and(|made| !made.contains(what))
    }

    /// It may be dockerd's without being in its lists.
    fn is_recent(&self, what: &str) -> bool {
        let recent = self.recent.lock();
        recent
            .get(what)
            .is_some_and(|since| since.elapsed() < GRACE)
    }
}

/// For what is just being made to be listed by dockerd.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The socket cannot be made, or somebody listens there already.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    // Whoever started us: the socket is there before it is protected.
    umask(Mode::from_bits_truncate(0o022));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let served = runtime.block_on(serve(settings));
    // A reader of events may wait for ever.
    runtime.shutdown_background();
    served
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let path = &settings.plugin_socket;
    let listener = listen(path)?;
    let inode = socket_inode(path);
    let plugin = Arc::new(Plugin::new(settings));
    let companion = tokio::spawn(accompany(Arc::clone(&plugin), settings.clone()));
    tracing::info!(socket = %path.display(), "ready for dockerd");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let outcome = serve_router(listener, router(plugin), ended()?).await;
    companion.abort();
    // Not that of a successor.
    if inode.is_some() && socket_inode(path) == inode {
        let _ = fs::remove_file(path);
    }
    outcome.context("cannot serve")
}

fn socket_inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|file| file.ino())
}

/// Listens at `path`, in place of a socket at which nobody listens any more.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make directory {}", directory.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                bail!("another plugin listens at {shown}: end it, or give another --plugin-socket");
            }
            fs::remove_file(path).with_context(|| format!("cannot remove the old {shown}"))?;
        }
        Ok(_) => bail!("{shown} is there and no socket: give another --plugin-socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen at {shown}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {shown}"))?;
    Ok(listener)
}

/// Completes with the first SIGTERM or SIGINT.
fn ended() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
