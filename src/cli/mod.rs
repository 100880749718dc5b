//! The command line: parses, asks the daemon, prints.
//!
//! Exit status: 0 done, 1 it failed, 2 the command line is wrong; `run` and `exec` give the
//! program's own status, 127 if it was not found, 126 if it cannot be executed. Errors are one line on
//! standard error that names flag, value and fix.

mod cni;
mod containers;
pub mod daemon;
mod docker_plugin;
mod events;
mod format;
mod lacking;
mod network;
mod network_options;
mod oci_hook;
mod output;
mod ps;
mod run;
mod start;
mod template;
mod version;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::api::client::Client;
use crate::cni::Plugin;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tunbridge/tunbridge.sock";

/// The same as `--socket`.
const SOCKET_VARIABLE: &str = "TUNBRIDGE_SOCKET";

/// Docker-style bridge networks for containers, without netfilter.
#[derive(Parser, Debug)]
#[command(
    name = "tunbridge",
    args_override_self = true,
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    /// The daemon's socket [default: /run/tunbridge/tunbridge.sock]
    #[arg(long, global = true, env = SOCKET_VARIABLE, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon in the foreground
    Daemon(Box<daemon::DaemonCommand>),
    /// Serve dockerd as its network and IPAM driver `tunbridge`, in the foreground
    DockerPlugin(docker_plugin::DockerPlugin),
    /// Run a program on a container network
    Run(Box<run::RunCommand>),
    /// Adopt somebody else's network namespace
    Attach(Box<run::AttachCommand>),
    /// Run a program in a running container's namespaces; of attached containers and those of other engines only in the
    /// network namespace
    Exec(run::ExecCommand),
    /// List containers
    Ps(ps::Ps),
    /// Show everything about containers or networks, as Docker's JSON
    Inspect(containers::Inspect),
    /// Show where a container's ports are published
    Port(containers::Port),
    /// Start containers that have exited, in the background
    Start(start::Start),
    /// End containers and start them again
    Restart(start::Restart),
    /// End containers: SIGTERM, then SIGKILL
    Stop(containers::Stop),
    /// Remove containers, or links
    Rm(containers::Rm),
    /// Publish one more port of a running container
    Publish(containers::Ports),
    /// Take a published port back
    Unpublish(containers::Ports),
    /// Make, list, inspect and remove networks; connect containers to them
    #[command(subcommand)]
    Network(network::Network),
    /// Show what happens to containers and networks
    Events(events::Events),
    /// Show live flows through the forwarder
    Flows(output::Flows),
    /// Show counters: what was forwarded, and what was dropped and why
    Stats(output::Stats),
    /// Look for what on this host gets in the way of container networks
    Doctor(output::Doctor),
    /// Connect a container of runc or crun: their hook, with its state on standard input
    OciHook(oci_hook::OciHook),
    /// The plugin for podman, containerd and other runtimes that speak CNI
    Cni(cni::Cni),
    /// Show the versions of this program and of the daemon
    Version(version::Version),
}

/// How a subcommand ends: an exit status, or an error for status 1.
type Outcome = anyhow::Result<u8>;

/// Runs the command line `arguments`, the program's name first. A link named `tunbridge-SUBCOMMAND`
/// stands for `tunbridge SUBCOMMAND`, and one named as a CNI plugin is that plugin.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Before anything else: runtimes call plugins very often.
    if let Some(plugin) = Plugin::called(&arguments) {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|socket| !socket.is_empty());
        return crate::cni::main(plugin, socket.map(PathBuf::from), Path::new(DEFAULT_SOCKET));
    }
    let cli = match Cli::try_parse_from(with_linked_subcommand(arguments)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // The whole chain on one line: what was being done, and why it failed.
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

fn with_linked_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let subcommand = arguments
        .first()
        .and_then(|program| {
            Path::new(program)
                .file_name()?
                .to_str()?
                .strip_prefix("tunbridge-")
        })
        .filter(|name| Cli::command().find_subcommand(name).is_some())
        .map(OsString::from);
    if let Some(subcommand) = subcommand {
        arguments.insert(1, subcommand);
    }
    arguments
}

fn run(cli: Cli) -> Outcome {
    let socket = cli.socket.as_deref();
    let socket = socket.unwrap_or_else(|| Path::new(DEFAULT_SOCKET));
    let client = Client::new(socket);
    match cli.command {
        Command::Daemon(command) => {
            log_to_stderr();
            let args = command.resolve(cli.socket, Path::new(DEFAULT_SOCKET))?;
            crate::daemon::run(args).map(|()| 0)
        }
        Command::DockerPlugin(command) => {
            log_to_stderr();
            command.run(socket)
        }
        Command::Run(command) => command.run(&client),
        Command::Attach(command) => command.run(&client),
        Command::Exec(command) => command.run(&client),
        Command::Ps(command) => command.run(&client),
        Command::Inspect(command) => command.run(&client),
        Command::Port(command) => command.run(&client),
        Command::Start(command) => command.run(&client),
        Command::Restart(command) => command.run(&client),
        Command::Stop(command) => command.run(&client),
        Command::Rm(command) => command.run(&client),
        Command::Publish(command) => command.run(&client, "publish"),
        Command::Unpublish(command) => command.run(&client, "unpublish"),
        Command::Network(command) => command.run(&client),
        Command::Events(command) => command.run(&client),
        Command::Flows(command) => command.run(&client),
        Command::Stats(command) => command.run(&client),
        Command::Doctor(command) => command.run(&client),
        Command::OciHook(command) => command.run(cli.socket),
        Command::Cni(command) => command.run(cli.socket),
        Command::Version(command) => command.run(&client),
    }
}

/// Help goes to standard output; a mistake gets one line and the way to the help.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain("no subcommand given (see --help)");
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    if let Some(advice) = advice(error, &text) {
        complain(&advice);
        return ExitCode::from(2);
    }
    let problem = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" tip: ", "; tip: ");
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
    complain(&format!("{problem} (see --help)"));
    ExitCode::from(2)
}

/// For a flag of Docker's that we lack: what to do instead.
fn advice(error: &clap::Error, text: &str) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split('=').next().unwrap_or_default();
    // `Usage: tunbridge run [OPTIONS] …`
    let usage = text
        .lines()
        .find_map(|line| line.strip_prefix("Usage: tunbridge "))?;
    let subcommand = usage.split(' ').next().unwrap_or_default();
    let advice = lacking::instead_of(subcommand, flag)?;
    Some(format!("{subcommand} has no {flag}: {advice}"))
}

fn complain(message: &str) {
    let line: String = message.replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "tunbridge: {line}");
}

/// For words that are not ours; status 1.
fn complain_verbatim(line: &str) -> Outcome {
    let _ = writeln!(std::io::stderr(), "{line}");
    Ok(1)
}

/// Prints to standard output; a reader that went away ends the program quietly.
fn print(text: &str) -> Outcome {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}

fn print_json(value: &impl serde::Serialize) -> Outcome {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// `RUST_LOG` chooses; changes of state are shown by default, packets never.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stands_for_its_subcommand() {
        let words = |arguments: &[&str]| -> Vec<OsString> {
            with_linked_subcommand(arguments.iter().map(OsString::from).collect())
        };
        assert_eq!(
            words(&["/usr/bin/tunbridge-ps", "-a"]),
            ["/usr/bin/tunbridge-ps", "ps", "-a"]
        );
        assert_eq!(words(&["tunbridge-0.1.0", "ps"]), ["tunbridge-0.1.0", "ps"]);
        assert_eq!(words(&["tunbridge", "ps"]), ["tunbridge", "ps"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_have_status_2() {
        let status = |arguments: &[&str]| main(arguments.iter().map(OsString::from));
        assert_eq!(
            format!("{:?}", status(&["tunbridge", "ps", "--nope"])),
            format!("{:?}", ExitCode::from(2))
        );
        assert_eq!(
            format!("{:?}", status(&["tunbridge"])),
            format!("{:?}", ExitCode::from(2))
        );
    }
}
