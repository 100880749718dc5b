//! Starting: from flags to a running core, and the few things that a clean stop puts back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;

use super::bridges::bridge_is_left;
use super::core::{Core, Facts, Settings};
use super::host::KernelHost;
use super::host_facts::{self, host_facts};
use super::host_sockets::HostSockets;
use super::process;
use super::sysctls::LoopbackSysctls;
use super::tun_holder;
use crate::api::events::EventBus;
use crate::cli::daemon::DaemonArgs;
use crate::control::address_pool::AddressPools;
use crate::control::files::DnsSettings;
use crate::control::port_allocator::{
    FALLBACK_EPHEMERAL, PortAllocator, parse_local_port_range, parse_reserved_ports,
};
use crate::control::records::{Container, ContainerState, Endpoint, Network, NetworkConfig};
use crate::control::store::Store;
use crate::control::{self, DEFAULT_NETWORK, State, Timestamp, network_options};
use crate::dns::Resolver;
use crate::engine::{Clock, Device, Engine, TUN_MTU};
use crate::forwarder::{Config, Forwarder};
use crate::kernel::forwarding;
use crate::kernel::{Event, Netlink, RouteResolver, Watcher, netns, sysctl};
use crate::steering::Steering;

/// Name of the TUN.
pub(super) const TUN_NAME: &str = "tbtun0";

/// Where `ip netns` looks.
pub(super) const NETNS_DIR: &str = "/run/netns";

/// More queues than this cost more in shared state than they bring.
const MAX_QUEUES: usize = 8;

/// Root, and a kernel that has what steering needs.
pub(super) fn check_system() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the daemon must run as root: start it with `sudo tunbridge daemon`");
    }
    raise_descriptor_limit()
}

/// Descriptors that the daemon wants to have: 10,000 published ports are 20,000 sockets, one per address family.
const DESCRIPTORS: u64 = 1 << 20;

/// Whoever may raise the hard limit, raises it; the others get as far as it goes.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Nobody's limit is above this one (kernel/sys.c, do_prlimit).
    let most = sysctl::get(&["fs", "nr_open"])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DESCRIPTORS);
    let wanted = hard.max(DESCRIPTORS.min(most));
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        tracing::debug!(limit = hard, "the hard limit of descriptors stays");
    }
    Ok(())
}

/// Sets everything up.
pub(super) async fn start(args: &DaemonArgs, store: Store) -> anyhow::Result<(Arc<Core>, Watcher)> {
    let records = store.load()?;
    // Subscribed before the first look, so that nothing falls in between.
    let watcher = Watcher::new().context("cannot subscribe to kernel notifications")?;
    let netlink = Netlink::new().context("cannot open a netlink socket")?;
    let dns = dns_settings(args)?;
    let pools = args.bridge.address_pools(&records.identity.host)?;
    let config = default_network(&netlink, args, &pools, &records.networks).await?;

    let (mut state, warnings) = State::open(
        Box::new(store),
        records,
        port_allocator(),
        control::Settings {
            netns_dir: NETNS_DIR.into(),
            containers_dir: args.state_dir.join("containers"),
            dns,
            pools,
            default_network_options: network_options::default_options(
                &args.default_network_options,
            )?,
            has_ipv6: host_facts::has_ipv6(),
        },
    )?;
    warn(&warnings);
    bury_the_dead(&mut state, &netlink).await?;
    remove_stray_files(&state, &args.state_dir.join("containers"));
    let former = managed_bridge(&state);
    warn(&state.set_default_network(config.as_ref(), Timestamp::now())?);
    if former != managed_bridge(&state)
        && let Some(bridge) = former
    {
        let links = netlink.links().await?;
        let ours = state.host_interfaces();
        let strangers = netlink
            .delete_bridge_without(&bridge, &ours, &links)
            .await?;
        match bridge_is_left(&bridge, &strangers) {
            None => tracing::info!(%bridge, "the default network has another bridge now: removed"),
            Some(left) => tracing::warn!("the default network has another bridge now: {left}"),
        }
    }
    warn(&state.restore()?);

    let queues = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_QUEUES);
    let device = Device::open(TUN_NAME, queues).map_err(tun_holder::explain)?;
    let tun_index = device.if_index;
    tracing::info!(tun = TUN_NAME, queues, offloads = ?device.offloads, "TUN open");
    forwarding::prepare_tun(TUN_NAME)?;
    netlink.set_tun_up(tun_index, TUN_MTU.into()).await?;
    let loopback = LoopbackSysctls::prepare(&args.state_dir)?;

    let mut steering = Steering::load()?;
    steering.attach_tun(tun_index)?;
    steering.attach_loopback(loopback_index(&netlink).await?)?;

    let host = Arc::new(KernelHost::new(
        RouteResolver::new()?,
        steering.external_ports(),
    ));
    let clock = Clock::start();
    let forwarder = Arc::new(Forwarder::new(Config::default(), seed()?, host.clone()));
    let engine = Engine::start(device, &forwarder, clock).context("cannot start the engine")?;

    let core = Arc::new(Core {
        settings: Settings {
            state_dir: args.state_dir.clone(),
            tun_name: TUN_NAME.to_owned(),
            tun_index,
            ip_forward: args.ip_forward,
            loopback,
        },
        state: tokio::sync::Mutex::new(state),
        netlink,
        steering: Mutex::new(steering),
        forwarder,
        host,
        clock,
        engine,
        facts: Mutex::new(Facts::default()),
        projected: Mutex::default(),
        resolver: Resolver::new(),
        ndp_proxies: Mutex::default(),
        announcements: Mutex::default(),
        going: Mutex::default(),
        watches: Mutex::default(),
        events: EventBus::default(),
    });
    core.keep_forwarding(&Event::Overrun);
    {
        let mut state = core.lock().await;
        core.reconcile(&mut state).await?;
        for readdressed in state.readdressed() {
            core.readdress(&mut state, &readdressed).await?;
        }
        for (container, network, endpoint) in state.endpoints() {
            core.announce(container, network, endpoint).await;
        }
        for container in state.containers() {
            if let ContainerState::Running {
                process: Some(process),
                ..
            } = container.state
            {
                core.watch(container.id.clone(), process);
            }
        }
    }
    Ok((core, watcher))
}

/// Opens the state; there is one daemon per directory.
pub(super) fn open_store(state_dir: &Path) -> anyhow::Result<Store> {
    fs::create_dir_all(state_dir)
        .and_then(|()| fs::set_permissions(state_dir, fs::Permissions::from_mode(0o711)))
        .with_context(|| {
            format!(
                "--state-dir {}: cannot make the directory",
                state_dir.display()
            )
        })?;
    Ok(Store::open(&state_dir.join("state.redb"))?)
}

fn port_allocator() -> PortAllocator {
    let range = sysctl::get(&["net", "ipv4", "ip_local_port_range"])
        .ok()
        .and_then(|text| parse_local_port_range(&text))
        .unwrap_or(FALLBACK_EPHEMERAL);
    let reserved = sysctl::get(&["net", "ipv4", "ip_local_reserved_ports"])
        .map(|text| parse_reserved_ports(&text))
        .unwrap_or_default();
    PortAllocator::new(Arc::new(HostSockets::default()), range, reserved)
}

/// The `--dns…` flags, checked before anything is made.
fn dns_settings(args: &DaemonArgs) -> anyhow::Result<DnsSettings> {
    let settings = DnsSettings {
        servers: args.dns.clone(),
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
    };
    settings.validate()?;
    Ok(settings)
}

async fn loopback_index(netlink: &Netlink) -> anyhow::Result<u32> {
    let links = netlink.links().await?;
    let loopback = links
        .iter()
        .find(|link| link.loopback)
        .context("there is no loopback interface")?;
    if !loopback.up {
        netlink.set_up(loopback.index).await?;
    }
    Ok(loopback.index)
}

/// The default network as the flags want it.
async fn default_network(
    netlink: &Netlink,
    args: &DaemonArgs,
    pools: &AddressPools,
    networks: &[Network],
) -> anyhow::Result<Option<NetworkConfig>> {
    let options = &args.bridge;
    if let Some(name) = options.bridge_name()
        && let Some(link) = netlink.link(name).await?
        && link.kind.as_deref() != Some("bridge")
    {
        bail!(
            "--bridge {0}: existing interface {0} is not a bridge: give the name of a bridge, or leave --bridge out",
            link.name
        );
    }
    let is_default = |network: &&Network| network.name == DEFAULT_NETWORK;
    let others = networks.iter().filter(|network| !is_default(network));
    let mut facts = host_facts(netlink, options.bridge_name(), others).await?;
    let former = networks.iter().filter(is_default);
    facts.former_addresses = former
        .flat_map(|network| network.config.bridge_addresses())
        .collect();
    let config = options.resolve(&facts, pools)?;
    warn(&options.warnings(&facts));
    let idle = config.as_ref().and_then(NetworkConfig::idle_ndp_proxy);
    warn(idle.map(|why| format!("--ndp-proxy {why}")).as_slice());
    Ok(config)
}

/// Directories of containers whose record is gone: a daemon was killed after it had removed it.
fn remove_stray_files(state: &State, containers: &Path) {
    let Ok(directories) = fs::read_dir(containers) else {
        return;
    };
    for directory in directories.flatten() {
        let name = directory.file_name();
        let id = name.to_string_lossy();
        let is_id = id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_id && state.container_by_id(&id).is_none() {
            super::containers::remove_files(&directory.path());
        }
    }
}

/// Containers whose process or namespace went away while no daemon was there.
async fn bury_the_dead(state: &mut State, netlink: &Netlink) -> anyhow::Result<()> {
    let links = netlink.links().await?;
    let links: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let is_gone = |endpoint: &Endpoint| !links.contains(endpoint.host_interface.as_str());
    let delegated = state.endpoints().filter(|(c, ..)| c.is_delegated());
    let gone: Vec<(String, String)> = delegated
        .filter(|(_, _, endpoint)| is_gone(endpoint))
        .map(|(container, network, _)| (container.id.clone(), network.id.clone()))
        .collect();
    for (container, network) in gone {
        state.detach_endpoint(&container, &network)?;
    }
    let dead: Vec<Container> = state.containers().filter(|c| is_dead(c)).cloned().collect();
    for container in dead {
        tracing::info!(container = %container.name, "ended while no daemon ran");
        for endpoint in container
            .attachments
            .iter()
            .filter_map(|a| a.endpoint.as_ref())
        {
            netlink.delete_link(&endpoint.host_interface).await?;
        }
        super::containers::remove_name(&container);
        if container.state == ContainerState::Created && container.former_exit.is_some() {
            state.cancel_restart(&container.id)?;
        } else if container.auto_remove || container.state == ContainerState::Created {
            super::containers::remove_files(&container.files);
            state.remove(&container.id, true)?;
        } else {
            let code = super::containers::UNKNOWN_EXIT_CODE;
            state.set_exited(&container.id, code, Timestamp::now())?;
        }
    }
    Ok(())
}

fn is_dead(container: &Container) -> bool {
    match &container.state {
        // Its starter was talking to the daemon that is gone.
        ContainerState::Created => true,
        ContainerState::Running {
            process: Some(process),
            ..
        } => !process::is_alive(*process),
        ContainerState::Running { process: None, .. } => {
            !container.is_delegated() && netns::open_path(&container.netns).is_err()
        }
        ContainerState::Exited { .. } => false,
    }
}

/// Name of the default network's bridge, if it is ours to make and remove.
fn managed_bridge(state: &State) -> Option<String> {
    let config = &state.default_network()?.config;
    config.managed.then(|| config.bridge.clone())
}

fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut seed)?;
    Ok(seed)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
