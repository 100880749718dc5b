//! Lists as Docker's client prints them: `--format`, `--filter`, tables, orders, times.

use std::cmp::Ordering;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::template::{Missing, Template};
use crate::api::client::segment;
use crate::api::filters::Filters;

/// Least width of a column, and the blanks after its longest cell.
const MIN_COLUMN: usize = 10;
const PADDING: usize = 3;

/// Prints `rows` with `format`: a template, `table`, `table TEMPLATE` or `json`; without one, as `default`.
/// `names` has the title of each field a row has.
///
/// # Errors
/// What is wrong with the template.
pub(super) fn list(
    format: Option<&str>,
    default: &str,
    names: &Value,
    rows: &[Value],
) -> anyhow::Result<String> {
    let format = format.map(str::trim).filter(|format| !format.is_empty());
    let format = match format {
        None | Some("table") => default,
        Some(format) => format,
    };
    if format == "json" {
        return Ok(rows.iter().map(|row| json_line(row) + "\n").collect());
    }
    // A shell leaves these two characters as they are.
    let format = format.replace("\\t", "\t").replace("\\n", "\n");
    let table = format
        .strip_prefix("table")
        .filter(|rest| rest.starts_with([' ', '\t']));
    let template =
        Template::new(table.map_or(format.as_str(), str::trim_start)).context("--format")?;
    let mut text = String::new();
    if table.is_some() {
        text += &template.render_header(names).context("--format")?;
        text.push('\n');
    }
    for row in rows {
        text += &template.render(row, Missing::Refuse).context("--format")?;
        text.push('\n');
    }
    Ok(if table.is_some() {
        aligned(&text)
    } else {
        text
    })
}

/// The fields of a row, sorted, without its methods.
fn json_line(row: &Value) -> String {
    let mut fields: Vec<(&String, &Value)> = row.as_object().into_iter().flatten().collect();
    fields.retain(|(name, _)| !name.ends_with("()"));
    fields.sort_by_key(|(name, _)| *name);
    let fields: Map<String, Value> = fields
        .into_iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Value::Object(fields).to_string()
}

/// Lines of cells that end with a tab, as Go's tabwriter aligns them: consecutive lines that have a cell
/// in a column share its width; what stands behind the last tab is in no column.
fn aligned(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut first = 0;
        while first < lines.len() {
            let has = |line: &Vec<&str>| line.len() > column + 1;
            let count = lines[first..].iter().take_while(|line| has(line)).count();
            let block = first..first + count;
            let longest = lines[block.clone()]
                .iter()
                .map(|line| line[column].chars().count());
            let width = longest
                .max()
                .map_or(0, |width| (width + PADDING).max(MIN_COLUMN));
            for line in block {
                widths[line][column] = width;
            }
            first += count.max(1);
        }
    }
    let mut result = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths) {
            result += &format!("{cell:<width$}");
        }
        result.push('\n');
    }
    result
}

/// The query for `--filter` values, beginning with `separator`; empty if there are none.
///
/// # Errors
/// For a value that is no `KEY=VALUE`.
pub(super) fn filter_query(values: &[String], separator: char) -> anyhow::Result<String> {
    let mut filters = Filters::default();
    for value in values {
        let Some((key, value)) = value.split_once('=') else {
            bail!(
                "invalid argument {value:?} for \"--filter\" flag: bad format of filter (expected name=value)"
            );
        };
        filters.insert(key.trim().to_lowercase(), value.trim());
    }
    Ok(if filters.is_empty() {
        String::new()
    } else {
        format!("{separator}filters={}", segment(&filters.to_parameter()))
    })
}

/// Numbers within names by their value: `net2` before `net10`.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    fn number(text: &str) -> (&str, &str) {
        let end = text.bytes().take_while(u8::is_ascii_digit).count();
        text.split_at(end)
    }
    let (mut left, mut right) = (a, b);
    loop {
        let ((number_a, rest_a), (number_b, rest_b)) = (number(left), number(right));
        if !number_a.is_empty() && !number_b.is_empty() {
            let (short_a, short_b) = (
                number_a.trim_start_matches('0'),
                number_b.trim_start_matches('0'),
            );
            let order = (short_a.len().cmp(&short_b.len()))
                .then(short_a.cmp(short_b))
                .then(number_a.len().cmp(&number_b.len()));
            if order.is_ne() {
                return order;
            }
            (left, right) = (rest_a, rest_b);
            continue;
        }
        let (mut chars_a, mut chars_b) = (left.chars(), right.chars());
        match (chars_a.next(), chars_b.next()) {
            (Some(a), Some(b)) if a == b => (left, right) = (chars_a.as_str(), chars_b.as_str()),
            (a, b) => return a.cmp(&b),
        }
    }
}

/// `2026-11-21T07:06:57.140Z` as Go prints a time: `2026-11-21 07:06:57.14 +0000 UTC`.
pub(super) fn go_time(rfc3339: &str) -> String {
    let Some((date, time)) = rfc3339
        .strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
    else {
        return rfc3339.to_owned();
    };
    let time = if time.contains('.') {
        time.trim_end_matches('0').trim_end_matches('.')
    } else {
        time
    };
    format!("{date} {time} +0000 UTC")
}

/// `a=b,c=d`.
pub(super) fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// What `inspect` prints: an array, or what `format` makes of each element.
///
/// # Errors
/// What is wrong with the template.
pub(super) fn inspected(format: Option<&str>, found: &[Value]) -> anyhow::Result<String> {
    match format.filter(|format| !format.is_empty()) {
        None if found.is_empty() => Ok("[]\n".to_owned()),
        None => Ok(go_indented(&Value::from(found.to_vec()))? + "\n"),
        Some("json") => Ok(Value::from(found.to_vec()).to_string() + "\n"),
        Some(format) => {
            let template = Template::new(format).context("--format")?;
            let mut text = String::new();
            for value in found {
                text += &template
                    .render(value, Missing::NoValue)
                    .context("--format")?;
                text.push('\n');
            }
            // Docker ends even nothing with a line's end.
            if found.is_empty() {
                text.push('\n');
            }
            Ok(text)
        }
    }
}

/// JSON with four blanks, as Docker's client indents it.
fn go_indented(value: &Value) -> anyhow::Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8(text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFAULT: &str = "table {{.ID}}\t{{.Name}}\t{{.Scope}}";

    fn names() -> Value {
        json!({"ID": "NETWORK ID", "Name": "NAME", "Scope": "SCOPE", "Label()": {}})
    }

    fn rows() -> Vec<Value> {
        let row = |id: &str, name: &str| json!({"Scope": "local", "ID": id, "Name": name, "Label()": {"a": "1"}});
        vec![
            row("627269646765", "bridge"),
            row("6e6574", "a-longer-name"),
        ]
    }

    fn listed(format: Option<&str>) -> String {
        list(format, DEFAULT, &names(), &rows()).unwrap()
    }

    #[test]
    fn tables_are_aligned_as_dockers() {
        let table = "NETWORK ID     NAME            SCOPE\n627269646765   bridge          local\n\
                     6e6574         a-longer-name   local\n";
        for format in [None, Some(""), Some("table")] {
            assert_eq!(listed(format), table);
        }
        assert_eq!(
            listed(Some("table {{.Name}}\\t{{.Label \"a\"}}")),
            "NAME            a\nbridge          1\na-longer-name   1\n"
        );
        assert_eq!(
            aligned("a\tb\nlong line without\nc\td\n"),
            "a         b\nlong line without\nc         d\n"
        );
    }

    #[test]
    fn rows_can_be_templates_and_json() {
        assert_eq!(
            listed(Some("{{.Name}}\\t{{.ID}}")),
            "bridge\t627269646765\na-longer-name\t6e6574\n"
        );
        assert!(
            listed(Some("json"))
                .starts_with("{\"ID\":\"627269646765\",\"Name\":\"bridge\",\"Scope\":\"local\"}\n")
        );
        let error = list(Some("{{.Nmae}}"), DEFAULT, &names(), &rows()).unwrap_err();
        assert!(
            format!("{error:#}")
                .contains("--format: template parsing error: can't evaluate field Nmae")
        );
    }

    #[test]
    fn names_are_in_natural_order() {
        let mut names = [
            "net10", "net2", "bridge", "net", "net02", "a1b10", "a1b9", "NET",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "NET", "a1b9", "a1b10", "bridge", "net", "net2", "net02", "net10"
            ]
        );
    }

    #[test]
    fn times_are_gos() {
        assert_eq!(
            go_time("2026-11-21T07:06:57.140Z"),
            "2026-11-21 07:06:57.14 +0000 UTC"
        );
        assert_eq!(
            go_time("2025-10-01T10:00:00.000000000Z"),
            "2025-10-01 10:00:00 +0000 UTC"
        );
    }

    #[test]
    fn inspect_prints_an_array_or_a_template() {
        let found = [json!({"Name": "a", "Labels": {}})];
        let array = "[\n    {\n        \"Name\": \"a\",\n        \"Labels\": {}\n    }\n]\n";
        assert_eq!(inspected(None, &found).unwrap(), array);
        assert_eq!(
            inspected(Some("json"), &found).unwrap(),
            "[{\"Name\":\"a\",\"Labels\":{}}]\n"
        );
        assert_eq!(
            inspected(Some("{{.Name}}{{.Nope}}"), &found).unwrap(),
            "a<no value>\n"
        );
        assert_eq!(inspected(None, &[]).unwrap(), "[]\n");
        assert_eq!(inspected(Some("{{.Name}}"), &[]).unwrap(), "\n");
    }

    #[test]
    fn filters_are_key_and_value() {
        let query = filter_query(&["Name=a".to_owned(), "label=x=y".to_owned()], '?').unwrap();
        assert_eq!(
            query,
            "?filters=%7B%22label%22%3A%7B%22x%3Dy%22%3Atrue%7D%2C%22name%22%3A%7B%22a%22%3Atrue%7D%7D"
        );
        assert_eq!(filter_query(&[], '?').unwrap(), "");
        let error = filter_query(&["x".to_owned()], '?')
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("bad format of filter (expected name=value)"),
            "{error}"
        );
    }
}
