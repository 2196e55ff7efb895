//! A client that sends single HTTP/2 frames, valid or not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halfhitch::server::TransportConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

// Frame types and flags of RFC 9113, section 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// The connection preface of every client (section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The flow-control window of a connection before any update (section 6.9.2).
pub(crate) const WINDOW_BYTES_AT_FIRST: usize = 65_535;
/// Timeout of the server in tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client end of a connection. It sends only what a test sends: it does not reply to pings.
pub(crate) struct Raw(pub(crate) TcpStream);

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut raw = Self(TcpStream::connect(address).await.expect("the server listens"));
        raw.0.write_all(PREFACE).await.expect("open");
        assert!(raw.send(&frame(SETTINGS, 0, 0, &[])).await, "open");
        raw
    }

    /// Acknowledges the server's settings and reads its connection window.
    pub(crate) async fn settle(&mut self) {
        self.until(SETTINGS).await;
        assert!(self.send(&frame(SETTINGS, ACK, 0, &[])).await, "open");
        self.until(WINDOW_UPDATE).await;
    }

    /// Sends bytes; false if the connection is closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.0.write_all(bytes)).await.expect("the server reads").is_ok()
    }

    /// Reads the next frame; `None` if the server has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        timeout(PATIENCE, next(&mut self.0)).await.expect("the server does something")
    }

    /// Reads up to the next frame of a kind without the acknowledgment flag.
    pub(crate) async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("open");
            if frame.kind == kind && frame.flags & ACK == 0 {
                return frame;
            }
        }
    }

    /// Reads up to the end of a call: a HEADERS frame with END_STREAM.
    pub(crate) async fn until_ended(&mut self) {
        loop {
            let frame = self.frame().await.expect("open");
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                return;
            }
        }
    }

    /// Splits off the writing half; a task discards everything received.
    pub(crate) fn split(self) -> (OwnedWriteHalf, JoinHandle<()>) {
        let (mut read, write) = self.0.into_split();
        let reading = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        });
        (write, reading)
    }

    /// Splits a settled connection into the writing half, the flow-control credit of the server, and a channel of the
    /// streams whose headers or trailers arrive.
    pub(crate) fn with_flow(self) -> (OwnedWriteHalf, Credit, mpsc::UnboundedReceiver<u32>) {
        let credit = Credit::default();
        // The window update that `settle` has read.
        credit.give(0, TransportConfig::default().connection_window_bytes as usize - WINDOW_BYTES_AT_FIRST);
        let (sender, ended) = mpsc::unbounded_channel();
        let (read, write) = self.0.into_split();
        let given = credit.clone();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            while let Some(frame) = next(&mut read).await {
                match frame.kind {
                    WINDOW_UPDATE => {
                        let bytes: [u8; 4] = frame.payload.try_into().expect("four bytes");
                        given.give(frame.stream, u32::from_be_bytes(bytes) as usize);
                    }
                    HEADERS if sender.send(frame.stream).is_err() => return,
                    _ => {}
                }
            }
        });
        (write, credit, ended)
    }

    /// The kinds of all frames until the server closes the connection.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        while let Some(frame) = self.frame().await {
            kinds.push(frame.kind);
        }
        kinds
    }
}

async fn next(read: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// Flow-control windows of the server in bytes: of the connection (stream 0) and of each stream.
#[derive(Clone, Default)]
pub(crate) struct Credit(Arc<Mutex<HashMap<u32, Arc<Semaphore>>>>);

impl Credit {
    fn of(&self, stream: u32) -> Arc<Semaphore> {
        let first =
            if stream == 0 { WINDOW_BYTES_AT_FIRST } else { TransportConfig::default().stream_window_bytes as usize };
        let mut all = self.0.lock().expect("sound");
        Arc::clone(all.entry(stream).or_insert_with(|| Arc::new(Semaphore::new(first))))
    }

    fn give(&self, stream: u32, bytes: usize) {
        self.of(stream).add_permits(bytes);
    }

    /// Waits until `bytes` of a stream may be sent, and takes them from both windows.
    pub(crate) async fn take(&self, stream: u32, bytes: usize) {
        for id in [stream, 0] {
            let window = self.of(id);
            let credit = timeout(PATIENCE, window.acquire_many(bytes as u32)).await;
            credit.unwrap_or_else(|_| panic!("{id} of {stream} is not read")).expect("open").forget();
        }
    }
}

/// One frame on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header in HPACK: literal without indexing (RFC 7541, 6.2.2).
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    text(&mut bytes, name);
    text(&mut bytes, value);
    bytes
}

/// A header that becomes the newest entry of the dynamic table (6.2.1); [`NEWEST`] refers to it.
pub(crate) fn remembered_header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = header(name, value);
    bytes[0] = 0x40;
    bytes
}

/// The newest entry of the dynamic table, as an indexed header of one byte (6.1).
pub(crate) const NEWEST: u8 = 0x80 + 62;

/// Appends a string with its length, without Huffman coding (5.1 and 5.2).
fn text(bytes: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(length as u8);
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push((length % 128 + 128) as u8);
            length /= 128;
        }
        bytes.push(length as u8);
    }
    bytes.extend(text.as_bytes());
}

/// The headers of a gRPC call.
pub(crate) fn call(path: &str) -> Vec<u8> {
    let all =
        [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers")];
    let all = all.into_iter().chain([("content-type", "application/grpc")]);
    all.flat_map(|(name, value)| header(name, value)).collect()
}
