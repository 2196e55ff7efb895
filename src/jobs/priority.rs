//! Priority of queued jobs.

use serde::{Deserialize, Serialize};

/// Priority of a queued job, from -10 to 10. Higher priorities run first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Priority(pub(super) i8);

impl Priority {
    /// Lowest and highest priority.
    pub const RANGE: std::ops::RangeInclusive<i32> = -10..=10;

    /// The priority as a number.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl From<Priority> for i32 {
    fn from(priority: Priority) -> Self {
        priority.number()
    }
}
