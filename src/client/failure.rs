//! Why a connection could not be made or ended.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a connection could not be made.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No server listens or responds.
    NoServer(String),
    /// A server responds, but this client cannot use it; the text says why and what to do.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NoServer(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl Error for Failure {}

/// The newest reason why a connection failed or ended. The transport above keeps only the text of an error.
#[derive(Clone, Debug, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<Failure>>>);

impl LastFailure {
    pub(super) fn get(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, failure: Option<Failure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}
