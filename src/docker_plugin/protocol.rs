//! Requests and answers of libnetwork's remote drivers (`libnetwork/drivers/remote/api`, `ipams/remote/api`), as
//! version 20.10 sends them.
//!
//! Go sends `null` for what is empty; both are the default here. What has to be there is asked for with
//! [`required`] and the parsers below, which name the field.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::client::ClientError;
use crate::api::types::{is_default, or_default};

/// Why a call fails: one sentence, to be read behind dockerd's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Self(error.to_string())
    }
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub(super) ipv6_data: Vec<IpamData>,
}

/// What an IPAM driver has given a network.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct IpamData {
    #[serde(deserialize_with = "or_default")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) gateway: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

/// Calls that name a network and no more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkReference {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
}

/// Calls that name an endpoint, some with options.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointCall {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint_id: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint_id: String,
    #[serde(rename = "Interface", deserialize_with = "or_default")]
    pub(super) interface: EndpointInterface,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
}

/// An endpoint's interface: what is given in a request, and what was not in its answer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct EndpointInterface {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_default")]
    pub(super) address: String,
    #[serde(
        rename = "AddressIPv6",
        deserialize_with = "or_default",
        skip_serializing_if = "is_default"
    )]
    pub(super) address_ipv6: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_default")]
    pub(super) mac_address: String,
}

/// Answer to `NetworkDriver.Join`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "is_default")]
    pub(super) gateway_ipv6: String,
    pub(super) disable_gateway_service: bool,
}

/// What dockerd moves into the container, and how it is called there, a number to follow.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: String,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RequestPool {
    #[serde(deserialize_with = "or_default")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) v6: bool,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolReference {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub(super) pool_id: String,
}

/// `IpamDriver.RequestAddress` and `IpamDriver.ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AddressCall {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub(super) pool_id: String,
    #[serde(rename = "Address", deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
}

/// Longest id that dockerd or a swarm makes is 64 characters.
const MAX_ID: usize = 128;

/// An identifier: letters and digits, with `_`, `.` and `-` in between.
pub(super) fn identifier<'a>(field: &str, text: &'a str) -> Result<&'a str, Refusal> {
    let text = required(field, text)?;
    let good = text.len() <= MAX_ID
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good {
        return Ok(text);
    }
    let shown: String = text.escape_debug().take(64).collect();
    Err(Refusal::new(format!(
        "invalid {field} \"{shown}\": give an id of letters and digits"
    )))
}

/// A text that must not be empty.
pub(super) fn required<'a>(field: &str, text: &'a str) -> Result<&'a str, Refusal> {
    if text.is_empty() {
        Err(Refusal::new(format!("{field} is missing from the request")))
    } else {
        Ok(text)
    }
}

/// `address/length`; the empty text is none.
pub(super) fn net(field: &str, text: &str) -> Result<Option<IpNet>, Refusal> {
    parsed(
        field,
        text,
        "an address with its prefix length, such as 10.99.0.2/24",
    )
}

/// `address/length`, or an address alone; the empty text is none.
pub(super) fn address(field: &str, text: &str) -> Result<Option<IpAddr>, Refusal> {
    let alone = text.split_once('/').map_or(text, |(address, length)| {
        // What is wrong with the length is not forgiven.
        let whole = !address.is_empty() && length.parse::<u8>().is_ok();
        if whole { address } else { text }
    });
    parsed(field, alone, "an address, such as 10.99.0.2")
}

fn parsed<T: FromStr>(field: &str, text: &str, example: &str) -> Result<Option<T>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let shown: String = text.escape_debug().take(64).collect();
        Refusal::new(format!("invalid {field} \"{shown}\": give {example}"))
    })
}

/// A value of a map of options, of which the type is expected.
pub(super) fn option<T: serde::de::DeserializeOwned + Default>(
    options: &Map<String, Value>,
    name: &str,
) -> Result<T, Refusal> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => T::deserialize(value)
            .map_err(|error| Refusal::new(format!("invalid option {name}: {}", plain(&error)))),
    }
}

/// serde's sentence on one line.
pub(super) fn plain(error: &dyn Display) -> String {
    error.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn identifiers_cannot_be_paths() {
        assert!(identifier("NetworkID", &"a5".repeat(32)).is_ok());
        for (bad, text) in [
            ("", "NetworkID is missing from the request"),
            ("../x", "invalid NetworkID \"../x\""),
            ("a/b", "invalid NetworkID \"a/b\""),
            ("a\nb", "invalid NetworkID \"a\\nb\""),
        ] {
            let Refusal(sentence) = identifier("NetworkID", bad).unwrap_err();
            assert!(sentence.starts_with(text), "{sentence}");
        }
        assert!(identifier("NetworkID", &"a".repeat(129)).is_err());
    }

    #[test]
    fn addresses_come_with_and_without_length() {
        let read = |text| address("Address", text);
        assert_eq!(read("10.0.0.9/24"), Ok(Some([10, 0, 0, 9].into())));
        assert_eq!(read("10.0.0.9"), Ok(Some([10, 0, 0, 9].into())));
        assert_eq!(read(""), Ok(None));
        for bad in ["10.0.0", "10.0.0.9/x", "10.0.0.9/24/24", "/24", " 10.0.0.1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(net("Pool", "10.0.0.0").is_err());
    }

    #[test]
    fn null_is_nothing() {
        let request: CreateNetwork = serde_json::from_value(json!({
            "NetworkID": "a", "Options": null, "IPv4Data": null, "IPv6Data": [{"Pool": null, "AuxAddresses": null}],
        }))
        .unwrap();
        assert!(request.options.is_empty() && request.ipv4_data.is_empty());
        assert_eq!(request.ipv6_data[0].pool, "");
    }

    #[test]
    fn options_of_the_wrong_type_are_named() {
        let options = json!({"com.docker.network.internal": "yes"});
        let Refusal(sentence) =
            option::<bool>(options.as_object().unwrap(), "com.docker.network.internal")
                .unwrap_err();
        assert_eq!(
            sentence,
            "invalid option com.docker.network.internal: invalid type: string \"yes\", expected a boolean"
        );
    }

    #[test]
    fn an_answer_has_only_what_was_not_given() {
        let interface = EndpointInterface {
            mac_address: "02:42:0a:3c:00:c8".to_owned(),
            ..EndpointInterface::default()
        };
        assert_eq!(
            serde_json::to_value(interface).unwrap(),
            json!({"MacAddress": "02:42:0a:3c:00:c8"})
        );
    }
}
