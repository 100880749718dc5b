//! `run`, `attach`, `exec`: what starts programs or adopts namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::{Outcome, complain, print};
use crate::api::client::{Client, segment};
use crate::api::types::{CreateContainer, CreatedContainer, Exited, NetworkAttachment, Started};
use crate::sandbox::{self, Failure, Running, Spec};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The options of a container's network.
#[derive(Args, Clone, Debug)]
struct NetworkOptions {
    /// Network to connect to [default: bridge]
    #[arg(long, value_name = "NET")]
    network: Option<String>,
    /// Publish a port: [ADDR:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]; may be repeated
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<String>,
    /// Publish every exposed port to an ephemeral host port
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port or range for -P; may be repeated
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "ADDR")]
    ip: Option<Ipv4Addr>,
    /// MAC address [default: 02:42: and the IPv4 address]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// Host name [default: the first 12 digits of the id]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    hostname: Option<String>,
    /// Line for /etc/hosts, NAME:ADDR or NAME:host-gateway; may be repeated
    #[arg(long, value_name = "NAME:ADDR")]
    add_host: Vec<String>,
    /// Name server; may be repeated
    #[arg(long, value_name = "ADDR")]
    dns: Vec<IpAddr>,
    /// Search domain; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Resolver option; may be repeated
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
}

impl NetworkOptions {
    fn into_request(self, name: Option<String>) -> CreateContainer {
        let mut attachment = NetworkAttachment {
            network: self.network.unwrap_or_default(),
            ..NetworkAttachment::default()
        };
        attachment.settings.ipam_config.ipv4_address = self.ip;
        attachment.settings.mac_address = self.mac_address;
        CreateContainer {
            name,
            networks: vec![attachment],
            publish: self.publish,
            publish_all: self.publish_all,
            expose: self.expose,
            hostname: self.hostname,
            add_host: self.add_host,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_option: self.dns_option,
            ..CreateContainer::default()
        }
    }
}

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
            ..self.network.into_request(self.name)
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
            env: environment(&created.hostname, env),
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

fn begin(client: &Client, created: &CreatedContainer, spec: &Spec) -> Result<Running, Failure> {
    let target = format!("/tunbridge/containers/{}/started", segment(&created.id));
    sandbox::start(spec, |pid| {
        client
            .tell(&target, &Started { pid })
            .map_err(|error| Failure::new(error.to_string()))
    })
}

/// Waits for the end and reports it; the exit code. Signals stay held until the report is out.
fn finish(client: &Client, created: &CreatedContainer, running: &Running) -> i32 {
    let code = match running.supervise() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("cannot wait for the container: {error}"));
            1
        }
    };
    let target = format!("/tunbridge/containers/{}/exited", segment(&created.id));
    // Without a daemon, the next one finds out by itself.
    let _ = client.tell(&target, &Exited { code });
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
            ..self.network.into_request(Some(self.name))
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
                "container {} is not running: start one with `tunbridge run`",
                self.container
            );
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let netns = PathBuf::from(text(&container["NetworkSettings"]["SandboxKey"]));
        // An adopted container has files and a host name of its own making.
        let ours = container["Config"]["Cmd"]
            .as_array()
            .is_some_and(|command| !command.is_empty());
        let pid = container["State"]["Pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        let mut env: Vec<(String, String)> = container["Config"]["Env"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|variable| variable.as_str()?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.extend(pass_on(&self.env));
        let env = environment(&text(&container["Config"]["Hostname"]), env);
        let failure = sandbox::enter(
            &netns,
            pid.filter(|pid| ours && *pid > 0),
            self.workdir.as_deref(),
            &env,
            &self.command,
        );
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

/// Docker's defaults, then what was asked for.
fn environment(hostname: &str, asked: Vec<(String, String)>) -> Vec<(String, String)> {
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
    env.extend(asked);
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_last_and_wins() {
        let env = environment("web", vec![("HOME".into(), "/srv".into())]);
        assert_eq!(env[1], ("HOSTNAME".into(), "web".into()));
        assert_eq!(env.last(), Some(&("HOME".into(), "/srv".into())));
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
