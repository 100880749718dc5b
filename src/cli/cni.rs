//! `tunbridge cni`: alone the plugin itself, which runtimes call; with a subcommand, what installs it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{DEFAULT_SOCKET, Outcome, print};
use crate::cni::install::{ALIASES, Installation};
use crate::cni::{self, Plugin};

/// `tunbridge cni`.
#[derive(Args, Clone, Debug)]
pub(super) struct Cni {
    #[command(subcommand)]
    command: Option<CniCommand>,
}

#[derive(Subcommand, Clone, Debug)]
enum CniCommand {
    /// Link this program as a plugin, and write a network configuration
    Install(Install),
    /// Remove what `install` has made
    Uninstall(Install),
}

#[derive(Args, Clone, Debug)]
struct Install {
    /// Directory of plugins; runtimes look there by CNI_PATH
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    dir: PathBuf,
    /// Directory of network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Name of the network
    #[arg(long, value_name = "NAME", default_value = "tunbridge")]
    name: String,
    /// Subnet of the network, once per address family [default: one of the default pools]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// Answer to the name of a stock plugin, too, so that networks of podman run unchanged; may be repeated
    #[arg(long, value_name = "PLUGIN", value_parser = ALIASES)]
    alias: Vec<String>,
    /// Only the links, no configuration
    #[arg(long)]
    no_conf: bool,
    /// Replace files of others, too
    #[arg(long)]
    force: bool,
}

impl Cni {
    pub(super) fn run(self, socket: Option<PathBuf>) -> Outcome {
        match self.command {
            None => {
                let code = cni::main(Plugin::Tunbridge, socket, Path::new(DEFAULT_SOCKET));
                Ok(u8::from(code != ExitCode::SUCCESS))
            }
            Some(CniCommand::Install(install)) => {
                print(&lines(&install.installation(socket).install()?))
            }
            Some(CniCommand::Uninstall(install)) => {
                print(&lines(&install.installation(socket).uninstall()?))
            }
        }
    }
}

impl Install {
    fn installation(self, socket: Option<PathBuf>) -> Installation {
        Installation {
            plugins: self.dir,
            configurations: (!self.no_conf).then_some(self.conf_dir),
            name: self.name,
            subnets: self.subnet,
            aliases: self.alias,
            socket,
            force: self.force,
        }
    }
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}
