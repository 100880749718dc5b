//! Go templates for `--format`, over JSON.
//!
//! # Theory of operation
//!
//! [`tokens`] and [`parse`] turn a text into a tree, [`run`] walks it with a JSON value as the dot. The language is that of Go's
//! text/template with the functions that Docker's client adds; numbers, strings, objects and lists are JSON's.
//! Objects keep the order of their keys for `json`, and are ranged over in the order of the keys' names, as Go does
//! with its maps.
//!
//! Two deviations, both because JSON has no types: a field that is not there prints `<no value>` everywhere (Go
//! refuses it in a struct), unless the caller asks for [`Missing::Refuse`]; and an absent key of an object of
//! strings is an empty string to `index`, as in a Go map of strings.
//!
//! A key that ends with `()` is a method: `.Label "a"` looks `a` up in the object at `Label()`. Such keys are not
//! part of `json`.

mod functions;
mod parse;
mod run;
#[cfg(test)]
mod tests;
mod tokens;

use serde_json::Value;
use thiserror::Error;

use parse::{Defined, Node};

/// What is wrong with a template, or with it and the data at hand.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("template parsing error: {0}")]
pub(super) struct TemplateError(String);

impl TemplateError {
    fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// What a field that is not there is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It prints `<no value>`.
    NoValue,
    /// An error that lists the fields there are.
    Refuse,
}

/// A template that has been read.
#[derive(Clone, Debug)]
pub(super) struct Template {
    root: Vec<Node>,
    /// By `{{define "NAME"}}` and `{{block "NAME"}}`.
    defined: Defined,
}

impl Template {
    /// Reads `text`.
    ///
    /// # Errors
    /// One sentence, with the place.
    pub(super) fn new(text: &str) -> Result<Self, TemplateError> {
        let (root, defined) = parse::template(text)?;
        Ok(Self { root, defined })
    }

    /// The template's text for `data`.
    ///
    /// # Errors
    /// If a function is used on what it is not for, or a field is missing that must not.
    pub(super) fn render(&self, data: &Value, missing: Missing) -> Result<String, TemplateError> {
        run::render(self, data, missing, false)
    }

    /// The header of a table: `names` has a title for each field, and Docker's functions leave them alone.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub(super) fn render_header(&self, names: &Value) -> Result<String, TemplateError> {
        run::render(self, names, Missing::Refuse, true)
    }
}
