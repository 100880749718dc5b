//! The map in `src/lib.rs` is true: who may import whom, where `unsafe` may stand, and what the
//! packet judge must not touch.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every `.rs` file under `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Path below `src/`, and the text without comments.
fn code() -> Vec<(String, String)> {
    let src = src();
    let below = |path: &Path| path.strip_prefix(&src).unwrap().display().to_string();
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    sources(&src)
        .iter()
        .map(|path| (below(path), without_comments(&text(path))))
        .collect()
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let end = line
            .match_indices("//")
            .map(|(at, _)| at)
            .find(|&at| !line[..at].ends_with(':')); // not the // of a URL
        format!("{}\n", &line[..end.unwrap_or(line.len())])
    };
    text.lines().map(code).collect()
}

/// Module and the modules that it may import, from the table in `src/lib.rs`; `None`: all.
fn table() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string(src().join("lib.rs")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let module = cells[0].split('`').next().unwrap().to_owned();
        let allowed = cells[2].trim();
        let names = allowed.split('`').skip(1).step_by(2).map(str::to_owned);
        (module, (allowed != "all").then(|| names.collect()))
    })
    .collect()
}

/// Our modules that a text names as `crate::module` or in `crate::{…}`.
fn imports(text: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::") {
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                _ if start && depth == 1 && !c.is_whitespace() => {
                    found.insert(name(&group[at..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_map_allows() {
    let table = table();
    let mut wrong = Vec::new();
    for (path, text) in code() {
        let module = path.split(['/', '.']).next().unwrap();
        let Some(Some(allowed)) = table.get(module) else {
            continue;
        };
        for import in imports(&text) {
            if table.contains_key(&import) && import != module && !allowed.contains(&import) {
                wrong.push(format!("src/{path}: {module} must not import {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_module() {
    let declared: BTreeSet<String> = fs::read_to_string(src().join("lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| {
            Some(
                line.strip_prefix("pub mod ")?
                    .trim_end_matches(';')
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(declared, table().into_keys().collect());
    assert!(
        table()["forwarder"].as_ref().unwrap().is_empty(),
        "the forwarder imports nothing of ours"
    );
}

/// A step at which nobody is killed shows nothing.
#[test]
fn every_failpoint_is_reached_in_a_test() {
    let tests = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let tests: Vec<String> = tests
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut steps = Vec::new();
    for (path, text) in code() {
        let found = text.split("failpoint::reached(\"").skip(1);
        let names = found.map(|rest| rest.split('"').next().unwrap().to_owned());
        steps.extend(names.map(|name| (path.clone(), name)));
    }
    let is_used = |name: &str| {
        let quoted = format!("\"{name}\"");
        tests.iter().any(|text| text.contains(&quoted))
    };
    steps.retain(|(_, name)| !is_used(name));
    assert!(steps.is_empty(), "{steps:?}");
}

#[test]
fn imports_are_found_in_each_form() {
    let text = without_comments(
        "use crate::kernel::netns; // crate::daemon\nuse crate::{api::types::{A, B}, cli};\nlet x = crate::control::x();",
    );
    let expected = ["api", "cli", "control", "kernel"].map(str::to_owned);
    assert_eq!(imports(&text), BTreeSet::from(expected));
}

#[test]
fn unsafe_code_stands_in_few_places() {
    let allowed = [
        "api/descriptors.rs",
        "engine/device.rs",
        "engine/queue.rs",
        "kernel/inherited.rs",
        "kernel/netns.rs",
        "steering/bitmap.rs",
        "sandbox/",
    ];
    let mut wrong = Vec::new();
    for (path, text) in code() {
        if ["unsafe {", "unsafe fn", "unsafe impl"]
            .iter()
            .any(|form| text.contains(form))
            && !allowed.iter().any(|place| path.starts_with(place))
        {
            wrong.push(format!("src/{path}"));
        }
    }
    assert!(wrong.is_empty(), "unsafe code in {}", wrong.join(", "));
}

#[test]
fn the_forwarder_is_pure() {
    let forbidden = [
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::thread",
        "TcpStream",
        "UdpSocket",
        "std::process",
        "std::env",
        "tokio",
        "nix::",
        "libc::",
        "unsafe",
    ];
    let mut wrong = Vec::new();
    for (path, text) in code() {
        // Its tests may use threads to show that it can be used from several.
        if !path.starts_with("forwarder/") || path.starts_with("forwarder/tests/") {
            continue;
        }
        // Its own lint that forbids unsafe code names the word.
        let text = text.replace("unsafe_code", "");
        for word in forbidden.iter().filter(|word| text.contains(**word)) {
            wrong.push(format!("src/{path} uses {word}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
