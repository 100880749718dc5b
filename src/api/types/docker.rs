//! Bodies of Docker's requests about networks (`api/types/network` of the Engine API).
//!
//! Docker's clients leave out, send empty or send `null` for what the user did not say; all three are the
//! default here. Unknown keys are ignored, as Docker does.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// `POST /networks/create`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateNetwork {
    /// Name of the network.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Ignored: two networks never share a name.
    #[serde(deserialize_with = "or_default")]
    pub check_duplicate: bool,
    /// `--driver`; empty: `bridge`.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
    /// `--scope`; empty or `local`.
    #[serde(deserialize_with = "or_default")]
    pub scope: String,
    /// `--ipv4`; absent: yes.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// `--ipv6`; absent: no.
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// Address pools.
    #[serde(rename = "IPAM", deserialize_with = "or_default")]
    pub ipam: Ipam,
    /// `--internal`.
    #[serde(deserialize_with = "or_default")]
    pub internal: bool,
    /// `--attachable`.
    #[serde(deserialize_with = "or_default")]
    pub attachable: bool,
    /// `--ingress`, for swarms.
    #[serde(deserialize_with = "or_default")]
    pub ingress: bool,
    /// `--config-only`.
    #[serde(deserialize_with = "or_default")]
    pub config_only: bool,
    /// `--config-from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_from: Option<ConfigReference>,
    /// `--opt`, as given.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
    /// `--label`.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// `IPAM` of [`CreateNetwork`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ipam {
    /// `--ipam-driver`; empty: `default`.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
    /// `--ipam-opt`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub options: BTreeMap<String, String>,
    /// One element per `--subnet`.
    #[serde(deserialize_with = "or_default")]
    pub config: Vec<IpamPool>,
}

/// One subnet of [`Ipam`]. Texts as the user wrote them: who checks them words the errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamPool {
    /// `--subnet`, `address/length`.
    #[serde(
        deserialize_with = "not_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub subnet: Option<String>,
    /// `--ip-range`, `address/length`.
    #[serde(
        rename = "IPRange",
        deserialize_with = "not_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub ip_range: Option<String>,
    /// `--gateway`.
    #[serde(
        deserialize_with = "not_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<String>,
    /// `--aux-address`, name to address.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// `ConfigFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConfigReference {
    /// Name of a network made with `--config-only`.
    #[serde(deserialize_with = "or_default")]
    pub network: String,
}

/// Answer to [`CreateNetwork`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedNetwork {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Things the user should know, one sentence a line; empty if there are none.
    pub warning: String,
}

/// Answer to `POST /networks/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct PrunedNetworks {
    /// Names of the networks that were removed; `null` (here absent) if there were none.
    pub networks_deleted: Option<Vec<String>>,
    /// What is left of them, one sentence each: bridges on which interfaces of others are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Header of an answer without a body: what the user should know.
pub const WARNING: &str = "tunbridge-warning";

/// `POST /networks/{id}/connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConnectNetwork {
    /// Name or id of the container.
    #[serde(deserialize_with = "or_default")]
    pub container: String,
    /// What is wanted there.
    #[serde(deserialize_with = "or_default")]
    pub endpoint_config: EndpointSettings,
}

/// `POST /networks/{id}/disconnect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct DisconnectNetwork {
    /// Name or id of the container.
    #[serde(deserialize_with = "or_default")]
    pub container: String,
    /// `-f`.
    #[serde(deserialize_with = "or_default")]
    pub force: bool,
}

/// What is wanted of a container's connection to one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// Addresses.
    #[serde(
        rename = "IPAMConfig",
        deserialize_with = "or_default",
        skip_serializing_if = "is_default"
    )]
    pub ipam_config: EndpointAddresses,
    /// `--link`, `container:alias` or `container`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// `--alias`, `--network-alias`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `--mac-address`, as given.
    #[serde(
        deserialize_with = "not_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub mac_address: Option<String>,
    /// `--driver-opt`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub driver_opts: BTreeMap<String, String>,
    /// `--gw-priority`; the highest of a container's networks has its default route.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_default")]
    pub gw_priority: i64,
}

/// `IPAMConfig` of [`EndpointSettings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct EndpointAddresses {
    /// `--ip`.
    #[serde(
        rename = "IPv4Address",
        deserialize_with = "ipv4",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>)]
    pub ipv4_address: Option<Ipv4Addr>,
    /// `--ip6`.
    #[serde(
        rename = "IPv6Address",
        deserialize_with = "ipv6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>)]
    pub ipv6_address: Option<Ipv6Addr>,
    /// `--link-local-ip`.
    #[serde(
        rename = "LinkLocalIPs",
        deserialize_with = "link_local",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(value_type = Vec<String>)]
    pub link_local_ips: Vec<IpAddr>,
}

/// What is left out of an answer.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `null` is the default, as in Go.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The empty text and `null` are none.
fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn address<T: FromStr, E: serde::de::Error>(what: impl Display, text: &str) -> Result<T, E> {
    text.parse()
        .map_err(|_| E::custom(format_args!("invalid {what} address: {text}")))
}

fn ipv4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Addr>, D::Error> {
    let text = not_empty(deserializer)?;
    text.map(|text| address("IPv4", &text)).transpose()
}

fn ipv6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Addr>, D::Error> {
    let text = not_empty(deserializer)?;
    text.map(|text| address("IPv6", &text)).transpose()
}

fn link_local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Vec<String> = or_default(deserializer)?;
    let address = |text: &String| address("link-local IP", text);
    texts.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_client_does_not_say_is_the_default() {
        // As `docker network create net1` of version 20.10 sends it.
        let body = json!({
            "CheckDuplicate": true, "Driver": "bridge", "Scope": "", "EnableIPv6": false,
            "IPAM": {"Driver": "default", "Options": {}, "Config": []}, "Internal": false,
            "Attachable": false, "Ingress": false, "ConfigOnly": false, "ConfigFrom": null,
            "Options": {}, "Labels": {}, "Name": "net1", "Unknown": [1],
        });
        let request: CreateNetwork = serde_json::from_value(body).unwrap();
        let expected = CreateNetwork {
            name: "net1".to_owned(),
            check_duplicate: true,
            driver: "bridge".to_owned(),
            enable_ipv6: Some(false),
            ipam: Ipam {
                driver: "default".to_owned(),
                ..Ipam::default()
            },
            ..CreateNetwork::default()
        };
        assert_eq!(request, expected);
        let nothing = json!({"IPAM": null, "Options": null, "Labels": null, "EnableIPv4": null});
        let request: CreateNetwork = serde_json::from_value(nothing).unwrap();
        assert_eq!(request, CreateNetwork::default());
        let empty = json!({"Container": "c", "EndpointConfig": {"IPAMConfig": {"IPv4Address": ""}, "Links": null, "MacAddress": ""}});
        let request: ConnectNetwork = serde_json::from_value(empty).unwrap();
        assert_eq!(request.endpoint_config, EndpointSettings::default());
    }

    #[test]
    fn addresses_are_read_and_refused_with_dockers_words() {
        let read = |value| serde_json::from_value::<EndpointAddresses>(value);
        let good = json!({"IPv4Address": "10.0.0.9", "IPv6Address": "fd00::9", "LinkLocalIPs": ["169.254.1.1"]});
        let addresses = read(good.clone()).unwrap();
        assert_eq!(addresses.ipv4_address, Some([10, 0, 0, 9].into()));
        assert_eq!(serde_json::to_value(&addresses).unwrap(), good);
        for (body, text) in [
            (
                json!({"IPv4Address": "10.0.0"}),
                "invalid IPv4 address: 10.0.0",
            ),
            (
                json!({"IPv6Address": "10.0.0.1"}),
                "invalid IPv6 address: 10.0.0.1",
            ),
            (
                json!({"LinkLocalIPs": ["x"]}),
                "invalid link-local IP address: x",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_said_is_not_sent() {
        let sent = serde_json::to_value(EndpointSettings::default()).unwrap();
        assert_eq!(sent, json!({}));
    }
}
