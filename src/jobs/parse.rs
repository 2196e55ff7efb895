//! Reads ids, keys and priorities as clients and journals spell them. These are not in the files of their types, because
//! [`JobError`] names those types.

use std::str::FromStr;
use std::sync::Arc;

use super::{IdempotencyKey, JobError, JobId, Priority};

impl FromStr for JobId {
    type Err = JobError;
    fn from_str(text: &str) -> Result<Self, JobError> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| JobError::Unknown(text.chars().take(80).collect()))?;
        Ok(Self(Arc::from(id.hyphenated().to_string())))
    }
}

impl TryFrom<String> for JobId {
    type Error = JobError;
    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl FromStr for IdempotencyKey {
    type Err = JobError;
    fn from_str(text: &str) -> Result<Self, JobError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(JobError::Key { got: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = JobError;
    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl TryFrom<i32> for Priority {
    type Error = JobError;
    fn try_from(number: i32) -> Result<Self, JobError> {
        match i8::try_from(number) {
            Ok(small) if Self::RANGE.contains(&number) => Ok(Self(small)),
            _ => Err(JobError::Priority { got: number }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printable_ascii() {
        for good in ["a", " ", "~", &"x".repeat(128)] {
            assert!(good.parse::<IdempotencyKey>().is_ok(), "{good:?}");
        }
        for bad in ["", "ü", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_priority_is_from_minus_ten_to_ten() {
        for number in -10..=10 {
            assert_eq!(Priority::try_from(number).expect("in range").number(), number);
        }
        for number in [-11, 11, i32::MIN, i32::MAX, 256] {
            let error = Priority::try_from(number).expect_err("out of range").to_string();
            assert!(error.contains(&number.to_string()) && error.contains("-10 to 10"), "{error}");
        }
    }
}
