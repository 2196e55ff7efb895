//! Write coalescing: combines small writes that come at nearly the same time into one system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Maximum buffered bytes. A write that would exceed this first sends the buffer and is then written directly.
const GATHERED_BYTES_MAX: usize = 16 << 10;
/// Buffer capacity that a connection keeps after sending.
const KEPT_BYTES_MAX: usize = 4 << 10;
/// Minimum flush rate for coalescing. At lower rates, the system calls take only about 1 % of a core.
const FLUSHES_PER_SECOND_MIN: u32 = 2500;
/// Number of flushes over which the rate is measured.
const WINDOW_FLUSHES: u32 = 32;

/// A stream that coalesces writes. HTTP/2 writes and flushes every response separately, often twice, and for a small
/// response the system call is the most expensive part. The responses of a batch come at the same time, but each wakes
/// the connection's task before the next one is ready. So a flush only marks the buffer and wakes the task. Other ready
/// tasks run before its next poll (tokio takes tasks that another thread has woken in groups), and most responses
/// become one write.
///
/// A connection with few flushes does not wait: under load the next poll may come late, and there is little to gain.
///
/// The task must start each poll by reading until nothing is available, as hyper's does: reading is what sends the
/// buffer.
#[derive(Debug)]
pub(super) struct WriteCoalescer<S> {
    stream: S,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that are already written.
    written: usize,
    /// Whether the next poll must send the buffer.
    flush: bool,
    rate: Rate,
}

/// Measured flush rate of a connection; it limits nothing.
#[derive(Debug, Default)]
struct Rate {
    is_high: bool,
    /// Flushes in the current window.
    flushes: u32,
    begun: Option<Instant>,
}

impl Rate {
    fn count(&mut self, now: impl FnOnce() -> Instant) {
        self.flushes += 1;
        if self.flushes == WINDOW_FLUSHES {
            let (now, most) = (now(), Duration::from_secs(1) * WINDOW_FLUSHES / FLUSHES_PER_SECOND_MIN);
            self.is_high = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) <= most);
            (self.flushes, self.begun) = (0, Some(now));
        }
    }
}

impl<S: AsyncWrite + Unpin> WriteCoalescer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, gathered: Vec::new(), written: 0, flush: false, rate: Rate::default() }
    }

    /// Writes and flushes the whole buffer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        // The TLS layer below may still buffer encrypted bytes.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.written, self.flush) = (0, false);
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BYTES_MAX);
        Poll::Ready(Ok(()))
    }
}

impl<S: Connected> Connected for WriteCoalescer<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WriteCoalescer<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // If the client accepts no bytes now, still read what it sends.
        if this.flush {
            let _ = this.poll_send(cx)?;
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if this.gathered.len() + bytes <= GATHERED_BYTES_MAX {
            parts.iter().for_each(|part| this.gathered.extend_from_slice(part));
            return Poll::Ready(Ok(bytes));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gathered.is_empty() {
            return Pin::new(&mut this.stream).poll_flush(cx);
        }
        this.rate.count(Instant::now);
        if !this.rate.is_high {
            return this.poll_send(cx);
        }
        if !this.flush {
            this.flush = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::*;

    /// A peer that sends nothing, and accepts `room` bytes before it blocks.
    #[derive(Debug, Default)]
    struct Other {
        room: usize,
        heard: Vec<u8>,
        writes: usize,
        broken: bool,
        closed: bool,
    }

    impl AsyncRead for Other {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Other {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            if this.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = bytes.len().min(this.room);
            if count == 0 {
                return Poll::Pending;
            }
            this.room -= count;
            this.heard.extend_from_slice(&bytes[..count]);
            this.writes += 1;
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.get_mut().closed = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Debug, Default)]
    struct Turns(AtomicUsize);

    impl Wake for Turns {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A connection and the task that owns it.
    #[derive(Debug)]
    struct Task {
        connection: WriteCoalescer<Other>,
        turns: Arc<Turns>,
    }

    impl Task {
        /// A connection that coalesces, whose peer accepts `room` bytes.
        fn new(room: usize) -> Self {
            let mut connection = WriteCoalescer::new(Other { room, ..Other::default() });
            connection.rate.is_high = true;
            Self { connection, turns: Arc::default() }
        }

        fn with<T>(&mut self, act: impl FnOnce(Pin<&mut WriteCoalescer<Other>>, &mut Context<'_>) -> T) -> T {
            let waker = Waker::from(Arc::clone(&self.turns));
            act(Pin::new(&mut self.connection), &mut Context::from_waker(&waker))
        }

        fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.with(|connection, cx| connection.poll_write(cx, bytes))
        }

        fn flush(&mut self) -> Poll<io::Result<()>> {
            self.with(WriteCoalescer::poll_flush)
        }

        fn read(&mut self) -> Poll<io::Result<()>> {
            self.with(|connection, cx| connection.poll_read(cx, &mut ReadBuf::new(&mut [0; 8])))
        }

        fn turns_asked_for(&self) -> usize {
            self.turns.0.load(Ordering::SeqCst)
        }

        fn other(&self) -> &Other {
            &self.connection.stream
        }
    }

    #[test]
    fn flushes_of_one_turn_form_one_write_in_the_next() {
        let mut task = Task::new(usize::MAX);
        for answer in [b"one, ", b"two, "] {
            assert!(matches!(task.write(answer), Poll::Ready(Ok(5))));
            assert!(matches!(task.flush(), Poll::Ready(Ok(()))));
        }
        assert_eq!((task.other().writes, task.turns_asked_for()), (0, 1));
        assert!(task.read().is_pending());
        assert_eq!((task.other().heard.as_slice(), task.other().writes), (b"one, two, ".as_slice(), 1));
        // The buffer is empty now, and the next response wakes the task again.
        assert!(task.flush().is_ready() && task.read().is_pending());
        assert_eq!((task.other().writes, task.turns_asked_for()), (1, 1));
        assert!(task.write(b"three").is_ready() && task.flush().is_ready());
        assert_eq!(task.turns_asked_for(), 2);
    }

    #[test]
    fn responses_at_low_rates_are_written_at_once() {
        let mut task = Task::new(usize::MAX);
        task.connection.rate.is_high = false;
        for writes in 1..WINDOW_FLUSHES as usize {
            assert!(task.write(b"answer").is_ready() && task.flush().is_ready());
            assert_eq!((task.other().writes, task.turns_asked_for()), (writes, 0));
        }
    }

    #[test]
    fn the_rate_covers_the_last_flushes() {
        let (mut rate, mut now) = (Rate::default(), Instant::now());
        let mut after = |times: u32, every: Duration| {
            for _ in 0..times {
                now += every;
                rate.count(|| now);
            }
            rate.is_high
        };
        let [often, seldom] = [3000, 2000].map(|per_second| Duration::from_secs(1) / per_second);
        assert!(!after(2 * WINDOW_FLUSHES - 1, often), "not measured yet");
        assert!(after(1, often));
        assert!(!after(WINDOW_FLUSHES, seldom));
        assert!(after(WINDOW_FLUSHES, often));
        assert!(!after(WINDOW_FLUSHES, Duration::from_hours(1)));
    }

    #[test]
    fn unflushed_bytes_wait() {
        let mut task = Task::new(usize::MAX);
        assert!(task.write(b"half").is_ready() && task.read().is_pending());
        assert_eq!((task.other().writes, task.turns_asked_for()), (0, 0));
    }

    #[test]
    fn large_writes_go_out_at_once_after_buffered_bytes() {
        let mut task = Task::new(usize::MAX);
        let much = vec![7; GATHERED_BYTES_MAX];
        assert!(task.write(b"little").is_ready());
        assert!(matches!(task.write(&much), Poll::Ready(Ok(GATHERED_BYTES_MAX))));
        assert_eq!(task.other().heard, [b"little".as_slice(), &much].concat());
    }

    #[test]
    fn a_client_that_reads_nothing_gets_a_limited_buffer() {
        let mut task = Task::new(0);
        let mut accepted = 0;
        while let Poll::Ready(Ok(count)) = task.write(&[1; 1000]) {
            accepted += count;
            assert!(task.flush().is_ready());
            assert!(accepted <= GATHERED_BYTES_MAX);
        }
        assert!(task.read().is_pending(), "not an error");
        task.connection.stream.room = accepted;
        assert!(task.read().is_pending());
        assert_eq!(task.other().heard.len(), accepted);
        assert!(task.connection.gathered.capacity() <= KEPT_BYTES_MAX, "little is kept");
    }

    #[test]
    fn closing_sends_the_buffered_bytes() {
        let mut task = Task::new(2);
        assert!(task.write(b"bye").is_ready());
        assert!(task.with(WriteCoalescer::poll_shutdown).is_pending() && !task.other().closed);
        task.connection.stream.room = 1;
        assert!(task.with(WriteCoalescer::poll_shutdown).is_ready() && task.other().closed);
        assert_eq!(task.other().heard, b"bye");
    }

    #[test]
    fn late_write_errors_are_reported() {
        let mut task = Task::new(usize::MAX);
        assert!(task.write(b"lost").is_ready() && task.flush().is_ready());
        task.connection.stream.broken = true;
        match task.read() {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// A turn: (bytes of each write, bytes that the peer accepts before it).
        #[test]
        fn every_byte_arrives_once_and_in_order(
            turns in prop::collection::vec((prop::collection::vec(0_usize..20_000, 0..6), 0_usize..50_000), 1..20),
        ) {
            let mut task = Task::new(0);
            let (mut said, mut next) = (Vec::new(), 0_u8);
            for (writes, room) in turns {
                task.connection.stream.room += room;
                prop_assert!(task.read().is_pending());
                for size in writes {
                    let bytes: Vec<u8> = (0..size).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect();
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() && let Poll::Ready(count) = task.write(rest) {
                        rest = &rest[count.expect("no error")..];
                    }
                    said.extend_from_slice(&bytes[..size - rest.len()]);
                    prop_assert!(task.connection.gathered.len() <= GATHERED_BYTES_MAX);
                }
                prop_assert!(task.flush().is_ready());
            }
            task.connection.stream.room = usize::MAX;
            prop_assert!(task.read().is_pending());
            prop_assert!(task.other().heard == said, "{} of {} bytes", task.other().heard.len(), said.len());
        }
    }
}
