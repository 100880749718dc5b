//! The functions of templates: Go's own, and those of Docker's client.

use std::cmp::Ordering;
use std::fmt::Write;

use serde_json::Value;

use super::TemplateError;

/// A value; none: a field that is not there.
pub(super) type Item = Option<Value>;

type Result<T> = std::result::Result<T, TemplateError>;

/// How wide `printf` and `pad` may make something, in characters.
const MAX_WIDTH: usize = 10_000;

/// A function by its name in templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function(&'static str);

const NAMES: [&str; 26] = [
    "json", "split", "join", "title", "lower", "upper", "pad", "truncate", "println", "print",
    "printf", "index", "slice", "len", "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge",
    "html", "urlquery", "call",
];

/// Docker's own; in a table's header they leave the title as it is.
const DOCKERS: [&str; 8] = [
    "json", "split", "join", "title", "lower", "upper", "pad", "truncate",
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        let found = NAMES.iter().find(|known| **known == name && name != "call");
        found.map(|name| Self(name))
    }

    /// All names, for people.
    pub(super) fn names() -> String {
        let mut names = NAMES.to_vec();
        names.retain(|name| *name != "call");
        names.join(", ")
    }

    pub(super) fn name(self) -> &'static str {
        self.0
    }

    /// Docker's functions do nothing in a header.
    pub(super) fn call_in_header(self, arguments: &[Item]) -> Result<Item> {
        match arguments.first() {
            Some(first) if DOCKERS.contains(&self.0) => Ok(first.clone()),
            _ => self.call(arguments),
        }
    }

    /// The result; `and` and `or` have all their arguments evaluated by now.
    pub(super) fn call(self, arguments: &[Item]) -> Result<Item> {
        let result = match (self.0, arguments) {
            ("json", [value]) => Ok(json(value)),
            ("split", [text, separator]) => split(text, separator),
            ("join", [list, separator]) => join(list, separator),
            ("title", [text]) => string(text).map(|text| title(text).into()),
            ("lower", [text]) => string(text).map(|text| text.to_lowercase().into()),
            ("upper", [text]) => string(text).map(|text| text.to_uppercase().into()),
            ("pad", [text, before, after]) => pad(text, before, after),
            ("truncate", [text, length]) => truncate(text, length),
            ("println", values) => Ok(format!("{}\n", spaced(values)).into()),
            ("print", values) => Ok(printed(values).into()),
            ("printf", [format, values @ ..]) => string(format)
                .and_then(|format| printf(format, values))
                .map(Value::from),
            ("index", [value, keys @ ..]) => {
                return index(value, keys).map_err(|problem| self.failed(&problem));
            }
            ("slice", [value, bounds @ ..]) => slice(value, bounds),
            ("len", [value]) => length(value),
            ("and", [.., last]) => {
                return Ok(arguments.iter().find(|v| !truth(v)).unwrap_or(last).clone());
            }
            ("or", [.., last]) => {
                return Ok(arguments.iter().find(|v| truth(v)).unwrap_or(last).clone());
            }
            ("not", [value]) => Ok((!truth(value)).into()),
            ("eq", [first, others @ ..]) if !others.is_empty() => equal_to_any(first, others),
            ("ne", [a, b]) => equal(a, b).map(|equal| (!equal).into()),
            ("lt", [a, b]) => compare(a, b).map(|order| order.is_lt().into()),
            ("le", [a, b]) => compare(a, b).map(|order| order.is_le().into()),
            ("gt", [a, b]) => compare(a, b).map(|order| order.is_gt().into()),
            ("ge", [a, b]) => compare(a, b).map(|order| order.is_ge().into()),
            ("html", values) => Ok(html(&printed(values)).into()),
            ("urlquery", values) => Ok(urlquery(&printed(values)).into()),
            (name, given) => {
                let count = given.len();
                return Err(TemplateError::new(format!(
                    "wrong number of args for {name}: got {count}"
                )));
            }
        };
        result.map(Some).map_err(|problem| self.failed(&problem))
    }

    fn failed(self, problem: &str) -> TemplateError {
        TemplateError::new(format!("error calling {}: {problem}", self.0))
    }
}

/// What is printed for a value by itself.
pub(super) fn shown(item: &Item) -> String {
    match item {
        None | Some(Value::Null) => "<no value>".to_owned(),
        Some(value) => go_text(value),
    }
}

/// As `%v` of Go's fmt.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(go_text).collect();
            format!("[{}]", values.join(" "))
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

fn argument_text(item: &Item) -> String {
    item.as_ref()
        .map_or_else(|| "<no value>".to_owned(), go_text)
}

/// Go's notion of something that is there.
pub(super) fn truth(item: &Item) -> bool {
    match item {
        None | Some(Value::Null) => false,
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
    }
}

/// For messages.
pub(super) fn type_of(item: &Item) -> &'static str {
    match item {
        None | Some(Value::Null) => "nil",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "list",
        Some(Value::Object(_)) => "object",
    }
}

fn json(item: &Item) -> Value {
    match item {
        Some(Value::Object(members)) => {
            let mut visible = members.clone();
            visible.retain(|key, _| !key.ends_with("()"));
            Value::Object(visible).to_string().into()
        }
        Some(value) => value.to_string().into(),
        None => "null".into(),
    }
}

type Failed<T> = std::result::Result<T, String>;

fn string(item: &Item) -> Failed<&str> {
    item.as_ref().and_then(Value::as_str).ok_or_else(|| {
        format!(
            "wrong type for value; expected string; got {}",
            type_of(item)
        )
    })
}

fn integer(item: &Item) -> Failed<usize> {
    item.as_ref()
        .and_then(Value::as_u64)
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| {
            format!(
                "wrong type for value; expected a count; got {}",
                argument_text(item)
            )
        })
}

fn split(text: &Item, separator: &Item) -> Failed<Value> {
    let (text, separator) = (string(text)?, string(separator)?);
    if separator.is_empty() {
        return Ok(text.chars().map(String::from).collect::<Vec<_>>().into());
    }
    Ok(text.split(separator).collect::<Vec<_>>().into())
}

fn join(list: &Item, separator: &Item) -> Failed<Value> {
    let separator = string(separator)?;
    let values = match list {
        None | Some(Value::Null) => return Ok("".into()),
        Some(Value::Array(values)) => values,
        other => {
            return Err(format!(
                "wrong type for value; expected list; got {}",
                type_of(other)
            ));
        }
    };
    let texts: Vec<String> = values.iter().map(go_text).collect();
    Ok(texts.join(separator).into())
}

/// The first letter of each word in upper case.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            result.push(c);
        } else {
            result.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    result
}

fn pad(text: &Item, before: &Item, after: &Item) -> Failed<Value> {
    let text = string(text)?;
    if text.is_empty() {
        return Ok("".into());
    }
    let blanks = |count: &Item| integer(count).map(|count| " ".repeat(count.min(MAX_WIDTH)));
    Ok(format!("{}{text}{}", blanks(before)?, blanks(after)?).into())
}

fn truncate(text: &Item, length: &Item) -> Failed<Value> {
    let cut: String = string(text)?.chars().take(integer(length)?).collect();
    Ok(cut.into())
}

/// As Go's Sprintln, without the line's end.
fn spaced(values: &[Item]) -> String {
    values
        .iter()
        .map(argument_text)
        .collect::<Vec<_>>()
        .join(" ")
}

/// As Go's Sprint: blanks only between two values of which none is a string.
fn printed(values: &[Item]) -> String {
    let mut text = String::new();
    let is_string = |item: &Item| matches!(item, Some(Value::String(_)));
    for (number, value) in values.iter().enumerate() {
        if number > 0 && !is_string(value) && !is_string(&values[number - 1]) {
            text.push(' ');
        }
        text += &argument_text(value);
    }
    text
}

fn index(value: &Item, keys: &[Item]) -> std::result::Result<Item, String> {
    let mut found = value.clone();
    for key in keys {
        found = match (found, key) {
            (None | Some(Value::Null), _) => return Err("index of untyped nil".to_owned()),
            (Some(Value::Array(values)), Some(Value::Number(number))) => {
                let place = number.as_u64().and_then(|n| usize::try_from(n).ok());
                let value = place.and_then(|place| values.into_iter().nth(place));
                Some(value.ok_or_else(|| format!("index out of range: {number}"))?)
            }
            (Some(Value::Object(mut members)), Some(Value::String(key))) => {
                let strings = members.values().all(Value::is_string);
                members
                    .remove(key)
                    .or_else(|| strings.then(|| Value::from("")))
            }
            (Some(Value::Array(_)), key) => {
                return Err(format!("cannot index list with type {}", type_of(key)));
            }
            (Some(Value::Object(_)), key) => {
                return Err(format!("value has type {}; should be string", type_of(key)));
            }
            (other, _) => return Err(format!("can't index item of type {}", type_of(&other))),
        };
    }
    Ok(found)
}

fn slice(value: &Item, bounds: &[Item]) -> Failed<Value> {
    let size = match value {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(values)) => values.len(),
        other => return Err(format!("can't slice item of type {}", type_of(other))),
    };
    let mut bounds = bounds.iter().map(integer);
    let start = bounds.next().unwrap_or(Ok(0))?;
    let end = bounds.next().unwrap_or(Ok(size))?;
    let found = match value {
        Some(Value::String(text)) => text.get(start..end).map(Value::from),
        Some(Value::Array(values)) => values.get(start..end).map(Value::from),
        _ => None,
    };
    found.ok_or_else(|| format!("index out of range: {end}"))
}

fn length(value: &Item) -> Failed<Value> {
    match value {
        Some(Value::Null) => Ok(0.into()),
        Some(Value::String(text)) => Ok(text.len().into()),
        Some(Value::Array(values)) => Ok(values.len().into()),
        Some(Value::Object(members)) => Ok(members.len().into()),
        other => Err(format!("len of type {}", type_of(other))),
    }
}

fn equal_to_any(first: &Item, others: &[Item]) -> Failed<Value> {
    for other in others {
        if equal(first, other)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn equal(a: &Item, b: &Item) -> Failed<bool> {
    match (a, b) {
        (None | Some(Value::Null), other) | (other, None | Some(Value::Null)) => {
            Ok(matches!(other, None | Some(Value::Null)))
        }
        (Some(Value::Number(_)), Some(Value::Number(_))) => compare(a, b).map(Ordering::is_eq),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => Ok(a == b),
        (Some(Value::String(a)), Some(Value::String(b))) => Ok(a == b),
        _ => Err(incomparable(a, b)),
    }
}

fn compare(a: &Item, b: &Item) -> Failed<Ordering> {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => Ok(match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a
                .as_f64()
                .unwrap_or(0.0)
                .total_cmp(&b.as_f64().unwrap_or(0.0)),
        }),
        (Some(Value::String(a)), Some(Value::String(b))) => Ok(a.cmp(b)),
        _ => Err(incomparable(a, b)),
    }
}

fn incomparable(a: &Item, b: &Item) -> String {
    format!(
        "incompatible types for comparison: {} and {}",
        type_of(a),
        type_of(b)
    )
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

fn urlquery(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => {
                encoded.push(char::from(byte))
            }
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// `%s %v %q %d %x %f %t %%`, with the flags `-`, `0`, `+`, width and precision.
fn printf(format: &str, values: &[Item]) -> Failed<String> {
    let mut values = values.iter();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|c| "-+0 #".contains(*c)) {
            flags.push(flag);
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
                .parse::<usize>()
                .ok()
                .map(|number| number.min(MAX_WIDTH))
        };
        let width = number().unwrap_or(0);
        let precision = if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            Some(digits.parse::<usize>().unwrap_or(0).min(MAX_WIDTH))
        } else {
            None
        };
        let Some(verb) = chars.next() else {
            return Ok(text + "%!(NOVERB)");
        };
        if verb == '%' {
            text.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            text += &format!("%!{verb}(MISSING)");
            continue;
        };
        let one = formatted(verb, value, precision, flags.contains('+'));
        let blanks = width.saturating_sub(one.chars().count());
        if flags.contains('-') {
            text += &one;
            text.extend(std::iter::repeat_n(' ', blanks));
        } else {
            let zeros = flags.contains('0') && matches!(value, Some(Value::Number(_)));
            let filler = if zeros { '0' } else { ' ' };
            text.extend(std::iter::repeat_n(filler, blanks));
            text += &one;
        }
    }
    let extra: Vec<String> = values
        .map(|value| format!("{}={}", type_of(value), argument_text(value)))
        .collect();
    if !extra.is_empty() {
        text += &format!("%!(EXTRA {})", extra.join(", "));
    }
    Ok(text)
}

fn formatted(verb: char, value: &Item, precision: Option<usize>, plus: bool) -> String {
    let cut = |text: String| match precision {
        Some(length) => text.chars().take(length).collect(),
        None => text,
    };
    let bad = || format!("%!{verb}({}={})", type_of(value), argument_text(value));
    match (verb, value) {
        ('v', value) => argument_text(value),
        ('s', Some(Value::Number(_) | Value::Bool(_))) => bad(),
        ('s', value) => cut(argument_text(value)),
        ('q', Some(Value::String(text))) => Value::from(cut(text.clone())).to_string(),
        ('q', Some(Value::Array(values))) => {
            let values: Vec<String> = values
                .iter()
                .map(|value| Value::from(go_text(value)).to_string())
                .collect();
            format!("[{}]", values.join(" "))
        }
        ('t', Some(Value::Bool(yes))) => yes.to_string(),
        ('d', Some(Value::Number(number))) if number.is_i64() || number.is_u64() => {
            let sign = if plus && number.as_i64().is_none_or(|number| number >= 0) {
                "+"
            } else {
                ""
            };
            format!("{sign}{number}")
        }
        ('x', Some(Value::Number(number))) => number
            .as_i64()
            .map_or_else(bad, |number| format!("{number:x}")),
        ('x', Some(Value::String(text))) => text.bytes().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        ('f', Some(Value::Number(number))) => {
            let number = number.as_f64().unwrap_or(0.0);
            format!("{number:.*}", precision.unwrap_or(6))
        }
        _ => bad(),
    }
}
