//! Why a job failed, or why the server cancelled it.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize};

/// Texts of [`EndReason::RoundLeft`]: first the one that is written, then those of journals of earlier builds.
const ROUND_LEFT: [&str; 2] =
    ["the stream ended without rows for another round", "the stream ended, and no row came for another round"];

/// Why a job failed, or why the server cancelled it. It reads as its text, which is what journals store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum EndReason {
    /// The round received no rows, because its stream ended normally.
    RoundLeft {
        /// The text, as the build that wrote it spells it.
        text: &'static str,
    },
    /// Any other reason.
    Other(String),
}

impl EndReason {
    /// [`EndReason::RoundLeft`] as this build spells it.
    pub(super) const ROUND_LEFT: Self = Self::RoundLeft { text: ROUND_LEFT[0] };

    /// Whether the job is a round that received no rows, because its stream ended normally.
    pub fn is_round_left(&self) -> bool {
        matches!(self, Self::RoundLeft { .. })
    }
}

impl Deref for EndReason {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::RoundLeft { text } => text,
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl From<String> for EndReason {
    /// Recognizes the text of a journal.
    fn from(text: String) -> Self {
        match ROUND_LEFT.into_iter().find(|known| *known == text) {
            Some(text) => Self::RoundLeft { text },
            None => Self::Other(text),
        }
    }
}

// A derived implementation would need a static journal, because a field is a static text.
impl<'de> Deserialize<'de> for EndReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl From<EndReason> for String {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::RoundLeft { text } => text.to_owned(),
            EndReason::Other(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_earlier_builds_are_recognized() {
        let before = "the stream ended, and no row came for another round";
        for text in [before, ROUND_LEFT[0]] {
            let reason = EndReason::from(text.to_owned());
            assert!(reason.is_round_left());
            assert_eq!(String::from(reason), text, "it keeps its spelling");
        }
        assert!(!EndReason::from("cancelled by a caller".to_owned()).is_round_left());
    }

    #[test]
    fn reasons_are_stored_as_their_text() {
        for text in ["the stream ended without rows for another round", "it rained"] {
            let stored = serde_json::to_string(&EndReason::from(text.to_owned())).expect("writes");
            assert_eq!(stored, format!("{text:?}"));
            assert_eq!(&*serde_json::from_str::<EndReason>(&stored).expect("reads"), text);
        }
    }
}
