//! Records of earlier versions made those of this one.
//!
//! Version 1 knew one network, the default one, whose configuration was flat and had one address. Until version 2 a
//! container could ask for one address on a network, since then for one of each family. What else is new has
//! defaults (`#[serde(default)]` in `records`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::control::network_config::{
    Advertise, DEFAULT_INTERFACE_PREFIX, FamilyConfig, GatewayMode, Ipv6Allocation, NetworkConfig,
};

/// `Network.config` of version 1.
#[derive(Deserialize)]
struct ConfigV1 {
    name: String,
    managed: bool,
    address: IpNet,
    allocation_range: Option<IpNet>,
    default_gateway: Option<IpAddr>,
    mtu: u32,
    host_address: IpAddr,
    icc: bool,
    masquerade: bool,
}

impl From<ConfigV1> for NetworkConfig {
    fn from(old: ConfigV1) -> Self {
        let auxiliary: BTreeMap<_, _> = old
            .default_gateway
            .map(|gateway| ("DefaultGatewayIPv4".to_owned(), gateway))
            .into_iter()
            .collect();
        Self {
            bridge: old.name,
            managed: old.managed,
            families: vec![FamilyConfig {
                subnet: old.address.trunc(),
                configured: true,
                allocation_range: old.allocation_range,
                auxiliary,
                gateway: Some(old.address.addr()),
                bridge_address: true,
                container_gateway: old.default_gateway,
                mode: GatewayMode::Nat,
                masquerade: old.masquerade,
                source: None,
            }],
            link_local: false,
            internal: false,
            icc: old.icc,
            mtu: old.mtu,
            host_address: old.host_address,
            interface_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            advertise: Advertise::default(),
            ipv6_address: Ipv6Allocation::Mac,
            ndp_proxy: Vec::new(),
        }
    }
}

/// A network's record of version 1 as one of version 2.
///
/// # Errors
/// If it is not one.
pub(super) fn network(record: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut record: Value = serde_json::from_slice(record)?;
    if let Some(config) = record.get_mut("config") {
        let old: ConfigV1 = serde_json::from_value(config.take())?;
        *config = serde_json::to_value(NetworkConfig::from(old))?;
    }
    serde_json::to_vec(&record)
}

/// A container's record of version 1 or 2 as one of version 3.
///
/// # Errors
/// If it is not one.
pub(super) fn container(record: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut record: Value = serde_json::from_slice(record)?;
    let attachments = record.get_mut("attachments").and_then(Value::as_array_mut);
    for attachment in attachments.into_iter().flatten() {
        let requested = attachment.get("requested_address");
        let requested: Vec<Value> = requested
            .filter(|address| !address.is_null())
            .cloned()
            .into_iter()
            .collect();
        if let Some(attachment) = attachment.as_object_mut() {
            attachment.insert("requested_addresses".to_owned(), requested.into());
        }
    }
    serde_json::to_vec(&record)
}
