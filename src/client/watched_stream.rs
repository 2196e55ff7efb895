//! The bytes of a connection, watched for the reason why it ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::failure::LastFailure;
use super::probe::SPEAKS_HTTP1;
use super::target::Target;
use super::tls_failure::tls_error;

/// A connection that records why it ended where the transport cannot know.
pub(super) struct WatchedStream {
    pub(super) stream: Stream,
    target: Target,
    last_failure: LastFailure,
    has_read: bool,
}

/// The bytes of a connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl WatchedStream {
    pub(super) fn new(stream: Stream, target: Target, last_failure: LastFailure) -> Self {
        Self { stream, target, last_failure, has_read: false }
    }

    /// Checks the first received bytes and TLS errors. A rejected client certificate causes a late TLS error.
    fn look(&mut self, read: &io::Result<()>, came: &[u8]) {
        let target = &self.target;
        let failure = match read {
            Err(error) => tls_error(error).map(|error| target.refused_by_tls(error)),
            // A TLS alert of any minor version.
            Ok(()) if !self.has_read && !target.is_encrypted && came.starts_with(&[0x15, 3]) => {
                Some(target.refused(&format!("speaks TLS: use --server {}", target.other_url())))
            }
            Ok(()) if !self.has_read && came.starts_with(b"HTTP/1") => Some(target.refused(SPEAKS_HTTP1)),
            Ok(()) => None,
        };
        // The first bytes without an objection show that the server accepts this client: earlier failures are over.
        let is_first = !self.has_read && !came.is_empty();
        self.has_read |= is_first;
        if failure.is_some() || is_first {
            self.last_failure.set(failure);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if let Poll::Ready(read) = &read {
            this.look(read, &buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
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
