//! `events`: what happens to containers and networks, as it happens.

use anyhow::Context;
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
        let mut query = filter_query(&self.filter, '?')?;
        for (name, value) in [("since", &self.since), ("until", &self.until)] {
            if let Some(value) = value {
                let separator = if query.is_empty() { '?' } else { '&' };
                query += &format!("{separator}{name}={}", segment(&moment(value)));
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

/// A date or time without a zone is completed, to UTC; the daemon knows the other forms.
fn moment(text: &str) -> String {
    ["Z", ":00Z", ":00:00Z", "T00:00:00Z"]
        .iter()
        .map(|rest| format!("{text}{rest}"))
        .find(|time| OffsetDateTime::parse(time, &Rfc3339).is_ok())
        .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_without_a_zone_are_completed() {
        for (text, sent) in [
            ("1700000000.25", "1700000000.25"),
            ("10m", "10m"),
            ("yesterday", "yesterday"),
            ("2023-11-14T23:13:20.5+01:00", "2023-11-14T23:13:20.5+01:00"),
            ("2023-11-14T22:13:20", "2023-11-14T22:13:20Z"),
            ("2023-11-14T22:13", "2023-11-14T22:13:00Z"),
            ("2023-11-14T22", "2023-11-14T22:00:00Z"),
            ("2023-11-14", "2023-11-14T00:00:00Z"),
        ] {
            assert_eq!(moment(text), sent);
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
