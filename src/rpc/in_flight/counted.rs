//! Bytes of a request on behalf of its caller.

use std::sync::{Mutex, PoisonError};

use crate::security::{Caller, CallerQuotaGuard, Refusal};

/// Bytes of a request that were charged to its caller.
#[derive(Debug)]
pub(in crate::rpc) struct Counted {
    caller: Caller,
    held: Mutex<Option<CallerQuotaGuard>>,
}

impl Counted {
    pub(in crate::rpc) fn new(caller: Caller) -> Self {
        Self { caller, held: Mutex::default() }
    }

    /// Charges `bytes` more.
    pub(in crate::rpc) fn add(&self, bytes: usize) -> Result<(), Refusal> {
        let more = self.caller.hold(0, bytes as u64)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *held, more) {
            (Some(held), Some(more)) => held.absorb(more),
            (held, more) => *held = more,
        }
        Ok(())
    }
}
