//! What there should be, as simple as can be, and random steps that change it and the daemon alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use tunbridge::api::client::ClientError;

use super::driver::{Driver, listed};

/// The default network.
const DEFAULT: &str = "bridge";

/// splitmix64: the same steps for the same seed.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub(super) fn one_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        (!list.is_empty()).then(|| &list[self.below(list.len())])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running { pid: i32 },
    Exited,
}

#[derive(Clone, Debug)]
struct Container {
    id: String,
    life: Life,
    networks: BTreeSet<String>,
    /// Its `-p` port of the host.
    port: Option<usize>,
}

/// Networks and containers.
#[derive(Debug)]
pub(super) struct Model {
    random: Random,
    next: usize,
    /// Name to id.
    networks: BTreeMap<String, String>,
    containers: BTreeMap<String, Container>,
    most: (usize, usize),
    /// What was done, for the report of a failure.
    pub(super) done: Vec<String>,
}

/// A step did not come to its end because the daemon was killed.
#[derive(Debug)]
pub(super) struct Cut {
    container: Option<String>,
    network: Option<String>,
}

impl Model {
    /// No more than so many networks and containers.
    pub(super) fn new(seed: u64, networks: usize, containers: usize) -> Self {
        Self {
            random: Random(seed),
            next: 0,
            networks: BTreeMap::new(),
            containers: BTreeMap::new(),
            most: (networks, containers),
            done: Vec::new(),
        }
    }

    /// One step, mostly making things while there are few.
    pub(super) fn step(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let (few_networks, few_containers) = (
            self.networks.len() < self.most.0,
            self.containers.len() < self.most.1,
        );
        match self.random.below(100) {
            0..20 if few_networks => self.make_network(driver),
            20..50 if few_containers => self.make_container(driver),
            50..53 => self.remove_network(driver),
            53..60 => self.end(driver),
            60..63 => self.stop(driver),
            63..72 => self.start_again(driver),
            72..85 => self.connect(driver),
            85..92 => self.disconnect(driver),
            92..96 => self.remove_container(driver),
            _ => Ok(()),
        }
    }

    pub(super) fn make_network(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        self.next += 1;
        let name = format!("n{}", self.next);
        let internal = self.random.below(8) == 0;
        self.note(format_args!("network {name}"));
        let id = uncut(driver.create_network(&name, internal), None, Some(&name))?;
        self.networks.insert(name, id);
        Ok(())
    }

    pub(super) fn make_container(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        self.next += 1;
        let name = format!("c{}", self.next);
        let mut networks = BTreeSet::new();
        for _ in 0..self.random.below(4) {
            networks.extend(self.random.one_of(&self.all_networks()).cloned());
        }
        // Without a wish it is the default network.
        let wishes: Vec<&str> = networks.iter().map(String::as_str).collect();
        let port = (self.random.below(4) == 0).then(|| 10_000 + self.next);
        let publish: Vec<String> = port.iter().map(|port| format!("{port}:80")).collect();
        self.note(format_args!(
            "container {name} on {networks:?} port {port:?}"
        ));
        let created = uncut(driver.create(&name, &wishes, &publish), Some(&name), None)?;
        if networks.is_empty() {
            networks.insert(DEFAULT.to_owned());
        }
        let pid = uncut(driver.begin(&created.id), Some(&name), None)?;
        let container = Container {
            id: created.id,
            life: Life::Running { pid },
            networks,
            port,
        };
        self.containers.insert(name, container);
        Ok(())
    }

    /// Only if nobody uses it.
    pub(super) fn remove_network(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let names: Vec<String> = self.networks.keys().cloned().collect();
        let Some(name) = self.random.one_of(&names) else {
            return Ok(());
        };
        self.note(format_args!("remove network {name}"));
        let removed = driver.remove_network(name);
        let mut living = self.containers.values().filter(|c| c.life != Life::Exited);
        if living.any(|container| container.networks.contains(name)) {
            return refused(removed, None, Some(name));
        }
        uncut(removed, None, Some(name))?;
        self.networks.remove(name);
        Ok(())
    }

    /// Its process ends by itself.
    fn end(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let Some((name, id, pid)) = self.some_running() else {
            return Ok(());
        };
        self.note(format_args!("end {name}"));
        let ended = driver.end(&id, pid);
        self.set_exited(&name);
        uncut(ended, Some(&name), None)
    }

    fn stop(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let Some((name, id, pid)) = self.some_running() else {
            return Ok(());
        };
        self.note(format_args!("stop {name}"));
        let (stopped, reported) = std::thread::scope(|scope| {
            let stop = scope.spawn(|| driver.stop(&id));
            // As its starter would do at the same time.
            std::thread::sleep(Duration::from_millis(10));
            let reported = driver.end(&id, pid);
            (stop.join().unwrap(), reported)
        });
        self.set_exited(&name);
        uncut(stopped.and(reported), Some(&name), None)
    }

    fn set_exited(&mut self, name: &str) {
        self.containers.get_mut(name).unwrap().life = Life::Exited;
    }

    /// Only if its networks are still there.
    fn start_again(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let exited: Vec<String> = self.names_of(|container| container.life == Life::Exited);
        let Some(name) = self.random.one_of(&exited).cloned() else {
            return Ok(());
        };
        self.note(format_args!("start {name}"));
        let started = driver.start_again(&name);
        let known = self.all_networks();
        let container = self.containers.get_mut(&name).unwrap();
        if !container
            .networks
            .iter()
            .all(|network| known.contains(network))
        {
            return refused(started, Some(&name), None);
        }
        let id = uncut(started, Some(&name), None)?.created.id;
        let pid = uncut(driver.begin(&id), Some(&name), None)?;
        container.life = Life::Running { pid };
        Ok(())
    }

    fn connect(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let names = self.names_of(|_| true);
        let networks = self.all_networks();
        let (Some(name), Some(network)) =
            (self.random.one_of(&names), self.random.one_of(&networks))
        else {
            return Ok(());
        };
        self.note(format_args!("connect {name} to {network}"));
        let connected = driver.connect(network, name);
        let container = self.containers.get_mut(name).unwrap();
        // As in Docker, for a container that does not run it is a change of what it will get.
        if container.networks.contains(network) && container.life != Life::Exited {
            return refused(connected, Some(name), None);
        }
        uncut(connected, Some(name), None)?;
        container.networks.insert(network.clone());
        Ok(())
    }

    fn disconnect(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let names = self.names_of(|container| !container.networks.is_empty());
        let Some(name) = self.random.one_of(&names) else {
            return Ok(());
        };
        let known = self.all_networks();
        let container = self.containers.get_mut(name).unwrap();
        let networks: Vec<String> = container.networks.iter().cloned().collect();
        let network = self.random.one_of(&networks).unwrap();
        if !known.contains(network) {
            return Ok(());
        }
        self.done.push(format!("disconnect {name} from {network}"));
        uncut(driver.disconnect(network, name), Some(name), None)?;
        container.networks.remove(network);
        Ok(())
    }

    pub(super) fn remove_container(&mut self, driver: &Driver<'_>) -> Result<(), Cut> {
        let names = self.names_of(|_| true);
        let Some(name) = self.random.one_of(&names) else {
            return Ok(());
        };
        self.note(format_args!("remove {name}"));
        uncut(driver.remove(name), Some(name), None)?;
        self.containers.remove(name);
        Ok(())
    }

    /// After the daemon was killed and started again: what it was doing then may be done or not, nothing between.
    pub(super) fn resume(&mut self, driver: &Driver<'_>, cut: Cut) {
        self.note(format_args!("the daemon was killed: {cut:?}"));
        if let Some(name) = cut.network {
            let id = driver.networks().iter().find_map(|network| {
                (network["Name"] == *name).then(|| network["Id"].as_str().unwrap().to_owned())
            });
            match id {
                Some(id) => self.networks.insert(name, id),
                None => self.networks.remove(&name),
            };
        }
        let Some(name) = cut.container else {
            return;
        };
        let containers = driver.containers();
        let found = containers
            .iter()
            .find(|container| listed(container).0 == name);
        let Some(found) = found else {
            self.containers.remove(&name);
            return;
        };
        let (_, state, networks) = listed(found);
        let id = found["Id"].as_str().unwrap().to_owned();
        let pid = driver.inspect(&id).unwrap()["State"]["Pid"]
            .as_i64()
            .unwrap();
        let life = match state.as_str() {
            "running" => Life::Running {
                pid: pid.try_into().unwrap(),
            },
            "exited" => Life::Exited,
            other => panic!("{name} is {other} after a start of the daemon"),
        };
        let before = self.containers.get(&name);
        let container = Container {
            id,
            life,
            networks: networks.into_keys().collect(),
            port: before.and_then(|container| container.port),
        };
        self.containers.insert(name, container);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.containers.is_empty()
    }

    pub(super) fn has_containers(&self) -> bool {
        !self.containers.is_empty()
    }

    pub(super) fn sizes(&self) -> String {
        let running = self.names_of(|container| container.life != Life::Exited);
        format!(
            "{} networks, {} containers, {} of them running",
            self.networks.len(),
            self.containers.len(),
            running.len()
        )
    }

    /// Everything that can be seen of the daemon agrees. At most `sample` containers are entered.
    pub(super) fn check(&mut self, driver: &Driver<'_>, sample: usize) {
        let mut networks: BTreeMap<String, String> = driver
            .networks()
            .iter()
            .map(|network| {
                let text = |key: &str| network[key].as_str().unwrap().to_owned();
                (text("Name"), text("Id"))
            })
            .collect();
        networks.retain(|name, _| !["bridge", "host", "none"].contains(&name.as_str()));
        assert_eq!(networks, self.networks, "GET /networks");

        let mut addresses = BTreeMap::new();
        let mut states = BTreeMap::new();
        for container in driver.containers() {
            let (name, state, networks) = listed(&container);
            states.insert(name.clone(), (state, networks.keys().cloned().collect()));
            addresses.insert(name, networks);
        }
        let expected = self.containers.iter().map(|(name, container)| {
            let state = match container.life {
                Life::Running { .. } => "running",
                Life::Exited => "exited",
            };
            (name.clone(), (state.to_owned(), container.networks.clone()))
        });
        let expected: BTreeMap<String, (String, BTreeSet<String>)> = expected.collect();
        assert_eq!(states, expected, "GET /containers/json");

        let running = self.names_of(|container| container.life != Life::Exited);
        let running: BTreeSet<String> = running.into_iter().collect();
        assert_eq!(driver.namespaces(), running, "/run/netns");

        let (bridges, veths) = host_interfaces(driver);
        let bridge = |id: &String| format!("tb-{}", &id[..12]);
        let expected: BTreeSet<String> = self.networks.values().map(bridge).collect();
        assert_eq!(bridges, expected, "bridges");
        let living = self.containers.values().filter(|c| c.life != Life::Exited);
        let endpoints: usize = living.clone().map(|c| c.networks.len()).sum();
        assert_eq!(veths, endpoints, "host's ends of interfaces");

        let held = driver.stats().held;
        let number = |name: &str| usize::try_from(held[name]).unwrap();
        assert_eq!(number("containers"), endpoints, "steering's interfaces");
        assert_eq!(number("endpoints"), endpoints, "steering's addresses");
        assert_eq!(
            number("subnets"),
            self.networks.len() + 1,
            "steering's subnets"
        );
        assert_eq!(number("files"), running.len(), "files that are followed");
        let served = living
            .clone()
            .filter(|c| c.networks.iter().any(|n| n != DEFAULT));
        assert_eq!(number("resolvers"), served.count(), "resolvers");
        assert_eq!(number("watches"), running.len(), "watched processes");
        let directories = driver.files("/run/lab/state/containers");
        let ids = self
            .containers
            .values()
            .map(|container| container.id.clone());
        assert_eq!(directories, ids.collect(), "containers' directories");

        let running: Vec<String> = running.into_iter().collect();
        for _ in 0..sample.min(2 * running.len()) {
            let name = self.random.one_of(&running).unwrap().clone();
            let known: BTreeSet<_> = addresses[&name].values().flatten().copied().collect();
            assert_eq!(driver.addresses(&name), known, "addresses in {name}");
            self.check_names(driver, &name, &addresses);
        }
    }

    /// It knows somebody on one of its networks by name.
    fn check_names(
        &mut self,
        driver: &Driver<'_>,
        name: &str,
        addresses: &BTreeMap<String, BTreeMap<String, Option<Ipv4Addr>>>,
    ) {
        let networks: Vec<String> = self.containers[name].networks.iter().cloned().collect();
        let named: Vec<String> = networks.into_iter().filter(|n| n != DEFAULT).collect();
        let Some(network) = self.random.one_of(&named).cloned() else {
            return;
        };
        let neighbours = self.names_of(|container| {
            container.life != Life::Exited && container.networks.contains(&network)
        });
        let neighbour = self.random.one_of(&neighbours).unwrap().clone();
        let told = driver.look_up(name, &neighbour);
        // The first of its networks that knows the name answers.
        let shared: BTreeSet<_> = named
            .iter()
            .filter_map(|network| *addresses[&neighbour].get(network)?)
            .collect();
        assert!(
            told.len() == 1 && told.is_subset(&shared),
            "{name} asks for {neighbour}: {told:?}, not one of {shared:?}"
        );
    }

    fn names_of(&self, wanted: impl Fn(&Container) -> bool) -> Vec<String> {
        let found = self.containers.iter().filter(|(_, c)| wanted(c));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// Name, id and process.
    fn some_running(&mut self) -> Option<(String, String, i32)> {
        let running = self.names_of(|container| container.life != Life::Exited);
        let name = self.random.one_of(&running)?;
        let container = &self.containers[name];
        match container.life {
            Life::Running { pid } => Some((name.clone(), container.id.clone(), pid)),
            Life::Exited => None,
        }
    }

    /// The default one included.
    fn all_networks(&self) -> Vec<String> {
        let own = self.networks.keys().cloned();
        own.chain([DEFAULT.to_owned()]).collect()
    }

    fn note(&mut self, what: impl ToString) {
        self.done.push(what.to_string());
    }
}

/// Bridges of user-defined networks, and how many host's ends of veth pairs.
pub(super) fn host_interfaces(driver: &Driver<'_>) -> (BTreeSet<String>, usize) {
    let interfaces = driver.interfaces("host");
    let veths = interfaces.iter().filter(|name| name.starts_with("veth"));
    let veths = veths.count();
    let bridges = interfaces
        .into_iter()
        .filter(|name| name.starts_with("tb-"));
    (bridges.collect(), veths)
}

/// It was done, or the daemon was killed.
fn uncut<T>(
    answer: Result<T, ClientError>,
    container: Option<&str>,
    network: Option<&str>,
) -> Result<T, Cut> {
    answer.map_err(|error| match error {
        ClientError::Refused { .. } | ClientError::Permission(_) => panic!("{error}"),
        ClientError::NotRunning(_) | ClientError::Broken { .. } => Cut {
            container: container.map(str::to_owned),
            network: network.map(str::to_owned),
        },
    })
}

/// It was refused, or the daemon was killed.
fn refused<T: Debug>(
    answer: Result<T, ClientError>,
    container: Option<&str>,
    network: Option<&str>,
) -> Result<(), Cut> {
    match answer {
        Err(ClientError::Refused { .. }) => Ok(()),
        other => {
            let done = uncut(other, container, network)?;
            panic!("this should have been refused: {done:?}");
        }
    }
}
