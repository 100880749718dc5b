//! Reading JSON of which only parts matter: every mistake is named by its place, as in `ipam.ranges[0][1].subnet`.
//!
//! Keys are found whatever their case, as Go does: some runtimes write `HostPort`, some `hostPort`. `null` is
//! nothing.

use serde_json::{Map, Value};

use super::error::{CniError, shown};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) value: &'a Value,
    pub(super) place: String,
}

impl<'a> Field<'a> {
    pub(super) fn new(value: &'a Value, place: impl Into<String>) -> Self {
        Self {
            value,
            place: place.into(),
        }
    }

    /// An error about this value.
    pub(super) fn wrong(&self, why: &str) -> CniError {
        CniError::configuration(format!(
            "invalid {} {}: {why}",
            self.place,
            shown(self.value)
        ))
    }

    pub(super) fn unsupported(&self, why: &str) -> CniError {
        CniError::unsupported(&self.place, self.value, why)
    }

    /// The member of an object; nothing in nothing.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let object = self.value.as_object()?;
        let value = member(object, key)?;
        let place = match self.place.as_str() {
            "" => key.to_owned(),
            place => format!("{place}.{key}"),
        };
        Some(Self { value, place })
    }

    pub(super) fn object(self) -> Result<Self, CniError> {
        if self.value.is_object() {
            Ok(self)
        } else {
            Err(self.wrong("must be an object"))
        }
    }

    pub(super) fn elements(&self) -> Result<Vec<Self>, CniError> {
        let Some(array) = self.value.as_array() else {
            return Err(self.wrong("must be a list"));
        };
        let element = |(index, value)| Self {
            value,
            place: format!("{}[{index}]", self.place),
        };
        Ok(array.iter().enumerate().map(element).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, CniError> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.wrong("must be a text"))
    }

    pub(super) fn flag(&self) -> Result<bool, CniError> {
        let flag = self.value.as_bool();
        flag.ok_or_else(|| self.wrong("must be true or false"))
    }

    pub(super) fn number(&self) -> Result<u64, CniError> {
        let number = self.value.as_u64();
        number.ok_or_else(|| self.wrong("must be a number that is not negative"))
    }

    /// A text that says something else, such as an address.
    pub(super) fn parsed<T: std::str::FromStr>(&self, what: &str) -> Result<T, CniError> {
        self.text()?
            .parse()
            .map_err(|_| self.wrong(&format!("give {what}")))
    }

    // Of a member that may be absent.

    pub(super) fn text_of(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        let text = self.get(key).map(|field| field.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub(super) fn flag_of(&self, key: &str) -> Result<Option<bool>, CniError> {
        self.get(key).map(|field| field.flag()).transpose()
    }

    pub(super) fn object_of(&self, key: &str) -> Result<Option<Self>, CniError> {
        self.get(key).map(Field::object).transpose()
    }

    pub(super) fn elements_of(&self, key: &str) -> Result<Vec<Self>, CniError> {
        let elements = self.get(key).map(|field| field.elements()).transpose()?;
        Ok(elements.unwrap_or_default())
    }

    pub(super) fn texts_of(&self, key: &str) -> Result<Vec<String>, CniError> {
        let text = |field: &Self| field.text().map(str::to_owned);
        self.elements_of(key)?.iter().map(text).collect()
    }

    pub(super) fn parsed_of<T: std::str::FromStr>(
        &self,
        key: &str,
        what: &str,
    ) -> Result<Option<T>, CniError> {
        let field = self.get(key).filter(|field| field.value != "");
        field.map(|field| field.parsed(what)).transpose()
    }
}

fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let exact = object.get(key);
    let value = exact.or_else(|| {
        let mut members = object.iter();
        let found = members.find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value)
    });
    value.filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_have_any_case_and_mistakes_a_place() {
        let value = json!({"A": {"HostPort": 80, "x": null, "list": [1, "b"]}});
        let root = Field::new(&value, "");
        let inner = root.object_of("a").unwrap().unwrap();
        assert_eq!(inner.get("hostPort").unwrap().number().unwrap(), 80);
        assert!(inner.get("x").is_none());
        let error = inner.texts_of("list").unwrap_err();
        assert_eq!(error.message, "invalid a.list[0] 1: must be a text");
        let error = inner.flag_of("hostport").unwrap_err();
        assert_eq!(
            error.message,
            "invalid a.hostport 80: must be true or false"
        );
    }
}
