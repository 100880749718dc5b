//! # DNS: names inside containers
//!
//! Containers on user-defined networks find a resolver at 127.0.0.11. It answers the names of
//! their networks and forwards the rest.
//!
//! ```text
//!  the container's namespace                        │ the daemon
//!                                                   │
//!  program ── 127.0.0.11:53 ─► lo ─ tb_dns_redirect │
//!     ▲                         │ (:53 ⇄ :port)     │
//!     │                         ▼                   │       ┌─ a name of its networks ─► reply
//!     └──────────────── 127.0.0.11:port ◄───────────┼─ task ┤
//!                                                   │       └─ else: upstreams, as it came
//!  *:53 belongs to whoever wants it                 │
//! ```
//!
//! *In*: for each container its namespace and a [`View`], which control projects from its state. An
//! [`update`](Resolver::update) takes effect with the next query; nothing is cached. *Out*: replies.
//!
//! | file | what |
//! |---|---|
//! | `zone.rs` | what a container may know: names, links, upstreams |
//! | `answer.rs` | query → reply, forward or silence; pure |
//! | `server.rs` | the sockets inside the namespace, and their bounds |
//! | `upstream.rs` | asking others |
//! | `redirect.rs`, `redirect.bpf.c` | why the resolver need not hold port 53 |
//!
//! **Namespaces.** A socket keeps the namespace alive that it was made in. So whatever is opened for
//! a container is closed when [`Resolver::stop`] returns, and the kernel closes it when the daemon
//! dies; then 127.0.0.11 refuses, until the next daemon calls [`Resolver::start`].
//!
//! **Internal networks.** Without [`View::forward`] no question leaves from the host's namespace:
//! neither names nor the data that a container could hide in them get out that way.

mod answer;
mod redirect;
mod server;
mod upstream;
mod zone;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use answer::{Answer, Transport, answer};
pub use redirect::RedirectError;
pub use zone::{DNS_PORT, Origin, RESOLVER_ADDRESS, Upstream, View, Zone};

use crate::kernel::netns::NetnsError;
use redirect::Redirect;
use server::{Server, Shared};
use upstream::Random;

/// Of the descriptors that the daemon may open, this part may serve containers' DNS queries.
const DESCRIPTORS_DIVISOR: u64 = 2;

/// Why a container has no resolver.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// No socket inside its namespace.
    #[error("cannot listen at {RESOLVER_ADDRESS} inside container {1}")]
    Listen(#[source] io::Error, String),
    /// Its port 53 is not redirected.
    #[error("cannot redirect {RESOLVER_ADDRESS}:{DNS_PORT} inside container {1}")]
    Redirect(#[source] RedirectError, String),
    /// No container of this id has a resolver.
    #[error("container {0} has no resolver")]
    Unknown(String),
}

/// What a container's resolver did since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages received.
    pub queries: u64,
    /// Of those, answered from the view, or with an error because they made no sense.
    pub answered: u64,
    /// Of those, meant for upstreams.
    pub forwarded: u64,
    /// Of those, without a reply (SERVFAIL).
    pub failed: u64,
    /// Of those, too many at a time (REFUSED).
    pub refused: u64,
    /// Messages that got no reply: too long, too short, or no queries.
    pub dropped: u64,
    /// TCP connections accepted.
    pub connections: u64,
}

/// The resolvers of all containers; one per daemon.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    servers: Mutex<HashMap<String, Server>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver {
    /// No container has a resolver yet; nothing is opened.
    #[must_use]
    pub fn new() -> Self {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let descriptors = usize::try_from(limit / DESCRIPTORS_DIVISOR).unwrap_or(usize::MAX);
        Self {
            shared: Arc::new(Shared {
                redirect: Redirect::default(),
                random: Random::default(),
                descriptors: Arc::new(Semaphore::new(descriptors.min(Semaphore::MAX_PERMITS))),
            }),
            servers: Mutex::new(HashMap::new()),
        }
    }

    /// Serves `id` inside its network namespace, instead of a resolver that it had. Must be called
    /// on a tokio runtime whose threads are in the host's namespace; the resolver keeps the
    /// container's namespace alive until [`stop`](Self::stop).
    ///
    /// # Errors
    /// [`DnsError`]; nothing is left in the namespace then.
    pub async fn start(&self, id: &str, netns: OwnedFd, view: View) -> Result<(), DnsError> {
        self.stop(id).await;
        let server = Server::start(id, netns, view, Arc::clone(&self.shared)).await?;
        let previous = self.servers.lock().insert(id.to_owned(), server);
        if let Some(previous) = previous {
            previous.stop().await; // of another call at the same time
        }
        Ok(())
    }

    /// Every later query of `id` is answered from `view`.
    ///
    /// # Errors
    /// [`DnsError::Unknown`].
    pub fn update(&self, id: &str, view: View) -> Result<(), DnsError> {
        match self.servers.lock().get(id) {
            Some(server) => {
                server.update(view);
                Ok(())
            }
            None => Err(DnsError::Unknown(id.to_owned())),
        }
    }

    /// Closes everything that `id`'s resolver has open; afterwards nothing here keeps its namespace
    /// alive. No error if there is none.
    pub async fn stop(&self, id: &str) {
        let server = self.servers.lock().remove(id);
        if let Some(server) = server {
            server.stop().await;
        }
    }

    /// What `id`'s resolver did, if it has one.
    #[must_use]
    pub fn stats(&self, id: &str) -> Option<Stats> {
        self.servers.lock().get(id).map(Server::stats)
    }

    /// The containers that have a resolver, sorted.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.servers.lock().keys().cloned().collect();
        ids.sort_unstable();
        ids
    }
}
