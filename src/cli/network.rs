//! `network`: user-defined networks, with Docker's flags and output.

mod create;

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::format::{filter_query, go_time, inspected, labels, list, natural_order};
use super::network_options::{driver_options, link};
use super::{Outcome, complain, print, print_json};
use crate::api::client::{Client, ClientError, segment};
use crate::api::types::{
    ConnectNetwork, DisconnectNetwork, EndpointAddresses, EndpointSettings, PrunedNetworks,
};

/// `tunbridge network`.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Network {
    /// Create a network and print its id
    Create(Box<create::Create>),
    /// List networks
    #[command(alias = "list")]
    Ls(Ls),
    /// Show everything about networks, as Docker's JSON
    Inspect(Inspect),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(Rm),
    /// Remove all networks that no container uses
    Prune(Prune),
    /// Connect a container to a network
    Connect(Box<Connect>),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
}

impl Network {
    pub(super) fn run(self, client: &Client) -> Outcome {
        match self {
            Self::Create(command) => command.run(client),
            Self::Ls(command) => command.run(client),
            Self::Inspect(command) => command.run(client),
            Self::Rm(command) => command.run(client),
            Self::Prune(command) => command.run(client),
            Self::Connect(command) => command.run(client),
            Self::Disconnect(command) => command.run(client),
        }
    }
}

/// `tunbridge network ls`.
#[derive(Args, Clone, Debug)]
pub(super) struct Ls {
    /// Which ones: driver, id, label, name, scope, type or dangling, as KEY=VALUE; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A Go template for each (.ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .CreatedAt), `table TEMPLATE`,
    /// or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Ls {
    fn run(&self, client: &Client) -> Outcome {
        let query = filter_query(&self.filter, '?')?;
        let mut networks: Vec<Value> = client.get(&format!("/networks{query}"))?;
        let name = |network: &Value| network["Name"].as_str().unwrap_or_default().to_owned();
        networks.sort_by(|a, b| natural_order(&name(a), &name(b)));
        if self.json {
            return print_json(&networks);
        }
        let rows: Vec<Value> = networks.iter().map(|network| self.row(network)).collect();
        let names = json!({
            "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
            "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT", "Label()": {},
        });
        let default = if self.quiet {
            "{{.ID}}"
        } else {
            "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
        };
        print(&list(self.format.as_deref(), default, &names, &rows)?)
    }

    /// Everything is text, as in Docker's client.
    fn row(&self, network: &Value) -> Value {
        let text = |key: &str| network[key].as_str().unwrap_or_default();
        let yes = |key: &str| network[key].as_bool().unwrap_or_default().to_string();
        let id: String = if self.no_trunc {
            text("Id").to_owned()
        } else {
            text("Id").chars().take(12).collect()
        };
        json!({
            "ID": id, "Name": text("Name"), "Driver": text("Driver"), "Scope": text("Scope"),
            "IPv4": yes("EnableIPv4"), "IPv6": yes("EnableIPv6"), "Internal": yes("Internal"),
            "Labels": labels(&network["Labels"]), "CreatedAt": go_time(text("Created")),
            "Label()": network["Labels"].as_object().cloned().unwrap_or_default(),
        })
    }
}

/// `tunbridge network inspect`.
#[derive(Args, Clone, Debug)]
pub(super) struct Inspect {
    /// A Go template for each, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Accepted for Docker's sake: there is nothing more to tell
    #[arg(short, long)]
    verbose: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Inspect {
    fn run(&self, client: &Client) -> Outcome {
        let verbose = if self.verbose { "?verbose=true" } else { "" };
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for network in &self.networks {
            match client.get::<Value>(&format!("/networks/{}{verbose}", segment(network))) {
                Ok(network) => found.push(network),
                Err(error) => errors.push(error),
            }
        }
        report_found(self.format.as_deref(), &found, &errors)
    }
}

/// What was found, then a line for everything that was not.
pub(super) fn report_found(
    format: Option<&str>,
    found: &[Value],
    errors: &[ClientError],
) -> Outcome {
    // Without a daemon there is nothing to print, not even an empty list.
    let refused = |error: &&ClientError| matches!(error, ClientError::Refused { .. });
    if let Some(error) = errors.iter().find(|error| !refused(error)) {
        complain(&error.to_string());
        return Ok(1);
    }
    print(&inspected(format, found)?)?;
    for error in errors {
        complain(&error.to_string());
    }
    Ok(u8::from(!errors.is_empty()))
}

/// `tunbridge network rm`.
#[derive(Args, Clone, Debug)]
pub(super) struct Rm {
    /// Do not mind networks that do not exist, nor that dockerd has one of them
    #[arg(short, long)]
    force: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Rm {
    fn run(&self, client: &Client) -> Outcome {
        let mut status = 0;
        for network in &self.networks {
            let force = if self.force { "?force=1" } else { "" };
            let target = format!("/networks/{}{force}", segment(network));
            match client.delete_with_warning(&target) {
                Ok(left) => {
                    print(&format!("{network}\n"))?;
                    left.iter().for_each(|left| complain(left));
                }
                Err(ClientError::Refused { status: 404, .. }) if self.force => {}
                Err(error) => {
                    complain(&error.to_string());
                    status = 1;
                }
            }
        }
        Ok(status)
    }
}

/// `tunbridge network prune`.
#[derive(Args, Clone, Debug)]
pub(super) struct Prune {
    /// Which ones: until=TIME, label=NAME[=VALUE] or label!=NAME[=VALUE]; may be repeated
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    fn run(&self, client: &Client) -> Outcome {
        let query = filter_query(&self.filter, '?')?;
        if !self.force && !confirmed()? {
            return Ok(0);
        }
        let pruned: PrunedNetworks =
            client.post(&format!("/networks/prune{query}"), &Value::Null)?;
        let names = pruned.networks_deleted.unwrap_or_default();
        if names.is_empty() {
            return Ok(0);
        }
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        print(&format!("Deleted Networks:\n{lines}\n"))?;
        pruned.warnings.iter().for_each(|left| complain(left));
        Ok(0)
    }
}

fn confirmed() -> anyhow::Result<bool> {
    print(
        "WARNING! This will remove all custom networks not used by at least one container.\n\
         Are you sure you want to continue? [y/N] ",
    )?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    let mut input = std::io::stdin().lock();
    let read = input.read_line(&mut answer)?;
    if read == 0 && input.is_terminal() {
        print("\n")?;
    }
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// `tunbridge network connect`.
#[derive(Args, Clone, Debug)]
pub(super) struct Connect {
    /// Name of the container on this network; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Option of the endpoint; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    driver_opt: Vec<String>,
    /// The network with the highest has the default route; may be negative
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    gw_priority: i64,
    /// IPv4 address
    #[arg(long, value_name = "ADDR")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDR")]
    ip6: Option<Ipv6Addr>,
    /// Another container by another name, CONTAINER[:ALIAS]; may be repeated
    #[arg(long, value_name = "CONTAINER", value_parser = link)]
    link: Vec<String>,
    /// Docker's, not supported: an interface's link-local IPv6 address follows from its MAC address
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    link_local_ip: Vec<IpAddr>,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Connect {
    fn run(self, client: &Client) -> Outcome {
        let request = ConnectNetwork {
            container: self.container,
            endpoint_config: EndpointSettings {
                ipam_config: EndpointAddresses {
                    ipv4_address: self.ip,
                    ipv6_address: self.ip6,
                    link_local_ips: self.link_local_ip,
                },
                links: self.link,
                aliases: self.alias,
                mac_address: None,
                driver_opts: driver_options(&self.driver_opt)?,
                gw_priority: self.gw_priority,
            },
        };
        client.tell(
            &format!("/networks/{}/connect", segment(&self.network)),
            &request,
        )?;
        Ok(0)
    }
}

/// `tunbridge network disconnect`.
#[derive(Args, Clone, Debug)]
pub(super) struct Disconnect {
    /// Even if the container is gone
    #[arg(short, long)]
    force: bool,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Disconnect {
    fn run(self, client: &Client) -> Outcome {
        let request = DisconnectNetwork {
            container: self.container,
            force: self.force,
        };
        client.tell(
            &format!("/networks/{}/disconnect", segment(&self.network)),
            &request,
        )?;
        Ok(0)
    }
}
