//! Admin port: `/metrics`, `/livez` and `/readyz` over HTTP/1.1.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::page::{Figures, word};
use crate::executor::blocking;
use crate::service::Lifecycle;
use crate::telemetry::metrics::CONTENT_TYPE;

/// Maximum concurrent connections: scrapers and probes are few. More wait in the system's accept queue.
const CONNECTIONS_MAX: usize = 32;
/// Timeout for the headers of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Maximum lifetime of a connection, which also ends responses that are not read. A scraper reconnects.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum bytes of request headers: the minimum that hyper allows. A scraper sends a few hundred.
const HEAD_BYTES_MAX: usize = 8192;
/// Pause after a failed accept.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, figures: Figures, lifecycle: Lifecycle) {
    let routes = routes(figures, lifecycle);
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut is_logged = false;
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%error, "cannot accept a connection to the admin port; retrying");
                }
                sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            }
        };
        is_logged = false;
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
            let served = http.serve_connection(TokioIo::new(connection), service);
            // An error ends only this connection.
            let _ = timeout(CONNECTION_TIME_MAX, served).await;
            drop(place);
        });
    }
}

fn routes(figures: Figures, lifecycle: Lifecycle) -> Router {
    let metrics = move || {
        let figures = figures.clone();
        async move {
            // Building the page reads files in /proc, which blocks.
            match blocking(move || figures.page().to_text()).await {
                Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
                _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    let is_ready = move || {
        let now = lifecycle.now();
        let code = if now.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        ready((code, format!("{}\n", word(now))))
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| ready("alive\n")))
        .route("/readyz", get(is_ready))
        .fallback(|| ready((StatusCode::NOT_FOUND, "expected /metrics, /livez or /readyz\n")))
}
