//! Lingering close: closes a connection without losing the last response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::telemetry::measures::ServerMeasures;

/// Maximum time for the client to close its side.
const LINGER_MAX: Duration = Duration::from_secs(1);
const DISCARDED_AT_ONCE_BYTES: usize = 16 << 10;

/// A TCP connection with a lingering close. Closing a socket with unread bytes resets the connection. A reset discards
/// what the client has not read yet, such as the status of a stream that it is still sending. So, after the last write,
/// incoming bytes are discarded until the client closes too, or until [`LINGER_MAX`] has passed.
#[derive(Debug)]
pub(super) struct Lingering {
    stream: TcpStream,
    /// Set once our side is closed.
    until: Option<Pin<Box<Sleep>>>,
    /// Counters of connections and bytes.
    measures: Arc<ServerMeasures>,
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.measures.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Lingering {
    /// Wraps and counts an accepted connection.
    pub(super) fn new(stream: TcpStream, measures: Arc<ServerMeasures>) -> Self {
        measures.accepted.fetch_add(1, Ordering::Relaxed);
        Self { stream, until: None, measures }
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.measures.sent_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Lingering {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.as_mut().stream().poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        self.measures.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.as_mut().stream().poll_write(cx, bytes);
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().stream().poll_write_vectored(cx, parts);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, until, .. } = self.get_mut();
        let mut stream = Pin::new(stream);
        let until = match until {
            Some(until) => until,
            None => {
                ready!(stream.as_mut().poll_shutdown(cx))?;
                until.insert(Box::pin(sleep(LINGER_MAX)))
            }
        };
        let mut discarded = [0; DISCARDED_AT_ONCE_BYTES];
        while until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut discarded);
            let read = ready!(stream.as_mut().poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, Lingering) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connects"), Lingering::new(accepted.expect("accepts").0, Arc::default()))
    }

    #[tokio::test]
    async fn the_last_bytes_arrive_while_the_client_still_sends() {
        let (mut client, mut server) = connected().await;
        let talk = vec![1; 100_000];
        client.write_all(&talk).await.expect("sends");
        let closing = tokio::spawn(async move {
            server.write_all(b"enough").await.expect("sends");
            server.shutdown().await.expect("closes");
        });
        for _ in 0..10 {
            client.write_all(&talk).await.expect("sends");
        }
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("no reset");
        assert_eq!(heard, b"enough");
        drop(client);
        closing.await.expect("no panic");
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_forever_for_the_client() {
        let (_client, mut server) = connected().await;
        tokio::time::timeout(LINGER_MAX * 10, server.shutdown()).await.expect("ends by itself").expect("closes");
    }
}
