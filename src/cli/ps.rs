//! `ps`: the list of containers.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::containers::{print_table, runtime, socket_address, table, text};
use super::format::{filter_query, go_time, labels, list};
use super::{Outcome, complain, print, print_json};
use crate::api::client::Client;
use crate::control::timestamp::{Timestamp, human_duration};

/// `tunbridge ps`.
#[derive(Args, Clone, Debug)]
pub(super) struct Ps {
    /// Show those that have exited, too
    #[arg(short, long)]
    all: bool,
    /// Which ones: id, name, status, network, publish, … as KEY=VALUE; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A Go template for each (.ID .Names .Command .CreatedAt .RunningFor .Status .State .Ports .Networks .Address …),
    /// `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the N containers made last, running or not
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the container made last, running or not
    #[arg(short, long)]
    latest: bool,
    /// Show whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let limit = if self.latest { Some(1) } else { self.last };
        let mut query = String::new();
        for part in [
            self.all.then(|| "all=1".to_owned()),
            limit
                .filter(|limit| *limit > 0)
                .map(|limit| format!("limit={limit}")),
        ]
        .into_iter()
        .flatten()
        {
            query.push(if query.is_empty() { '?' } else { '&' });
            query += &part;
        }
        query += &filter_query(&self.filter, if query.is_empty() { '?' } else { '&' })?;
        let containers: Vec<Value> = client.get(&format!("/containers/json{query}"))?;
        if self.json {
            return print_json(&containers);
        }
        if self.quiet {
            if self.format.is_some() {
                complain("warning: ignoring --format, because --quiet is set, too");
            }
            let ids = containers.iter().map(|container| self.id(container) + "\n");
            return print(&ids.collect::<String>());
        }
        if let Some(format) = &self.format {
            let rows: Vec<Value> = containers
                .iter()
                .map(|container| self.row(container))
                .collect();
            return print(&list(Some(format), DEFAULT, &titles(), &rows)?);
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
            let command = text(&container["Command"]);
            let door = runtime(&container["Labels"]).map(|runtime| runtime.door());
            table.add_row([
                self.id(container),
                names(container),
                match door {
                    Some(door) => format!("({door})"),
                    None if self.no_trunc => command.to_owned(),
                    None => shortened(command, 24),
                },
                text(&container["Status"]).to_owned(),
                addresses(container),
                ports(&container["Ports"]),
            ]);
        }
        print_table(&table)
    }

    fn id(&self, container: &Value) -> String {
        let id = text(&container["Id"]);
        if self.no_trunc {
            id.to_owned()
        } else {
            id.chars().take(12).collect()
        }
    }

    /// Everything is text, as in Docker's client.
    fn row(&self, container: &Value) -> Value {
        let created = container["Created"].as_i64().unwrap_or_default();
        let moment = Timestamp::from_nanoseconds(created.saturating_mul(1_000_000_000));
        let running_for: Duration = Timestamp::now().since(moment);
        let command = text(&container["Command"]);
        let command = if self.no_trunc {
            command.to_owned()
        } else {
            shortened(command, 20)
        };
        let networks = container["NetworkSettings"]["Networks"].as_object();
        let networks: Vec<&str> = networks
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        json!({
            "ID": self.id(container), "Names": names(container), "Image": text(&container["Image"]),
            "Command": format!("{command:?}"), "CreatedAt": go_time(&moment.rfc3339()),
            "RunningFor": format!("{} ago", human_duration(running_for)),
            "Status": text(&container["Status"]), "State": text(&container["State"]),
            "Ports": ports(&container["Ports"]), "Networks": networks.join(","), "Address": address(container),
            "Labels": labels(&container["Labels"]), "Mounts": "", "LocalVolumes": "0", "Size": "0B",
            "Label()": container["Labels"].as_object().cloned().unwrap_or_default(),
        })
    }
}

/// For `--format table`.
const DEFAULT: &str =
    "table {{.ID}}\t{{.Names}}\t{{.Command}}\t{{.Status}}\t{{.Address}}\t{{.Ports}}";

fn titles() -> Value {
    json!({
        "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED", "Status": "STATUS", "State": "STATE", "Ports": "PORTS", "Networks": "NETWORKS",
        "Address": "ADDRESS", "Labels": "LABELS", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Size": "SIZE",
        "Label()": {},
    })
}

fn names(container: &Value) -> String {
    let names = container["Names"].as_array().into_iter().flatten();
    // The names that links give it have a second slash.
    let names = names
        .map(|name| text(name).trim_start_matches('/'))
        .filter(|name| !name.contains('/'));
    names.collect::<Vec<_>>().join(",")
}

/// The first one there is; of IPv6 only without one of IPv4.
fn address(container: &Value) -> &str {
    let networks = &container["NetworkSettings"]["Networks"];
    let first = |key: &str| {
        let mut networks = networks.as_object().into_iter().flatten();
        networks.find_map(|(_, network)| {
            let address = text(&network[key]);
            (!address.is_empty()).then_some(address)
        })
    };
    first("IPAddress")
        .or_else(|| first("GlobalIPv6Address"))
        .unwrap_or_default()
}

/// The same, with a sign that there are those of more networks.
fn addresses(container: &Value) -> String {
    let address = address(container);
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let more = networks.is_some_and(|networks| {
        let has_one = |network: &&Value| {
            let keys = ["IPAddress", "GlobalIPv6Address"];
            keys.iter().any(|key| !text(&network[*key]).is_empty())
        };
        networks.values().filter(has_one).count() > 1
    });
    format!("{address}{}", if more { ",…" } else { "" })
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
        // Open without NAT, in one family or both: like a port that is only exposed.
        let address = Some(text(&port["IP"])).filter(|_| public != 0);
        let key = (
            address.unwrap_or_default().to_owned(),
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
                let public = socket_address(&address, &range(first.1, last.1));
                format!("{public}->{private}/{transport}")
            });
        }
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_ports_are_shown_as_a_range() {
        let port = |ip: &str, private: u16, public: u16, transport: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": transport});
        let list = json!([
            port("0.0.0.0", 80, 8000, "tcp"),
            port("0.0.0.0", 81, 8001, "tcp"),
            port("127.0.0.1", 80, 9000, "tcp"),
            port("::", 80, 8000, "tcp"),
            port("::", 443, 443, "tcp"),
            json!({"PrivatePort": 53, "Type": "udp"}),
            json!({"IP": "0.0.0.0", "PrivatePort": 90, "Type": "tcp"}),
            json!({"IP": "::", "PrivatePort": 90, "Type": "tcp"}),
        ]);
        let mut shown: Vec<String> = ports(&list).split(", ").map(str::to_owned).collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                "0.0.0.0:8000-8001->80-81/tcp",
                "127.0.0.1:9000->80/tcp",
                "53/udp",
                "90/tcp",
                "[::]:443->443/tcp",
                "[::]:8000->80/tcp"
            ]
        );
    }

    #[test]
    fn the_address_is_one_of_ipv6_only_without_ipv4() {
        let six = json!({"IPAddress": "", "GlobalIPv6Address": "fd00::2"});
        let both = json!({"IPAddress": "10.0.0.2", "GlobalIPv6Address": "fd00::3"});
        let on = |networks| json!({"NetworkSettings": {"Networks": networks}});
        assert_eq!(address(&on(json!({"a": six, "b": both}))), "10.0.0.2");
        assert_eq!(address(&on(json!({"a": six}))), "fd00::2");
        assert_eq!(addresses(&on(json!({"a": six, "b": both}))), "10.0.0.2,…");
        assert_eq!(
            addresses(&on(json!({"a": both, "b": {"IPAddress": ""}}))),
            "10.0.0.2"
        );
        assert_eq!(address(&on(json!({}))), "");
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
    }
}
