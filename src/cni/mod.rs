//! The Container Network Interface: podman, containerd, Kubernetes' runtimes and nerdctl call this program as a plugin.
//!
//! # Theory of operation
//!
//! ```text
//!  variables ─► environment ┐
//!                           ├─► attach: AttachEndpoint ─► daemon ─► AttachedEndpoint ─► result ─► standard output
//!  standard input ─► config ┘       ▲
//!                                   │ addresses
//!                              delegate: another IPAM plugin, if the configuration names one
//! ```
//!
//! Each run is one verb for one interface. What it is asked is understood as a whole ([`environment`], [`config`],
//! [`network`], [`runtime_config`], [`args`], all pure) before anything is done; the daemon then does the work, and
//! knows the container by the runtime's id. The plugin keeps nothing. It opens the container's namespace and hands the
//! descriptor over, because a path means nothing to a daemon in another mount namespace; and it looks for the daemon
//! of the network namespace that it runs in ([`daemon`]).
//!
//! | called as | what it is |
//! |---|---|
//! | `tunbridge`, `tunbridge-cni`, `tunbridge cni` | the plugin of type `tunbridge` |
//! | `bridge` | the same, with the keys and defaults of the stock plugin |
//! | `portmap` | publishes ports of a container that one of the two has attached |
//! | `bandwidth` | limits how fast such a container sends and receives |
//! | `firewall` | passes such a container through: our data path needs no rules |
//!
//! The last three call the next plugin of their name along `CNI_PATH` for containers that are not ours.
//!
//! **Answers** are in the version of the configuration and never in a newer one: libcni before 1.3 refuses what it does
//! not know. Standard output has the answer or the error and nothing else. `VERSION` is answered before anything else is
//! looked at; runtimes ask it of every plugin all the time.
//!
//! **Failing.** `ADD` undoes what it has done, the other IPAM plugin's part included. `DEL` succeeds whenever nothing is
//! left, whatever had been there; without a daemon it takes the interface away itself and leaves word for the next
//! daemon to forget the endpoint ([`daemon::DETACHED`]). Killed between two steps, the plugin leaves an endpoint that
//! the daemon knows, and an address that the IPAM plugin knows by the container's id: `DEL` finds both, and so does
//! `GC`.

mod args;
mod attach;
mod chained;
mod config;
pub(crate) mod daemon;
mod delegate;
mod environment;
pub(crate) mod error;
mod fields;
pub mod install;
pub(crate) mod left_behind;
mod network;
mod plugin;
mod result;
mod routes;
mod runtime_config;
mod subnets;
pub mod uninstall;
mod version;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use config::{Config, MOST_INPUT};
use daemon::Sockets;
use environment::{COMMAND, Environment, Verb};
use error::{CniError, code};
use version::Version;

/// As what this program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Type `tunbridge`.
    Tunbridge,
    /// In place of the stock plugin of this name.
    Bridge,
    /// In place of the stock plugin of this name.
    Portmap,
    /// In place of the stock plugin of this name.
    Bandwidth,
    /// In place of the stock plugin of this name.
    Firewall,
}

impl Plugin {
    /// Whether a command line is a runtime's, which gives no arguments.
    pub fn called(arguments: &[OsString]) -> Option<Self> {
        let program = Path::new(arguments.first()?).file_name()?.to_str()?;
        let rest: Vec<&OsStr> = arguments[1..].iter().map(OsString::as_os_str).collect();
        match (program, rest.as_slice()) {
            ("tunbridge-cni", []) => Some(Self::Tunbridge),
            ("bridge", []) => Some(Self::Bridge),
            ("portmap", []) => Some(Self::Portmap),
            ("bandwidth", []) => Some(Self::Bandwidth),
            ("firewall", []) => Some(Self::Firewall),
            ("tunbridge", []) if std::env::var_os(COMMAND).is_some() => Some(Self::Tunbridge),
            (_, [word]) if *word == "cni" => Some(Self::Tunbridge),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tunbridge => "tunbridge",
            Self::Bridge => "bridge",
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
            Self::Firewall => "firewall",
        }
    }
}

/// What goes to standard output.
#[derive(Debug)]
enum Answer {
    Nothing,
    Json(Value),
    /// Another plugin's.
    Text(Vec<u8>),
}

/// A request that was understood as far as every verb needs it.
#[derive(Debug)]
struct Call {
    plugin: Plugin,
    environment: Environment,
    config: Config,
    sockets: Sockets,
}

/// Answers a runtime. `socket` was named by the user, `default_socket` is where the daemon listens otherwise.
pub fn main(plugin: Plugin, socket: Option<PathBuf>, default_socket: &Path) -> ExitCode {
    let mut input = Vec::new();
    let environment = Environment::read(|name| std::env::var_os(name));
    if matches!(environment, Ok(None)) {
        introduce(plugin);
        return ExitCode::SUCCESS;
    }
    let outcome = read_input(&mut input)
        .and(environment)
        .map_err(|error| (error, config::version_of(&input)))
        .and_then(|environment| match environment {
            Some(environment) => {
                let input = std::mem::take(&mut input);
                answer(plugin, environment, input, socket, default_socket)
            }
            None => Ok(Answer::Nothing),
        });
    let (text, status) = match outcome {
        Ok(Answer::Nothing) => return ExitCode::SUCCESS,
        Ok(Answer::Json(value)) => (format!("{value}\n").into_bytes(), ExitCode::SUCCESS),
        Ok(Answer::Text(text)) => (text, ExitCode::SUCCESS),
        Err((error, version)) => {
            let value = error.render(version.text());
            (format!("{value}\n").into_bytes(), ExitCode::FAILURE)
        }
    };
    match std::io::stdout().write_all(&text) {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

/// For whoever calls a plugin by hand.
fn introduce(plugin: Plugin) {
    let (name, version) = (plugin.name(), env!("CARGO_PKG_VERSION"));
    let versions = Version::texts().join(", ");
    let text = format!(
        "CNI {name} plugin version {version} (tunbridge)\nCNI protocol versions supported: {versions}\n"
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn read_input(input: &mut Vec<u8>) -> Result<(), CniError> {
    // One octet more than what is understood, to tell that there is more.
    let most = u64::try_from(MOST_INPUT).map_or(u64::MAX, |most| most + 1);
    let read = std::io::stdin().take(most).read_to_end(input);
    read.map(drop)
        .map_err(|error| CniError::new(code::IO, format!("cannot read standard input: {error}")))
}

fn answer(
    plugin: Plugin,
    environment: Environment,
    input: Vec<u8>,
    socket: Option<PathBuf>,
    default_socket: &Path,
) -> Result<Answer, (CniError, Version)> {
    if environment.verb == Verb::Version {
        let version = config::version_of(&input).text();
        let answer = json!({"cniVersion": version, "supportedVersions": Version::texts()});
        return Ok(Answer::Json(answer));
    }
    let config = Config::read(input, plugin, environment.verb)?;
    let version = config.version;
    let with_version = |error| (error, version);
    let sockets = Sockets::new(socket, config.socket.clone(), default_socket);
    let call = Call {
        plugin,
        environment,
        config,
        sockets: sockets.map_err(with_version)?,
    };
    let outcome = match plugin {
        Plugin::Tunbridge | Plugin::Bridge => call.run(),
        Plugin::Portmap | Plugin::Bandwidth | Plugin::Firewall => call.run_chained(),
    };
    outcome.map_err(with_version)
}

/// For the user; runtimes show or log it.
fn complain(message: &str) {
    let line = message.replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "tunbridge: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_which_plugin_it_is() {
        let called = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            Plugin::called(&words)
        };
        assert_eq!(
            called(&["/opt/cni/bin/tunbridge-cni"]),
            Some(Plugin::Tunbridge)
        );
        assert_eq!(called(&["bridge"]), Some(Plugin::Bridge));
        assert_eq!(called(&["/x/portmap"]), Some(Plugin::Portmap));
        assert_eq!(called(&["/x/bandwidth"]), Some(Plugin::Bandwidth));
        assert_eq!(called(&["/x/firewall"]), Some(Plugin::Firewall));
        assert_eq!(called(&["tunbridge", "cni"]), Some(Plugin::Tunbridge));
        assert_eq!(called(&["tunbridge", "cni", "install"]), None);
        assert_eq!(called(&["tunbridge-cni", "install"]), None);
        assert_eq!(called(&["bridge", "link"]), None);
        assert_eq!(called(&["tunbridge", "ps"]), None);
        assert_eq!(called(&[]), None);
    }
}
