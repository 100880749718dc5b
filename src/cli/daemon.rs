//! `tunbridge daemon`: flags, and a file with the same names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use crate::control::daemon_options::BridgeOptions;

/// Where the state is kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/tunbridge";

/// What the daemon is to do, from flags and file.
#[derive(Clone, Debug)]
pub struct DaemonArgs {
    /// Path of the API's socket.
    pub socket: PathBuf,
    /// Where the state is kept.
    pub state_dir: PathBuf,
    /// Remove everything of ours at the end.
    pub purge: bool,
    /// End when there have been no containers for so long.
    pub exit_when_idle: Option<Duration>,
    /// Set `net.ipv4.ip_forward`, with IPv6 networks `net.ipv6.conf.all.forwarding`, too, and keep them set.
    pub ip_forward: bool,
    /// Options of networks that do not give them, `DRIVER=KEY=VALUE`.
    pub default_network_options: Vec<String>,
    /// Name servers for containers.
    pub dns: Vec<IpAddr>,
    /// Search domains for containers.
    pub dns_search: Vec<String>,
    /// Resolver options for containers.
    pub dns_option: Vec<String>,
    /// The default network.
    pub bridge: BridgeOptions,
}

/// Command line of `tunbridge daemon`.
#[derive(Args, Clone, Debug)]
pub struct DaemonCommand {
    /// TOML file with the same names as keys (`bip = "10.9.0.1/24"`); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// When stopped, end all containers, let go of adopted namespaces and remove everything of ours from
    /// the host; without it, containers keep running
    #[arg(long)]
    purge: bool,
    /// End when there have been no containers for this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    exit_when_idle: Option<u64>,
    #[command(flatten)]
    settings: DaemonSettings,
}

/// What may stand on the command line and in the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct DaemonSettings {
    /// Only in the file; on the command line it is a global flag.
    #[arg(skip)]
    socket: Option<PathBuf>,
    /// Directory for the state [default: /var/lib/tunbridge]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Use this existing bridge instead of making tb0; `none` for no default network
    #[arg(short, long, value_name = "NAME")]
    bridge: Option<String>,
    /// Address and prefix length of the bridge, which is the containers' gateway
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Part of the subnet that container addresses are taken from
    #[arg(long, value_name = "CIDR")]
    fixed_cidr: Option<String>,
    /// Default gateway of containers, if it is not the bridge
    #[arg(long, value_name = "IP")]
    default_gateway: Option<String>,
    /// Give the default network IPv6, too [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// IPv6 address and prefix length of the bridge, which is the containers' gateway
    #[arg(long, value_name = "CIDR")]
    bip6: Option<String>,
    /// IPv6 subnet of the default network, or the part of it that container addresses are taken from
    /// [default: a /64 of the host's own fd00::/8 prefix]
    #[arg(long, value_name = "CIDR")]
    fixed_cidr_v6: Option<String>,
    /// IPv6 default gateway of containers, if it is not the bridge; fe80::1 is the bridge
    #[arg(long, value_name = "IP")]
    default_gateway_v6: Option<String>,
    /// Answer neighbour solicitations for containers of the default network on the link of this interface, for
    /// routers that have no route to them; may be repeated
    #[arg(long, value_name = "IF")]
    ndp_proxy: Vec<String>,
    /// Set net.ipv4.ip_forward and, while a network has IPv6, net.ipv6.conf.all.forwarding, and keep them set; nothing
    /// of tunbridge needs them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_forward: Option<bool>,
    /// Rewrite the source address of what leaves the host [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_masq: Option<bool>,
    /// Let containers of the network talk to each other [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    icc: Option<bool>,
    /// Host address of published ports that name none [default: all, of both address families]
    #[arg(long, value_name = "ADDR")]
    ip: Option<String>,
    /// MTU of the containers' interfaces in octets [default: 1500]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    mtu: Option<i64>,
    /// Where default subnets are taken from, base=CIDR,size=N, IPv4 or IPv6; may be repeated
    #[arg(long, value_name = "POOL")]
    default_address_pool: Vec<String>,
    /// Option of user-defined networks that do not give it, bridge=KEY=VALUE; may be repeated
    #[arg(long, value_name = "OPTION")]
    default_network_opt: Vec<String>,
    /// Name server for containers; may be repeated
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// Search domain for containers; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Resolver option for containers; may be repeated
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
}

impl DaemonCommand {
    /// Reads the file, if one is named, and puts the flags over it. `socket` is what the global flag or
    /// the environment said, `default_socket` what to use if nobody said anything.
    ///
    /// # Errors
    /// If the file cannot be read or understood; the message names file and key.
    pub fn resolve(
        self,
        socket: Option<PathBuf>,
        default_socket: &Path,
    ) -> anyhow::Result<DaemonArgs> {
        let file = self
            .config
            .as_deref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let flags = self.settings;
        let defaults = BridgeOptions::default();
        Ok(DaemonArgs {
            socket: socket
                .or(file.socket)
                .unwrap_or_else(|| default_socket.to_owned()),
            state_dir: flags
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            purge: self.purge,
            exit_when_idle: self.exit_when_idle.map(Duration::from_secs),
            ip_forward: flags.ip_forward.or(file.ip_forward).unwrap_or(false),
            default_network_options: either(flags.default_network_opt, file.default_network_opt),
            dns: either(flags.dns, file.dns),
            dns_search: either(flags.dns_search, file.dns_search),
            dns_option: either(flags.dns_option, file.dns_option),
            bridge: BridgeOptions {
                bridge: flags.bridge.or(file.bridge),
                bip: flags.bip.or(file.bip),
                fixed_cidr: flags.fixed_cidr.or(file.fixed_cidr),
                default_gateway: flags.default_gateway.or(file.default_gateway),
                ipv6: flags.ipv6.or(file.ipv6).unwrap_or(defaults.ipv6),
                bip6: flags.bip6.or(file.bip6),
                fixed_cidr_v6: flags.fixed_cidr_v6.or(file.fixed_cidr_v6),
                default_gateway_v6: flags.default_gateway_v6.or(file.default_gateway_v6),
                ndp_proxy: either(flags.ndp_proxy, file.ndp_proxy),
                mtu: flags.mtu.or(file.mtu),
                ip: flags.ip.or(file.ip),
                icc: flags.icc.or(file.icc).unwrap_or(defaults.icc),
                ip_masq: flags.ip_masq.or(file.ip_masq).unwrap_or(defaults.ip_masq),
                default_address_pools: either(
                    flags.default_address_pool,
                    file.default_address_pool,
                ),
            },
        })
    }
}

fn read(path: &Path) -> anyhow::Result<DaemonSettings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}: cannot read it", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        // toml's own text shows the line over several lines; errors here have one.
        let line = error
            .span()
            .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow::anyhow!(
            "--config {}: line {line}: {}",
            path.display(),
            error.message()
        )
    })
}

/// A list on the command line replaces the file's.
fn either<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        command: DaemonCommand,
    }

    fn resolve(args: &[&str]) -> anyhow::Result<DaemonArgs> {
        let cli = Cli::try_parse_from(std::iter::once(&"daemon").chain(args))?;
        cli.command.resolve(None, Path::new("/default.sock"))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn defaults_are_dockers_but_for_ip_forward() {
        let args = resolve(&[]).unwrap();
        assert!(args.bridge.icc && args.bridge.ip_masq && !args.ip_forward);
        assert_eq!(args.socket, Path::new("/default.sock"));
        assert_eq!(args.state_dir, Path::new(DEFAULT_STATE_DIR));
    }

    #[test]
    fn booleans_may_stand_alone_or_have_a_value() {
        assert!(resolve(&["--ip-forward"]).unwrap().ip_forward);
        assert!(!resolve(&["--ip-forward=false"]).unwrap().ip_forward);
        assert!(!resolve(&["--icc=false"]).unwrap().bridge.icc);
        assert!(resolve(&["--icc=maybe"]).is_err());
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = file("bip = \"10.9.0.1/24\"\nmtu = 1400\nicc = false\ndns = [\"10.0.0.53\"]\n");
        let path = file.path().to_str().unwrap();
        let args = resolve(&["--config", path, "--mtu", "1300"]).unwrap();
        assert_eq!(args.bridge.bip.as_deref(), Some("10.9.0.1/24"));
        assert_eq!(args.bridge.mtu, Some(1300));
        assert!(!args.bridge.icc);
        assert_eq!(args.dns, ["10.0.0.53".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn ipv6_from_flags_and_file() {
        let file = file(
            "ipv6 = true\nfixed-cidr-v6 = \"2001:db8:1::/64\"\ndefault-gateway-v6 = \"fe80::1\"\nndp-proxy = [\"eth0\"]\n",
        );
        let path = file.path().to_str().unwrap();
        let args = resolve(&[
            "--config",
            path,
            "--ndp-proxy",
            "eth1",
            "--ndp-proxy",
            "eth2",
        ]);
        let bridge = args.unwrap().bridge;
        assert!(bridge.ipv6);
        assert_eq!(bridge.fixed_cidr_v6.as_deref(), Some("2001:db8:1::/64"));
        assert_eq!(bridge.default_gateway_v6.as_deref(), Some("fe80::1"));
        assert_eq!(bridge.ndp_proxy, ["eth1", "eth2"]);
        let args = resolve(&["--config", path, "--ipv6=false", "--bip6", "2001:db8::1/64"]);
        let bridge = args.unwrap().bridge;
        assert!(!bridge.ipv6);
        assert_eq!(bridge.bip6.as_deref(), Some("2001:db8::1/64"));
    }

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let file = file("mtu = 1400\nbib = \"10.9.0.1/24\"\n");
        let error = resolve(&["--config", file.path().to_str().unwrap()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2") && error.contains("bib"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
