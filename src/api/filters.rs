//! The `filters` parameter of Docker's requests: `{"label":{"a=b":true}}`, or `{"label":["a=b"]}` of old clients.
//!
//! Only the form is checked here. Which keys a request knows, and what they select, is for who answers it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Wanted values by key. Values of one key are alternatives, or all required: that depends on the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Sets(BTreeMap<String, BTreeMap<String, bool>>),
    Lists(BTreeMap<String, Vec<String>>),
}

impl Filters {
    /// Reads the parameter; the empty text is no filter.
    ///
    /// # Errors
    /// One sentence that begins with Docker's `invalid filter`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let form = serde_json::from_str(text).map_err(|_| {
            r#"invalid filter: give JSON such as {"name":["web"]} or {"name":{"web":true}}"#
                .to_owned()
        })?;
        Ok(Self(match form {
            Form::Sets(sets) => {
                let chosen = |values: BTreeMap<String, bool>| {
                    let chosen = values.into_iter().filter(|(_, chosen)| *chosen);
                    chosen.map(|(value, _)| value).collect()
                };
                let sets = sets.into_iter();
                sets.map(|(key, values)| (key, chosen(values))).collect()
            }
            Form::Lists(lists) => {
                let lists = lists.into_iter();
                lists
                    .map(|(key, values)| (key, values.into_iter().collect()))
                    .collect()
            }
        }))
    }

    /// Adds `key=value`.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into());
    }

    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values of a key, sorted; nothing if the key was not given.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// The key was given, with at least one value.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// Refuses keys that are not in `known`.
    ///
    /// # Errors
    /// One sentence that begins with Docker's `invalid filter 'KEY'`.
    pub fn check_keys(&self, known: &[&str]) -> Result<(), String> {
        match self.keys().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => Err(format!(
                "invalid filter '{}': use one of {}",
                key.escape_debug(),
                known.join(", ")
            )),
        }
    }

    /// The parameter as a client sends it; empty for no filter.
    pub fn to_parameter(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let sets = self.0.iter().map(|(key, values)| {
            let values = values.iter().map(|value| (value.clone(), true.into()));
            let values: serde_json::Map<_, _> = values.collect();
            (key.clone(), values.into())
        });
        serde_json::Value::Object(sets.collect()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let new = Filters::parse(r#"{"name":{"b":true,"a":true,"no":false},"label":{"x=y":true}}"#);
        let old = Filters::parse(r#"{"name":["a","b"],"label":["x=y"]}"#);
        assert_eq!(new, old);
        let filters = new.unwrap();
        assert_eq!(filters.values("name").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(filters.keys().collect::<Vec<_>>(), ["label", "name"]);
        assert!(filters.has("label") && !filters.has("id"));
        assert_eq!(Filters::parse(&filters.to_parameter()), Ok(filters));
        for nothing in ["", "{}"] {
            assert!(Filters::parse(nothing).unwrap().is_empty(), "{nothing}");
        }
        assert_eq!(Filters::default().to_parameter(), "");
    }

    #[test]
    fn what_is_no_filter_is_refused_with_dockers_words() {
        for wrong in [
            "{",
            "[]",
            "1",
            r#"{"a":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":[1]}"#,
            "null",
        ] {
            let error = Filters::parse(wrong).unwrap_err();
            assert!(error.starts_with("invalid filter: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let mut filters = Filters::default();
        filters.insert("name", "web");
        assert_eq!(filters.check_keys(&["id", "name"]), Ok(()));
        assert_eq!(
            filters.check_keys(&["id", "label"]).unwrap_err(),
            "invalid filter 'name': use one of id, label"
        );
    }
}
