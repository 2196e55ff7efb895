//! Whose a job is.

use serde::{Deserialize, Serialize};

/// Whose a job is: the scope of its idempotency key, and whose share of uploads and jobs it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The name of the credential; empty for callers without one, who have one scope together.
    scope: String,
    /// The name of the credential, or the network of the address.
    share: String,
}

impl Owner {
    /// A caller with a credential (`scope` is its name), or without one (`scope` is empty, `share` its network).
    pub fn new(scope: &str, share: &str) -> Self {
        Self { scope: scope.to_owned(), share: share.to_owned() }
    }

    /// The scope of idempotency keys: a caller cannot learn the keys of others.
    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// Whose share of uploads, jobs and watchers it takes.
    pub(super) fn share(&self) -> &str {
        &self.share
    }
}
