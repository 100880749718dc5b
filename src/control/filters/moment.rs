//! A point in time as users write it: `24h` (ago), `2026-11-21T07:06:57`, `1795244396.428803446`.

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

use crate::control::timestamp::Timestamp;

/// Reads a point in time as Docker does (moby `daemon/internal/timestamp`): a duration in Go's form before `now`,
/// RFC 3339 or the beginning of it, or seconds since the epoch. What names no zone is UTC; Docker takes the
/// daemon's.
///
/// # Errors
/// One sentence that begins with Docker's words.
pub fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let refuse = |problem: &str| {
        let problem = match problem {
            "" => format!("\"{}\"", text.escape_debug()),
            problem => problem.to_owned(),
        };
        Err(format!(
            "failed to parse value as time or duration: {problem}: give a duration such as 24h, a time such as 2026-11-21T07:06:57Z, or seconds since 1970"
        ))
    };
    if text.trim().is_empty() {
        return refuse("value is empty");
    }
    let before = |nanoseconds: i64| now.nanoseconds().checked_sub(nanoseconds);
    let moment = match duration(text).filter(|_| text != "0") {
        Some(ago) => before(ago),
        None if text.contains('-') => date(text),
        None => unix(text),
    };
    match moment {
        Some(nanoseconds) => Ok(Timestamp::from_nanoseconds(nanoseconds)),
        None => refuse(""),
    }
}

const SECOND: i64 = 1_000_000_000;

/// Go's `time.ParseDuration`, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let whole: i64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let part = part_of(fraction, scale)?;
        total = total
            .checked_add(whole.checked_mul(scale)?)?
            .checked_add(part)?;
        rest = after;
    }
    Some(if negative { -total } else { total })
}

/// `0.fraction` of `scale`, rounded down; digits beyond the eighteenth do not matter.
fn part_of(fraction: &str, scale: i64) -> Option<i64> {
    let digits = &fraction[..fraction.len().min(18)];
    if digits.is_empty() {
        return Some(0);
    }
    let numerator = i128::from(digits.parse::<i64>().ok()?) * i128::from(scale);
    let denominator = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    i64::try_from(numerator / denominator).ok()
}

/// Seconds since the epoch, with up to 20 digits after a point.
fn unix(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = fraction.len() <= 20 && fraction.bytes().all(|b| b.is_ascii_digit());
    let seconds: i64 = seconds.parse().ok().filter(|_| all_digits)?;
    seconds
        .checked_mul(SECOND)?
        .checked_add(part_of(fraction, SECOND)?)
}

/// `YYYY-MM-DD`, then perhaps `THH`, `:MM`, `:SS`, `.fraction`, and perhaps a zone.
fn date(text: &str) -> Option<i64> {
    let (day, rest) = (text.get(..10)?, text.get(10..)?);
    let mut numbers = day.split('-');
    let mut number = |length: usize| -> Option<&str> {
        numbers
            .next()
            .filter(|text| text.len() == length && text.bytes().all(|b| b.is_ascii_digit()))
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    let (rest, offset) = zone(rest)?;
    let (clock, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let time = match clock.strip_prefix('T') {
        None if clock.is_empty() && fraction.is_empty() => Time::MIDNIGHT,
        None => return None,
        Some(clock) => {
            let parts: Option<Vec<u8>> = clock.split(':').map(two_digits).collect();
            match *parts?.as_slice() {
                [hour] => Time::from_hms(hour, 0, 0).ok()?,
                [hour, minute] => Time::from_hms(hour, minute, 0).ok()?,
                [hour, minute, second] => Time::from_hms(hour, minute, second).ok()?,
                _ => return None,
            }
        }
    };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || (rest.contains('.') && clock.len() != 9) {
        return None;
    }
    let seconds = OffsetDateTime::new_in_offset(date, time, offset).unix_timestamp();
    seconds
        .checked_mul(SECOND)?
        .checked_add(part_of(fraction, SECOND)?)
}

/// Splits `Z` or `+hh:mm` off the end.
fn zone(text: &str) -> Option<(&str, UtcOffset)> {
    if let Some(rest) = text.strip_suffix(['Z', 'z']) {
        return Some((rest, UtcOffset::UTC));
    }
    let Some(at) = text.rfind(['+', '-']) else {
        return Some((text, UtcOffset::UTC));
    };
    let (rest, zone) = text.split_at(at);
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (
        i8::try_from(two_digits(hours)?).ok()?,
        i8::try_from(two_digits(minutes)?).ok()?,
    );
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let offset = UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?;
    Some((rest, offset))
}

fn two_digits(text: &str) -> Option<u8> {
    let valid = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_nanoseconds(1_795_244_396_428_803_446);

    fn moment(text: &str) -> Option<i64> {
        parse_moment(text, NOW).ok().map(Timestamp::nanoseconds)
    }

    #[test]
    fn durations_are_gos() {
        let ago = |text: &str| moment(text).map(|moment| NOW.nanoseconds() - moment);
        for (text, expected) in [
            ("24h", 24 * 3600 * SECOND),
            ("1h30m", 5400 * SECOND),
            ("1.5h", 5400 * SECOND),
            (".5s", SECOND / 2),
            ("1.s", SECOND),
            ("10ms", SECOND / 100),
            ("3us", 3000),
            ("3µs", 3000),
            ("7ns", 7),
            ("-1h", -3600 * SECOND),
            ("+1s", SECOND),
            ("1h0m0.000000001s", 3600 * SECOND + 1),
        ] {
            assert_eq!(ago(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn times_are_rfc3339s_or_the_beginning_of_it() {
        for (text, expected) in [
            ("2026-11-21T06:59:56.428803446Z", NOW.nanoseconds()),
            ("2026-11-21T06:59:56Z", 1_795_244_396 * SECOND),
            ("2026-11-21T06:59:56", 1_795_244_396 * SECOND),
            ("2026-11-21T07:59:56+01:00", 1_795_244_396 * SECOND),
            ("2026-11-21T01:29:56-05:30", 1_795_244_396 * SECOND),
            ("2026-11-21T06:59", 1_795_244_340 * SECOND),
            ("2026-11-21T06Z", 1_795_240_800 * SECOND),
            ("2026-11-21", 1_795_219_200 * SECOND),
            ("2026-11-21+01:00", 1_795_215_600 * SECOND),
            ("1795244396", 1_795_244_396 * SECOND),
            ("1795244396.428803446", NOW.nanoseconds()),
            ("1795244396.5", 1_795_244_396 * SECOND + SECOND / 2),
            ("0", 0),
            ("1970-01-01", 0),
        ] {
            assert_eq!(moment(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_dockers_words() {
        for text in [
            "",
            " ",
            "x",
            "1",
            "h",
            "1x",
            "1h x",
            "--1h",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "2026-11-21T25",
            "2026-11-21T06:59:56.x",
            "2026-11-21 06:59",
            "2026-11-21T06:59.5",
            "2026-11-21T1:2:3",
            "2026-11-21+1",
            "1.-5",
            "1.123456789012345678901",
            "99999999999999999999",
            "9999999h",
            "9999-12-31T00:00:00Z",
            "ü-11-21-00",
            "2026-11-21T06:59:56Zé",
        ] {
            // Two of these are seconds since 1970.
            if ["1", "2026"].contains(&text) {
                assert!(parse_moment(text, NOW).is_ok(), "{text}");
                continue;
            }
            let message = parse_moment(text, NOW).unwrap_err();
            assert!(
                message.starts_with("failed to parse value as time or duration: "),
                "{text}: {message}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[-+0-9TZz:.hmsnuµ ü]{0,40}") {
            let _ = parse_moment(&text, NOW);
        }
    }
}
