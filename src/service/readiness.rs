//! Whether this server wants requests: asked by probes of every protocol, settled here.

use std::sync::Arc;

use tokio::sync::watch;

/// The states of a server, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Models that it shall have in memory are not there yet.
    Starting,
    /// It wants requests.
    Ready,
    /// It still serves, and wants no new clients. For good.
    Draining,
    /// It takes no connections any more. For good.
    Stopping,
}

impl Readiness {
    /// Whether it wants requests.
    pub fn is_ready(self) -> bool {
        self == Self::Ready
    }
}

/// Where this server stands. Cheap to clone; all clones are one.
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
    /// Where it stands now.
    pub fn now(&self) -> Readiness {
        *self.state.borrow()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        self.state.subscribe()
    }

    /// Goes on to `next`; never back: who was told that this server drains is never told that it is ready again.
    pub fn advance(&self, next: Readiness) {
        self.state.send_if_modified(|state| {
            let later = next > *state;
            *state = next.max(*state);
            later
        });
    }

    /// Until it stands there, or further.
    pub async fn reaches(&self, state: Readiness) {
        // No error: a sender is held here.
        let _ = self.watch().wait_for(|now| *now >= state).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_ready_again_once_draining() {
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
