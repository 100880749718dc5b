//! The network configuration that comes on standard input, as far as every verb needs it.

use std::path::PathBuf;

use serde_json::Value;

use super::Plugin;
use super::environment::Verb;
use super::error::{CniError, code};
use super::fields::Field;
use super::version::Version;
use crate::control::names::is_identifier;

/// Octets of standard input. The longest true one is GC's list of attachments: room for 30,000 of them.
pub(super) const MOST_INPUT: usize = 4 << 20;

/// What a configuration of our own type may have: the specification's, ours, and those of the stock plugin that mean
/// something under our name, too.
const KEYS: [&str; 31] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "disableCheck",
    "disableGC",
    "capabilities",
    "runtimeConfig",
    "args",
    "prevResult",
    "ipam",
    "dns",
    "network",
    "socket",
    "subnet",
    "gateway",
    "rangeStart",
    "rangeEnd",
    "subnets",
    "ipv6",
    "internal",
    "icc",
    "ipMasq",
    "bridge",
    "mtu",
    "options",
    "isGateway",
    "isDefaultGateway",
    "vlan",
    "vlanTrunk",
    "disableContainerInterface",
];

/// Who gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ipam {
    /// The network of ours, with what `ipam` says about it.
    Ours,
    /// An executable of this name along `CNI_PATH`.
    Delegated(String),
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    /// Name of the configuration.
    pub(super) name: String,
    /// Name of our network.
    pub(super) network: String,
    pub(super) ipam: Ipam,
    pub(super) socket: Option<PathBuf>,
    /// All of it.
    pub(super) value: Value,
    /// As it came, for plugins that are called from here.
    pub(super) text: Vec<u8>,
}

impl Config {
    /// Reads standard input; what is wrong with the configuration comes with the version to answer in.
    pub(super) fn read(
        text: Vec<u8>,
        plugin: Plugin,
        verb: Verb,
    ) -> Result<Self, (CniError, Version)> {
        let newest = |error| (error, Version::NEWEST);
        let value = decode(&text).map_err(newest)?;
        let version = version(&value).map_err(newest)?;
        Self::understand(value, text, version, plugin, verb).map_err(|error| (error, version))
    }

    fn understand(
        value: Value,
        text: Vec<u8>,
        version: Version,
        plugin: Plugin,
        verb: Verb,
    ) -> Result<Self, CniError> {
        let least = match verb {
            Verb::Check => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => Version::V0_1_0,
        };
        if version < least {
            let message = format!("config version does not allow {}", verb.text());
            let details = format!("config is {version}, {} needs {least}", verb.text());
            return Err(CniError::new(code::VERSION, message).details(details));
        }
        let root = Field::new(&value, "");
        let name = root.text_of("name")?.unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(CniError::configuration("missing network name"));
        }
        check_name("invalid characters found in network name", &name)?;
        let network = match root.text_of("network")? {
            Some(network) if plugin == Plugin::Tunbridge => {
                check_name("invalid characters found in key \"network\"", network)?;
                network.to_owned()
            }
            _ => name.clone(),
        };
        let socket = root.text_of("socket")?.map(PathBuf::from);
        if let Some(relative) = socket.as_ref().filter(|path| !path.is_absolute()) {
            let message = format!("invalid socket {relative:?}: give an absolute path");
            return Err(CniError::configuration(message));
        }
        Ok(Self {
            ipam: ipam(&root, plugin)?,
            version,
            name,
            network,
            socket,
            value,
            text,
        })
    }

    pub(super) fn root(&self) -> Field<'_> {
        Field::new(&self.value, "")
    }

    /// Keys under our own name that nobody reads; in the specification they are free.
    pub(super) fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        let keys = self.value.as_object().into_iter().flatten();
        keys.map(|(key, _)| key.as_str())
            .filter(|key| !key.contains('/'))
            .filter(|key| !KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)))
    }

    pub(super) fn previous(&self) -> Option<Field<'_>> {
        self.root().get("prevResult")
    }
}

/// The version to answer in when nothing else is understood.
pub(super) fn version_of(text: &[u8]) -> Version {
    let asked = decode(text).and_then(|value| version(&value));
    asked.unwrap_or(Version::NEWEST)
}

fn decode(text: &[u8]) -> Result<Value, CniError> {
    let decode_error = |problem: String| {
        let message =
            format!("cannot decode the network configuration on standard input: {problem}");
        CniError::new(code::DECODE, message)
    };
    if text.len() > MOST_INPUT {
        return Err(decode_error(format!(
            "it is longer than {MOST_INPUT} octets"
        )));
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(decode_error("it is empty".to_owned()));
    }
    let value: Value = serde_json::from_slice(text).map_err(|e| decode_error(e.to_string()))?;
    if !value.is_object() {
        return Err(decode_error("it is not a JSON object".to_owned()));
    }
    Ok(value)
}

fn version(value: &Value) -> Result<Version, CniError> {
    let root = Field::new(value, "");
    let text = root.text_of("cniVersion").map_err(|error| CniError {
        code: code::DECODE,
        ..error
    })?;
    Version::of_configuration(text.unwrap_or_default())
}

fn check_name(problem: &str, name: &str) -> Result<(), CniError> {
    if is_identifier(name) {
        return Ok(());
    }
    let shown: String = name.escape_debug().take(100).collect();
    Err(CniError::configuration(problem).details(shown))
}

fn ipam(root: &Field<'_>, plugin: Plugin) -> Result<Ipam, CniError> {
    let Some(ipam) = root.object_of("ipam")? else {
        return Ok(Ipam::Ours);
    };
    let kind = ipam.text_of("type")?.unwrap_or_default();
    match (plugin, kind) {
        (_, "" | "tunbridge") | (Plugin::Bridge, "host-local") => Ok(Ipam::Ours),
        (_, kind) if !is_identifier(kind) => {
            let wrong = "it is the name of an executable in CNI_PATH, without directories";
            Err(Field::new(&kind.into(), "ipam.type").wrong(wrong))
        }
        (_, kind) => Ok(Ipam::Delegated(kind.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str, verb: Verb) -> Result<Config, CniError> {
        let read = Config::read(text.as_bytes().to_vec(), Plugin::Tunbridge, verb);
        read.map_err(|(error, _)| error)
    }

    #[test]
    fn what_cannot_be_read_has_the_specifications_number() {
        let long = format!(
            "{{\"cniVersion\":\"1.0.0\",\"name\":\"{}\"}}",
            "x".repeat(MOST_INPUT)
        );
        let deep = "[".repeat(100_000);
        for (text, verb, code, message) in [
            (
                "not json",
                Verb::Add,
                6,
                "cannot decode the network configuration on standard input: expected ident",
            ),
            ("", Verb::Add, 6, "it is empty"),
            ("[]", Verb::Add, 6, "it is not a JSON object"),
            (deep.as_str(), Verb::Add, 6, "recursion limit"),
            (
                long.as_str(),
                Verb::Add,
                6,
                "it is longer than 4194304 octets",
            ),
            (
                r#"{"cniVersion":1}"#,
                Verb::Add,
                6,
                "invalid cniVersion 1: must be a text",
            ),
            (
                r#"{"cniVersion":"7.0.0","name":"x"}"#,
                Verb::Add,
                1,
                "incompatible CNI versions",
            ),
            (
                r#"{"cniVersion":"1.0.0"}"#,
                Verb::Add,
                7,
                "missing network name",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"../x"}"#,
                Verb::Add,
                7,
                "invalid characters found in network name",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","network":"a/b"}"#,
                Verb::Add,
                7,
                "invalid characters found in key \"network\"",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","socket":"run/x"}"#,
                Verb::Add,
                7,
                "invalid socket \"run/x\": give an absolute path",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","ipam":{"type":"../../bin/sh"}}"#,
                Verb::Add,
                7,
                "invalid ipam.type \"../../bin/sh\"",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","ipam":[]}"#,
                Verb::Add,
                7,
                "invalid ipam []: must be an object",
            ),
            (
                r#"{"cniVersion":"0.3.1","name":"x"}"#,
                Verb::Check,
                1,
                "config version does not allow CHECK",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x"}"#,
                Verb::Gc,
                1,
                "config version does not allow GC",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x"}"#,
                Verb::Status,
                1,
                "config version does not allow STATUS",
            ),
        ] {
            let error = read(text, verb).unwrap_err();
            assert_eq!(error.code, code, "{error:?}");
            assert!(error.message.contains(message), "{error:?}");
        }
    }

    #[test]
    fn the_network_is_the_configurations_name_unless_it_says_otherwise() {
        let text = r#"{"cniVersion":"1.0.0","name":"x","network":"shared"}"#;
        assert_eq!(read(text, Verb::Add).unwrap().network, "shared");
        let bridge = Config::read(text.as_bytes().to_vec(), Plugin::Bridge, Verb::Add).unwrap();
        assert_eq!(bridge.network, "x");
    }

    #[test]
    fn other_ipam_plugins_are_called_but_for_host_local_under_the_name_bridge() {
        let of = |plugin, kind: &str| {
            let text = json!({"cniVersion": "1.0.0", "name": "x", "ipam": {"type": kind}});
            let read = Config::read(text.to_string().into_bytes(), plugin, Verb::Add);
            read.unwrap().ipam
        };
        let delegated = |kind: &str| Ipam::Delegated(kind.to_owned());
        assert_eq!(of(Plugin::Tunbridge, ""), Ipam::Ours);
        assert_eq!(of(Plugin::Tunbridge, "tunbridge"), Ipam::Ours);
        assert_eq!(of(Plugin::Tunbridge, "host-local"), delegated("host-local"));
        assert_eq!(of(Plugin::Bridge, "host-local"), Ipam::Ours);
        assert_eq!(of(Plugin::Bridge, "static"), delegated("static"));
    }

    #[test]
    fn an_answer_is_never_in_a_newer_version_than_asked_for() {
        assert_eq!(version_of(br#"{"cniVersion":"0.4.0"}"#), Version::V0_4_0);
        assert_eq!(version_of(b"garbage"), Version::NEWEST);
    }

    #[test]
    fn keys_that_nobody_reads_are_named() {
        let config = read(
            r#"{"cniVersion": "1.0.0", "name": "n", "type": "tunbridge", "subnt": "10.1.0.0/24", "Subnet": "10.1.0.0/24", "cni.dev/x": 1}"#,
            Verb::Add,
        )
        .unwrap();
        assert_eq!(config.unknown_keys().collect::<Vec<_>>(), ["subnt"]);
    }
}
