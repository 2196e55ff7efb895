//! Sends requests from this process, if h2load is not installed.

use std::time::Instant;

use http::uri::PathAndQuery;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::drive::{Driven, Shape, Target};
use crate::load::Failure;
use crate::raw::Raw;

pub(crate) fn drive(target: &Target, shape: Shape, count: usize) -> Result<Driven, Failure> {
    // One thread, because it has one core.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let origin = Instant::now();
        let mut callers = Vec::new();
        for connection in 0..shape.connections {
            let channel = Endpoint::from_shared(format!("http://{}", target.address))?.connect().await?;
            for caller in (connection..shape.callers).step_by(shape.connections) {
                // The first callers send the remainder of the division.
                let share = count / shape.callers + usize::from(caller < count % shape.callers);
                callers.push(tokio::spawn(call(channel.clone(), target.clone(), share, origin)));
            }
        }
        let mut times = Vec::with_capacity(count);
        for caller in callers {
            times.extend(caller.await??);
        }
        Driven::of(&times)
    })
}

/// Sends `count` requests one after the other; returns start and duration of each, in microseconds.
async fn call(channel: Channel, target: Target, count: usize, origin: Instant) -> Result<Vec<(f64, f64)>, Failure> {
    let mut client = Grpc::new(channel);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = origin.elapsed();
        client.ready().await?;
        let path = PathAndQuery::from_static(target.path);
        let reply = client.unary(Request::new(target.message.clone()), path, Raw).await?.into_inner();
        if reply.len() != target.reply_bytes {
            return Err(format!("an answer has {} bytes, expected {}", reply.len(), target.reply_bytes).into());
        }
        times.push((start.as_secs_f64() * 1e6, origin.elapsed().saturating_sub(start).as_secs_f64() * 1e6));
    }
    Ok(times)
}
