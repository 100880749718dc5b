//! `docs/nat-requirements.md` says what is met, where and by which test. This keeps it true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            into.push((path, text));
        }
    }
}

/// A line of a table: requirement, verdict, code files, tests.
struct Row {
    section: String,
    requirement: String,
    verdict: String,
    code: Vec<String>,
    tests: Vec<String>,
}

/// What stands in back quotes in a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/nat-requirements.md")).unwrap();
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with("| ")
            || cells.len() != 5
            || cells[0] == "requirement"
            || cells[0].starts_with("--")
        {
            continue;
        }
        rows.push(Row {
            section: section.clone(),
            requirement: cells[0].to_owned(),
            verdict: cells[2].to_owned(),
            code: quoted(cells[3]),
            tests: quoted(cells[4]),
        });
    }
    assert!(
        rows.len() > 60,
        "only {} requirements found: has the table's form changed?",
        rows.len()
    );
    rows
}

#[test]
fn every_test_named_in_the_document_exists() {
    let mut files = Vec::new();
    sources(&root().join("tests"), &mut files);
    sources(&root().join("src"), &mut files);
    let names: BTreeSet<String> = files
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| {
            line.trim()
                .strip_prefix("fn ")?
                .split_once('(')
                .map(|(name, _)| name.to_owned())
        })
        .collect();
    let missing: Vec<String> = rows()
        .iter()
        .flat_map(|row| {
            row.tests
                .iter()
                .map(move |test| format!("{}: {test}", row.requirement))
        })
        .filter(|entry| !names.contains(entry.rsplit(' ').next().unwrap()))
        .collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

#[test]
fn every_met_requirement_names_code_and_test() {
    for row in rows() {
        match row.verdict.split([' ', ':', ',']).next().unwrap() {
            "met" | "partly" => {
                assert!(
                    !row.tests.is_empty(),
                    "{} {}: no test",
                    row.section,
                    row.requirement
                );
                assert!(
                    !row.code.is_empty(),
                    "{} {}: no code",
                    row.section,
                    row.requirement
                );
            }
            "no" => assert!(
                row.verdict.len() > 10,
                "{} {}: why?",
                row.section,
                row.requirement
            ),
            other => panic!("{} {}: verdict {other:?}", row.section, row.requirement),
        }
        for file in &row.code {
            assert!(
                root().join("src").join(file).exists(),
                "{} {}: no src/{file}",
                row.section,
                row.requirement
            );
        }
    }
}

/// "RFC 4787 REQ-5a" of a row is cited, by RFC and by number, in the forwarder's sources.
#[test]
fn every_met_requirement_is_cited_in_the_forwarder() {
    let mut files = Vec::new();
    sources(&root().join("src/forwarder"), &mut files);
    let mut uncited = Vec::new();
    for row in rows() {
        if !row.verdict.starts_with("met") {
            continue;
        }
        let Some((rfc, requirement)) = row.requirement.split_once(" REQ-") else {
            continue;
        };
        let number: String = requirement
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        // `REQ-5` also covers 5a; `REQ-5c` is found by its own letter or by the number alone.
        let cited = files.iter().any(|(_, text)| {
            text.split(rfc).skip(1).any(|after| {
                let near: String = after.chars().take(400).collect();
                near.split("REQ-").skip(1).any(|r| {
                    r.strip_prefix(number.as_str())
                        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
                })
            })
        });
        if !cited {
            uncited.push(row.requirement);
        }
    }
    assert!(
        uncited.is_empty(),
        "met, but not cited in src/forwarder: {uncited:#?}"
    );
}
