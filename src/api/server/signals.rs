//! Signals as Docker's clients name them: `KILL`, `SIGKILL`, `9`.

use nix::sys::signal::Signal;

use super::{Answer, ApiError};

/// The number of a signal; `default` for the empty text.
pub(super) fn number(text: &str, default: Signal) -> Answer<i32> {
    let named = || {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        format!("SIG{name}").parse::<Signal>().ok()
    };
    let number = match text.parse::<i32>() {
        Ok(number) => Signal::try_from(number).ok().map(|signal| signal as i32),
        Err(_) if text.is_empty() => Some(default as i32),
        Err(_) => named().map(|signal| signal as i32),
    };
    number.ok_or_else(|| {
        ApiError::bad_request(format!(
            "invalid signal: {}: give a name such as SIGTERM, or a number from 1 to 31",
            text.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, expected) in [
            ("", Some(9)),
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("sighup", Some(1)),
            ("10", Some(10)),
            ("31", Some(31)),
            ("0", None),
            ("34", None),
            ("-9", None),
            ("SIGNOTHING", None),
            ("SIGSIGKILL", None),
        ] {
            let found = number(text, Signal::SIGKILL);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{text}");
        }
    }
}
