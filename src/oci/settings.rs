//! Annotations: what a container wants of us.
//!
//! | annotation | value |
//! |---|---|
//! | `com.tunbridge.network` | networks between commas, each with its options behind it: `front,ip=10.5.0.9,alias=web,back`; the options are those of `--network` (`mac` is short for `mac-address`), `name=front` is `front`; `none`: no network; absent: the default network |
//! | `com.tunbridge.publish` | `-p` values between commas or blanks |
//! | `com.tunbridge.name` | what the container is called; absent: its id, of 64 digits the first 12 |
//! | `com.tunbridge.dns`, `.dns-search`, `.dns-option` | as the flags, between commas or blanks |
//! | `com.tunbridge.resolv-conf`, `com.tunbridge.hosts` | a file of the bundle that gets what belongs into /etc/resolv.conf, /etc/hosts |
//!
//! Another annotation that begins with `com.tunbridge.` is an error: it would be a misspelt one.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use super::HookError;
use super::state::Annotations;
use crate::api::long_form;
use crate::api::types::NetworkAttachment;

const PREFIX: &str = "com.tunbridge.";

/// What a container wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// None: it gets no network.
    pub(super) networks: Vec<NetworkAttachment>,
    pub(super) publish: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) dns: Vec<IpAddr>,
    pub(super) dns_search: Vec<String>,
    pub(super) dns_option: Vec<String>,
    /// Below the bundle.
    pub(super) resolv_conf: Option<PathBuf>,
    /// Below the bundle.
    pub(super) hosts: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// Names the first annotation that cannot be used.
    pub(super) fn from_annotations(annotations: &Annotations) -> Result<Self, HookError> {
        let mut settings = Self::default();
        let mut networks = None;
        for (name, value) in annotations {
            let Some(key) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let done = match key {
                "network" => read_networks(value).map(|read| networks = Some(read)),
                "publish" => put(words(value), &mut settings.publish),
                "name" => put(read_name(value), &mut settings.name),
                "dns" => put(addresses(value), &mut settings.dns),
                "dns-search" => put(words(value), &mut settings.dns_search),
                "dns-option" => put(words(value), &mut settings.dns_option),
                "resolv-conf" => put(in_bundle(value), &mut settings.resolv_conf),
                "hosts" => put(in_bundle(value), &mut settings.hosts),
                _ => Err(
                    "there is none of that name: use network, publish, name, dns, dns-search, dns-option, resolv-conf or hosts behind com.tunbridge."
                        .to_owned(),
                ),
            };
            done.map_err(|problem| HookError::Annotation {
                name: name.escape_debug().to_string(),
                problem,
            })?;
        }
        settings.networks = networks.unwrap_or_else(|| {
            vec![NetworkAttachment {
                network: "bridge".to_owned(),
                ..NetworkAttachment::default()
            }]
        });
        Ok(settings)
    }
}

fn put<T>(read: Result<T, String>, into: &mut T) -> Result<(), String> {
    *into = read?;
    Ok(())
}

/// Between commas or blanks.
fn words(value: &str) -> Result<Vec<String>, String> {
    let words = value.split(|c: char| c == ',' || c.is_whitespace());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    if words.is_empty() {
        return Err("it is empty: give a value, or leave the annotation out".to_owned());
    }
    Ok(words)
}

fn addresses(value: &str) -> Result<Vec<IpAddr>, String> {
    let parse = |word: &String| {
        word.parse()
            .map_err(|_| format!("{word:?} is no address of a name server"))
    };
    words(value)?.iter().map(parse).collect()
}

fn read_name(value: &str) -> Result<Option<String>, String> {
    match words(value)?.as_slice() {
        [name] => Ok(Some(name.clone())),
        _ => Err(format!("{value:?}: give one name")),
    }
}

/// A file of the bundle: no way out of it.
fn in_bundle(value: &str) -> Result<Option<PathBuf>, String> {
    let path = Path::new(value);
    let stays = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if value.is_empty() || !stays || value.contains('\0') {
        return Err(format!(
            "{value:?}: give the path of a file below the bundle, such as resolv.conf"
        ));
    }
    Ok(Some(path.to_owned()))
}

/// A word begins a network, `KEY=VALUE` is about the one before.
fn read_networks(value: &str) -> Result<Vec<NetworkAttachment>, String> {
    let mut networks: Vec<NetworkAttachment> = Vec::new();
    for field in long_form::fields(value)? {
        let field = field.trim();
        let name = match field.split_once('=') {
            None => field,
            Some((key, name)) if key.trim().eq_ignore_ascii_case("name") => name.trim(),
            Some((key, value)) => {
                let Some(network) = networks.last_mut() else {
                    return Err(format!("{field}: give the network first, NETWORK,{field}"));
                };
                let is_mac = key.trim().eq_ignore_ascii_case("mac");
                long_form::put(network, if is_mac { "mac-address" } else { key }, value)?;
                continue;
            }
        };
        if name.is_empty() {
            return Err(format!(
                "{value:?}: a network's name is empty: give NETWORK[,KEY=VALUE…][,NETWORK…]"
            ));
        }
        if networks.iter().any(|other| other.network == name) {
            return Err(format!("network {name:?} is there twice"));
        }
        networks.push(NetworkAttachment {
            network: name.to_owned(),
            ..NetworkAttachment::default()
        });
    }
    if let [only] = networks.as_slice()
        && only.network == "none"
    {
        return Ok(Vec::new());
    }
    match networks
        .iter()
        .find(|one| matches!(one.network.as_str(), "none" | "host"))
    {
        Some(other) if other.network == "none" => Err("none stands alone".to_owned()),
        Some(_) => Err(
            "host: leave the network namespace out of linux.namespaces instead, and this hook"
                .to_owned(),
        ),
        None => Ok(networks),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let annotations = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::from_annotations(&annotations).map_err(|error| error.to_string())
    }

    fn networks(value: &str) -> Value {
        let settings = read(&[("com.tunbridge.network", value)]).unwrap();
        serde_json::to_value(settings.networks).unwrap()
    }

    #[test]
    fn networks_have_their_options_behind_them() {
        assert_eq!(networks("front"), json!([{"network": "front"}]));
        assert_eq!(networks("none"), json!([]));
        assert_eq!(
            networks(
                "front, ip=10.5.0.9,ip6=fd00::9,alias=web,Alias=w,mac=02:00:00:00:00:01,name=back,gw-priority=2,\"driver-opt=k=1,2\""
            ),
            json!([
                {"network": "front", "Aliases": ["web", "w"], "MacAddress": "02:00:00:00:00:01",
                 "IPAMConfig": {"IPv4Address": "10.5.0.9", "IPv6Address": "fd00::9"}},
                {"network": "back", "GwPriority": 2, "DriverOpts": {"k": "1,2"}},
            ])
        );
    }

    #[test]
    fn without_annotations_it_is_the_default_network() {
        let settings = read(&[("org.example.network", "x")]).unwrap();
        assert_eq!(settings.networks[0].network, "bridge");
        assert_eq!(settings.networks.len(), 1);
    }

    #[test]
    fn lists_stand_between_commas_or_blanks() {
        let settings = read(&[
            (
                "com.tunbridge.publish",
                "8080:80, [::1]:81:81/udp 8000-8001:80",
            ),
            ("com.tunbridge.name", "web"),
            ("com.tunbridge.dns", "192.0.2.53,2001:db8::53"),
            ("com.tunbridge.dns-search", "corp.example"),
            ("com.tunbridge.dns-option", "ndots:2 rotate"),
            ("com.tunbridge.resolv-conf", "etc/resolv.conf"),
            ("com.tunbridge.hosts", "hosts"),
        ])
        .unwrap();
        assert_eq!(
            settings.publish,
            ["8080:80", "[::1]:81:81/udp", "8000-8001:80"]
        );
        assert_eq!(settings.name.as_deref(), Some("web"));
        assert_eq!(settings.dns.len(), 2);
        assert_eq!(settings.dns_search, ["corp.example"]);
        assert_eq!(settings.dns_option, ["ndots:2", "rotate"]);
        assert_eq!(
            settings.resolv_conf.as_deref(),
            Some(Path::new("etc/resolv.conf"))
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (name, value, words) in [
            ("network", "", "a network's name is empty"),
            ("network", "a,,b", "a network's name is empty"),
            ("network", "ip=10.0.0.1", "give the network first"),
            ("network", "a,ip=x", "invalid IPv4 address: x"),
            ("network", "a,ip6=1.2.3.4", "invalid IPv6 address"),
            ("network", "a,colour=red", "invalid field key colour"),
            ("network", "a,b,a", "\"a\" is there twice"),
            ("network", "a,none", "none stands alone"),
            ("network", "host", "leave the network namespace out"),
            ("network", "a,\"b", "a double quote is missing"),
            ("publish", " , ", "it is empty"),
            ("name", "", "it is empty"),
            ("name", "a b", "give one name"),
            ("dns", "1.2.3", "\"1.2.3\" is no address"),
            ("resolv-conf", "/etc/resolv.conf", "below the bundle"),
            ("resolv-conf", "../resolv.conf", "below the bundle"),
            ("resolv-conf", "a/../../b", "below the bundle"),
            ("resolv-conf", "", "below the bundle"),
            ("hosts", ".", "below the bundle"),
            ("netwrok", "a", "there is none of that name"),
        ] {
            let full = format!("com.tunbridge.{name}");
            let error = read(&[(&full, value)]).unwrap_err();
            assert!(
                error.starts_with(&format!("annotation {full}: ")),
                "{error}"
            );
            assert!(error.contains(words), "{name}={value}: {error}");
        }
    }
}
