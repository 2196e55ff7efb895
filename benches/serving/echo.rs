//! A bare tonic server as the upper limit: it reads a message and returns a fixed one.
//!
//! It runs as a separate process of this program, with the same HTTP/2 settings and the same kind of runtime as the
//! real server.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use halfhitch::server::TransportConfig;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::load::{Cores, Failure, Owned};
use crate::raw::Raw;

/// The hidden argument; the size of the response in bytes follows.
const ARGUMENT: &str = "--echo-server";
/// The path of its method.
pub(crate) const PATH: &str = "/bench.Echo/Echo";

/// Runs the echo server if this process was started for that.
pub(crate) fn run_if_asked() -> Option<Result<(), Failure>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let bytes = arguments.next().and_then(|bytes| bytes.parse().ok());
    Some(bytes.ok_or_else(|| "bytes of the answer are missing".into()).and_then(run))
}

/// Starts an echo server with responses of `reply_bytes` bytes.
pub(crate) fn start(cores: Cores, reply_bytes: usize) -> Result<(Owned, SocketAddr), Failure> {
    let program = std::env::current_exe()?;
    let mut command = cores.server_command(&program);
    command.args([ARGUMENT, &reply_bytes.to_string()]);
    Owned::server(command)
}

fn run(reply_bytes: usize) -> Result<(), Failure> {
    // The parent process holds the other end of standard input, which closes even if the parent is killed.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let echo = Echo { reply: vec![7; reply_bytes].into() };
        TransportConfig::default().builder(None).add_service(echo).serve_with_incoming(incoming).await?;
        Ok(())
    })
}

#[derive(Clone, Debug)]
struct Echo {
    reply: Bytes,
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(echo, request).await) })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(self.reply.clone())))
    }
}
