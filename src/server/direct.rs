//! Direct dispatch of the services that process rows, without a router. For small requests, routing and its boxed
//! futures would cost more than authentication and metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::BoxFuture;
use tower::Service;

use crate::methods::{GrpcService, Method};
use crate::rpc::Api;
use crate::rpc::auth::dispatched;
use crate::rpc::compression::{Heavy, answer_in_kind};
use crate::rpc::pb::autoencoder_service_server::AutoencoderServiceServer;
use crate::rpc::pb::inference::grpc_inference_service_server::GrpcInferenceServiceServer;

/// The two services that process rows. `early` wraps each request to the first one.
#[derive(Debug)]
pub(super) struct BusyServices<F> {
    /// For calls whose requests are not compressed, nor their responses. Does not look at what the client accepts.
    plain: Pair,
    compressed: Pair,
    early: F,
}

#[derive(Debug)]
struct Pair {
    autoencoder: AutoencoderServiceServer<Api>,
    inference: GrpcInferenceServiceServer<Api>,
}

impl<F> BusyServices<F> {
    /// The services over `api`, for request messages of at most `bytes_max` bytes.
    pub(super) fn new(api: &Api, early: F, bytes_max: usize) -> Self {
        let plain = Pair {
            autoencoder: AutoencoderServiceServer::new(api.clone())
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX),
            inference: GrpcInferenceServiceServer::new(api.clone())
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX),
        };
        let [gzip, zstd] = [CompressionEncoding::Gzip, CompressionEncoding::Zstd];
        let (autoencoder, inference) = (plain.autoencoder.clone(), plain.inference.clone());
        let compressed = Pair {
            autoencoder: autoencoder
                .accept_compressed(gzip)
                .accept_compressed(zstd)
                .send_compressed(gzip)
                .send_compressed(zstd),
            inference: inference
                .accept_compressed(gzip)
                .accept_compressed(zstd)
                .send_compressed(gzip)
                .send_compressed(zstd),
        };
        Self { plain, compressed, early }
    }
}

/// Dispatches to [`BusyServices`], and to the router `routes` for all other services. Responses are compressed as
/// [`crate::rpc::compression`] says.
#[derive(Debug)]
pub(super) struct Direct<R, F> {
    routes: R,
    rows: Arc<BusyServices<F>>,
}

impl<R: Clone, F> Clone for Direct<R, F> {
    fn clone(&self) -> Self {
        Self { routes: self.routes.clone(), rows: Arc::clone(&self.rows) }
    }
}

impl<R, F> Direct<R, F> {
    pub(super) fn new(routes: R, rows: Arc<BusyServices<F>>) -> Self {
        Self { routes, rows }
    }
}

type Routed<R> = Either<BoxFuture<Response<Body>, Infallible>, R>;

impl<R, F> Service<Request<Body>> for Direct<R, F>
where
    R: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    F: Fn(Request<Body>, Option<Method>) -> Request<Body>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Routed<R::Future>, Heavy<Routed<R::Future>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The direct services are always ready.
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (method, is_compressed) = dispatched(request.extensions());
        let services = if is_compressed { &self.rows.compressed } else { &self.rows.plain };
        // A service itself rejects a method that it does not have.
        let service = method.map(Method::service).or_else(|| GrpcService::of(request.uri().path()));
        let is_direct = matches!(service, Some(GrpcService::Autoencoder | GrpcService::Inference));
        if is_compressed || !is_direct {
            answer_in_kind(request.headers_mut());
        }
        let answer = match service {
            Some(GrpcService::Autoencoder) => {
                Either::Left(services.autoencoder.clone().call((self.rows.early)(request, method)))
            }
            Some(GrpcService::Inference) => Either::Left(services.inference.clone().call(request)),
            Some(
                GrpcService::Models
                | GrpcService::Jobs
                | GrpcService::Health
                | GrpcService::Reflection
                | GrpcService::OlderReflection,
            )
            | None => Either::Right(self.routes.call(request)),
        };
        if is_compressed { Either::Right(Heavy::new(answer)) } else { Either::Left(answer) }
    }
}
