//! The options of a container's networks: `run` and `attach`.
//!
//! `--network` may be repeated and has a long form, `name=…,alias=…,ip=…`. The flags that are about one network
//! (`--ip`, `--mac-address`, `--network-alias`, …) belong to the first, as in Docker's client; so do the words of
//! the errors.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::bail;
use clap::Args;

use crate::api::long_form;
use crate::api::types::{CreateContainer, EndpointAddresses, EndpointSettings, NetworkAttachment};

#[derive(Args, Clone, Debug)]
pub(super) struct NetworkOptions {
    /// Network to connect to [default: bridge]: NET, or
    /// name=NET,alias=NAME,ip=ADDR,ip6=ADDR,mac-address=MAC,driver-opt=KEY=VALUE,gw-priority=N; may be repeated
    #[arg(long, alias = "net", value_name = "NET", value_parser = attachment)]
    network: Vec<NetworkAttachment>,
    /// Name of the container on the first network; may be repeated
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Another container by another name, CONTAINER[:ALIAS]; may be repeated
    #[arg(long, value_name = "CONTAINER", value_parser = link)]
    link: Vec<String>,
    /// Publish a port: [ADDR:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]; may be repeated
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<String>,
    /// Publish every exposed port to an ephemeral host port
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port or range for -P; may be repeated
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// IPv4 address on the first network
    #[arg(long, value_name = "ADDR")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the first network
    #[arg(long, value_name = "ADDR")]
    ip6: Option<Ipv6Addr>,
    /// Docker's, not supported: an interface's link-local IPv6 address follows from its MAC address
    #[arg(long, value_name = "ADDR")]
    link_local_ip: Vec<IpAddr>,
    /// MAC address on the first network [default: 02:42: and the IPv4 address]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// Host name [default: the first 12 digits of the id]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    hostname: Option<String>,
    /// Domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
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
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
}

impl NetworkOptions {
    /// The request for a container with this name.
    ///
    /// # Errors
    /// If options contradict each other.
    pub(super) fn into_request(mut self, name: Option<String>) -> anyhow::Result<CreateContainer> {
        let networks = self.take_networks()?;
        Ok(CreateContainer {
            name,
            networks,
            links: self.link,
            publish: self.publish,
            publish_all: self.publish_all,
            expose: self.expose,
            hostname: self.hostname,
            domainname: self.domainname,
            add_host: self.add_host,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_option: self.dns_option,
            ..CreateContainer::default()
        })
    }

    fn take_networks(&mut self) -> anyhow::Result<Vec<NetworkAttachment>> {
        let mut networks = std::mem::take(&mut self.network);
        let said = !networks.is_empty();
        if !said {
            networks.push(NetworkAttachment::default());
        }
        for (number, attachment) in networks.iter().enumerate() {
            let name = &attachment.network;
            if networks[..number]
                .iter()
                .any(|other| other.network == *name)
            {
                bail!("network {name:?} is specified multiple times: give each --network once");
            }
        }
        if let Some(first) = networks.first_mut() {
            self.put_into(first)?;
        }
        let ours = networks
            .iter()
            .filter(|attachment| is_user_defined(&attachment.network))
            .count();
        if ours > 0 && ours < networks.len() {
            bail!(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes: \
                 connect to the others with `tunbridge network connect`"
            );
        }
        if let Some(other) = networks.iter().find(|attachment| {
            !attachment.settings.aliases.is_empty() && !is_user_defined(&attachment.network)
        }) {
            let name = if other.network.is_empty() {
                "bridge"
            } else {
                &other.network
            };
            bail!(
                "network-scoped aliases are only supported for user-defined networks: {name} is none; \
                 make one with `tunbridge network create`, and name it with --network"
            );
        }
        if !said
            && networks
                .iter()
                .all(|attachment| *attachment == NetworkAttachment::default())
        {
            networks.clear();
        }
        Ok(networks)
    }

    /// The flags that are about one network.
    fn put_into(&mut self, first: &mut NetworkAttachment) -> anyhow::Result<()> {
        fn take<T>(
            own: &mut Option<T>,
            flag: &mut Option<T>,
            flag_name: &str,
            what: &str,
        ) -> anyhow::Result<()> {
            if own.is_some() && flag.is_some() {
                bail!(
                    "conflicting options: cannot specify both {flag_name} and per-network {what}"
                );
            }
            *own = own.take().or_else(|| flag.take());
            Ok(())
        }
        fn take_list<T>(
            own: &mut Vec<T>,
            flag: &mut Vec<T>,
            flag_name: &str,
            what: &str,
        ) -> anyhow::Result<()> {
            if !own.is_empty() && !flag.is_empty() {
                bail!(
                    "conflicting options: cannot specify both {flag_name} and per-network {what}"
                );
            }
            own.append(flag);
            Ok(())
        }
        let EndpointSettings {
            ipam_config:
                EndpointAddresses {
                    ipv4_address,
                    ipv6_address,
                    link_local_ips,
                },
            aliases,
            mac_address,
            ..
        } = &mut first.settings;
        take_list(aliases, &mut self.network_alias, "--network-alias", "alias")?;
        take(ipv4_address, &mut self.ip, "--ip", "IPv4 address")?;
        take(ipv6_address, &mut self.ip6, "--ip6", "IPv6 address")?;
        take(
            mac_address,
            &mut self.mac_address,
            "--mac-address",
            "MAC address",
        )?;
        take_list(
            link_local_ips,
            &mut self.link_local_ip,
            "--link-local-ip",
            "link-local IP addresses",
        )
    }
}

/// Docker's `NetworkMode.IsUserDefined`.
fn is_user_defined(network: &str) -> bool {
    !matches!(network, "" | "default" | "bridge" | "host" | "none")
        && !network.starts_with("container:")
}

/// A `--network` value.
fn attachment(value: &str) -> Result<NetworkAttachment, String> {
    let mut attachment = NetworkAttachment::default();
    if !value.contains('=') {
        if value.is_empty() {
            return Err("network name/id is not specified".to_owned());
        }
        attachment.network = value.to_owned();
        return Ok(attachment);
    }
    for field in long_form::fields(value)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field {field}: give KEY=VALUE"));
        };
        long_form::put(&mut attachment, key, value)?;
    }
    if attachment.network.is_empty() {
        return Err("network name/id is not specified: add name=NET".to_owned());
    }
    Ok(attachment)
}

/// A `--link` value: CONTAINER or CONTAINER:ALIAS.
pub(super) fn link(value: &str) -> Result<String, String> {
    let parts: Vec<&str> = value.split(':').collect();
    match parts.as_slice() {
        [""] => Err("empty string specified for links: give CONTAINER[:ALIAS]".to_owned()),
        [name] | [name, _] if !name.is_empty() => Ok(value.to_owned()),
        _ => Err(format!(
            "bad format for links: {value}: give CONTAINER[:ALIAS]"
        )),
    }
}

/// `--driver-opt` values.
///
/// # Errors
/// For one that is no `KEY=VALUE`.
pub(super) fn driver_options(values: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    for value in values {
        let Some((key, value)) = value.split_once('=') else {
            bail!(
                "--driver-opt {value}: invalid key/value pair format in driver options: give KEY=VALUE"
            );
        };
        options.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: NetworkOptions,
    }

    fn request(words: &[&str]) -> Result<Value, String> {
        let cli = Cli::try_parse_from(std::iter::once(&"run").chain(words))
            .map_err(|error| error.to_string())?;
        let request = cli
            .options
            .into_request(None)
            .map_err(|error| error.to_string())?;
        serde_json::to_value(request).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_about_one_network_are_for_the_first() {
        assert_eq!(request(&[]).unwrap()["networks"], json!([]));
        let words = [
            "--ip",
            "10.0.0.9",
            "--net",
            "a",
            "--network-alias",
            "x",
            "--net-alias",
            "y",
            "--network",
            "b",
            "--mac-address",
            "02:00:00:00:00:01",
            "--ip6",
            "fd00::9",
            "--link-local-ip",
            "169.254.1.1",
            "--link",
            "c:d",
            "--link",
            "e",
            "--domainname",
            "example.org",
        ];
        let sent = request(&words).unwrap();
        let first = json!({
            "network": "a", "Aliases": ["x", "y"], "MacAddress": "02:00:00:00:00:01",
            "IPAMConfig": {"IPv4Address": "10.0.0.9", "IPv6Address": "fd00::9", "LinkLocalIPs": ["169.254.1.1"]},
        });
        assert_eq!(sent["networks"], json!([first, {"network": "b"}]));
        assert_eq!(
            (&sent["links"], &sent["domainname"]),
            (&json!(["c:d", "e"]), &json!("example.org"))
        );
        assert_eq!(
            request(&["--ip", "10.0.0.9"]).unwrap()["networks"][0]["network"],
            ""
        );
    }

    #[test]
    fn the_long_form_has_everything_of_a_network() {
        let long = "name=a,alias=x,Alias=y,ip=10.0.0.9,ip6=fd00::9,mac-address=02:00:00:00:00:01,\
                    link-local-ip=169.254.1.1,driver-opt=k=v,\"driver-opt=l=1,2\",gw-priority=-3";
        let sent = request(&["--network", long, "--network", "name=b"]).unwrap();
        let first = json!({
            "network": "a", "Aliases": ["x", "y"], "MacAddress": "02:00:00:00:00:01",
            "IPAMConfig": {"IPv4Address": "10.0.0.9", "IPv6Address": "fd00::9", "LinkLocalIPs": ["169.254.1.1"]},
            "DriverOpts": {"k": "v", "l": "1,2"}, "GwPriority": -3,
        });
        assert_eq!(sent["networks"], json!([first, {"network": "b"}]));
    }

    #[test]
    fn contradictions_are_told_with_dockers_words() {
        let table: &[(&[&str], &str)] = &[
            (
                &["--network", "alias=x"],
                "network name/id is not specified",
            ),
            (&["--network", "name=a,foo=b"], "invalid field key foo"),
            (&["--network", "name=a,foo"], "invalid field foo"),
            (&["--network", "a,alias=b"], "invalid field a"),
            (
                &["--network", "name=a,gw-priority=x"],
                "invalid gw-priority (x): invalid syntax",
            ),
            (
                &["--network", "name=a,driver-opt=x"],
                "invalid key value pair format in driver options",
            ),
            (&["--network", "name=a,ip=foo"], "invalid IPv4 address: foo"),
            (
                &["--network", "name=a,ip6=1.2.3.4"],
                "invalid IPv6 address: 1.2.3.4",
            ),
            (
                &["--network", "a", "--network", "name=a"],
                "network \"a\" is specified multiple times",
            ),
            (
                &["--network", "bridge", "--network", "a"],
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ),
            (
                &["--network", "name=a,ip=1.2.3.4", "--ip", "1.2.3.5"],
                "conflicting options: cannot specify both --ip and per-network IPv4 address",
            ),
            (
                &["--network", "name=a,ip6=fd00::1", "--ip6", "fd00::2"],
                "conflicting options: cannot specify both --ip6 and per-network IPv6 address",
            ),
            (
                &["--network", "name=a,alias=x", "--network-alias", "y"],
                "conflicting options: cannot specify both --network-alias and per-network alias",
            ),
            (
                &[
                    "--network",
                    "name=a,mac-address=02:00:00:00:00:01",
                    "--mac-address",
                    "02:00:00:00:00:02",
                ],
                "conflicting options: cannot specify both --mac-address and per-network MAC address",
            ),
            (
                &[
                    "--network",
                    "name=a,link-local-ip=169.254.1.1",
                    "--link-local-ip",
                    "169.254.1.2",
                ],
                "conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses",
            ),
            (
                &["--network-alias", "x"],
                "network-scoped aliases are only supported for user-defined networks: bridge",
            ),
            (
                &["--network", "host", "--network-alias", "x"],
                "network-scoped aliases are only supported",
            ),
            (&["--link", "a:b:c"], "bad format for links: a:b:c"),
            (&["--link", ":b"], "bad format for links: :b"),
        ];
        for (words, text) in table {
            let error = request(words).unwrap_err();
            assert!(error.contains(text), "{words:?}: {error}");
        }
    }
}
