//! The operator's port: `/metrics`, `/livez`, `/readyz` over HTTP/1.1.

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

use super::page::Figures;
use crate::service::{Lifecycle, Readiness};
use crate::telemetry::metrics::CONTENT_TYPE;

/// Connections at a time: scrapers and probes are few. Others wait in the system's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long the head of a request may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may live, and so an answer that nobody reads: a scraper comes again.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// The least that hyper allows: a scraper's head has a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8192;
/// Where the system has no room for another connection, it is asked again after this.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, figures: Figures, lifecycle: Lifecycle) {
    let routes = routes(figures, lifecycle);
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut told = false;
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "a connection to the admin port cannot be accepted; it is tried again");
                }
                sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            }
        };
        told = false;
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
            let served = http.serve_connection(TokioIo::new(connection), service);
            // What goes wrong on a connection ends it, and concerns nobody else.
            let _ = timeout(CONNECTION_TIME_MAX, served).await;
            drop(place);
        });
    }
}

fn routes(figures: Figures, lifecycle: Lifecycle) -> Router {
    let metrics = move || {
        let figures = figures.clone();
        async move {
            // Reads files of the system.
            match tokio::task::spawn_blocking(move || figures.page().to_text()).await {
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

/// A state in a word, for probes and for a label.
pub(super) fn word(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Starting => "starting",
        Readiness::Ready => "ready",
        Readiness::Draining => "draining",
        Readiness::Stopping => "stopping",
    }
}
