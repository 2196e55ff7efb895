//! The lifecycle of the server. Health checks of all protocols read it.

use std::sync::Arc;

use tokio::sync::watch;

/// States of the server, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Warm models are not loaded yet.
    Starting,
    /// Ready for requests.
    Ready,
    /// Still serves, but new clients should go elsewhere. Never reverts.
    Draining,
    /// Accepts no connections any more. Never reverts.
    Stopping,
}

impl Readiness {
    /// Whether the server is ready for requests.
    pub fn is_ready(self) -> bool {
        self == Self::Ready
    }
}

/// The current state of the server. Cheap to clone; all clones share one state.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    state: Arc<watch::Sender<Readiness>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(Readiness::Starting)) }
    }
}

impl Lifecycle {
    /// The current state.
    pub fn now(&self) -> Readiness {
        *self.state.borrow()
    }

    /// Watches the state.
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        self.state.subscribe()
    }

    /// Moves forward to `next`, never back: a client that saw the server drain never sees it ready again.
    pub fn advance(&self, next: Readiness) {
        self.state.send_if_modified(|state| {
            let later = next > *state;
            *state = next.max(*state);
            later
        });
    }

    /// Waits until the state is `state` or later.
    pub async fn reaches(&self, state: Readiness) {
        // Cannot fail: `self` holds a sender.
        let _ = self.watch().wait_for(|now| *now >= state).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_server_never_becomes_ready() {
        let lifecycle = Lifecycle::default();
        assert!(!lifecycle.now().is_ready());
        lifecycle.advance(Readiness::Ready);
        assert!(lifecycle.now().is_ready());
        lifecycle.advance(Readiness::Draining);
        let mut watched = lifecycle.watch();
        lifecycle.advance(Readiness::Ready);
        lifecycle.advance(Readiness::Starting);
        assert_eq!(lifecycle.now(), Readiness::Draining);
        assert!(!watched.has_changed().expect("the sender is there"));
        lifecycle.advance(Readiness::Stopping);
        assert!(watched.has_changed().expect("the sender is there"));
        assert_eq!(*watched.borrow_and_update(), Readiness::Stopping);
    }
}
