//! Subcommands about existing containers.

use std::collections::BTreeMap;

use clap::Args;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::{Outcome, complain, complain_verbatim, print, print_json};
use crate::api::client::{Client, ClientError, segment};
use crate::api::types::ChangePorts;

/// `tunbridge ps`.
#[derive(Args, Clone, Debug)]
pub(super) struct Ps {
    /// Show those that have exited, too
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let target = if self.all {
            "/containers/json?all=1"
        } else {
            "/containers/json"
        };
        let containers: Vec<Value> = client.get(target)?;
        if self.json {
            return print_json(&containers);
        }
        let short_id =
            |container: &Value| text(&container["Id"]).chars().take(12).collect::<String>();
        if self.quiet {
            return print(
                &containers
                    .iter()
                    .map(|c| short_id(c) + "\n")
                    .collect::<String>(),
            );
        }
        let mut table = table(&[
            "CONTAINER ID",
            "NAME",
            "COMMAND",
            "STATUS",
            "ADDRESS",
            "PORTS",
        ]);
        for container in &containers {
            let name = text(&container["Names"][0])
                .trim_start_matches('/')
                .to_owned();
            let networks = container["NetworkSettings"]["Networks"].as_object();
            let address = networks
                .into_iter()
                .flatten()
                .map(|(_, network)| text(&network["IPAddress"]))
                .find(|address| !address.is_empty())
                .unwrap_or_default();
            table.add_row([
                short_id(container),
                name,
                shortened(text(&container["Command"]), 24),
                text(&container["Status"]).to_owned(),
                address.to_owned(),
                ports(&container["Ports"]),
            ]);
        }
        print_table(&table)
    }
}

/// `tunbridge inspect`.
#[derive(Args, Clone, Debug)]
pub(super) struct Inspect {
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    containers: Vec<String>,
}

impl Inspect {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let found = self
            .containers
            .iter()
            .map(|container| client.get(&format!("/containers/{}/json", segment(container))))
            .collect::<Result<Vec<Value>, ClientError>>()?;
        print_json(&found)
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
fn socket_address(address: &str, port: &str) -> String {
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
    #[arg(short, long, default_value_t = 10, value_name = "SECONDS")]
    time: u64,
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    containers: Vec<String>,
}

impl Stop {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.containers, |container| {
            let target = format!("/containers/{}/stop?t={}", segment(container), self.time);
            client.tell(&target, &Value::Null)
        })
    }
}

/// `tunbridge rm`.
#[derive(Args, Clone, Debug)]
pub(super) struct Rm {
    /// End them first if they run
    #[arg(short, long)]
    force: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    containers: Vec<String>,
}

impl Rm {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.containers, |container| {
            let force = u8::from(self.force);
            client.delete(&format!("/containers/{}?force={force}", segment(container)))
        })
    }
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
fn each(containers: &[String], mut action: impl FnMut(&str) -> Result<(), ClientError>) -> Outcome {
    let mut status = 0;
    for container in containers {
        match action(container) {
            Ok(()) => {
                print(&format!("{container}\n"))?;
            }
            Err(error) => {
                complain(&error.to_string());
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        text.to_owned()
    } else {
        text.chars().take(length - 1).chain(['…']).collect()
    }
}

/// `0.0.0.0:8000-8010->80-90/tcp, 53/udp`: consecutive ports joined, as `docker ps` does.
fn ports(ports: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut groups: BTreeMap<(String, String, i128), Vec<(u64, u64)>> = BTreeMap::new();
    for port in ports.as_array().into_iter().flatten() {
        let (private, public) = (number(&port["PrivatePort"]), number(&port["PublicPort"]));
        let distance = if public == 0 {
            i128::MAX
        } else {
            i128::from(public) - i128::from(private)
        };
        let key = (
            text(&port["IP"]).to_owned(),
            text(&port["Type"]).to_owned(),
            distance,
        );
        groups.entry(key).or_default().push((private, public));
    }
    let mut shown = Vec::new();
    for ((address, transport, _), mut members) in groups {
        members.sort_unstable();
        members.dedup();
        for run in members.chunk_by(|a, b| a.0 + 1 == b.0) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let range = |from: u64, to: u64| {
                if from == to {
                    from.to_string()
                } else {
                    format!("{from}-{to}")
                }
            };
            let private = range(first.0, last.0);
            shown.push(if first.1 == 0 {
                format!("{private}/{transport}")
            } else {
                format!(
                    "{address}:{}->{private}/{transport}",
                    range(first.1, last.1)
                )
            });
        }
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn consecutive_ports_are_shown_as_a_range() {
        let port = |ip: &str, private: u16, public: u16, transport: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": transport});
        let list = json!([
            port("0.0.0.0", 80, 8000, "tcp"),
            port("0.0.0.0", 81, 8001, "tcp"),
            port("127.0.0.1", 80, 9000, "tcp"),
            json!({"PrivatePort": 53, "Type": "udp"}),
        ]);
        let mut shown: Vec<String> = ports(&list).split(", ").map(str::to_owned).collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                "0.0.0.0:8000-8001->80-81/tcp",
                "127.0.0.1:9000->80/tcp",
                "53/udp"
            ]
        );
    }

    #[test]
    fn ipv6_addresses_are_bracketed() {
        assert_eq!(socket_address("::", "80"), "[::]:80");
        assert_eq!(socket_address("0.0.0.0", "80"), "0.0.0.0:80");
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
    }
}
