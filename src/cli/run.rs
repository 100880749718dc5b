//! `run`, `attach`, `exec`: what starts programs or adopts namespaces.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::containers::runtime;
use super::network_options::NetworkOptions;
use super::{Outcome, complain, print};
use crate::api::client::{Client, segment};
use crate::api::types::{CreateContainer, CreatedContainer, Exited, Runtime, Started};
use crate::sandbox::{self, Failure, Running, Spec};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `tunbridge run`.
#[derive(Args, Clone, Debug)]
pub(super) struct RunCommand {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Name of the container, also of /run/netns/NAME
    #[arg(long)]
    name: Option<String>,
    /// Environment variable NAME=VALUE, or NAME to pass it on; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Root directory of the container [default: the host's]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkOptions,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl RunCommand {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let rootfs = self
            .rootfs
            .map(|path| existing_directory(&path))
            .transpose()?;
        let env = pass_on(&self.env);
        let request = CreateContainer {
            env: env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            auto_remove: self.rm,
            command: self.command.clone(),
            rootfs: rootfs.clone(),
            ..self.network.into_request(self.name)?
        };
        let created: CreatedContainer = client.post("/tunbridge/containers", &request)?;
        for warning in &created.warnings {
            complain(&format!("warning: {warning}"));
        }
        let spec = Spec {
            netns: created.netns.clone(),
            files: created.files.clone(),
            hostname: created.hostname.clone(),
            rootfs,
            env: environment(&created.hostname, &created.env, env),
            command: self.command,
        };
        let begin = || begin(client, &created, &spec);
        let outcome = if self.detach {
            let finish = |running: Running| {
                finish(client, &created, &running);
            };
            sandbox::detach(&created.files.join("log"), begin, finish)
                .map(|()| print(&format!("{}\n", created.id)))
        } else {
            begin().map(|running| Ok(status(finish(client, &created, &running))))
        };
        match outcome {
            Ok(outcome) => outcome,
            Err(failure) => {
                // Nothing half-made stays; the daemon may have noticed by itself already.
                let _ = client.delete(&format!("/containers/{}?force=1", segment(&created.id)));
                fail(&failure)
            }
        }
    }
}

pub(super) fn begin(
    client: &Client,
    created: &CreatedContainer,
    spec: &Spec,
) -> Result<Running, Failure> {
    let target = format!("/tunbridge/containers/{}/started", segment(&created.id));
    sandbox::start(spec, |pid| {
        client
            .tell(&target, &Started { pid })
            .map_err(|error| Failure::new(error.to_string()))
    })
}

/// Waits for the end and reports it; the exit code. Signals stay held until the report is out.
pub(super) fn finish(client: &Client, created: &CreatedContainer, running: &Running) -> i32 {
    let code = match running.supervise() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("cannot wait for the container: {error}"));
            1
        }
    };
    let target = format!("/tunbridge/containers/{}/exited", segment(&created.id));
    // Without a daemon, the next one finds out by itself.
    let _ = client.tell(
        &target,
        &Exited {
            code,
            pid: Some(running.pid()),
        },
    );
    code
}

/// `tunbridge attach`.
#[derive(Args, Clone, Debug)]
pub(super) struct AttachCommand {
    /// Name of the container
    #[arg(long)]
    name: String,
    /// Adopt the network namespace of this process
    #[arg(
        long,
        value_name = "PID",
        conflicts_with = "netns",
        required_unless_present = "netns",
        allow_negative_numbers = true
    )]
    pid: Option<i32>,
    /// Adopt the network namespace behind this path
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkOptions,
}

impl AttachCommand {
    pub(super) fn run(self, client: &Client) -> Outcome {
        if let Some(pid) = self.pid {
            sandbox::check_pid(pid).map_err(anyhow::Error::msg)?;
        }
        if let Some(path) = &self.netns {
            sandbox::check_path(path).map_err(anyhow::Error::msg)?;
        }
        let netns = self
            .netns
            .map(|path| {
                std::path::absolute(&path).with_context(|| format!("--netns {}", path.display()))
            })
            .transpose()?;
        let request = CreateContainer {
            attach_pid: self.pid,
            attach_netns: netns,
            ..self.network.into_request(Some(self.name))?
        };
        let created: CreatedContainer = client.post("/tunbridge/containers", &request)?;
        for warning in &created.warnings {
            complain(&format!("warning: {warning}"));
        }
        print(&format!("{}\n", created.id))
    }
}

/// `tunbridge exec`.
#[derive(Args, Clone, Debug)]
pub(super) struct ExecCommand {
    /// Environment variable NAME=VALUE, or NAME to pass it on; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Directory to run in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Name or id of the container
    #[arg(value_name = "N")]
    container: String,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl ExecCommand {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let container: Value =
            client.get(&format!("/containers/{}/json", segment(&self.container)))?;
        if container["State"]["Running"] != true {
            bail!(
                "container {} is not running: start it with `tunbridge start {0}`",
                self.container
            );
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if let Some(runtime) = runtime(&container["Config"]["Labels"])
            && runtime.runtime == Runtime::Docker
        {
            bail!(
                "container {0} is docker's, which keeps its namespaces: `docker exec {0} …`",
                self.container
            );
        }
        let netns = PathBuf::from(text(&container["NetworkSettings"]["SandboxKey"]));
        // An adopted container has files and a host name of its own making.
        let ours = container["Config"]["Cmd"]
            .as_array()
            .is_some_and(|command| !command.is_empty());
        let pid = container["State"]["Pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        let own: Vec<String> = container["Config"]["Env"]
            .as_array()
            .into_iter()
            .flatten()
            .map(&text)
            .collect();
        let mut env = variables(&own);
        env.extend(pass_on(&self.env));
        let pid = pid.filter(|pid| ours && *pid > 0);
        let linked = pid.map_or_else(Vec::new, |pid| {
            link_variables(pid, &container["HostConfig"]["Links"])
        });
        let env = environment(&text(&container["Config"]["Hostname"]), &linked, env);
        let failure = sandbox::enter(&netns, pid, self.workdir.as_deref(), &env, &self.command);
        fail(&failure)
    }
}

fn fail(failure: &Failure) -> Outcome {
    complain(&failure.message);
    Ok(failure.status)
}

fn status(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(1)
}

fn existing_directory(path: &std::path::Path) -> anyhow::Result<PathBuf> {
    let absolute = path
        .canonicalize()
        .with_context(|| format!("--rootfs {}: give an existing directory", path.display()))?;
    if !absolute.is_dir() {
        bail!(
            "--rootfs {}: not a directory: give the root of a file tree",
            path.display()
        );
    }
    if absolute.parent().is_none() {
        bail!(
            "--rootfs {}: that is the host's own root: leave --rootfs out to share it",
            path.display()
        );
    }
    Ok(absolute)
}

/// `NAME` alone takes the value that we have, or nothing.
fn pass_on(variables: &[String]) -> Vec<(String, String)> {
    variables
        .iter()
        .filter_map(|variable| match variable.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => std::env::var(variable)
                .ok()
                .map(|value| (variable.clone(), value)),
        })
        .collect()
}

/// `NAME=VALUE`, taken apart.
pub(super) fn variables(texts: &[String]) -> Vec<(String, String)> {
    let pairs = texts.iter().filter_map(|text| text.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The variables that links gave to the container's process when it was started; `links` as in
/// `HostConfig.Links`: `/db:/web/database`.
fn link_variables(pid: i32, links: &Value) -> Vec<String> {
    let links = links.as_array().into_iter().flatten();
    let prefixes: Vec<String> = links
        .filter_map(|link| link.as_str()?.rsplit_once('/'))
        .map(|(_, alias)| alias.to_uppercase().replace('-', "_"))
        .flat_map(|alias| ["NAME=", "PORT=", "PORT_", "ENV_"].map(|kind| format!("{alias}_{kind}")))
        .collect();
    if prefixes.is_empty() {
        return Vec::new();
    }
    let octets = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let texts = octets.split(|octet| *octet == 0);
    texts
        .filter_map(|text| String::from_utf8(text.to_vec()).ok())
        .filter(|text| prefixes.iter().any(|prefix| text.starts_with(prefix)))
        .collect()
}

/// Docker's defaults, then what links give, then what was asked for.
pub(super) fn environment(
    hostname: &str,
    links: &[String],
    asked: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
    ];
    env.extend(
        std::env::var("TERM")
            .ok()
            .map(|term| ("TERM".to_owned(), term)),
    );
    env.extend(variables(links));
    env.extend(asked);
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_last_and_wins() {
        let asked = ["HOME=/srv".to_owned(), "DB_PORT=mine".to_owned()];
        let links = [
            "DB_PORT=tcp://172.17.0.2:80".to_owned(),
            "DB_NAME=/web/db".to_owned(),
        ];
        let env = environment("web", &links, variables(&asked));
        assert_eq!(env[1], ("HOSTNAME".into(), "web".into()));
        let value = |wanted: &str| {
            let found = env.iter().rev().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("HOME"), Some("/srv"));
        assert_eq!(value("DB_PORT"), Some("mine"));
        assert_eq!(value("DB_NAME"), Some("/web/db"));
    }

    #[test]
    fn a_variable_without_value_is_passed_on_if_it_is_set() {
        let path = std::env::var("PATH").unwrap();
        let asked = [
            "A=b=c".to_owned(),
            "PATH".to_owned(),
            "NOT_SET_ANYWHERE_1".to_owned(),
        ];
        assert_eq!(
            pass_on(&asked),
            [("A".into(), "b=c".into()), ("PATH".into(), path)]
        );
    }
}
