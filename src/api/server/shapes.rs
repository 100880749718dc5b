//! Networks and containers as clients of older API versions know them: which keys there are, and their order.
//!
//! The daemon describes everything, in the newest order. Docker's clients print what `inspect` gets as it is, so what a
//! person or a script with an older client sees is what an engine of that client's age would show. What changed when is
//! in Docker's API history: 1.44 (25.0), 1.45 (26.0), 1.48 (28.0), 1.52 (29.0).

use serde_json::{Map, Value, json};

use super::versions::Version;

/// Of an endpoint, down to 1.44; nothing else was known then.
const ENDPOINT_BEFORE_1_44: [&str; 13] = [
    "IPAMConfig",
    "Links",
    "Aliases",
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "MacAddress",
    "DriverOpts",
];

/// The first keys of an endpoint, from 1.44 to 1.51.
const ENDPOINT_BEFORE_1_52: [&str; 5] =
    ["IPAMConfig", "Links", "Aliases", "MacAddress", "DriverOpts"];

/// The first keys of `NetworkSettings` since 1.45.
const SETTINGS_SINCE_1_45: [&str; 4] = ["Bridge", "SandboxID", "SandboxKey", "Ports"];

/// What 1.52 left out of `NetworkSettings`.
const SETTINGS_UNTIL_1_51: [&str; 14] = [
    "Bridge",
    "HairpinMode",
    "LinkLocalIPv6Address",
    "LinkLocalIPv6PrefixLen",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
];

impl Version {
    /// A network as this version shows it.
    pub(super) fn network(self, mut body: Value) -> Value {
        if let Some(network) = body.as_object_mut()
            && self.before((1, 52))
        {
            network.shift_remove("Status");
            if self.before((1, 48)) {
                network.shift_remove("EnableIPv4");
            }
            for key in ["Options", "Labels"] {
                if let Some(value) = network.shift_remove(key) {
                    network.insert(key.to_owned(), value);
                }
            }
        }
        body
    }

    /// A container as this version shows it.
    pub(super) fn container(self, mut body: Value) -> Value {
        let names = own_names(&body);
        let settings = body.get_mut("NetworkSettings");
        let Some(settings) = settings.and_then(Value::as_object_mut) else {
            return body;
        };
        if self.without_legacy() {
            for key in SETTINGS_UNTIL_1_51 {
                settings.shift_remove(key);
            }
        }
        if self.since((1, 45)) {
            put_first(settings, &SETTINGS_SINCE_1_45);
        }
        let networks = settings.get_mut("Networks").and_then(Value::as_object_mut);
        for (network, endpoint) in networks.into_iter().flatten() {
            if let Some(endpoint) = endpoint.as_object_mut() {
                self.endpoint(network, endpoint, &names);
            }
        }
        body
    }

    /// An entry of a list of containers as this version shows it.
    pub(super) fn container_summary(self, mut body: Value) -> Value {
        let networks = body.pointer_mut("/NetworkSettings/Networks");
        let networks = networks.and_then(Value::as_object_mut);
        for (network, endpoint) in networks.into_iter().flatten() {
            if let Some(endpoint) = endpoint.as_object_mut() {
                self.endpoint(network, endpoint, &[]);
            }
        }
        body
    }

    /// `names` are those that the container has on every network that users made.
    fn endpoint(self, network: &str, endpoint: &mut Map<String, Value>, names: &[String]) {
        if self.before((1, 45)) && !matches!(network, "bridge" | "host" | "none") {
            let aliases = endpoint.get("Aliases").and_then(Value::as_array);
            let mut aliases: Vec<Value> = aliases.cloned().unwrap_or_default();
            for name in names {
                if !aliases.iter().any(|alias| alias == name) {
                    aliases.push(json!(name));
                }
            }
            if !aliases.is_empty() {
                endpoint.insert("Aliases".to_owned(), Value::Array(aliases));
            }
        }
        if self.before((1, 48)) {
            endpoint.shift_remove("GwPriority");
        }
        if self.before((1, 44)) {
            endpoint.retain(|key, _| ENDPOINT_BEFORE_1_44.contains(&key.as_str()));
            put_first(endpoint, &ENDPOINT_BEFORE_1_44);
        } else if self.before((1, 52)) {
            put_first(endpoint, &ENDPOINT_BEFORE_1_52);
        }
    }
}

/// The short id and the host name: aliases, before they had a list of their own.
fn own_names(container: &Value) -> Vec<String> {
    let id = container["Id"].as_str().and_then(|id| id.get(..12));
    let hostname = container["Config"]["Hostname"].as_str();
    id.into_iter().chain(hostname).map(str::to_owned).collect()
}

/// Puts these keys, as far as they are there, before all others.
fn put_first(map: &mut Map<String, Value>, keys: &[&str]) {
    let mut rest = std::mem::take(map);
    for key in keys {
        if let Some((key, value)) = rest.shift_remove_entry(*key) {
            map.insert(key, value);
        }
    }
    map.extend(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Version = Version(None);

    fn version(minor: u64) -> Version {
        Version(Some((1, minor)))
    }

    /// Keys in their order.
    fn keys(value: &Value) -> Vec<&str> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .collect()
    }

    #[test]
    fn networks_fit_the_version() {
        let network = json!({
            "Name": "n", "EnableIPv4": true, "EnableIPv6": false, "Options": {}, "Labels": {}, "Containers": {}, "Status": {}
        });
        let shown = |version: Version| version.network(network.clone());
        assert_eq!(
            keys(&shown(version(41))),
            ["Name", "EnableIPv6", "Containers", "Options", "Labels"]
        );
        assert_eq!(
            keys(&shown(version(51))),
            [
                "Name",
                "EnableIPv4",
                "EnableIPv6",
                "Containers",
                "Options",
                "Labels"
            ]
        );
        for newest in [version(52), EVERY] {
            assert_eq!(keys(&shown(newest)), keys(&network));
        }
    }

    fn container() -> Value {
        json!({
            "Id": "0123456789abcdef", "Config": { "Hostname": "chost" },
            "NetworkSettings": {
                "Bridge": "", "SandboxID": "s", "HairpinMode": false, "Ports": {}, "SandboxKey": "k", "IPAddress": "172.17.0.2",
                "Networks": {
                    "bridge": { "IPAMConfig": null, "Links": null, "Aliases": null, "DriverOpts": null, "GwPriority": 0,
                        "NetworkID": "n", "MacAddress": "m", "IPPrefixLen": 16, "DNSNames": null },
                    "net1": { "IPAMConfig": null, "Links": null, "Aliases": ["svc", "chost"], "DriverOpts": null, "GwPriority": 0,
                        "NetworkID": "n", "MacAddress": "m", "IPPrefixLen": 16, "DNSNames": ["c"] },
                },
            },
        })
    }

    #[test]
    fn containers_fit_the_version() {
        assert_eq!(EVERY.container(container()), container());
        let old = version(41).container(container());
        let settings = &old["NetworkSettings"];
        assert_eq!(keys(settings), keys(&container()["NetworkSettings"]));
        let endpoint = [
            "IPAMConfig",
            "Links",
            "Aliases",
            "NetworkID",
            "IPPrefixLen",
            "MacAddress",
            "DriverOpts",
        ];
        assert_eq!(keys(&settings["Networks"]["net1"]), endpoint);
        assert_eq!(keys(&settings["Networks"]["bridge"]), endpoint);
        assert_eq!(
            settings["Networks"]["net1"]["Aliases"],
            json!(["svc", "chost", "0123456789ab"])
        );
        assert_eq!(settings["Networks"]["bridge"]["Aliases"], Value::Null);

        let middle = version(50).container(container());
        let settings = &middle["NetworkSettings"];
        assert_eq!(
            keys(settings),
            [
                "Bridge",
                "SandboxID",
                "SandboxKey",
                "Ports",
                "HairpinMode",
                "IPAddress",
                "Networks"
            ]
        );
        assert_eq!(
            keys(&settings["Networks"]["net1"]),
            [
                "IPAMConfig",
                "Links",
                "Aliases",
                "MacAddress",
                "DriverOpts",
                "GwPriority",
                "NetworkID",
                "IPPrefixLen",
                "DNSNames"
            ]
        );
        assert_eq!(
            settings["Networks"]["net1"]["Aliases"],
            json!(["svc", "chost"])
        );

        let new = version(52).container(container());
        assert_eq!(
            keys(&new["NetworkSettings"]),
            ["SandboxID", "SandboxKey", "Ports", "Networks"]
        );
        assert_eq!(
            new["NetworkSettings"]["Networks"],
            container()["NetworkSettings"]["Networks"]
        );
    }

    #[test]
    fn lists_of_containers_fit_the_version() {
        let summary = json!({ "NetworkSettings": container()["NetworkSettings"] });
        let shown = version(41).container_summary(summary.clone());
        let endpoint = &shown["NetworkSettings"]["Networks"]["net1"];
        assert_eq!(keys(endpoint).last(), Some(&"DriverOpts"));
        assert_eq!(EVERY.container_summary(summary.clone()), summary);
    }

    #[test]
    fn what_is_missing_stays_missing() {
        for body in [
            json!({}),
            json!(null),
            json!({"NetworkSettings": null}),
            json!({"NetworkSettings": {"Networks": {"n": {}, "m": null}}}),
        ] {
            for version in [version(41), version(44), version(50), version(52), EVERY] {
                assert_eq!(version.container(body.clone()), body);
                assert_eq!(version.container_summary(body.clone()), body);
                assert_eq!(version.network(body.clone()), body);
            }
        }
    }
}
