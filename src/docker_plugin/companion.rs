//! What no call tells: names, and what dockerd has forgotten.
//!
//! Whenever something has happened here, in dockerd or in the daemon, and once in a while, all is compared anew:
//!
//! * each docker endpoint gets the name and the aliases of its container, so that containers of all doors find it;
//! * each docker container's hosts file gets the names of other doors' containers on its networks ([`hosts`]);
//! * endpoints, leases and networks of which dockerd does not know are taken away, if it does not a while later either: what
//!   is just being made, dockerd does not list yet.
//!
//! Where dockerd's API does not answer, nothing is done. What another dockerd has by a plugin of its own is left alone, on a
//! network that both have, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::daemon::Network;
use super::dockerd::{DockerContainer, DockerNetwork, PATIENCE};
use super::hosts::{self, Names};
use super::{DOCKER_NETWORK_OPTION, GRACE, Plugin, Settings};
use crate::api::client::{Client, ClientError, segment};
use crate::api::filters::Filters;
use crate::api::types::{LeasedPool, NameEndpoint, NamedEndpoint, ReleaseAddress, Runtime};

/// Things happen in groups.
const GROUP: Duration = Duration::from_millis(30);

/// Without anything having happened.
const ONCE_IN_A_WHILE: Duration = Duration::from_secs(60);

/// For a dockerd that may be starting.
const STARTING: Duration = Duration::from_secs(1);

/// Between two attempts to read events.
const PAUSE: Duration = Duration::from_secs(1);

/// What was told and seen, to be compared with.
#[derive(Debug, Default)]
struct Memory {
    /// Name and aliases, by endpoint.
    told: BTreeMap<String, (String, Vec<String>)>,
    /// Endpoints, addresses of pools, pools and networks that dockerd did not know, and since when.
    unknown: BTreeMap<Leftover, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leftover {
    Endpoint(String),
    Lease(String, IpAddr),
    Pool(String),
    /// By its docker id.
    Network(String),
}

/// Accompanies the plugin until it is dropped.
pub async fn accompany(plugin: Arc<Plugin>, settings: Settings) {
    let mut filters = Filters::default();
    for event in ["connect", "disconnect", "start", "rename", "die", "destroy"] {
        filters.insert("event", event);
    }
    let target = format!("/events?filters={}", segment(&filters.to_parameter()));
    for socket in [settings.docker_socket, settings.daemon] {
        read_events(socket, target.clone(), Arc::clone(&plugin.changed));
    }
    let mut memory = Memory::default();
    loop {
        let next = match memory.unknown.is_empty() {
            true => ONCE_IN_A_WHILE,
            false => GRACE,
        };
        // Either way it is time.
        let _ = timeout(next, plugin.changed.notified()).await;
        sleep(GROUP).await;
        if let Err(error) = plugin.follow(&mut memory).await {
            tracing::debug!(%error, "cannot follow dockerd");
        }
    }
}

/// A thread that says so whenever something has happened at a socket. It ends with the process.
fn read_events(socket: PathBuf, target: String, changed: Arc<Notify>) {
    let handle = Handle::current();
    std::thread::spawn(move || {
        let client = Client::new(&socket);
        loop {
            if UnixStream::connect(&socket).is_ok() {
                let begun = Arc::clone(&changed);
                // When the stream has begun: nothing is missed in between.
                handle.spawn(async move {
                    sleep(Duration::from_millis(300)).await;
                    begun.notify_one();
                });
                let outcome = client.lines(&target, |_| {
                    changed.notify_one();
                    true
                });
                if let Err(error) = outcome {
                    tracing::debug!(socket = %socket.display(), %error, "events ended");
                }
            }
            std::thread::sleep(PAUSE);
        }
    });
}

/// A docker network and ours that it is.
#[derive(Debug)]
struct Pair {
    docker: DockerNetwork,
    ours: Network,
    /// All containers there, of all doors.
    names: Vec<NamedEndpoint>,
}

impl Plugin {
    /// The networks of this dockerd; `None`: it does not answer.
    async fn pairs(&self) -> Result<Option<Vec<Pair>>, ClientError> {
        let Some(dockers) = self.dockerd.networks().await else {
            return Ok(None);
        };
        self.answered();
        let mut by_label: BTreeMap<String, Network> = BTreeMap::new();
        for network in self.daemon.networks().await? {
            for id in network.dockers() {
                by_label.insert(id.to_owned(), network.clone());
            }
        }
        let mut pairs = Vec::new();
        for docker in dockers {
            let Some(ours) = by_label.get(&docker.id).cloned() else {
                continue;
            };
            let names = self.names_on(&ours).await?;
            pairs.push(Pair {
                docker,
                ours,
                names,
            });
        }
        Ok(Some(pairs))
    }

    async fn names_on(&self, network: &Network) -> Result<Vec<NamedEndpoint>, ClientError> {
        let target = format!("/tunbridge/networks/{}/names", segment(&network.id));
        self.daemon.ask(move |client| client.get(&target)).await
    }

    /// The endpoints of a docker network, by their ids there.
    pub(super) async fn endpoints_on(
        &self,
        network: &Network,
        docker: &str,
    ) -> Result<Vec<String>, ClientError> {
        let names = self.names_on(network).await?;
        Ok(docker_ids(&names, docker).map(str::to_owned).collect())
    }

    async fn follow(&self, memory: &mut Memory) -> Result<(), ClientError> {
        let Some(pairs) = self.pairs().await? else {
            return Ok(());
        };
        self.tell_names(memory, &pairs, &BTreeMap::new()).await?;
        // dockerd answers about a container that starts when it has started.
        let ids: BTreeSet<&str> = pairs
            .iter()
            .flat_map(|pair| pair.docker.containers.keys())
            .map(String::as_str)
            .filter(|id| !id.starts_with("ep-"))
            .collect();
        let asked = ids.into_iter().map(|id| async move {
            let container = self.dockerd.container(id).await;
            Some((id.to_owned(), container?))
        });
        let containers: BTreeMap<String, DockerContainer> =
            join_all(asked).await.into_iter().flatten().collect();
        self.tell_names(memory, &pairs, &containers).await?;
        write_hosts(&pairs, &containers).await;
        self.collect_leftovers(memory, &pairs).await
    }

    /// Tells names that are new, with aliases where dockerd has answered.
    async fn tell_names(
        &self,
        memory: &mut Memory,
        pairs: &[Pair],
        containers: &BTreeMap<String, DockerContainer>,
    ) -> Result<(), ClientError> {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for pair in pairs {
            for (id, endpoint) in &pair.docker.containers {
                known.insert(&endpoint.endpoint);
                let told = memory.told.get(&endpoint.endpoint);
                let container = containers.get(id);
                let name = container.map_or(endpoint.name.as_str(), |container| {
                    container.name.trim_start_matches('/')
                });
                let aliases = match (container, told) {
                    (Some(container), _) => container.aliases(&pair.docker.id),
                    (None, Some((_, aliases))) => aliases.clone(),
                    (None, None) => Vec::new(),
                };
                let wanted = (name.to_owned(), aliases);
                if name.is_empty() || told == Some(&wanted) {
                    continue;
                }
                let request = NameEndpoint {
                    runtime: Runtime::Docker,
                    container: endpoint.endpoint.clone(),
                    name: wanted.0.clone(),
                    aliases: wanted.1.clone(),
                };
                let named = self
                    .daemon
                    .ask(move |client| client.tell("/tunbridge/endpoints/name", &request));
                match named.await {
                    Ok(()) => {
                        memory.told.insert(endpoint.endpoint.clone(), wanted);
                    }
                    // It has gone, or is not there yet.
                    Err(ClientError::Refused { status: 404, .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        memory.told.retain(|id, _| known.contains(id.as_str()));
        Ok(())
    }

    /// Takes away what dockerd does not know, a while after it was seen first.
    async fn collect_leftovers(
        &self,
        memory: &mut Memory,
        pairs: &[Pair],
    ) -> Result<(), ClientError> {
        let unknown = self.leftovers(pairs).await?;
        let now = Instant::now();
        memory
            .unknown
            .retain(|leftover, _| unknown.contains(leftover));
        for leftover in unknown {
            let since = *memory.unknown.entry(leftover.clone()).or_insert(now);
            if now.duration_since(since) < GRACE {
                continue;
            }
            memory.unknown.remove(&leftover);
            tracing::info!(?leftover, "dockerd does not know it any more");
            self.take_away(leftover).await?;
        }
        Ok(())
    }

    async fn leftovers(&self, pairs: &[Pair]) -> Result<BTreeSet<Leftover>, ClientError> {
        let endpoints: BTreeSet<&str> = pairs
            .iter()
            .flat_map(|pair| pair.docker.endpoints())
            .collect();
        let mut found: BTreeSet<Leftover> = pairs
            .iter()
            .flat_map(|pair| docker_ids(&pair.names, &pair.docker.id))
            .filter(|id| !endpoints.contains(id))
            .map(|id| Leftover::Endpoint(id.to_owned()))
            .collect();
        let pools = self.pools().await?;
        let Some(all) = self.dockerd.all_networks().await else {
            return Ok(found);
        };
        let subnets = self.dockerd.leased_subnets(&all);
        for pool in &pools {
            let is_unknown = |subnets: &BTreeSet<IpNet>| !subnets.contains(&pool.subnet);
            if subnets.as_ref().is_some_and(is_unknown) {
                found.insert(Leftover::Pool(pool.id.clone()));
            }
            let mut of_pool = pairs
                .iter()
                .filter(|pair| Some(&pair.ours.id) == pool.network.as_ref())
                .peekable();
            if of_pool.peek().is_none() {
                continue;
            }
            let known: BTreeSet<_> = of_pool.flat_map(|pair| pair.docker.addresses()).collect();
            let leases = pool.leases.iter();
            let unknown = leases
                .filter(|lease| !lease.gateway && !lease.in_use && !known.contains(&lease.address));
            found.extend(unknown.map(|lease| Leftover::Lease(pool.id.clone(), lease.address)));
        }
        found.extend(self.forgotten_networks(&all).await?);
        Ok(found)
    }

    /// Docker networks of this plugin that its dockerd never heard to be made, or lost. None that somebody is on.
    async fn forgotten_networks(
        &self,
        known: &[DockerNetwork],
    ) -> Result<Vec<Leftover>, ClientError> {
        let known: BTreeSet<&str> = known.iter().map(|docker| docker.id.as_str()).collect();
        let mut found = Vec::new();
        for network in self.daemon.networks().await? {
            let unknown = network.dockers_of(&self.owner);
            let unknown: Vec<&str> = unknown.filter(|id| !known.contains(id)).collect();
            if !unknown.is_empty() && self.names_on(&network).await?.is_empty() {
                found.extend(
                    unknown
                        .into_iter()
                        .map(|id| Leftover::Network(id.to_owned())),
                );
            }
        }
        Ok(found)
    }

    async fn take_away(&self, leftover: Leftover) -> Result<(), ClientError> {
        let taken = match leftover {
            Leftover::Endpoint(id) => self.daemon.detach(&id).await,
            Leftover::Lease(pool, address) => {
                let target = format!("/tunbridge/pools/{}/release", segment(&pool));
                let release = ReleaseAddress { address };
                self.daemon
                    .ask(move |client| client.tell(&target, &release))
                    .await
            }
            Leftover::Pool(pool) => {
                let target = format!("/tunbridge/pools/{}", segment(&pool));
                self.daemon.ask(move |client| client.delete(&target)).await
            }
            Leftover::Network(docker) => self.let_go(&docker).await,
        };
        match taken {
            Err(ClientError::Refused { status: 404, .. }) => Ok(()),
            taken => taken,
        }
    }

    /// Frees addresses on a network that are taken by what dockerd does not know any more; it wants them anew. While it
    /// starts, it starts containers and its API does not answer: then everything is a former one's that was not made since.
    /// Later, if it does not answer, nobody knows, and all stays. True if something was freed.
    pub(super) async fn free(
        &self,
        network: &Network,
        addresses: &[IpAddr],
    ) -> Result<bool, ClientError> {
        let mut freed = BTreeSet::new();
        self.free_once(network, addresses, &mut freed).await?;
        if !freed.is_empty() {
            // The lease of an address that an endpoint had is left over only when that is gone.
            self.free_once(network, addresses, &mut freed).await?;
        }
        Ok(!freed.is_empty())
    }

    async fn free_once(
        &self,
        network: &Network,
        addresses: &[IpAddr],
        freed: &mut BTreeSet<Leftover>,
    ) -> Result<(), ClientError> {
        let patience = match self.is_starting() {
            true => STARTING,
            false => PATIENCE,
        };
        let leftovers = match timeout(patience, self.pairs()).await {
            Ok(pairs) => pairs?,
            Err(_) => None,
        };
        let names = self.names_on(network).await?;
        let holders: BTreeSet<&str> = names
            .iter()
            .filter(|named| named.addresses.iter().any(|has| addresses.contains(has)))
            .filter(|named| {
                let mut own = network.dockers_of(&self.owner);
                own.any(|docker| is_on(named, docker))
            })
            .filter_map(docker_id)
            .collect();
        let leftovers: BTreeSet<Leftover> = match leftovers {
            Some(mut pairs) => {
                pairs.retain(|pair| pair.ours.id == network.id);
                let unknown = self.leftovers(&pairs).await?.into_iter();
                unknown
                    .filter(|leftover| leftover.what().is_some_and(|what| !self.is_recent(&what)))
                    .collect()
            }
            None => {
                let endpoints = holders
                    .iter()
                    .map(|id| Leftover::Endpoint((*id).to_owned()));
                let mut all: BTreeSet<Leftover> = endpoints.collect();
                let pools = self.pools().await?.into_iter();
                let pools = pools.filter(|pool| pool.network.as_ref() == Some(&network.id));
                for pool in pools {
                    let leases = pool.leases.iter().filter(|lease| !lease.gateway);
                    all.extend(leases.map(|lease| Leftover::Lease(pool.id.clone(), lease.address)));
                }
                all.retain(|leftover| leftover.what().is_some_and(|what| self.is_former(&what)));
                all
            }
        };
        for leftover in leftovers {
            let taken = match &leftover {
                Leftover::Endpoint(id) => holders.contains(id.as_str()),
                Leftover::Lease(_, address) => addresses.contains(address),
                Leftover::Pool(_) | Leftover::Network(_) => false,
            };
            if taken && freed.insert(leftover.clone()) {
                tracing::info!(?leftover, "dockerd does not know it any more");
                self.take_away(leftover).await?;
            }
        }
        Ok(())
    }

    /// Gives back what has a subnet that dockerd wants and that it does not know to be in use. True if there was something.
    pub(super) async fn free_subnet(&self, subnet: IpNet) -> Result<bool, ClientError> {
        let freed = self.free_networks(|has| overlap(has, subnet)).await?;
        let Some(all) = self.dockerd.all_networks().await else {
            return Ok(freed);
        };
        let Some(known) = self.dockerd.leased_subnets(&all) else {
            return Ok(freed);
        };
        let mut pools = self.pools().await?;
        pools.retain(|pool| {
            overlap(pool.subnet, subnet)
                && !known.contains(&pool.subnet)
                && !self.is_recent(&pool.id)
        });
        let pools: Vec<_> = pools
            .into_iter()
            .map(|pool| Leftover::Pool(pool.id))
            .collect();
        self.take_all_away(&pools).await?;
        Ok(freed || !pools.is_empty())
    }

    /// The same of networks with certain subnets.
    pub(super) async fn free_networks(
        &self,
        is_wanted: impl Fn(IpNet) -> bool,
    ) -> Result<bool, ClientError> {
        let Some(all) = self.dockerd.all_networks().await else {
            return Ok(false);
        };
        let mut found = self.forgotten_networks(&all).await?;
        let networks = self.daemon.networks().await?;
        found.retain(|leftover| {
            let Leftover::Network(docker) = leftover else {
                return false;
            };
            let mut its = networks
                .iter()
                .filter(|network| network.dockers().any(|id| id == docker))
                .flat_map(Network::subnets);
            !self.is_recent(docker) && its.any(|has| is_wanted(has.subnet))
        });
        self.take_all_away(&found).await?;
        Ok(!found.is_empty())
    }

    async fn take_all_away(&self, leftovers: &[Leftover]) -> Result<(), ClientError> {
        for leftover in leftovers {
            tracing::info!(?leftover, "dockerd does not know it any more");
            self.take_away(leftover.clone()).await?;
        }
        Ok(())
    }

    /// Those that this plugin has asked for.
    pub(super) async fn pools(&self) -> Result<Vec<LeasedPool>, ClientError> {
        let all: Vec<LeasedPool> = self
            .daemon
            .ask(|client| client.get("/tunbridge/pools"))
            .await?;
        let own = all.into_iter();
        Ok(own
            .filter(|pool| pool.owner.as_ref() == Some(&self.owner))
            .collect())
    }
}

impl Leftover {
    /// Endpoint or address.
    fn what(&self) -> Option<String> {
        match self {
            Self::Endpoint(id) => Some(id.clone()),
            Self::Lease(_, address) => Some(address.to_string()),
            Self::Pool(_) | Self::Network(_) => None,
        }
    }
}

/// Whether two subnets have addresses in common.
pub(super) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn docker_id(named: &NamedEndpoint) -> Option<&str> {
    match &named.runtime {
        Some((Runtime::Docker, id)) => Some(id),
        Some((Runtime::Cni | Runtime::Oci, _)) | None => None,
    }
}

/// It is an endpoint of the docker network with this id.
fn is_on(named: &NamedEndpoint, docker: &str) -> bool {
    let network = named.driver_opts.get(DOCKER_NETWORK_OPTION);
    network.is_some_and(|network| network == docker)
}

/// Ids of the endpoints of a docker network.
fn docker_ids<'a>(names: &'a [NamedEndpoint], docker: &'a str) -> impl Iterator<Item = &'a str> {
    let endpoints = names.iter().filter(move |named| is_on(named, docker));
    endpoints.filter_map(docker_id)
}

/// Writes what has changed, where blocking is allowed.
async fn write_hosts(pairs: &[Pair], containers: &BTreeMap<String, DockerContainer>) {
    let files: Vec<(PathBuf, Names)> = containers
        .iter()
        .filter_map(|(id, container)| Some((container.hosts()?, foreign_names(pairs, id))))
        .collect();
    let written = tokio::task::spawn_blocking(move || {
        for (path, names) in files {
            if let Err(error) = hosts::write(&path, &names) {
                tracing::debug!(file = %path.display(), %error, "cannot write names");
            }
        }
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, "cannot write names");
    }
}

/// What a docker container cannot learn from dockerd: other doors' containers on its networks. Names that dockerd gives
/// somebody there are dockerd's.
fn foreign_names(pairs: &[Pair], container: &str) -> Names {
    let mut names = Names::new();
    let on = pairs
        .iter()
        .filter(|pair| pair.docker.containers.contains_key(container));
    for pair in on {
        let dockers: BTreeSet<&str> = pair
            .names
            .iter()
            .filter(|named| docker_id(named).is_some())
            .flat_map(|named| &named.names)
            .map(String::as_str)
            .collect();
        for named in pair.names.iter().filter(|named| docker_id(named).is_none()) {
            let plain = named
                .names
                .iter()
                .filter(|name| !dockers.contains(name.as_str()));
            let full = named
                .names
                .iter()
                .map(|name| format!("{name}.{}", pair.ours.name));
            let all: BTreeSet<String> = plain
                .cloned()
                .chain(full)
                .filter(|name| hosts::is_name(name))
                .collect();
            for address in named.addresses.iter().filter(|_| !all.is_empty()) {
                names
                    .entry(*address)
                    .or_default()
                    .extend(all.iter().cloned());
            }
        }
    }
    names
}
