//! Owner of a job.

use serde::{Deserialize, Serialize};

/// Owner of a job: the scope of its idempotency key, and the caller whose quota the job counts against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the credential; empty for callers without one, which share one scope.
    scope: String,
    /// Name of the credential, or the network of the caller's address.
    share: String,
}

impl Owner {
    /// An owner with a credential (`scope` is its name) or without one (`scope` is empty, `share` is the caller's
    /// network).
    pub fn new(scope: &str, share: &str) -> Self {
        Self { scope: scope.to_owned(), share: share.to_owned() }
    }

    /// Scope of idempotency keys, so that a caller cannot find jobs by the keys of others.
    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// The caller whose quota of uploads, jobs and watchers is used.
    pub(super) fn share(&self) -> &str {
        &self.share
    }
}
