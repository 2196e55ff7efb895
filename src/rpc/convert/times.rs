//! Durations and points in time.

use std::time::{Duration, SystemTime};

use crate::service::ServiceError;

/// Converts the duration in `field`. Negative durations are errors; the caller checks the range.
pub(super) fn length_of_time(
    field: &'static str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, ServiceError> {
    let positive = |duration: prost_types::Duration| {
        let (seconds, nanos) = (duration.seconds, duration.nanos);
        Duration::try_from(duration)
            .map_err(|_| ServiceError::invalid(field, format!("is {seconds} s and {nanos} ns, expected 0 or more")))
    };
    duration.map(positive).transpose()
}

pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

pub(super) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}
