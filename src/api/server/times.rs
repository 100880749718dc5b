//! Points in time as Docker's clients write them: seconds since 1970, with or without a fraction; RFC 3339;
//! or a Go duration, back from now (`api/types/time`).

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since 1970. `None` if `text` is none of the forms, or out of range.
pub(super) fn parse(text: &str, now: i64) -> Option<i64> {
    unix(text)
        .or_else(|| duration(text).and_then(|duration| now.checked_sub(duration)))
        .or_else(|| {
            let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            i64::try_from(date.unix_timestamp_nanos()).ok()
        })
}

/// `1700000000.000000005`
fn unix(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = if fraction.is_empty() {
        0
    } else {
        fraction_of(fraction, SECOND)?
    };
    let seconds = seconds.parse::<i64>().ok()?.checked_mul(SECOND)?;
    seconds.checked_add(nanoseconds)
}

/// `1h30m`, `-1.5s`, `0`
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        if !whole.is_empty() {
            let whole = whole.parse::<i64>().ok()?.checked_mul(unit)?;
            total = total.checked_add(whole)?;
        }
        if !fraction.is_empty() {
            total = total.checked_add(fraction_of(fraction, unit)?)?;
        }
        rest = tail;
    }
    Some(sign * total)
}

/// `0.fraction` of `unit`. What is below a nanosecond is cut off.
fn fraction_of(fraction: &str, unit: i64) -> Option<i64> {
    let digits: &str = fraction.get(..fraction.len().min(9))?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = i128::from(digits.parse::<u32>().ok()?) * i128::from(unit);
    let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    i64::try_from(value / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_client_is_understood() {
        let now = 1_700_000_000 * SECOND;
        for (text, expected) in [
            ("0", 0),
            ("1700000000", now),
            ("1700000000.000000005", now + 5),
            ("1700000000.5", now + SECOND / 2),
            ("1700000000.0000000059", now + 5),
            ("-5", -5 * SECOND),
            ("2023-11-14T22:13:20Z", now),
            ("2023-11-14T23:13:20.000000001+01:00", now + 1),
            ("10m", now - 600 * SECOND),
            ("1h30m", now - 5400 * SECOND),
            ("1.5s", now - 1_500_000_000),
            ("-10s", now + 10 * SECOND),
            ("100µs", now - 100_000),
        ] {
            assert_eq!(parse(text, now), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "x",
            "-",
            "+",
            ".",
            "1.x",
            "1.5.5",
            "10",
            "h",
            "10q",
            "1h-30m",
            ".s",
            "1e9",
            "99999999999999999999",
            "9223372036",
            "9223372036854775807h",
            "2023-11-14",
            "2023-13-14T22:13:20Z",
            "1.µ",
            "1.1234567µ",
            "0x10",
            "-9223372036855",
        ] {
            let parsed = parse(text, 1_700_000_000 * SECOND);
            // These two are seconds.
            assert_eq!(
                parsed.is_some(),
                ["10", "9223372036"].contains(&text),
                "{text}"
            );
        }
    }
}
