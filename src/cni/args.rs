//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`, in any order.
//!
//! A key that is not known is an error, unless `IgnoreUnknown` is true; so the stock plugins have it.

use std::net::IpAddr;

use super::error::CniError;
use crate::control::names::is_identifier;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) address: Option<IpAddr>,
    pub(super) mac: Option<String>,
    /// Name of the container.
    pub(super) name: Option<String>,
}

impl Args {
    pub(super) fn read(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        let mut ignore = false;
        let mut unknown = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                let message = format!("CNI_ARGS: invalid pair {pair:?}");
                return Err(CniError::environment(message).details("give KEY=VALUE;KEY=VALUE"));
            };
            let wrong = |fix: &str| {
                let message = format!("CNI_ARGS: invalid {key}={}", value.escape_debug());
                Err(CniError::environment(message).details(fix.to_owned()))
            };
            match key {
                "IgnoreUnknown" => match value.to_ascii_lowercase().as_str() {
                    "1" | "t" | "true" => ignore = true,
                    "0" | "f" | "false" | "" => ignore = false,
                    _ => return wrong("give 1 or 0"),
                },
                "IP" if value.is_empty() => {}
                // Some give it with the prefix length of the subnet.
                "IP" => match value.split('/').next().unwrap_or_default().parse() {
                    Ok(address) => args.address = Some(address),
                    Err(_) => return wrong("give an IP address"),
                },
                "MAC" => args.mac = Some(value.to_owned()).filter(|mac| !mac.is_empty()),
                "K8S_POD_NAME" if value.is_empty() => {}
                "K8S_POD_NAME" if !is_identifier(value) => {
                    return wrong(
                        "a name begins with a letter or digit; dots, dashes and underscores may follow",
                    );
                }
                "K8S_POD_NAME" => args.name = Some(value.to_owned()),
                "K8S_POD_NAMESPACE" | "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" => {}
                _ => unknown.push(pair),
            }
        }
        if !ignore && !unknown.is_empty() {
            let message = format!("ARGS: unknown args {unknown:?} in CNI_ARGS");
            let details = "leave them out, or add IgnoreUnknown=1";
            return Err(CniError::environment(message).details(details));
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_any_order() {
        let expected = Args {
            address: Some("10.1.0.9".parse().unwrap()),
            mac: Some("02:11:22:33:44:55".to_owned()),
            name: Some("l1".to_owned()),
        };
        for text in [
            "IgnoreUnknown=1;K8S_POD_NAME=l1;MAC=02:11:22:33:44:55;IP=10.1.0.9;FOO=bar",
            "FOO=bar;IP=10.1.0.9;K8S_POD_UID=3;MAC=02:11:22:33:44:55;K8S_POD_NAME=l1;;IgnoreUnknown=true",
        ] {
            assert_eq!(Args::read(text).unwrap(), expected);
        }
        assert_eq!(Args::read("").unwrap(), Args::default());
        assert_eq!(
            Args::read("K8S_POD_NAMESPACE=;K8S_POD_NAME=").unwrap(),
            Args::default()
        );
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (text, message) in [
            ("FOO=BAR", "ARGS: unknown args [\"FOO=BAR\"] in CNI_ARGS"),
            ("x", "CNI_ARGS: invalid pair \"x\""),
            ("IP=10.0.0", "CNI_ARGS: invalid IP=10.0.0"),
            (
                "IgnoreUnknown=maybe",
                "CNI_ARGS: invalid IgnoreUnknown=maybe",
            ),
            ("K8S_POD_NAME=../x", "CNI_ARGS: invalid K8S_POD_NAME=../x"),
        ] {
            let error = Args::read(text).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (4, message));
        }
    }
}
