//! The daemon: connects control, kernel, steering, forwarder and engine, and answers the API.
//!
//! # Theory of operation
//!
//! ```text
//!   API ──► backend ──► core: one lock, one operation at a time
//!                         │  decide + store   control::State (redb, held ports)
//!                         │  arrange          kernel (namespaces, veth pairs, files)
//!                         │  steer            steering (programs, maps)
//!                         └► project          forwarder::Policy, steering's publications
//!   kernel notifications ──► watch: read what is, compare, apply; same lock
//! ```
//!
//! **Start** ([`start`]): flags are checked against the host; the state is read and what died is
//! dropped; bridge, TUN, steering and forwarder are set up; living containers are connected again; then
//! the socket opens. Each failure is one sentence and undoes what was made before it.
//!
//! **Socket.** Ours, or the service manager's (`docs/tunbridge.socket`): then the first client starts us.
//!
//! **Stop**: SIGTERM or SIGINT, or, with `--exit-when-idle`, no containers for a while. Containers keep running with their namespaces, interfaces and
//! addresses; traffic through the forwarder stops, as nobody is there to carry it. Steering goes with the
//! process however it ends, so a dead daemon leaves a host whose own networking is undisturbed. The
//! next daemon finds the containers again.
//!
//! **Sysctls** that are changed, all on interfaces that carry nothing but our own or the host's own
//! traffic: `forwarding=1` (both families), `rp_filter=0` on the TUN; `accept_local=1`, `route_localnet=1` on `lo`
//! (put back at a clean stop); IPv6 on or off, `accept_ra=0` on our bridges; `net.ipv4.ip_forward`, and with an IPv6
//! network `net.ipv6.conf.all.forwarding`, only with `--ip-forward`.

mod backend;
mod bridges;
mod containers;
mod core;
mod doctor;
mod endpoint_check;
mod endpoints;
mod files;
mod host;
mod host_facts;
mod host_sockets;
mod interfaces;
mod leases;
mod left;
mod limits;
mod listening;
mod names;
mod ndp;
mod networks;
mod process;
mod purge;
mod report;
mod start;
mod sysctls;
mod tell;
mod tun_holder;
mod watch;
mod watches;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::server;
use crate::cli::daemon::DaemonArgs;
use backend::Daemon;
use core::Core;
use listening::Listening;

/// How long requests may go on after the order to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often, at most, containers are looked for with `--exit-when-idle`.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start, not go on, or not clean up: one sentence that says what to do.
pub fn run(args: DaemonArgs) -> anyhow::Result<()> {
    start::check_system()?;
    // Whoever started us: what we make others may read, and nobody else may write.
    umask(Mode::from_bits_truncate(0o022));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(&args))
}

async fn serve(args: &DaemonArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before the socket: only who has the state may replace a socket that was left.
    let store = start::open_store(&args.state_dir)?;
    let listening = Listening::open(&args.socket)?;
    let (core, watcher) = match start::start(args, store).await {
        Ok(started) => started,
        Err(error) => {
            listening.remove(args.purge);
            return Err(error);
        }
    };
    let mut following = tokio::spawn(Arc::clone(&core).follow(watcher));
    let looking = tokio::spawn(Arc::clone(&core).follow_host_ports());
    let reading = tokio::spawn(Arc::clone(&core).follow_host_files());
    left::detach(&core, &args.socket).await;
    tracing::info!(socket = %args.socket.display(), "ready");
    notify(NotifyState::Ready);
    let ended = loop {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut serving = tokio::spawn(server::serve(
            listening.listener()?,
            Arc::new(Daemon::new(Arc::clone(&core))),
            async {
                let _ = stopped.await;
            },
        ));
        let mut idle = false;
        let ended = tokio::select! {
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: stopping");
                Ok(())
            }
            _ = interrupt.recv() => {
                tracing::info!("SIGINT: stopping");
                Ok(())
            }
            () = no_containers(&core, args.exit_when_idle) => {
                idle = true;
                Ok(())
            }
            lost = &mut following => Err(lost.unwrap_or_else(anyhow::Error::from)),
            served = &mut serving => served.map_err(anyhow::Error::from).and_then(|served| {
                served.context("the API server failed")
            }),
        };
        // Fails only if the server has ended already.
        if stop.send(()).is_ok() && tokio::time::timeout(PATIENCE, serving).await.is_err() {
            tracing::warn!("clients are still connected: not waiting for them any longer");
        }
        // Its last requests may have brought one; who connected meanwhile waits for the next server.
        if idle && core.is_needed().await {
            continue;
        }
        if idle {
            tracing::info!("no containers for a while: stopping");
        }
        break ended;
    };
    notify(NotifyState::Stopping);
    following.abort();
    looking.abort();
    reading.abort();
    listening.remove(args.purge);
    core.settings.loopback.restore();
    if args.purge && ended.is_ok() {
        return core.purge(args).await;
    }
    tracing::info!("stopped; containers keep running");
    ended
}

/// Returns when nobody has needed us for so long; never without a time.
async fn no_containers(core: &Core, time: Option<Duration>) {
    let Some(time) = time else {
        return std::future::pending().await;
    };
    let mut since = Instant::now();
    let pause = (time / 4).max(LOOK).min(time);
    while since.elapsed() < time {
        tokio::time::sleep(pause).await;
        if core.is_needed().await {
            since = Instant::now();
        }
    }
}

/// Tells systemd, if it started us and wants to know.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
