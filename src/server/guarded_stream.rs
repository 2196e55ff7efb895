//! Guarded stream: a plain or TLS connection after its HTTP/2 preface, with timeouts and abuse detection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::frames::{Abuse, Frames};
use super::lingering::Lingering;
use super::tls::presented;
use crate::security::QuotaGuard;
use crate::security::gate::{Gate, Peer};
use crate::security::log_throttle::LogThrottle;

/// The HTTP/2 preface, which every client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection below HTTP/2 and above the socket.
#[derive(Debug)]
pub(super) struct GuardedStream {
    stream: Stream,
    /// Preface bytes that HTTP/2 has not read yet.
    preface_left: usize,
    frames: Frames,
    backpressure: Backpressure,
    peer: Arc<Peer>,
    /// Timeout of the first call; `None` once it was made, or without a timeout.
    first_call: Option<Pin<Box<Sleep>>>,
    _place: QuotaGuard,
}

/// Stops reading from a client that does not accept our writes: each frame may need a response, and they would
/// accumulate.
#[derive(Debug, Default)]
struct Backpressure {
    /// Bytes read since a write blocked; `None`: writes do not block.
    read_bytes: Option<usize>,
    /// Whether a read was refused. It has registered no waker.
    is_paused: bool,
}

impl Backpressure {
    /// Maximum bytes to read while writes block.
    const READ_BYTES_MAX: usize = 64 << 10;

    /// Pending until a write succeeds, once more than the maximum was read.
    fn poll_read(&mut self) -> Poll<()> {
        self.is_paused = self.read_bytes.is_some_and(|bytes| bytes > Self::READ_BYTES_MAX);
        if self.is_paused { Poll::Pending } else { Poll::Ready(()) }
    }

    fn count_read(&mut self, bytes: usize) {
        if let Some(read_bytes) = &mut self.read_bytes {
            *read_bytes += bytes;
        }
    }

    /// HTTP/2 reads before it writes, so a write that succeeds must wake the task for the read that it has refused.
    fn count_write(&mut self, written: &Poll<io::Result<usize>>, cx: &mut Context<'_>) {
        if written.is_pending() {
            self.read_bytes.get_or_insert(0);
            return;
        }
        self.read_bytes = None;
        if std::mem::take(&mut self.is_paused) {
            cx.waker().wake_by_ref();
        }
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Lingering),
    Tls(Box<TlsStream<Lingering>>),
}

/// Timeouts of a new connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Time for the TLS handshake and the HTTP/2 preface.
    pub(super) greeting: Duration,
    /// Time until the first call; `None`: no limit.
    pub(super) first_call: Option<Duration>,
}

impl GuardedStream {
    /// Does the TLS handshake, if `acceptor` is given, and waits for the HTTP/2 preface.
    ///
    /// # Errors
    /// If the client is too slow, fails the handshake, or does not speak HTTP/2.
    pub(super) async fn greet(
        connection: Lingering,
        acceptor: Option<TlsAcceptor>,
        gate: &Gate,
        place: QuotaGuard,
        patience: Patience,
        header_bytes_max: u64,
    ) -> io::Result<Self> {
        let until = Instant::now() + patience.greeting;
        let greeting = async {
            let (mut stream, certificate) = match acceptor {
                None => (Stream::Plain(connection), None),
                Some(acceptor) => {
                    let stream = acceptor.accept(connection).await?;
                    let certificate = stream.get_ref().1.peer_certificates().and_then(presented);
                    (Stream::Tls(Box::new(stream)), certificate)
                }
            };
            let mut preface = [0; PREFACE.len()];
            match &mut stream {
                Stream::Plain(stream) => stream.read_exact(&mut preface).await?,
                Stream::Tls(stream) => stream.read_exact(&mut preface).await?,
            };
            if preface != *PREFACE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
            }
            Ok((stream, certificate))
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "TLS and the HTTP/2 preface were not complete in time");
        let (stream, certificate) = timeout_at(until, greeting).await.map_err(late)??;
        let peer = gate.peer(Some(place.address()), certificate);
        Ok(Self {
            stream,
            preface_left: PREFACE.len(),
            frames: Frames::new(header_bytes_max, Instant::now().into_std()),
            backpressure: Backpressure::default(),
            peer,
            first_call: patience.first_call.map(|patience| Box::pin(sleep(patience))),
            _place: place,
        })
    }

    /// Records the result of writing `parts`, and inspects the written bytes.
    fn count(
        &mut self,
        written: Poll<io::Result<usize>>,
        parts: &[io::IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.backpressure.count_write(&written, cx);
        if let Poll::Ready(Ok(bytes)) = written {
            let mut left = bytes;
            for part in parts {
                let passing = left.min(part.len());
                left -= passing;
                if let Some(abuse) = self.frames.sent(&part[..passing]) {
                    log_abuse(abuse, &self.peer)?;
                }
            }
        }
        written
    }

    /// Fails if the timeout of the first call has passed.
    fn check_called(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(first_call) = &mut self.first_call else { return Ok(()) };
        if self.peer.has_called() {
            self.first_call = None;
        } else if first_call.as_mut().poll(cx).is_ready() {
            static THROTTLE: LogThrottle = LogThrottle::never();
            let address = self.peer.address;
            THROTTLE.once(|unsaid| tracing::warn!(?address, unsaid, "closed a connection that never made a call"));
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no call was made in time"));
        }
        Ok(())
    }
}

/// Logs an abuse, and returns an error if the connection must be closed.
fn log_abuse(abuse: Abuse, peer: &Peer) -> io::Result<()> {
    static HEADERS: LogThrottle = LogThrottle::never();
    static RESETS: LogThrottle = LogThrottle::never();
    static IDLE_FRAMES: LogThrottle = LogThrottle::never();
    let (throttle, what, ends) = match abuse {
        // The HTTP/2 library itself responds with status 431.
        Abuse::Headers => (&HEADERS, "rejected a call whose headers are larger than header_bytes_max", false),
        Abuse::Resets => (&RESETS, "closed a connection that started calls only to cancel them", true),
        Abuse::IdleFrames => (&IDLE_FRAMES, "closed a connection that sent a flood of empty frames", true),
    };
    let address = peer.address;
    throttle.once(|unsaid| tracing::warn!(?address, unsaid, "{what}"));
    if ends { Err(io::Error::new(io::ErrorKind::InvalidData, what)) } else { Ok(()) }
}

impl Connected for GuardedStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.preface_left > 0 {
            let left = &PREFACE[PREFACE.len() - this.preface_left..];
            let count = left.len().min(buffer.remaining());
            buffer.put_slice(&left[..count]);
            this.preface_left -= count;
            return Poll::Ready(Ok(()));
        }
        this.check_called(cx)?;
        ready!(this.backpressure.poll_read());
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        this.backpressure.count_read(buffer.filled().len() - before);
        if let Some(abuse) = this.frames.see(&buffer.filled()[before..]) {
            log_abuse(abuse, &this.peer)?;
        }
        read
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.count(written, &[io::IoSlice::new(bytes)], cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        };
        this.count(written, parts, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_read_refused_before_a_write_succeeds_is_woken() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut backpressure = Backpressure::default();
        let woken = || wakes.0.load(Ordering::SeqCst);

        backpressure.count_read(1 << 20);
        assert!(backpressure.poll_read().is_ready(), "writes do not block");
        backpressure.count_write(&Poll::Pending, &mut cx);
        backpressure.count_read(Backpressure::READ_BYTES_MAX);
        assert!(backpressure.poll_read().is_ready(), "as much as the maximum");
        // A write that succeeds before a read is refused owes nothing.
        backpressure.count_write(&Poll::Ready(Ok(1)), &mut cx);
        assert_eq!(woken(), 0);

        backpressure.count_write(&Poll::Pending, &mut cx);
        backpressure.count_read(Backpressure::READ_BYTES_MAX + 1);
        assert!(backpressure.poll_read().is_pending());
        backpressure.count_write(&Poll::Pending, &mut cx);
        assert!(backpressure.poll_read().is_pending(), "still blocked");
        assert_eq!(woken(), 0);
        backpressure.count_write(&Poll::Ready(Ok(1)), &mut cx);
        assert_eq!(woken(), 1);
        assert!(backpressure.poll_read().is_ready());
        backpressure.count_write(&Poll::Ready(Ok(1)), &mut cx);
        assert_eq!(woken(), 1);
    }
}
