//! Identifiers and names of containers, and how a user's word is matched against them.
//!
//! A name becomes a file name (`/run/netns/NAME`, a directory of the state), so the pattern is also
//! the guard against path traversal: no `/`, no NUL, never `.` or `..`, never an option-like `-x`.

use std::io;

use super::random;

/// Longest name in octets: `NAME_MAX` of Linux, because `/run/netns/NAME` must exist.
pub const MAX_NAME_LEN: usize = 255;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A character that is not allowed, or too short.
    #[error(
        "Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed: give --name at least two such characters"
    )]
    Pattern(String),
    /// Longer than a file name may be.
    #[error("Invalid container name ({0}…): give --name at most {MAX_NAME_LEN} characters")]
    TooLong(String),
    /// Not a host name.
    #[error(
        "invalid hostname format: {0}: give --hostname at most 63 letters, digits, hyphens, underscores and dots, not starting or ending with a hyphen or dot"
    )]
    Hostname(String),
}

/// Why a word names no container (or network).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// Nothing matches.
    NotFound,
    /// A prefix of more than one identifier.
    Ambiguous,
}

/// A new identifier: 64 random hexadecimal digits.
///
/// # Errors
/// Fails if the kernel's random device cannot be read.
pub fn new_id() -> io::Result<String> {
    loop {
        let id = random::hex::<32>()?;
        // A short form of digits only would be taken for a number by scripts; Docker avoids it too.
        if !short_id(&id).bytes().all(|b| b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

/// The first twelve digits of an identifier: what tables show, and the default host name.
pub fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// 64 hexadecimal digits, as [`new_id`] and other runtimes make them.
pub fn is_id(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 64 && text.bytes().all(digit)
}

/// Checks a `--name`.
///
/// # Errors
/// Docker's message for a name outside `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn validate_name(name: &str) -> Result<(), NameError> {
    if !is_identifier(name) || name.len() < 2 {
        return Err(NameError::Pattern(name.escape_debug().to_string()));
    }
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong(name[..32].to_owned()));
    }
    Ok(())
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`: names here, ids of other runtimes' containers. It cannot be a path.
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// How long another runtime's id of a container may be.
pub const MAX_RUNTIME_ID_LEN: usize = 1024;

/// Makes a name of what another runtime calls a container: what is not allowed becomes a hyphen, and it is cut so that
/// something can follow it.
pub fn fit_name(text: &str) -> String {
    const MOST: usize = MAX_NAME_LEN - 32;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let fit = |c: char| if allowed(c) { c } else { '-' };
    let name: String = text.chars().map(fit).take(MOST).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    match name.len() {
        0 | 1 => format!("c-{name}"),
        _ => name.to_owned(),
    }
}

/// Checks a `--hostname`: it is written to `/etc/hosts`, so nothing may break out of its line.
///
/// # Errors
/// Refuses what cannot be a host name.
pub fn validate_hostname(hostname: &str) -> Result<(), NameError> {
    let edge = |b: u8| b == b'-' || b == b'.';
    let bytes = hostname.as_bytes();
    let valid = (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !bytes.first().copied().is_some_and(edge)
        && !bytes.last().copied().is_some_and(edge);
    if valid {
        Ok(())
    } else {
        Err(NameError::Hostname(hostname.escape_debug().to_string()))
    }
}

/// True if Linux takes `name` for an interface (`dev_valid_name` in net/core/dev.c), and `%`, in place of which
/// it would put a number, is not in it. `all` and `default` are not: in /proc/sys/net they mean others.
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "all" | "default")
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

/// Invents a name that `taken` does not know: `quiet_heron`, and with a number if luck runs out.
///
/// # Errors
/// Fails if the kernel's random device cannot be read.
pub fn invent(taken: impl Fn(&str) -> bool) -> io::Result<String> {
    for attempt in 0_u32.. {
        let [a, b, c, d] = random::octets::<4>()?;
        let pick = |words: &'static [&'static str], high: u8, low: u8| {
            words[usize::from(u16::from_be_bytes([high, low])) % words.len()]
        };
        let mut name = format!("{}_{}", pick(&ADJECTIVES, a, b), pick(&NOUNS, c, d));
        if attempt >= 8 {
            name.push_str(&attempt.to_string());
        }
        if !taken(&name) {
            return Ok(name);
        }
    }
    Err(io::Error::other("no free name among four thousand million"))
}

/// Finds what `query` names among (identifier, name) pairs: a full identifier first, then a full
/// name, then the prefix of exactly one identifier. A leading `/` (Docker's form of a name) is ignored.
///
/// # Errors
/// [`LookupError`] if nothing or more than one thing matches.
pub fn lookup<'a, T>(
    query: &str,
    items: impl Iterator<Item = (&'a str, &'a str, T)> + Clone,
) -> Result<T, LookupError> {
    let query = query.strip_prefix('/').unwrap_or(query);
    if query.is_empty() {
        return Err(LookupError::NotFound);
    }
    if let Some((.., found)) = items.clone().find(|(id, ..)| *id == query) {
        return Ok(found);
    }
    if let Some((.., found)) = items.clone().find(|(_, name, _)| *name == query) {
        return Ok(found);
    }
    let mut matches = items
        .filter(|(id, ..)| id.starts_with(query))
        .map(|(.., found)| found);
    match (matches.next(), matches.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(LookupError::Ambiguous),
        (None, _) => Err(LookupError::NotFound),
    }
}

#[rustfmt::skip]
const ADJECTIVES: [&str; 60] = [
    "agile", "amber", "ample", "apt", "arctic", "balmy", "bold", "brave", "breezy", "bright",
    "brisk", "calm", "candid", "cedar", "civil", "clear", "clever", "cosy", "crisp", "curious",
    "dapper", "daring", "deft", "dewy", "eager", "early", "even", "fair", "fleet", "fond",
    "frank", "fresh", "gentle", "glad", "golden", "hardy", "hazel", "humble", "jolly", "keen",
    "kind", "lively", "lucid", "mellow", "merry", "mild", "neat", "nimble", "noble", "plain",
    "proud", "quick", "quiet", "ready", "silver", "steady", "sunny", "tidy", "vivid", "witty",
];

#[rustfmt::skip]
const NOUNS: [&str; 60] = [
    "arch", "badger", "beacon", "birch", "bridge", "brook", "canal", "causeway", "cedar", "cove",
    "crane", "creek", "culvert", "dale", "delta", "dune", "elm", "estuary", "falcon", "fern",
    "ferry", "finch", "fjord", "ford", "glade", "grove", "harbour", "heron", "hollow", "inlet",
    "isle", "kestrel", "lagoon", "lantern", "lark", "ledge", "linnet", "marsh", "meadow", "mesa",
    "mole", "moor", "oak", "otter", "pass", "pier", "quay", "reef", "ridge", "river",
    "rook", "shoal", "sluice", "spring", "strait", "thrush", "tunnel", "viaduct", "wharf", "willow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_pattern() {
        for name in ["ab", "a.b", "A9_-.", "0x", &"a".repeat(255)] {
            assert_eq!(validate_name(name), Ok(()), "{name}");
        }
        assert_eq!(
            validate_name("/bad").unwrap_err().to_string(),
            "Invalid container name (/bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed: give --name at least two such characters"
        );
        assert!(matches!(
            validate_name(&"a".repeat(256)),
            Err(NameError::TooLong(_))
        ));
    }

    #[test]
    fn other_runtimes_names_are_made_fit() {
        for (given, name) in [
            ("web", "web"),
            ("default/web", "default-web"),
            ("../../etc", "etc"),
            ("_x1", "x1"),
            ("é", "c-"),
            ("", "c-"),
            ("7", "c-7"),
        ] {
            assert_eq!(fit_name(given), name);
            assert_eq!(validate_name(name), Ok(()));
        }
        assert!(validate_name(&format!("{}-0123456789ab", fit_name(&"ä".repeat(500)))).is_ok());
    }

    /// nat.md S23: a name must never lead out of the directory it is used in (CVE-2021-20206).
    #[test]
    fn names_cannot_traverse_paths() {
        for name in [
            "..", ".", "../x", "a/b", "a/../b", "/etc", "a\0b", "a\nb", "-rf", "_a", ".hidden",
            "a", "", "é1",
        ] {
            assert!(validate_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn hostnames_cannot_break_their_line() {
        for good in ["web", "web.corp.example", "a_b-c", "9"] {
            assert_eq!(validate_hostname(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a\nb",
            "-a",
            "a-",
            ".a",
            "a.",
            &"a".repeat(64),
            "a#b",
        ] {
            assert!(validate_hostname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lookup_prefers_full_id_then_name_then_prefix() {
        let items = [
            ("aabb", "ccdd", 1),
            ("ccdd", "x1", 2),
            ("abcd", "aab", 3),
            ("abff", "zz", 4),
        ];
        let find = |query| lookup(query, items.iter().copied());
        assert_eq!(find("ccdd"), Ok(2));
        assert_eq!(find("aab"), Ok(3));
        assert_eq!(find("aabb"), Ok(1));
        assert_eq!(find("cc"), Ok(2));
        assert_eq!(find("/zz"), Ok(4));
        assert_eq!(find("ab"), Err(LookupError::Ambiguous));
        assert_eq!(find("z"), Err(LookupError::NotFound));
        assert_eq!(find(""), Err(LookupError::NotFound));
    }

    #[test]
    fn invented_names_are_valid_and_free() {
        let name = invent(|name| name.bytes().all(|b| !b.is_ascii_digit())).unwrap();
        assert!(name.ends_with(|c: char| c.is_ascii_digit()), "{name}");
        assert_eq!(validate_name(&name), Ok(()));
        for words in [ADJECTIVES, NOUNS] {
            let unique: std::collections::BTreeSet<_> = words.iter().collect();
            assert_eq!(unique.len(), words.len());
        }
    }
}
