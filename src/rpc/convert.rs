//! Conversions between the generated types and the service types. They never panic; an error names the wrong field.

mod files;
mod jobs;
mod matrices;
mod models;
mod names;
mod pages;
mod results;
mod specs;
#[cfg(test)]
mod tests;
mod times;

use crate::service::ServiceError;
pub use files::server_files;
pub use jobs::{job, priority, row_role};
pub use matrices::{answer_format, matrix, matrix_answer, named_rows};
pub use models::{Report, model, report, version};
pub use names::{alias, job_id, model_name, model_ref, version_number};
pub use pages::{page, page_token, version_token};
pub use results::{decoder, inspection, inverted, scored};
pub use specs::{cadence, train_spec};

fn unknown_enum(field: &'static str, number: i32) -> ServiceError {
    ServiceError::invalid(field, format!("{number} is not a known value of this enumeration"))
}
