//! Errors as the specification wants them: a number for the runtime, a sentence for the user, JSON on standard output.

use serde_json::{Value, json};

use crate::api::client::ClientError;

/// Numbers of the specification, section 5, and our own from 100 on.
pub(super) mod code {
    /// The configuration's version is none of ours.
    pub(crate) const VERSION: u32 = 1;
    /// A field that we cannot honour; the text names field and value.
    pub(crate) const UNSUPPORTED: u32 = 2;
    /// A variable is missing or wrong; the text names it.
    pub(crate) const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub(crate) const IO: u32 = 5;
    /// Standard input is no JSON, or not of the expected shape.
    pub(crate) const DECODE: u32 = 6;
    /// The configuration contradicts itself or the host.
    pub(crate) const CONFIGURATION: u32 = 7;
    /// It may work later.
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// `STATUS`: nothing can be attached now.
    pub(crate) const UNAVAILABLE: u32 = 50;
    /// The daemon refused, or failed.
    pub(crate) const REFUSED: u32 = 100;
    /// `CHECK`: what is there is not what was made.
    pub(crate) const CHECK: u32 = 101;
    /// A delegated plugin failed without saying how.
    pub(crate) const DELEGATE: u32 = 102;
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CniError {
    pub(super) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    #[must_use]
    pub(super) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    pub(super) fn environment(message: impl Into<String>) -> Self {
        Self::new(code::ENVIRONMENT, message)
    }

    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self::new(code::CONFIGURATION, message)
    }

    /// A field that is understood, but that nothing here can do; `why` says what to do instead.
    pub(super) fn unsupported(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("unsupported field {field} with value {}", shown(value));
        Self::new(code::UNSUPPORTED, message).details(why)
    }

    /// What goes to standard output.
    pub(super) fn render(&self, version: &str) -> Value {
        let mut answer = json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.message,
        });
        if !self.details.is_empty() {
            answer["details"] = self.details.clone().into();
        }
        answer
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning(socket) => {
                let message = format!(
                    "the tunbridge daemon does not run: nothing listens at {}",
                    socket.display()
                );
                return Self::new(code::TRY_AGAIN, message).details(
                    "start it with `systemctl start tunbridge` or `tunbridge daemon`, or name its socket with TUNBRIDGE_SOCKET or the configuration's key \"socket\"",
                );
            }
            ClientError::Permission(_) => code::REFUSED,
            ClientError::Broken { .. } => code::TRY_AGAIN,
            ClientError::Refused { status, .. } => match status {
                400 | 404 | 501 => code::CONFIGURATION,
                503 => code::TRY_AGAIN,
                _ => code::REFUSED,
            },
        };
        Self::new(code, error.to_string())
    }
}

/// A value for a message, not longer than a line.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 100;
    let text = value.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    let short: String = text.chars().take(MOST).collect();
    format!("{short}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_object_of_the_specification() {
        let error = CniError::environment("invalid characters in containerID").details("../x");
        let expected = json!({
            "cniVersion": "1.0.0", "code": 4,
            "msg": "invalid characters in containerID", "details": "../x",
        });
        assert_eq!(error.render("1.0.0"), expected);
        let error = CniError::configuration("missing network name");
        assert_eq!(error.render("0.4.0").get("details"), None);
    }

    #[test]
    fn a_field_that_is_not_supported_is_named_with_its_value() {
        let error = CniError::unsupported("vlan", &json!(5), "remove it");
        assert_eq!(error.code, 2);
        assert_eq!(error.message, "unsupported field vlan with value 5");
        let long = CniError::unsupported("x", &json!("y".repeat(5000)), "");
        assert!(long.message.len() < 200);
    }

    #[test]
    fn the_daemons_refusals_are_sorted() {
        let refused = |status| ClientError::Refused {
            status,
            message: "no".to_owned(),
        };
        let number = |error: ClientError| CniError::from(error).code;
        assert_eq!(number(refused(400)), 7);
        assert_eq!(number(refused(409)), 100);
        assert_eq!(number(refused(500)), 100);
        assert_eq!(number(ClientError::NotRunning("/x".into())), 11);
    }
}
