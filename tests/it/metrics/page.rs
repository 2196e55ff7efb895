//! A server with an admin port, and its page of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use halfhitch::server::{self, Orders, ServerConfig};
use halfhitch::service::UpkeepConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::support::channel;

/// A server with an admin port.
pub(super) struct Watched {
    address: SocketAddr,
    pub(super) admin: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    pub(super) async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let admin_listen = Some("127.0.0.1:0".parse().expect("an address"));
        let opened = server::open(ServerConfig { admin_listen, ..config }).await.expect("opens");
        let admin = opened.admin_address().expect("it listens");
        let (stop, stopped) = oneshot::channel::<()>();
        let orders = Orders::until(
            async {
                let _ = stopped.await;
            },
            UpkeepConfig::default(),
        );
        let task = tokio::spawn(async move { opened.serve(listener, orders).await.expect("ends well") });
        Self { address, admin, stop, task }
    }

    pub(super) async fn channel(&self) -> Channel {
        channel(self.address).await
    }

    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic");
    }

    /// The HTTP status and body.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        ask(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    pub(super) async fn metrics(&self) -> Metrics {
        let (code, text) = self.get("/metrics").await;
        assert_eq!(code, 200);
        Metrics::parse(&text)
    }
}

pub(super) async fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).await.expect("connects");
    // The server may respond and close before it has received everything.
    let _ = connection.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = if head.contains("chunked") { panic!("whole bodies are expected") } else { body };
    (code, body.to_owned())
}

/// Samples by series name, with labels as written.
pub(super) struct Metrics(pub(super) BTreeMap<String, f64>);

impl Metrics {
    /// Parses strictly: help and type precede the samples of a metric, no series occurs twice, counters end in
    /// `_total`, buckets are cumulative and the last equals the count.
    fn parse(text: &str) -> Self {
        let (mut samples, mut types, mut helped, mut current) =
            (BTreeMap::new(), BTreeMap::new(), BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a text");
                assert!(!words.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(helped.contains(name), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                name.clone_into(&mut current);
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let name = series.split('{').next().unwrap_or_default();
                let of_histogram = types[&current] == "histogram"
                    && ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(&current));
                assert!(name == current || of_histogram, "{line}");
                let value: f64 = value.parse().expect("a number");
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        let metrics = Self(samples);
        metrics.check_histograms();
        metrics
    }

    fn check_histograms(&self) {
        let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, value) in &self.0 {
            if let Some((labels, bound)) = series.rsplit_once("le=\"")
                && series.contains("_bucket{")
            {
                let bound = bound.trim_end_matches("\"}");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
                buckets.entry(labels.trim_end_matches(',').to_owned() + "}").or_default().push((bound, *value));
            }
        }
        for (series, mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{series}: {buckets:?}");
            let (bound, count) = *buckets.last().expect("there are some");
            assert_eq!(
                (bound, Some(count)),
                (f64::INFINITY, self.0.get(&series.replace("_bucket{", "_count{")).copied())
            );
        }
    }

    pub(super) fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    /// Numbers of jobs that succeeded, failed, and were cancelled.
    pub(super) fn ended_jobs(&self) -> [f64; 3] {
        ["succeeded", "failed", "cancelled"]
            .map(|outcome| self.0[&format!("halfhitch_ended_jobs_total{{outcome=\"{outcome}\"}}")])
    }

    /// Calls of one model, by method and code.
    pub(super) fn calls(&self, model: &str) -> BTreeMap<(String, String), u64> {
        let of_model = |series: &str, value: f64| {
            let labels = series.strip_prefix("halfhitch_calls_total{")?.strip_suffix('}')?;
            let labels: BTreeMap<&str, &str> = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(k, v)| (k, v.trim_matches('"')))
                .collect();
            (labels["model"] == model).then(|| ((labels["method"].to_owned(), labels["code"].to_owned()), value as u64))
        };
        self.0.iter().filter_map(|(series, value)| of_model(series, *value)).collect()
    }
}
