//! The kernel layer against the real kernel. Needs root; every test works inside network namespaces
//! that it made and that vanish with its thread and descriptors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announcing;
mod containers;
mod interfaces;
mod ipv6;
mod limits;
mod namespaces;
mod ndp;
mod reading;
mod scale;
mod watching;

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use nix::sched::{CloneFlags, unshare};
use tunbridge::kernel::doctor::sysctl_files::SysctlPaths;
use tunbridge::kernel::doctor::{self, Network, Scope, Severity};
use tunbridge::kernel::forwarding::{self, Keeper};
use tunbridge::kernel::host_ports::host_ports;
use tunbridge::kernel::netns::{self, NetnsError};
use tunbridge::kernel::route::CACHE_CAPACITY;
use tunbridge::kernel::{
    Bridge, BridgeSpec, EndpointSysctl, Event, Ipv6Settings, Limits, Netlink, Resolved,
    RouteResolver, TokenBucket, VethSpec, Watcher, sysctl,
};

/// Runs a test in a fresh network namespace with `lo` up, on a thread that ends with it.
fn in_fresh_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            run("ip link set lo up");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Held by the tests that measure time, so that they do not measure each other.
fn undisturbed() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An unnamed namespace, as another container runtime would hand one over.
fn anonymous_namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        netns::open_current().unwrap()
    });
    thread.join().unwrap()
}

/// Runs a command in the calling thread's namespace and returns what it prints.
fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command inside a namespace.
fn run_inside(namespace: &OwnedFd, command: &str) -> String {
    netns::run_in(namespace.as_fd(), || run(command)).unwrap()
}

/// Address of the container.
const V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 2), 16));

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn bridge_spec() -> BridgeSpec {
    BridgeSpec {
        mac: [0x02, 0, 0, 0, 0, 0xb1],
        name: "kl0".into(),
        addresses: vec![net("172.17.0.1/16")],
        ipv6: false,
        mtu: 1500,
        user_managed: false,
    }
}

fn veth_spec<'a>(namespace: &'a OwnedFd, bridge: &Bridge) -> VethSpec<'a> {
    VethSpec {
        host_name: "klv1",
        container_name: "eth0",
        netns: namespace.as_fd(),
        mac: [0x02, 0x42, 172, 17, 0, 2],
        addresses: &[V4],
        ipv6: false,
        mtu: None,
        sysctls: &[],
        limits: Limits::default(),
        bridge_if_index: bridge.if_index,
        bridge_mac: bridge.mac,
    }
}

async fn addresses4(netlink: &Netlink, if_index: u32) -> Vec<IpNet> {
    let all = netlink.addresses().await.unwrap();
    let own = all
        .into_iter()
        .filter(|address| address.if_index == if_index);
    own.map(|address| address.address)
        .filter(|address| address.addr().is_ipv4())
        .collect()
}

/// Waits for an event, ignoring others, and fails after two seconds.
async fn expect(watcher: &mut Watcher, wanted: Event) {
    let wait = async { while watcher.next().await.unwrap() != wanted {} };
    let seen = tokio::time::timeout(Duration::from_secs(2), wait).await;
    assert!(seen.is_ok(), "no {wanted:?}");
}

/// Reads events until none comes for a moment.
async fn drain(watcher: &mut Watcher) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(100), watcher.next()).await {
        events.push(event.unwrap());
    }
    events
}
