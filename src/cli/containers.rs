//! Subcommands about existing containers.

use clap::Args;
use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::Value;

use super::network::report_found;
use super::{Outcome, complain, complain_verbatim, print};
use crate::api::client::{Client, ClientError, segment};
use crate::api::types::{ChangePorts, Runtime};
use crate::control::inspect::{RUNTIME_ID_LABEL, RUNTIME_LABEL};
use crate::control::records::RuntimeContainer;

/// `tunbridge inspect`.
#[derive(Args, Clone, Debug)]
pub(super) struct Inspect {
    /// A Go template for each, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only objects of this kind
    #[arg(long = "type", value_name = "KIND", value_parser = ["container", "network"])]
    kind: Option<String>,
    /// Names or ids of containers, or of networks
    #[arg(required = true, value_name = "N")]
    names: Vec<String>,
}

impl Inspect {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for name in &self.names {
            match self.look_up(client, name) {
                Ok(object) => found.push(object),
                Err(error) => errors.push(error),
            }
        }
        report_found(self.format.as_deref(), &found, &errors)
    }

    /// A container of that name, or else a network.
    fn look_up(&self, client: &Client, name: &str) -> Result<Value, ClientError> {
        let kind = self.kind.as_deref();
        let container = || client.get(&format!("/containers/{}/json", segment(name)));
        let network = || client.get(&format!("/networks/{}", segment(name)));
        if let Some(kind) = kind {
            return if kind == "network" {
                network()
            } else {
                container()
            };
        }
        match container() {
            Err(ClientError::Refused { status: 404, .. }) => {}
            other => return other,
        }
        match network() {
            Err(ClientError::Refused { status: 404, .. }) => Err(ClientError::Refused {
                status: 404,
                message: format!(
                    "No such object: {name}: `tunbridge ps -a` and `tunbridge network ls` list those there are"
                ),
            }),
            other => other,
        }
    }
}

/// `tunbridge port`.
#[derive(Args, Clone, Debug)]
pub(super) struct Port {
    /// Name or id of the container
    #[arg(value_name = "N")]
    container: String,
    /// Port of the container, 80 or 53/udp
    #[arg(value_name = "P")]
    port: Option<String>,
}

impl Port {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let container: Value =
            client.get(&format!("/containers/{}/json", segment(&self.container)))?;
        let published = container["NetworkSettings"]["Ports"].as_object();
        let addresses = |bindings: &Value| -> Vec<String> {
            let bindings = bindings.as_array().into_iter().flatten();
            bindings
                .map(|b| socket_address(text(&b["HostIp"]), text(&b["HostPort"])))
                .collect()
        };
        let Some(wanted) = &self.port else {
            let lines = published
                .into_iter()
                .flatten()
                .flat_map(|(port, bindings)| {
                    addresses(bindings)
                        .into_iter()
                        .map(move |address| format!("{port} -> {address}\n"))
                });
            return print(&lines.collect::<String>());
        };
        let wanted = if wanted.contains('/') {
            wanted.clone()
        } else {
            format!("{wanted}/tcp")
        };
        let found = published
            .and_then(|ports| ports.get(&wanted))
            .map(addresses)
            .unwrap_or_default();
        if found.is_empty() {
            // Docker's words to the letter, for scripts that look for them.
            let problem = format!(
                "Error: No public port '{wanted}' published for {}",
                self.container
            );
            return complain_verbatim(&problem);
        }
        print(&(found.join("\n") + "\n"))
    }
}

/// `0.0.0.0:80`, `[::]:80`.
pub(super) fn socket_address(address: &str, port: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// `tunbridge stop`.
#[derive(Args, Clone, Debug)]
pub(super) struct Stop {
    /// Seconds between SIGTERM and SIGKILL
    #[arg(
        short,
        long,
        alias = "timeout",
        default_value_t = 10,
        value_name = "SECONDS"
    )]
    time: u64,
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    pub(super) containers: Vec<String>,
}

impl Stop {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.containers, |container| self.stop(client, container))
    }

    pub(super) fn stop(&self, client: &Client, container: &str) -> anyhow::Result<()> {
        let target = format!("/containers/{}/stop?t={}", segment(container), self.time);
        Ok(client.tell(&target, &Value::Null)?)
    }
}

/// `tunbridge rm`.
#[derive(Args, Clone, Debug)]
pub(super) struct Rm {
    /// End them first if they run
    #[arg(short, long)]
    force: bool,
    /// Remove a link, not a container: N is CONTAINER/ALIAS
    #[arg(short, long, conflicts_with = "force")]
    link: bool,
    /// There are no volumes to remove; scripts for Docker say it all the same.
    #[arg(short, long, hide = true)]
    volumes: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    containers: Vec<String>,
}

impl Rm {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.containers, |container| {
            let runtime = self.force.then(|| runtime_of(client, container)).flatten();
            let query = if self.link {
                "link=1".to_owned()
            } else {
                format!("force={}", u8::from(self.force))
            };
            client.delete(&format!("/containers/{}?{query}", segment(container)))?;
            if let Some(runtime) = runtime {
                complain(&format!(
                    "{container} is another runtime's ({runtime}): its network is gone, end the container itself with the program that started it"
                ));
            }
            Ok::<(), ClientError>(())
        })
    }
}

/// Which other runtime has a container, if any.
fn runtime_of(client: &Client, container: &str) -> Option<String> {
    let target = format!("/containers/{}/json", segment(container));
    let found = client.get::<Value>(&target).ok()?;
    runtime(&found["Config"]["Labels"]).map(|runtime| runtime.to_string())
}

/// The other runtime that has a container with these labels, if one has.
pub(super) fn runtime(labels: &Value) -> Option<RuntimeContainer> {
    Some(RuntimeContainer {
        runtime: Runtime::deserialize(&labels[RUNTIME_LABEL]).ok()?,
        id: text(&labels[RUNTIME_ID_LABEL]).to_owned(),
    })
}

/// `tunbridge publish` and `unpublish`.
#[derive(Args, Clone, Debug)]
pub(super) struct Ports {
    /// Name or id of the container
    #[arg(value_name = "N")]
    container: String,
    /// As for -p: [ADDR:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]
    #[arg(value_name = "SPEC")]
    spec: String,
}

impl Ports {
    pub(super) fn run(&self, client: &Client, action: &str) -> Outcome {
        let target = format!(
            "/tunbridge/containers/{}/{action}",
            segment(&self.container)
        );
        client.tell(
            &target,
            &ChangePorts {
                spec: self.spec.clone(),
            },
        )?;
        Ok(0)
    }
}

/// Does something to every container, tells the name of each it was done to, and goes on after errors.
pub(super) fn each<E: Into<anyhow::Error>>(
    containers: &[String],
    mut action: impl FnMut(&str) -> Result<(), E>,
) -> Outcome {
    let mut status = 0;
    for container in containers {
        match action(container) {
            Ok(()) => {
                print(&format!("{container}\n"))?;
            }
            Err(error) => {
                complain(&format!("{:#}", error.into()));
                status = 1;
            }
        }
    }
    Ok(status)
}

/// A table without lines that begins at the first column, like Docker's.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints it without blanks at the ends of lines.
pub(super) fn print_table(table: &Table) -> Outcome {
    print(&format!("{}\n", table.trim_fmt()))
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_are_bracketed() {
        assert_eq!(socket_address("::", "80"), "[::]:80");
        assert_eq!(socket_address("0.0.0.0", "80"), "0.0.0.0:80");
    }
}
