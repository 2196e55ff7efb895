//! What is recorded about a call while it is served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{Extensions, Request};

use crate::methods::Method;
use crate::service::{ModelName, Timing, Version};
use crate::telemetry::call::{CallIds, RequestId};

/// A call's method, its ids, and what its handler records about it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Notes>);

#[derive(Debug)]
struct Notes {
    method: Option<Method>,
    ids: Arc<CallIds>,
    asked: OnceLock<Asked>,
    served: OnceLock<Outcome>,
    rows: AtomicU64,
}

/// The request of a call.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) model: ModelName,
    /// When the request was complete.
    pub(super) received_at: Instant,
}

/// The result of a call.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) version: Version,
    pub(super) timing: Timing,
}

impl RequestContext {
    pub(super) fn new(method: Option<Method>, ids: CallIds) -> Self {
        let (ids, rows) = (Arc::new(ids), AtomicU64::new(0));
        Self(Arc::new(Notes { method, ids, asked: OnceLock::new(), served: OnceLock::new(), rows }))
    }

    /// The context of a call that came through [`super::Observe`]; for any other call, a context that is discarded.
    pub fn of(extensions: &Extensions) -> Self {
        let unobserved = || Self::new(None, CallIds::new(RequestId::unique(), None));
        extensions.get::<Self>().cloned().unwrap_or_else(unobserved)
    }

    /// The method of a call: parsed by [`super::Observe`], or here if the call did not come through it. `None` if the
    /// server has no such method.
    pub fn method_of<B>(request: &Request<B>) -> Option<Method> {
        match request.extensions().get::<Self>() {
            Some(context) => context.method(),
            None => Method::of(request.uri().path()),
        }
    }

    /// The method of the call, as parsed from its path. `None` if the server has no such method.
    pub fn method(&self) -> Option<Method> {
        self.0.method
    }

    /// The ids of the call.
    pub fn ids(&self) -> &Arc<CallIds> {
        &self.0.ids
    }

    /// Records the request: its model and its rows.
    pub(crate) fn asks(&self, model: &ModelName, rows: usize) {
        let received_at = Instant::now();
        let _ = self.0.asked.set(Asked { model: model.clone(), received_at });
        self.add_rows(rows);
    }

    /// Adds rows of a stream.
    pub(crate) fn add_rows(&self, rows: usize) {
        self.0.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Records the version and the timing; of a stream, only those of the first response.
    pub(crate) fn served(&self, version: Version, timing: Timing) {
        let _ = self.0.served.set(Outcome { version, timing });
    }

    pub(super) fn asked(&self) -> Option<&Asked> {
        self.0.asked.get()
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.0.served.get()
    }

    pub(super) fn rows(&self) -> u64 {
        self.0.rows.load(Ordering::Relaxed)
    }
}
