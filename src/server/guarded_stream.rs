//! A connection that has said that it speaks HTTP/2, plain or encrypted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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

/// What every client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is still read of a client whose socket takes no more.
const READ_UNTAKEN_BYTES_MAX: usize = 64 << 10;

/// Under HTTP/2, above the socket.
#[derive(Debug)]
pub(super) struct GuardedStream {
    stream: Stream,
    /// Bytes of the preface that were not read yet from above.
    preface_left: usize,
    frames: Frames,
    /// What was read since the client has not taken what it was sent; `None`: it takes it.
    read_untaken_bytes: Option<usize>,
    peer: Arc<Peer>,
    /// Until its first call.
    first_call: Option<Pin<Box<Sleep>>>,
    _place: QuotaGuard,
}

#[derive(Debug)]
enum Stream {
    Plain(Lingering),
    Tls(Box<TlsStream<Lingering>>),
}

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the handshake and the first bytes.
    pub(super) greeting: Duration,
    /// For the first call.
    pub(super) first_call: Option<Duration>,
}

impl GuardedStream {
    /// Shakes hands if that is wanted, and waits for the preface.
    ///
    /// # Errors
    /// If the client is too slow, or speaks something else.
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
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"));
            }
            Ok((stream, certificate))
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it said too little in time");
        let (stream, certificate) = timeout_at(until, greeting).await.map_err(late)??;
        let peer = gate.peer(Some(place.address()), certificate);
        Ok(Self {
            stream,
            preface_left: PREFACE.len(),
            frames: Frames::new(header_bytes_max, Instant::now().into_std()),
            read_untaken_bytes: None,
            peer,
            first_call: patience.first_call.map(|patience| Box::pin(sleep(patience))),
            _place: place,
        })
    }

    /// Takes note of what was written of `parts`.
    fn count(&mut self, written: Poll<io::Result<usize>>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => _ = self.read_untaken_bytes.get_or_insert(0),
            Poll::Ready(Ok(bytes)) => {
                self.read_untaken_bytes = None;
                let mut left = bytes;
                for part in parts {
                    let passing = left.min(part.len());
                    left -= passing;
                    if let Some(abuse) = self.frames.sent(&part[..passing]) {
                        tell(abuse, &self.peer)?;
                    }
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// Whether it may go on without a call.
    fn check_called(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(first_call) = &mut self.first_call else { return Ok(()) };
        if self.peer.has_called() {
            self.first_call = None;
        } else if first_call.as_mut().poll(cx).is_ready() {
            static TOLD: LogThrottle = LogThrottle::never();
            let address = self.peer.address;
            TOLD.once(|unsaid| tracing::warn!(?address, unsaid, "a connection that never made a call was closed"));
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no call came"));
        }
        Ok(())
    }
}

/// Says it, and ends the connection where nothing else does.
fn tell(abuse: Abuse, peer: &Peer) -> io::Result<()> {
    static HEADERS: LogThrottle = LogThrottle::never();
    static RESETS: LogThrottle = LogThrottle::never();
    static IDLE_FRAMES: LogThrottle = LogThrottle::never();
    let (told, what, ends) = match abuse {
        // HTTP/2 answers it for itself, with 431.
        Abuse::Headers => (&HEADERS, "a call was refused whose headers are larger than header_bytes_max", false),
        Abuse::Resets => (&RESETS, "a connection was closed that began calls only to give them up", true),
        Abuse::IdleFrames => (&IDLE_FRAMES, "a connection was closed that sent a flood of empty frames", true),
    };
    let address = peer.address;
    told.once(|unsaid| tracing::warn!(?address, unsaid, "{what}"));
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
        // Whoever takes no answers is asked nothing more: each frame may want one, and they would pile up. The task is woken when
        // there is room for what waits.
        if this.read_untaken_bytes.is_some_and(|bytes| bytes > READ_UNTAKEN_BYTES_MAX) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if let Some(bytes) = &mut this.read_untaken_bytes {
            *bytes += buffer.filled().len() - before;
        }
        if let Some(abuse) = this.frames.see(&buffer.filled()[before..]) {
            tell(abuse, &this.peer)?;
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
        this.count(written, &[io::IoSlice::new(bytes)])
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
        this.count(written, parts)
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
