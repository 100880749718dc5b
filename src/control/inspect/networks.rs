//! Networks.

use serde_json::{Map, Value, json};

use super::{address_net, object};
use crate::control::ipam::Pool;
use crate::control::network_options::{
    BRIDGE_NAME, DEFAULT_BRIDGE, DRIVER_MTU, ENABLE_ICC, ENABLE_IP_MASQUERADE, HOST_BINDING_IPV4,
};
use crate::control::records::{FamilyConfig, Network};
use crate::control::state::{DEFAULT_NETWORK, State};

/// Body of `GET /networks/{id}`; `network inspect` prints an array of these.
pub fn network(state: &State, network: &Network) -> Value {
    let mut body = summary(network);
    let containers: Map<String, Value> = state
        .users(&network.id)
        .map(|(container, endpoint)| {
            let entry = json!({
                "Name": container.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac.to_string(),
                "IPv4Address": address_net(endpoint, true),
                "IPv6Address": address_net(endpoint, false),
            });
            (container.id.clone(), entry)
        })
        .collect();
    body.insert("Containers".to_owned(), Value::Object(containers));
    let subnets: Map<String, Value> = state
        .pools(&network.id)
        .iter()
        .map(|pool| (pool.subnet().to_string(), status(pool)))
        .collect();
    let status = json!({ "IPAM": { "Subnets": subnets } });
    body.insert("Status".to_owned(), status);
    Value::Object(body)
}

/// One entry of `GET /networks`: without its containers.
pub fn network_summary(network: &Network) -> Value {
    Value::Object(summary(network))
}

fn status(pool: &Pool) -> Value {
    json!({
        "IPsInUse": u64::try_from(pool.in_use()).unwrap_or(u64::MAX),
        "DynamicIPsAvailable": pool.available(),
    })
}

fn summary(network: &Network) -> Map<String, Value> {
    let default = network.name == DEFAULT_NETWORK;
    let pools: Vec<Value> = network.config.families.iter().map(pool).collect();
    // Docker's clients send an empty map; what the daemon makes has none.
    let ipam_options = if default || !network.is_bridge() {
        Value::Null
    } else {
        json!({})
    };
    let ipv4 = network.v4().is_some() || !network.is_bridge();
    let options = if default {
        default_options(network)
    } else {
        json!(network.options)
    };
    object(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created.rfc3339(),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": ipv4,
        "EnableIPv6": network.config.has_ipv6(),
        "IPAM": { "Driver": "default", "Options": ipam_options, "Config": pools },
        "Internal": network.config.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Options": options,
        "Labels": network.labels,
    }))
}

fn pool(family: &FamilyConfig) -> Value {
    let mut pool = Map::new();
    pool.insert("Subnet".to_owned(), json!(family.subnet));
    if let Some(range) = family.allocation_range {
        pool.insert("IPRange".to_owned(), json!(range));
    }
    if let Some(gateway) = family.gateway {
        pool.insert("Gateway".to_owned(), json!(gateway));
    }
    if !family.auxiliary.is_empty() {
        pool.insert("AuxiliaryAddresses".to_owned(), json!(family.auxiliary));
    }
    Value::Object(pool)
}

/// What the daemon's flags amount to, as options.
fn default_options(network: &Network) -> Value {
    let config = &network.config;
    let masquerade = network.v4().is_some_and(|family| family.masquerade);
    json!({
        DEFAULT_BRIDGE: "true",
        ENABLE_ICC: config.icc.to_string(),
        ENABLE_IP_MASQUERADE: masquerade.to_string(),
        HOST_BINDING_IPV4: config.host_address.to_string(),
        BRIDGE_NAME: config.bridge,
        DRIVER_MTU: config.mtu.to_string(),
    })
}
