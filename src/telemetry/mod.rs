//! Logs. (Metrics come with a later release.)
