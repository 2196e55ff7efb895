//! Direct dispatch of the services that process rows, without a router. For small requests, routing and its boxed
//! futures would cost more than authentication and metrics.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::BoxFuture;
use tower::Service;

use crate::rpc::Api;
use crate::rpc::pb::autoencoder_service_server::AutoencoderServiceServer;
use crate::rpc::pb::inference::grpc_inference_service_server::GrpcInferenceServiceServer;

const AUTOENCODER: &str = "/halfhitch.v1.AutoencoderService/";
const INFERENCE: &str = "/inference.GRPCInferenceService/";

/// The two services that process rows. `early` wraps each request to the first one.
#[derive(Clone, Debug)]
pub(super) struct BusyServices<F> {
    autoencoder: AutoencoderServiceServer<Api>,
    inference: GrpcInferenceServiceServer<Api>,
    early: F,
}

impl<F> BusyServices<F> {
    /// The services over `api`, for request messages of at most `bytes_max` bytes.
    pub(super) fn new(api: &Api, early: F, bytes_max: usize) -> Self {
        Self {
            autoencoder: AutoencoderServiceServer::new(api.clone())
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Zstd),
            inference: GrpcInferenceServiceServer::new(api.clone())
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Zstd),
            early,
        }
    }
}

/// Dispatches to [`BusyServices`], and to the router `routes` for all other services.
#[derive(Clone, Debug)]
pub(super) struct Direct<R, F> {
    routes: R,
    rows: BusyServices<F>,
}

impl<R, F> Direct<R, F> {
    pub(super) fn new(routes: R, rows: BusyServices<F>) -> Self {
        Self { routes, rows }
    }
}

impl<R, F> Service<Request<Body>> for Direct<R, F>
where
    R: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    F: Fn(Request<Body>) -> Request<Body>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<Response<Body>, Infallible>, R::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The direct services are always ready.
        self.routes.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with(AUTOENCODER) {
            Either::Left(self.rows.autoencoder.call((self.rows.early)(request)))
        } else if path.starts_with(INFERENCE) {
            Either::Left(self.rows.inference.call(request))
        } else {
            Either::Right(self.routes.call(request))
        }
    }
}
