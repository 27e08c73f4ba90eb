//! Labels, names and references: what a person types to mean a checkpoint.
//!
//! Both parts follow Docker's rule for names, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. That rule also makes them safe as
//! directory names: no slash, no leading dot or dash, never empty.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, NameProblem};

/// The longest label or name, in bytes; well under the 255 bytes of `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 128;

/// Checks one label or name against Docker's rule.
fn check(value: &str) -> Result<(), NameProblem> {
    if value.is_empty() {
        return Err(NameProblem::Empty);
    }
    if value.len() > MAX_NAME_BYTES {
        return Err(NameProblem::TooLong);
    }
    for (index, found) in value.chars().enumerate() {
        let allowed =
            found.is_ascii_alphanumeric() || (index > 0 && matches!(found, '_' | '.' | '-'));
        if !allowed {
            return Err(if index == 0 {
                NameProblem::Start(found)
            } else {
                NameProblem::Character(found)
            });
        }
    }
    if value.len() < 2 {
        return Err(NameProblem::TooShort);
    }
    Ok(())
}

/// As much of a refused value as belongs in a message.
fn excerpt(value: &str) -> String {
    let mut shown: String = value.chars().take(MAX_NAME_BYTES).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Takes `value` if it is `[a-zA-Z0-9][a-zA-Z0-9_.-]+` and at most [`MAX_NAME_BYTES`] long.
            ///
            /// # Errors
            ///
            /// [`Error::BadName`], which says what is wrong with it.
            pub fn parse(value: &str) -> Result<Self, Error> {
                match check(value) {
                    Ok(()) => Ok(Self(value.to_owned())),
                    Err(problem) => Err(Error::BadName { what: $what, value: excerpt(value), problem }),
                }
            }

            /// The text of it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(value: &str) -> Result<Self, Error> {
                Self::parse(value)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(value: String) -> Result<Self, Error> {
                Self::parse(&value)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// What a group of checkpoints is called, usually after the thing that was checkpointed: `web`.
    Label,
    "label"
);
name_type!(
    /// What one checkpoint under a [`Label`] is called: `before-upgrade`.
    Name,
    "name"
);

/// A reference to a checkpoint: `LABEL:NAME`, or `LABEL` for the newest one under that label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ref {
    /// The label.
    pub label: Label,
    /// The name; `None` means the newest (see [`crate::Store::newest`]).
    pub name: Option<Name>,
}

impl Ref {
    /// Reads `LABEL[:NAME]`.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] for whichever part is not a name.
    pub fn parse(value: &str) -> Result<Self, Error> {
        match value.split_once(':') {
            None => Ok(Self {
                label: Label::parse(value)?,
                name: None,
            }),
            Some((label, name)) => Ok(Self {
                label: Label::parse(label)?,
                name: Some(Name::parse(name)?),
            }),
        }
    }

    /// The reference to exactly this checkpoint.
    #[must_use]
    pub fn exact(label: Label, name: Name) -> Self {
        Self {
            label,
            name: Some(name),
        }
    }

    /// The reference to whatever is newest under `label`.
    #[must_use]
    pub fn newest(label: Label) -> Self {
        Self { label, name: None }
    }
}

impl TryFrom<String> for Ref {
    type Error = Error;

    fn try_from(value: String) -> Result<Self, Error> {
        Self::parse(&value)
    }
}

impl From<Ref> for String {
    fn from(reference: Ref) -> String {
        reference.to_string()
    }
}

impl FromStr for Ref {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        Self::parse(value)
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => out.pad(self.label.as_str()),
            Some(name) => out.pad(&format!("{}:{name}", self.label)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(value: &str, expected: &NameProblem) {
        match Name::parse(value) {
            Err(Error::BadName { problem, .. }) => assert_eq!(&problem, expected, "{value:?}"),
            other => panic!("{value:?}: {other:?}"),
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_reason() {
        refused("", &NameProblem::Empty);
        refused("a", &NameProblem::TooShort);
        refused(".", &NameProblem::Start('.'));
        refused("..", &NameProblem::Start('.'));
        refused("-rf", &NameProblem::Start('-'));
        refused("/etc", &NameProblem::Start('/'));
        refused("a/b", &NameProblem::Character('/'));
        refused("a\0b", &NameProblem::Character('\0'));
        refused("naïve", &NameProblem::Character('ï'));
        refused(&"a".repeat(MAX_NAME_BYTES + 1), &NameProblem::TooLong);
        assert!(Name::parse(&"a".repeat(MAX_NAME_BYTES)).is_ok());
    }

    #[test]
    fn a_bad_name_says_which_part_and_what_to_do() {
        let error = Ref::parse("web:no good").unwrap_err();
        assert_eq!(
            error.to_string(),
            "name \"no good\": ' ' is not allowed in it"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.hint().is_some());
        let error = Ref::parse("_web:good").unwrap_err();
        assert!(error.to_string().starts_with("label \"_web\""), "{error}");
    }

    #[test]
    fn references_have_one_or_two_parts() {
        assert_eq!(Ref::parse("web").unwrap().name, None);
        assert_eq!(Ref::parse("web:v1").unwrap().name.unwrap().as_str(), "v1");
        for bad in ["", ":", "web:", ":v1", "web:v1:v2", "web v1"] {
            assert!(Ref::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_by_the_rule_is_taken(text in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}") {
            prop_assert_eq!(Name::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn whatever_is_taken_is_a_safe_directory_name(text in any::<String>()) {
            if Label::parse(&text).is_ok() {
                prop_assert!(!text.contains(['/', '\0', ':']) && !text.starts_with('.') && text.len() >= 2);
                prop_assert!(text.len() <= MAX_NAME_BYTES);
            }
        }

        #[test]
        fn references_round_trip(
            label in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,40}",
            name in proptest::option::of("[a-zA-Z0-9][a-zA-Z0-9_.-]{1,40}"),
        ) {
            let text = match &name { None => label.clone(), Some(name) => format!("{label}:{name}") };
            let reference = Ref::parse(&text).unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.label.as_str(), label);
        }

        #[test]
        fn no_reference_panics(text in any::<String>()) {
            if let Ok(reference) = Ref::parse(&text) {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
