//! What the documents name exists: tests, files, flags and commands.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, into);
        } else if path.extension().is_some_and(|found| found == extension) {
            into.push(path);
        }
    }
}

/// Path and text of README.md and of everything in docs/.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// What stands in back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// `file::function` of every test. A module `state/tests.rs` counts as `state`.
fn tests() -> BTreeSet<String> {
    let mut sources = Vec::new();
    files(&root().join("src"), "rs", &mut sources);
    files(&root().join("tests"), "rs", &mut sources);
    let mut found = BTreeSet::new();
    for path in sources {
        let module = match path.file_stem().unwrap().to_str().unwrap() {
            "tests" => path.parent().unwrap().file_name().unwrap(),
            _ => path.file_stem().unwrap(),
        };
        let text = fs::read_to_string(&path).unwrap();
        let worlds: BTreeSet<&str> = text
            .split_once("in_every_world! {")
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(names, _)| names.split_whitespace().collect())
            .unwrap_or_default();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if let Some((name, _)) = line
                .strip_prefix("fn ")
                .and_then(|rest| rest.split_once('('))
                && (is_test || worlds.contains(name))
            {
                found.insert(format!("{}::{name}", module.display()));
            }
            is_test = line == "#[test]" || (is_test && line.starts_with("#["));
        }
    }
    found
}

#[test]
fn tests_that_documents_name_exist() {
    let tests = tests();
    let named_tests_only = ["parity.md", "kernel-footprint.md", "networks.md"];
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in documents() {
        let file = path.file_name().unwrap().to_str().unwrap();
        if !named_tests_only.contains(&file) {
            continue;
        }
        let is_name = |name: &&str| {
            // `publish::…` stands for any; `[::]` is an address.
            name.contains("::")
                && !name.ends_with("::…")
                && name
                    .split('/')
                    .next()
                    .is_some_and(|first| first.parse::<std::net::Ipv6Addr>().is_err())
                && name.starts_with(|c: char| c.is_ascii_lowercase())
        };
        for name in quoted(&text).filter(is_name) {
            count += 1;
            if !tests.contains(name) {
                wrong.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "no such test:\n{}", wrong.join("\n"));
    assert!(
        count > 40,
        "{count} names were found: is this looking right?"
    );
}

#[test]
fn files_that_documents_link_to_exist() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.starts_with("http")) {
            if !path.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no such file:\n{}", wrong.join("\n"));
}

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tunbridge"))
        .args(words)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags that a help text describes.
fn flags(help: &str) -> BTreeSet<&str> {
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(|line| line.split([' ', ',', '[', '=']))
        .filter(|word| word.starts_with("--"))
        .collect()
}

#[test]
fn commands_and_flags_of_the_readme_exist_and_none_is_left_out() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let overall = help(&[]);
    let commands: BTreeSet<&str> = overall
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains("daemon"), "{overall}");

    let tour = readme
        .split_once("## A tour of the command line")
        .and_then(|(_, rest)| rest.split_once("## How it works"))
        .unwrap()
        .0;
    for command in &commands {
        let mut words = tour.split(|c: char| !c.is_ascii_lowercase() && c != '-');
        assert!(
            words.any(|word| word == *command),
            "{command} is not in the tour"
        );
    }
    let lines = tour
        .lines()
        .filter_map(|line| line.strip_prefix("tunbridge "));
    for word in lines.filter_map(|rest| rest.split_whitespace().next()) {
        assert!(commands.contains(word), "there is no `tunbridge {word}`");
    }

    let text = help(&["network"]);
    for command in text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
    {
        let lines = tour
            .lines()
            .filter(|line| line.contains("tunbridge network "));
        let mut words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_lowercase()));
        assert!(
            words.any(|word| word == command),
            "network {command} is not in the tour"
        );
    }
    let text = help(&["network", "create"]);
    let known = flags(&text);
    let list = tour
        .split_once("`network create` has Docker's flags, `")
        .and_then(|(_, rest)| rest.split_once('`'))
        .unwrap()
        .0;
    for flag in list.split_whitespace() {
        assert!(known.contains(flag), "network create has no {flag}");
    }

    let text = help(&["daemon"]);
    let known = flags(&text);
    let list = readme
        .split_once("The daemon's flags for the default network are dockerd's: `")
        .and_then(|(_, rest)| rest.split_once('`'))
        .unwrap()
        .0;
    let listed: BTreeSet<&str> = list.split_whitespace().collect();
    let others = [
        "--help",
        "--socket",
        "--config",
        "--purge",
        "--state-dir",
        "--exit-when-idle",
    ];
    let expected: BTreeSet<&str> = known
        .iter()
        .copied()
        .filter(|flag| !others.contains(flag))
        .collect();
    assert_eq!(listed, expected);
}
