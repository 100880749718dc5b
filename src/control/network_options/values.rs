//! Values of options, read as Go's `strconv` reads them and refused with its words.

use std::num::{IntErrorKind, ParseIntError};

/// `strconv.ParseBool`.
///
/// # Errors
/// Its message.
pub(super) fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(syntax("ParseBool", value)),
    }
}

/// `strconv.Atoi`.
///
/// # Errors
/// Its message.
pub(super) fn parse_int(value: &str) -> Result<i64, String> {
    value.parse().map_err(|error: ParseIntError| {
        let (over, under) = (IntErrorKind::PosOverflow, IntErrorKind::NegOverflow);
        if *error.kind() == over || *error.kind() == under {
            let value = value.escape_debug();
            format!("strconv.Atoi: parsing \"{value}\": value out of range")
        } else {
            syntax("Atoi", value)
        }
    })
}

fn syntax(function: &str, value: &str) -> String {
    let value = value.escape_debug();
    format!("strconv.{function}: parsing \"{value}\": invalid syntax")
}
