//! Roles of rows.

use serde::{Deserialize, Serialize};

/// Purpose of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowRole {
    /// Rows to train on. Validation rows are split off from these.
    Training,
    /// Rows for the test metrics only.
    Test,
}
