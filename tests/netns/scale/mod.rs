//! Hundreds of networks and containers: nothing is lost, nothing is left, and the last one takes no longer than
//! the first.
//!
//! `TB_SCALE=full` for 200 networks and 500 containers, `TB_SEED=N` for other random steps. The figures are printed
//! (`--nocapture`).

mod driver;
mod model;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tunbridge::api::client::ClientError;

use crate::lab::{Lab, eventually};
use crate::tunbridge_under_test::{Tunbridge, difference};
use driver::{Driver, Footprint};
use model::{Model, Random};

/// 256 networks of 254 containers.
const POOLS: [&str; 2] = ["--default-address-pool", "base=10.8.0.0/16,size=24"];

/// How many networks, containers, random steps between two checks, and containers that a check enters.
fn size() -> (usize, usize, usize, usize) {
    if std::env::var("TB_SCALE").is_ok_and(|scale| scale == "full") {
        (200, 500, 1000, 100)
    } else {
        (12, 24, 80, 10)
    }
}

fn seed() -> u64 {
    let given = std::env::var("TB_SEED").ok();
    given.map_or(1, |seed| seed.parse().expect("TB_SEED is a number"))
}

/// What a daemon that has nothing to do holds.
struct Idle {
    snapshot: String,
    held: Vec<(String, u64)>,
    footprint: Footprint,
}

impl Idle {
    /// After a first container: what all share is loaded by then.
    fn after_a_container(lab: &Lab, tunbridge: &Tunbridge<'_>, driver: &Driver<'_>) -> Self {
        driver.create_network("first", false).unwrap();
        let created = driver.create("first", &["first"], &[]).unwrap();
        let pid = driver.begin(&created.id).unwrap();
        driver.end(&created.id, pid).unwrap();
        driver.remove("first").unwrap();
        driver.remove_network("first").unwrap();
        Self::of(lab, tunbridge, driver)
    }

    fn of(lab: &Lab, tunbridge: &Tunbridge<'_>, driver: &Driver<'_>) -> Self {
        Self {
            snapshot: snapshot(lab),
            held: held(driver),
            footprint: Footprint::of(lab, tunbridge.pid()),
        }
    }

    /// A task that was about to end when it was counted is none too few later.
    fn holds(&self, now: &Self) -> bool {
        let mut counts = self.held.iter().zip(&now.held);
        self.held.len() == now.held.len()
            && counts.all(|(before, now)| before == now || before.0 == "tasks" && now.1 < before.1)
    }

    /// It is as idle again.
    fn is_back(&self, lab: &Lab, tunbridge: &Tunbridge<'_>, driver: &Driver<'_>) {
        let mut now = Self::of(lab, tunbridge, driver);
        eventually(Duration::from_secs(10), || {
            now = Self::of(lab, tunbridge, driver);
            self.snapshot == now.snapshot
                && self.holds(&now)
                && now.footprint.descriptors <= self.footprint.descriptors
        });
        let left = difference(&self.snapshot, &now.snapshot);
        assert!(left.is_empty(), "left in the host:\n{left}");
        assert!(
            self.holds(&now),
            "left in the daemon: {:?}, before {:?}",
            now.held,
            self.held
        );
        for directory in ["/run/lab/state/containers", "/run/tunbridge/containers"] {
            assert!(driver.files(directory).is_empty(), "left in {directory}");
        }
        eprintln!(
            "idle daemon before {:?}, after {:?}",
            self.footprint, now.footprint
        );
        let (before, after) = (self.footprint, now.footprint);
        assert!(
            after.descriptors <= before.descriptors,
            "{before:?}, then {after:?}"
        );
        // What was once needed the allocator keeps; `malloc_trim` takes it back to near the start.
        let kept = if size().0 == 200 { 80 << 10 } else { 40 << 10 };
        assert!(
            after.resident < before.resident + kept,
            "{before:?}, then {after:?}"
        );
    }
}

/// Process numbers and descriptors differ after a restart.
fn snapshot(lab: &Lab) -> String {
    let text = lab.snapshot();
    let lines = text
        .lines()
        .map(|line| line.split("users:").next().unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

fn held(driver: &Driver<'_>) -> Vec<(String, u64)> {
    driver.stats().held.into_iter().collect()
}

#[test]
fn random_steps_leave_what_the_model_says_and_in_the_end_nothing() {
    let (networks, containers, steps, sample) = size();
    let (lab, seed) = (Lab::plain(), seed());
    let mut tunbridge = lab.start_daemon(&POOLS);
    let driver = Driver::new(&lab);
    let idle = Idle::after_a_container(&lab, &tunbridge, &driver);
    let mut model = Model::new(seed, networks, containers);
    let mut random = Random(seed ^ 0xdead);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for round in 0..4 {
            let start = Instant::now();
            for _ in 0..steps {
                model.step(&driver).expect("nobody kills the daemon");
            }
            let took = start.elapsed();
            model.check(&driver, sample);
            eprintln!(
                "round {round}: {steps} steps in {took:.1?}: {}",
                model.sizes()
            );
            let delay = Duration::from_millis(u64::try_from(random.below(400)).unwrap());
            let cut = std::thread::scope(|scope| {
                let pid = tunbridge.pid().to_owned();
                let host = lab.host();
                scope.spawn(move || {
                    std::thread::sleep(delay);
                    host.run(&["kill", "-KILL", &pid]).expect_success();
                });
                loop {
                    if let Err(cut) = model.step(&driver) {
                        return cut;
                    }
                }
            });
            tunbridge.kill();
            let start = Instant::now();
            tunbridge.start_again();
            eprintln!("killed and started again in {:.1?}", start.elapsed());
            model.resume(&driver, cut);
            model.check(&driver, sample);
        }
        while model.has_containers() {
            model.remove_container(&driver).expect("alive");
        }
        while !model.is_empty() {
            model.remove_network(&driver).expect("alive");
        }
        model.check(&driver, sample);
    }));
    if let Err(failure) = outcome {
        eprintln!(
            "TB_SEED={seed}, the last steps: {:#?}",
            model.done.iter().rev().take(12).collect::<Vec<_>>()
        );
        std::panic::resume_unwind(failure);
    }
    idle.is_back(&lab, &tunbridge, &driver);
}

#[test]
fn sixty_four_clients_at_once_get_what_they_ask_for() {
    const CLIENTS: usize = 64;
    let rounds = if size().0 == 200 { 8 } else { 1 };
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&POOLS);
    let driver = Driver::new(&lab);
    let idle = Idle::after_a_container(&lab, &tunbridge, &driver);
    driver.create_network("shared", false).unwrap();
    let (slowest, requests) = (Mutex::new(Duration::ZERO), AtomicUsize::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (driver, slowest, requests) = (&driver, &slowest, &requests);
            scope.spawn(move || {
                let timed = |what: &str, answer: &mut dyn FnMut() -> Result<(), ClientError>| {
                    let start = Instant::now();
                    answer().unwrap_or_else(|error| panic!("client {client}, {what}: {error}"));
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = slowest.max(start.elapsed());
                    requests.fetch_add(1, Ordering::Relaxed);
                };
                for round in 0..rounds {
                    let (name, own) = (format!("c{client}-{round}"), format!("n{client}-{round}"));
                    let mut id = String::new();
                    let mut pid = 0;
                    timed("create", &mut || {
                        id = driver.create(&name, &["bridge", "shared"], &[])?.id;
                        Ok(())
                    });
                    timed("started", &mut || {
                        pid = driver.begin(&id)?;
                        Ok(())
                    });
                    timed("network", &mut || {
                        driver.create_network(&own, false).map(drop)
                    });
                    timed("connect", &mut || driver.connect(&own, &name));
                    assert_eq!(driver.look_up(&name, &name).len(), 1);
                    timed("disconnect", &mut || driver.disconnect("shared", &name));
                    timed("end", &mut || driver.end(&id, pid));
                    timed("remove", &mut || driver.remove(&name));
                    timed("remove network", &mut || driver.remove_network(&own));
                }
            });
        }
    });
    let requests = requests.into_inner();
    eprintln!(
        "{CLIENTS} clients: {requests} requests in {:.1?}, the slowest took {:.1?}",
        start.elapsed(),
        slowest.lock().unwrap()
    );
    driver.remove_network("shared").unwrap();
    idle.is_back(&lab, &tunbridge, &driver);
}

#[test]
fn a_container_outlives_the_watch_over_its_former_process() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&POOLS);
    let driver = Driver::new(&lab);
    let id = driver.create("c1", &["bridge"], &[]).unwrap().id;
    let pid = driver.begin(&id).unwrap();
    driver.end(&id, pid).unwrap();
    driver.start_again("c1").unwrap();
    let pid = driver.begin(&id).unwrap();
    // Longer than the daemon waits for a report.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(driver.inspect(&id).unwrap()["State"]["Status"], "running");
    assert_eq!(driver.addresses("c1").len(), 1);
    driver.end(&id, pid).unwrap();
    driver.remove("c1").unwrap();
    drop(tunbridge);
}

#[test]
fn what_a_client_does_not_wait_for_is_done_as_a_whole() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&POOLS);
    let driver = Driver::new(&lab);
    let idle = Idle::after_a_container(&lab, &tunbridge, &driver);
    for milliseconds in 0..30 {
        let name = format!("n{milliseconds}");
        let request = format!("{{\"Name\":\"{name}\"}}");
        driver.ask_and_leave(
            "/networks/create",
            &request,
            Duration::from_millis(milliseconds),
        );
    }
    // Behind all of them: one operation at a time.
    driver.create_network("last", false).unwrap();
    for network in driver.networks() {
        let name = network["Name"].as_str().unwrap();
        if !["bridge", "host", "none"].contains(&name) {
            driver.remove_network(name).unwrap();
        }
    }
    idle.is_back(&lab, &tunbridge, &driver);
}

#[test]
fn the_last_takes_no_longer_than_the_first() {
    let (networks, containers, ..) = size();
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&POOLS);
    let driver = Driver::new(&lab);
    let mut curve = Curve::default();
    for n in 0..networks {
        let name = format!("net{n}");
        curve.time("network made", || {
            driver.create_network(&name, false).unwrap();
        });
    }
    let mut pids = Vec::new();
    for n in 0..containers {
        let (name, network) = (format!("c{n}"), format!("net{}", n % networks));
        let created = curve.time("container made", || {
            driver.create(&name, &[&network], &[]).unwrap()
        });
        pids.push(curve.time("container begun", || driver.begin(&created.id).unwrap()));
    }
    for n in 0..containers {
        let (name, network) = (format!("c{n}"), format!("net{}", (n + 1) % networks));
        curve.time("connected", || driver.connect(&network, &name).unwrap());
    }
    eprintln!(
        "with {containers} containers: {:?}",
        Footprint::of(&lab, tunbridge.pid())
    );
    let start = Instant::now();
    tunbridge.kill();
    eprintln!("killed in {:.1?}", start.elapsed());
    let start = Instant::now();
    tunbridge.start_again();
    let took = start.elapsed();
    eprintln!("started again in {took:.1?}");
    for (n, pid) in pids.iter().enumerate() {
        let name = format!("c{n}");
        curve.time("exited", || driver.end(&name, *pid).unwrap());
    }
    for n in 0..containers {
        let name = format!("c{n}");
        curve.time("removed", || driver.remove(&name).unwrap());
    }
    for n in 0..networks {
        let name = format!("net{n}");
        curve.time("network removed", || driver.remove_network(&name).unwrap());
    }
    curve.print();
    // 500 containers of a debug build on a busy machine; optimised and alone it takes less than a second.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// How long each step took, in order.
#[derive(Debug, Default)]
struct Curve {
    kinds: Vec<(&'static str, Vec<Duration>)>,
}

impl Curve {
    fn time<T>(&mut self, kind: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, times)) => times.push(took),
            None => self.kinds.push((kind, vec![took])),
        }
        result
    }

    /// The median of ten around some places.
    fn print(&self) {
        for (kind, times) in &self.kinds {
            let near = |n: usize| {
                let from = n.saturating_sub(5).min(times.len().saturating_sub(10));
                let mut near = times[from..(from + 10).min(times.len())].to_vec();
                near.sort_unstable();
                format!("{n}: {:.1}", near[near.len() / 2].as_secs_f64() * 1000.0)
            };
            let places = [1, 12, 24, 50, 100, 200, 350, 500];
            let points = places.iter().filter(|n| **n <= times.len());
            let points: Vec<String> = points.map(|n| near(*n)).collect();
            eprintln!("{kind:>16}, ms  {}", points.join("  "));
        }
    }
}
