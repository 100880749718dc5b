//! `tunbridge cni`: alone the plugin itself, which runtimes call; with a subcommand, what installs it.

mod notes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{DEFAULT_SOCKET, Outcome, SOCKET_VARIABLE, complain, print};
use crate::api::client::{Client, ClientError};
use crate::cni::install::{ALIASES, Installation};
use crate::cni::{self, Plugin};
use crate::control::inspect::RUNTIME_LABEL;

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
    /// Replace files of others, too; `uninstall`: remove links that lead elsewhere, under our names and those of --alias,
    /// and do not mind containers that run
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
                install.refuse_socket(socket.as_deref())?;
                let listens = socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
                let notes = notes::notes(&install.dir, &install.alias, &listens);
                print(&lines(&install.installation(socket).install()?))?;
                notes.iter().for_each(|note| complain(note));
                Ok(0)
            }
            Some(CniCommand::Uninstall(install)) => uninstall(&install.installation(socket)),
        }
    }
}

impl Install {
    /// It goes into the configuration. A variable is the engine's, too.
    fn refuse_socket(&self, socket: Option<&Path>) -> anyhow::Result<()> {
        let variable = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        match socket {
            Some(path) if self.no_conf && variable.as_deref() != Some(path) => bail!(
                "--socket {0}: it goes into the configuration, which --no-conf leaves out: run the engine with {SOCKET_VARIABLE}={0} instead",
                path.display()
            ),
            _ => Ok(()),
        }
    }

    fn installation(self, socket: Option<PathBuf>) -> Installation {
        // So that files in there can be told from each other, however the directory is spelt.
        let plain = |path: PathBuf| {
            let found = std::fs::canonicalize(&path).or_else(|_| std::path::absolute(&path));
            found.unwrap_or(path)
        };
        Installation {
            plugins: plain(self.dir),
            configurations: self.conf_dir,
            links_only: self.no_conf,
            name: self.name,
            subnets: self.subnet,
            aliases: self.alias,
            socket,
            force: self.force,
        }
    }
}

/// Whoever runs on a network of ours would keep its place and its ports in the daemon: the plugin that would take them back
/// is not called any more.
fn uninstall(installation: &Installation) -> Outcome {
    let removal = installation.removal()?;
    if removal.found.is_empty() {
        removal.left.iter().for_each(|left| complain(left));
        bail!(installation.nothing_found());
    }
    if !installation.force {
        let given = installation.socket.clone();
        let socket = given.or_else(|| installation.configured_socket());
        let client = Client::new(&socket.unwrap_or_else(|| DEFAULT_SOCKET.into()));
        let names = on_tunbridge(&client)?;
        if !names.is_empty() {
            bail!(
                "containers of CNI runtimes are on tunbridge ({0}): stop them first (podman stop --all), and start them afterwards, or give --force; then `tunbridge rm -f {0}` takes their ports back",
                names.join(" ")
            );
        }
    }
    print(&lines(&removal.carry_out()?))?;
    removal.left.iter().for_each(|left| complain(left));
    Ok(0)
}

/// Names of running containers of CNI runtimes.
fn on_tunbridge(client: &Client) -> Result<Vec<String>, ClientError> {
    let containers: Vec<Value> = match client.get("/containers/json") {
        Err(ClientError::NotRunning(_)) => return Ok(Vec::new()),
        answered => answered?,
    };
    let cni = containers
        .iter()
        .filter(|container| container["Labels"][RUNTIME_LABEL] == "cni");
    let names = cni.filter_map(|container| container["Names"][0].as_str());
    let mut names: Vec<String> = names
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}
