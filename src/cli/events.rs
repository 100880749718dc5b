//! `events`: what happens to containers and networks, as it happens.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::format::filter_query;
use super::template::{Missing, Template};
use super::{Outcome, print};
use crate::api::client::{Client, segment};
use crate::control::Timestamp;

/// `tunbridge events`.
#[derive(Args, Clone, Debug)]
pub(super) struct Events {
    /// Which ones: type, event, container, network, label, … as KEY=VALUE; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A Go template for each, or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Begin with those since TIME: seconds since 1970, RFC 3339, or how long ago, as in 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End at TIME
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Events {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let now = Timestamp::now();
        let mut query = filter_query(&self.filter, '?')?;
        for (name, value) in [("since", &self.since), ("until", &self.until)] {
            if let Some(value) = value {
                let moment = moment(value, now).with_context(|| format!("--{name} {value}"))?;
                let separator = if query.is_empty() { '?' } else { '&' };
                query += &format!("{separator}{name}={}", segment(&moment));
            }
        }
        let template = match self.format.as_deref() {
            None | Some("") => None,
            Some("json") => Some(None),
            Some(format) => {
                let format = format.replace("\\t", "\t").replace("\\n", "\n");
                Some(Some(Template::new(&format).context("--format")?))
            }
        };
        let mut outcome = Ok(0);
        client.lines(&format!("/events{query}"), |line| {
            let shown = serde_json::from_slice::<Value>(line)
                .context("an event of the daemon's is no JSON")
                .and_then(|event| match &template {
                    None => Ok(line_of(&event)),
                    Some(None) => Ok(event.to_string()),
                    Some(Some(template)) => Ok(template
                        .render(&event, Missing::NoValue)
                        .context("--format")?),
                });
            outcome = shown.and_then(|text| print(&format!("{text}\n")));
            outcome.is_ok()
        })?;
        outcome
    }
}

/// `2026-11-21T07:06:57.147901932Z network connect ID (container=…, name=net1, type=bridge)`
fn line_of(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = event["timeNano"].as_i64().unwrap_or_default();
    let mut line = format!(
        "{} {} {} {}",
        fixed(nanoseconds),
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"])
    );
    let attributes = event["Actor"]["Attributes"].as_object();
    let mut attributes: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    attributes.sort();
    if !attributes.is_empty() {
        line += &format!(" ({})", attributes.join(", "));
    }
    line
}

/// RFC 3339 in UTC with nine digits, so that lines align.
fn fixed(nanoseconds: i64) -> String {
    let seconds = Timestamp::from_nanoseconds(nanoseconds - nanoseconds.rem_euclid(1_000_000_000));
    let whole = seconds.rfc3339();
    let whole = whole.trim_end_matches('Z');
    format!("{whole}.{:09}Z", nanoseconds.rem_euclid(1_000_000_000))
}

/// What the user says as seconds since 1970: such a number, a time in RFC 3339 (UTC if it names no zone), or a
/// duration before `now`.
fn moment(text: &str, now: Timestamp) -> anyhow::Result<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if is_number(whole) && is_number(fraction) {
        return Ok(text.to_owned());
    }
    let now = now.seconds() * 1_000_000_000 + i64::from(now_nanoseconds(now));
    let nanoseconds = if let Some(ago) = go_duration(text) {
        i128::from(now) - i128::try_from(ago.as_nanos()).unwrap_or(i128::MAX)
    } else {
        const MISSING: [&str; 5] = ["", "Z", ":00Z", ":00:00Z", "T00:00:00Z"];
        let completed = MISSING
            .iter()
            .find_map(|rest| OffsetDateTime::parse(&format!("{text}{rest}"), &Rfc3339).ok());
        let Some(time) = completed else {
            bail!(
                "give seconds since 1970, a time such as 2026-11-21T07:06:57Z, or how long ago, as in 10m or 1h30m"
            );
        };
        time.unix_timestamp_nanos()
    };
    let nanoseconds = nanoseconds.max(0);
    Ok(format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    ))
}

fn now_nanoseconds(now: Timestamp) -> u32 {
    let second = Timestamp::from_nanoseconds(now.seconds() * 1_000_000_000);
    now.since(second).subsec_nanos()
}

/// `1h30m`, `1.5s`, `300ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, seconds) = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ]
        .into_iter()
        .find(|(unit, _)| {
            rest.strip_prefix(unit)
                .is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
        })?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit.len()..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_said_as_to_docker() {
        let now = Timestamp::from_nanoseconds(1_700_000_000_500_000_000);
        for (text, seconds) in [
            ("1700000000", "1700000000"),
            ("1700000000.25", "1700000000.25"),
            ("0s", "1700000000.500000000"),
            ("10m", "1699999400.500000000"),
            ("1h0.5s", "1699996400.000000000"),
            ("2023-11-14T22:13:20Z", "1700000000.000000000"),
            ("2023-11-14T23:13:20.5+01:00", "1700000000.500000000"),
            ("2023-11-14T22:13", "1699999980.000000000"),
            ("2023-11-14", "1699920000.000000000"),
        ] {
            assert_eq!(moment(text, now).unwrap(), seconds, "{text}");
        }
        for wrong in ["", "yesterday", "10", "10x", "-5m", "1h30", "2023-13-01"] {
            let outcome = moment(wrong, now);
            assert_eq!(outcome.is_ok(), wrong == "10", "{wrong}: {outcome:?}");
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let mut event = json!({
            "Type": "network", "Action": "connect", "scope": "local", "timeNano": 1_700_000_000_120_000_000_i64,
            "Actor": {"ID": "ee", "Attributes": {"type": "bridge", "container": "ab"}},
        });
        assert_eq!(
            line_of(&event),
            "2023-11-14T22:13:20.120000000Z network connect ee (container=ab, type=bridge)"
        );
        event["Actor"]["Attributes"] = json!({});
        event["timeNano"] = json!(1_700_000_000_000_000_000_i64);
        assert_eq!(
            line_of(&event),
            "2023-11-14T22:13:20.000000000Z network connect ee"
        );
    }
}
