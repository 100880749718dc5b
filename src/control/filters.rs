//! What the filters of `network ls`, `network prune` and `ps` select, by Docker's rules.
//!
//! Values of `name` and `id` are regular expressions that match anywhere (moby `filters.Args.Match`): `web` also selects
//! `webapp`, `^web$` does not. Values of one key are alternatives, except labels, which must all be there; different
//! keys must all hold. The form of the parameter is `api::filters`' business, and events are filtered there.

mod containers;
mod moment;

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::{Regex, RegexBuilder};

use super::network_options::is_predefined;
use super::records::Network;
use super::timestamp::Timestamp;
use crate::api::filters::Filters;

pub use containers::select_containers;
pub use moment::parse_moment;

/// Networks are local here, all of them (Docker's `Scope`).
pub const SCOPE: &str = "local";

/// Largest compiled regular expression, in octets: names are short, and their patterns are.
const MAX_PATTERN: usize = 1 << 20;

/// Why filters are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// One sentence with the key.
    #[error("{0}")]
    Invalid(String),
    /// `before` or `since` a container that is not there.
    #[error("No such container: {0}: `tunbridge ps -a` lists the containers")]
    NoSuchContainer(String),
}

impl FilterError {
    /// The HTTP status of the answer.
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::NoSuchContainer(_) => 404,
        }
    }
}

/// Selects networks.
#[derive(Clone, Debug)]
pub struct NetworkFilter {
    drivers: Exact,
    names: Patterns,
    ids: Patterns,
    scopes: Exact,
    labels: Labels,
    not_labels: Labels,
    dangling: Option<bool>,
    types: BTreeSet<NetworkType>,
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NetworkType {
    Builtin,
    Custom,
}

impl NetworkFilter {
    /// The filters of `network ls`: dangling, driver, id, label, name, scope, type.
    ///
    /// # Errors
    /// For an unknown filter or a value that it cannot have, in Docker's words.
    pub fn list(filters: &Filters) -> Result<Self, FilterError> {
        let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
        filters.check_keys(&known).map_err(FilterError::Invalid)?;
        Self::new(filters)
    }

    /// The filters of `network prune`: label, label!, until. Selects only networks of users' that no container is on.
    /// `until` is relative to `now`.
    ///
    /// # Errors
    /// As [`NetworkFilter::list`].
    pub fn prune(filters: &Filters, now: Timestamp) -> Result<Self, FilterError> {
        let known = ["label", "label!", "until"];
        filters.check_keys(&known).map_err(FilterError::Invalid)?;
        let mut moments = filters.values("until");
        let until = match (moments.next(), moments.next()) {
            (None, _) => None,
            (Some(moment), None) => Some(parse_moment(moment, now).map_err(FilterError::Invalid)?),
            (Some(_), Some(_)) => {
                return Err(FilterError::Invalid(
                    "more than one until filter specified: give one".to_owned(),
                ));
            }
        };
        Ok(Self {
            dangling: Some(true),
            until,
            ..Self::new(filters)?
        })
    }

    fn new(filters: &Filters) -> Result<Self, FilterError> {
        let types = filters.values("type").map(|value| match value {
            "builtin" => Ok(NetworkType::Builtin),
            "custom" => Ok(NetworkType::Custom),
            other => Err(FilterError::Invalid(format!(
                "invalid filter: 'type'='{}': give builtin or custom",
                other.escape_debug()
            ))),
        });
        Ok(Self {
            drivers: Exact::new(filters, "driver"),
            names: Patterns::new(filters, "name"),
            ids: Patterns::new(filters, "id"),
            scopes: Exact::new(filters, "scope"),
            labels: Labels::new(filters, "label"),
            not_labels: Labels::new(filters, "label!"),
            dangling: dangling(filters)?,
            types: types.collect::<Result<_, _>>()?,
            until: None,
        })
    }

    /// Whether a network is selected. `in_use`: a container has an endpoint on it.
    pub fn matches(&self, network: &Network, in_use: bool) -> bool {
        let predefined = is_predefined(&network.name);
        let network_type = if predefined {
            NetworkType::Builtin
        } else {
            NetworkType::Custom
        };
        self.drivers.matches(&network.driver)
            && self.names.matches(&network.name)
            && self.ids.matches(&network.id)
            && self.scopes.matches(SCOPE)
            && self.labels.are_in(&network.labels)
            && (self.not_labels.is_empty() || !self.not_labels.are_in(&network.labels))
            && self
                .dangling
                .is_none_or(|dangling| dangling != (predefined || in_use))
            && (self.types.is_empty() || self.types.contains(&network_type))
            && self.until.is_none_or(|until| network.created <= until)
    }
}

fn dangling(filters: &Filters) -> Result<Option<bool>, FilterError> {
    let mut values = filters.values("dangling");
    let refuse = |text: &str| Err(FilterError::Invalid(text.to_owned()));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => {
            refuse("got more than one value for filter key \"dangling\": give one")
        }
        (Some("0" | "false"), None) => Ok(Some(false)),
        (Some("1" | "true"), None) => Ok(Some(true)),
        (Some(_), None) => refuse(
            "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
        ),
    }
}

/// Values of which one must be it; without values everything is.
#[derive(Clone, Debug)]
struct Exact(BTreeSet<String>);

impl Exact {
    fn new(filters: &Filters, key: &str) -> Self {
        Self(filters.values(key).map(str::to_owned).collect())
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_empty() || self.0.contains(text)
    }
}

/// Values of which one must match, literally or as a regular expression; without values everything does.
#[derive(Clone, Debug)]
struct Patterns {
    literal: Exact,
    expressions: Vec<Regex>,
}

impl Patterns {
    fn new(filters: &Filters, key: &str) -> Self {
        let expression = |text: &str| RegexBuilder::new(text).size_limit(MAX_PATTERN).build().ok();
        Self {
            literal: Exact::new(filters, key),
            // As in Docker, one that is none matches nothing but itself.
            expressions: filters.values(key).filter_map(expression).collect(),
        }
    }

    fn matches(&self, text: &str) -> bool {
        self.literal.matches(text) || self.expressions.iter().any(|regex| regex.is_match(text))
    }
}

/// `key` or `key=value`, all of which must be there.
#[derive(Clone, Debug)]
struct Labels(Vec<(String, Option<String>)>);

impl Labels {
    fn new(filters: &Filters, key: &str) -> Self {
        let label = |text: &str| match text.split_once('=') {
            Some((label, value)) => (label.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        Self(filters.values(key).map(label).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn are_in(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(label, wanted)| {
            labels
                .get(label)
                .is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        })
    }
}

#[cfg(test)]
mod tests;
