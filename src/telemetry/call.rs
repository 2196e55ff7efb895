//! Which call a thread is at work for: what is logged meanwhile tells it.

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

/// Longest id that a caller may give.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// What a call is called, by its caller or by us: printable ASCII without spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Bytes);

impl RequestId {
    /// A caller's; `None` if it is empty, longer than [`REQUEST_ID_BYTES_MAX`], or has anything but printable ASCII: it goes
    /// into logs.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len());
        (fits && bytes.iter().all(u8::is_ascii_graphic)).then(|| Self(Bytes::copy_from_slice(bytes)))
    }

    /// A new one: 16 hexadecimal digits.
    pub fn unique() -> Self {
        let number = ids::unique();
        let digit = |place: usize| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
        Self(Bytes::copy_from_slice(&std::array::from_fn::<u8, 16, _>(digit)))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As bytes that are shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

/// What the lines of a log say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIds {
    /// Always there.
    pub request_id: RequestId,
    /// If the call is part of a trace, whether or not that is exported.
    pub trace_id: Option<TraceId>,
    cause: OnceLock<Cause>,
}

impl CallIds {
    /// Of a call that begins.
    pub fn new(request_id: RequestId, trace_id: Option<TraceId>) -> Self {
        Self { request_id, trace_id, cause: OnceLock::new() }
    }

    /// Something of the call was not done; the first cause counts.
    pub fn refused(&self, cause: Cause) {
        let _ = self.cause.set(cause);
    }

    /// Why something of it was not done, if that was said.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<CallIds>>> = const { RefCell::new(None) };
}

/// The call that this thread is at work for.
pub fn current() -> Option<Arc<CallIds>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// While it lives, this thread is at work for a call; then for what it was before.
#[derive(Debug)]
pub struct Entered<'a>(&'a mut Option<Arc<CallIds>>);

impl<'a> Entered<'a> {
    /// Takes the ids out of their place and puts them back: no count changes.
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
    /// A future whose work is for a call.
    #[derive(Debug)]
    pub struct Within<F> {
        ids: Option<Arc<CallIds>>,
        #[pin]
        work: F,
    }
}

/// Does `work` for a call.
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
    async fn a_thread_is_at_work_for_whom_it_polls() {
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
    fn a_panic_leaves_nobody_behind() {
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
        fn an_id_is_taken_as_it_came_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let good = !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(|byte| (0x21..0x7f).contains(byte));
            let id = RequestId::parse(&bytes);
            prop_assert_eq!(id.is_some(), good);
            if let Some(id) = id {
                prop_assert_eq!(id.as_str().as_bytes(), &bytes[..]);
            }
        }

        #[test]
        fn what_is_printable_and_short_is_taken(text in "[!-~]{1,128}") {
            let id = RequestId::parse(text.as_bytes()).expect("good");
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn ours_have_the_form_that_we_ask_for() {
        let id = RequestId::unique();
        assert_eq!((id.as_str().len(), RequestId::parse(id.as_str().as_bytes())), (16, Some(id.clone())));
    }
}
