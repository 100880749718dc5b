//! `network create`: Docker's flags, and the checks that its client makes itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;

use crate::api::client::Client;
use crate::api::types::{CreateNetwork, CreatedNetwork, Ipam, IpamPool};
use crate::cli::{Outcome, complain, print};

/// `tunbridge network create`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Create {
    /// Accepted for Docker's sake: it matters to swarms only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_default_value = true, action = clap::ArgAction::Set)]
    attachable: bool,
    /// Address that no container gets, NAME=ADDR; may be repeated
    #[arg(long, value_name = "NAME=ADDR")]
    aux_address: Vec<String>,
    /// Kind of network
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Gateway of a subnet; may be repeated
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    gateway: Vec<String>,
    /// No way out of the network, and none in
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_default_value = true, action = clap::ArgAction::Set)]
    internal: bool,
    /// Part of a subnet that container addresses are taken from; may be repeated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Assign IPv4 addresses [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Assign IPv6 addresses [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Label NAME or NAME=VALUE; may be repeated
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Option KEY=VALUE such as com.docker.network.bridge.name=br5; may be repeated
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// Subnet ADDR/LENGTH; may be repeated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    subnet: Vec<String>,
    /// Only `default`
    #[arg(long, value_name = "DRIVER", default_value = "default")]
    ipam_driver: String,
    /// Only `local`
    #[arg(long, value_name = "SCOPE", default_value = "local")]
    scope: String,
    /// Not there: see the message
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    ipam_opt: Vec<String>,
    #[arg(long, hide = true)]
    ingress: bool,
    #[arg(long, hide = true)]
    config_only: bool,
    #[arg(long, value_name = "NETWORK", hide = true)]
    config_from: Option<String>,
    /// Name of the network
    #[arg(value_name = "NAME")]
    name: String,
}

impl Create {
    pub(super) fn run(self, client: &Client) -> Outcome {
        self.refuse_what_is_not_there()?;
        let mut labels = BTreeMap::new();
        for label in &self.label {
            let (name, value) = pair(label);
            if name.is_empty() {
                bail!(
                    "--label {label:?}: invalid label '{label}': empty name: give NAME or NAME=VALUE"
                );
            }
            labels.insert(name, value);
        }
        let request = CreateNetwork {
            ipam: Ipam {
                driver: self.ipam_driver.clone(),
                options: BTreeMap::new(),
                config: self.pools()?,
            },
            name: self.name,
            driver: self.driver,
            enable_ipv4: self.ipv4,
            enable_ipv6: self.ipv6,
            internal: self.internal,
            attachable: self.attachable,
            options: self
                .option
                .iter()
                .map(|option| pair(option))
                .filter(|(key, _)| !key.is_empty())
                .collect(),
            labels,
            ..CreateNetwork::default()
        };
        let created: CreatedNetwork = client.post("/networks/create", &request)?;
        for warning in created.warning.lines() {
            complain(&format!("warning: {warning}"));
        }
        print(&format!("{}\n", created.id))
    }

    fn refuse_what_is_not_there(&self) -> anyhow::Result<()> {
        if self.ipam_driver != "default" {
            bail!(
                "--ipam-driver {}: only `default` is there: leave the flag out",
                self.ipam_driver
            );
        }
        if let Some(option) = self.ipam_opt.first() {
            bail!(
                "--ipam-opt {option}: the default IPAM driver has no options: leave the flag out"
            );
        }
        if self.scope != "local" && !self.scope.is_empty() {
            bail!(
                "--scope {}: networks are of this host only: leave the flag out",
                self.scope
            );
        }
        if self.ingress {
            bail!(
                "--ingress: there are no swarms: leave the flag out, and publish ports with -p of `tunbridge run`"
            );
        }
        if self.config_only || self.config_from.is_some() {
            let flag = if self.config_only {
                "--config-only"
            } else {
                "--config-from"
            };
            bail!("{flag}: networks have no common configurations: give each one its own flags");
        }
        Ok(())
    }

    /// One per subnet, in the order of the flags; as `createIPAMConfig` of Docker's client.
    fn pools(&self) -> anyhow::Result<Vec<IpamPool>> {
        let count = self.subnet.len();
        if count < self.ip_range.len() || count < self.gateway.len() {
            bail!("every ip-range or gateway must have a corresponding subnet: add --subnet");
        }
        // Docker leaves the check of a subnet that nothing is compared with to the daemon; its words are better.
        let alone = count == 1
            && self.ip_range.is_empty()
            && self.gateway.is_empty()
            && self.aux_address.is_empty();
        let mut pools: Vec<(Option<IpNet>, IpamPool)> = Vec::new();
        for text in &self.subnet {
            let subnet = match text.parse::<IpNet>() {
                Ok(subnet) => Some(subnet),
                Err(_) if alone => None,
                Err(_) => bail!(
                    "--subnet {text}: invalid subnet: invalid CIDR address: {text}: give ADDRESS/LENGTH, as in 10.5.0.0/16"
                ),
            };
            let overlaps = |other: &IpNet| {
                subnet.is_some_and(|subnet| {
                    other.contains(&subnet.network()) || subnet.contains(&other.network())
                })
            };
            if pools
                .iter()
                .any(|(other, _)| other.as_ref().is_some_and(overlaps))
            {
                bail!(
                    "multiple overlapping subnet configuration is not supported: --subnet {text} is in another one"
                );
            }
            let pool = IpamPool {
                subnet: Some(text.clone()),
                ..IpamPool::default()
            };
            pools.push((subnet, pool));
        }
        for range in &self.ip_range {
            let parsed: IpNet = range.parse().ok().with_context(|| {
                format!("--ip-range {range}: invalid CIDR address: {range}: give ADDRESS/LENGTH, as in 10.5.7.0/24")
            })?;
            let Some(pool) = containing(&mut pools, Some(parsed.addr())) else {
                bail!("no matching subnet for range {range}: --subnet must contain it");
            };
            if let (Some(other), Some(subnet)) = (&pool.ip_range, &pool.subnet) {
                bail!(
                    "cannot configure multiple ranges ({range}, {other}) on the same subnet ({subnet})"
                );
            }
            pool.ip_range = Some(range.clone());
        }
        for gateway in &self.gateway {
            let Some(pool) = containing(&mut pools, gateway.parse().ok()) else {
                bail!("no matching subnet for gateway {gateway}: --subnet must contain it");
            };
            if let (Some(other), Some(subnet)) = (&pool.gateway, &pool.subnet) {
                bail!(
                    "cannot configure multiple gateways ({gateway}, {other}) for the same subnet ({subnet})"
                );
            }
            pool.gateway = Some(gateway.clone());
        }
        for auxiliary in &self.aux_address {
            let Some((name, address)) = auxiliary.split_once('=') else {
                bail!("--aux-address {auxiliary}: give NAME=ADDRESS, as in printer=10.5.0.9");
            };
            let parsed = address.parse().ok();
            let pool = match parsed {
                Some(IpAddr::V6(gateway))
                    if gateway.is_unicast_link_local() && name == V6_GATEWAY =>
                {
                    first_v6(&mut pools)
                }
                _ => containing(&mut pools, parsed),
            };
            let Some(pool) = pool else {
                bail!("no matching subnet for aux-address {address}: --subnet must contain it");
            };
            pool.auxiliary_addresses
                .insert(name.to_owned(), address.to_owned());
        }
        Ok(pools.into_iter().map(|(_, pool)| pool).collect())
    }
}

/// The auxiliary address of this name is the containers' default gateway, and may be link-local.
const V6_GATEWAY: &str = "DefaultGatewayIPv6";

fn first_v6(pools: &mut [(Option<IpNet>, IpamPool)]) -> Option<&mut IpamPool> {
    pools
        .iter_mut()
        .find(|(subnet, _)| matches!(subnet, Some(IpNet::V6(_))))
        .map(|(_, pool)| pool)
}

/// The pool whose subnet has `address` in it.
fn containing(
    pools: &mut [(Option<IpNet>, IpamPool)],
    address: Option<IpAddr>,
) -> Option<&mut IpamPool> {
    let address = address?;
    pools
        .iter_mut()
        .find(|(subnet, _)| subnet.is_some_and(|subnet| subnet.contains(&address)))
        .map(|(_, pool)| pool)
}

/// `KEY=VALUE`; without `=`, the value is empty.
fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
