//! Points in time as Docker's JSON shows them, and durations as `docker ps` words them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// What Docker shows for a time that has not come: Go's zero time.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

impl Timestamp {
    /// A point `nanoseconds` after (or before) the epoch.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// The wall clock, now. The daemon calls this; decisions take the value as a parameter.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Nanoseconds since the epoch.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch (`Created` of `GET /containers/json`).
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Time from `earlier` to here, zero if the clock went back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with nanoseconds and no trailing zeros, as Go's `RFC3339Nano`.
    pub fn rfc3339(self) -> String {
        let Ok(utc) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0)) else {
            return NEVER.to_owned();
        };
        let fraction = format!("{:09}", utc.nanosecond());
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{point}{fraction}Z",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second()
        )
    }
}

/// A duration in words, as `docker ps` prints it (go-units `HumanDuration`).
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_as_go_prints_it() {
        // `Created` of the default bridge in transcript 01.
        let created = Timestamp::from_nanoseconds(1_795_244_396_428_803_446);
        assert_eq!(created.rfc3339(), "2026-11-21T06:59:56.428803446Z");
        assert_eq!(created.seconds(), 1_795_244_396);
        assert_eq!(
            Timestamp::from_nanoseconds(1_500_000_000).rfc3339(),
            "1970-01-01T00:00:01.5Z"
        );
        assert_eq!(Timestamp::default().rfc3339(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn durations_in_dockers_words() {
        let minute = 60;
        let hour = 3600;
        let day = 24 * hour;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (119, "About a minute"),
            (3 * minute, "3 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (61 * day, "2 months"),
            (800 * day, "2 years"),
        ] {
            assert_eq!(
                human_duration(Duration::from_secs(seconds)),
                words,
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_clock_that_went_back_gives_zero() {
        let earlier = Timestamp::from_nanoseconds(5);
        assert_eq!(
            Timestamp::from_nanoseconds(3).since(earlier),
            Duration::ZERO
        );
        assert_eq!(
            Timestamp::from_nanoseconds(9).since(earlier),
            Duration::from_nanos(4)
        );
    }
}
