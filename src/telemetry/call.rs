//! The current call of a thread: log lines carry its ids.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::str;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use opentelemetry::trace::TraceId;
use pin_project_lite::pin_project;

use super::ids;
use super::measures::Cause;

/// Longest request id that a caller may send, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Id of a call, from the caller or generated here: printable ASCII without spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Bytes);

impl RequestId {
    /// Parses a caller's id. `None` if it is empty, longer than [`REQUEST_ID_BYTES_MAX`], or has other bytes than
    /// printable ASCII without spaces: the id goes into logs.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len());
        (fits && bytes.iter().all(u8::is_ascii_graphic)).then(|| Self(Bytes::copy_from_slice(bytes)))
    }

    /// Generates an id of 16 hexadecimal digits.
    pub fn unique() -> Self {
        let number = ids::unique();
        let digit = |place: usize| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
        Self(Bytes::copy_from_slice(&std::array::from_fn::<u8, 16, _>(digit)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id as shared bytes: no copy.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

/// Ids of a call that its log lines carry, and its first refusal cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIds {
    /// The caller's id, or a generated one.
    pub request_id: RequestId,
    /// Set if the call is part of a trace, whether or not the trace is exported.
    pub trace_id: Option<TraceId>,
    cause: OnceLock<Cause>,
}

impl CallIds {
    /// Ids of a new call, without a refusal cause.
    pub fn new(request_id: RequestId, trace_id: Option<TraceId>) -> Self {
        Self { request_id, trace_id, cause: OnceLock::new() }
    }

    /// Records why a part of the call was refused; the first cause wins.
    pub fn refused(&self, cause: Cause) {
        let _ = self.cause.set(cause);
    }

    /// The first recorded refusal cause.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<CallIds>>> = const { RefCell::new(None) };
}

/// The call that this thread works for.
pub fn current() -> Option<Arc<CallIds>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Guard: while it lives, it sets the current call of this thread. Its drop restores the previous call.
#[derive(Debug)]
pub struct Entered<'a>(&'a mut Option<Arc<CallIds>>);

impl<'a> Entered<'a> {
    /// Swaps `ids` with the current call until the guard is dropped: no reference count changes.
    pub fn new(ids: &'a mut Option<Arc<CallIds>>) -> Self {
        CURRENT.with(|current| mem::swap(&mut *current.borrow_mut(), ids));
        Self(ids)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with(|current| mem::swap(&mut *current.borrow_mut(), self.0));
    }
}

pin_project! {
    /// A future that sets the current call while it is polled.
    #[derive(Debug)]
    pub struct Within<F> {
        ids: Option<Arc<CallIds>>,
        #[pin]
        work: F,
    }
}

/// Runs `work` with `ids` as the current call.
pub fn within<F: Future>(ids: Option<Arc<CallIds>>, work: F) -> Within<F> {
    Within { ids, work }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(this.ids);
        this.work.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> Arc<CallIds> {
        Arc::new(CallIds::new(RequestId::unique(), None))
    }

    #[tokio::test]
    async fn the_current_call_follows_the_polled_future() {
        let (outer, inner) = (ids(), ids());
        let (of_outer, of_inner) = (Arc::clone(&outer), Arc::clone(&inner));
        let work = within(Some(outer), async move {
            assert_eq!(current(), Some(Arc::clone(&of_outer)));
            within(Some(inner), async {
                tokio::task::yield_now().await;
                assert_eq!(current(), Some(of_inner));
            })
            .await;
            assert_eq!(current(), Some(of_outer));
        });
        let beside = async {
            for _ in 0..3 {
                assert_eq!(current(), None);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(work, beside);
        assert_eq!(current(), None);
    }

    #[test]
    fn a_panic_clears_the_current_call() {
        let mut of_call = Some(ids());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _entered = Entered::new(&mut of_call);
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(current(), None);
        assert!(of_call.is_some());
    }

    proptest! {
        #[test]
        fn request_ids_are_accepted_unchanged_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let good = !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(|byte| (0x21..0x7f).contains(byte));
            let id = RequestId::parse(&bytes);
            prop_assert_eq!(id.is_some(), good);
            if let Some(id) = id {
                prop_assert_eq!(id.as_str().as_bytes(), &bytes[..]);
            }
        }

        #[test]
        fn short_printable_ids_are_accepted(text in "[!-~]{1,128}") {
            let id = RequestId::parse(text.as_bytes()).expect("good");
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn generated_ids_are_valid() {
        let id = RequestId::unique();
        assert_eq!((id.as_str().len(), RequestId::parse(id.as_str().as_bytes())), (16, Some(id.clone())));
    }
}
