//! One case: rounds of echo, compute and server, and their figures.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use halfhitch::model::Autoencoder;
use halfhitch::numeric::{BufferPool, PanelMatrix};
use halfhitch::rpc::pb::EncodeRequest;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use prost::Message;

use crate::drive::{Driven, Driver, Shape, Target};
use crate::echo;
use crate::load::{Cores, Failure, Model, RunningServer, cpu_of_this_thread};
use crate::support::{Line, Report, median};

pub(crate) const ENCODE_PATH: &str = "/halfhitch.v1.AutoencoderService/Encode";
/// Maximum number of requests in a run.
const REQUESTS_MAX: f64 = 1e6;
/// Maximum number of batches in a measurement of the arithmetic.
const BATCHES_MAX: u32 = 1_000_000;

/// If the arithmetic gets less than this share of its core, something else disturbed it.
const CORE_SHARE_MIN: f64 = 0.9;
/// User and system time are each rounded down to ticks of 10 ms, so a quick run detects only large disturbances.
const CPU_UNCERTAINTY: Duration = Duration::from_millis(20);

/// A number of concurrent equal requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) model: Model,
    /// Rows of a request.
    pub(crate) rows: usize,
    pub(crate) shape: Shape,
}

/// Number and length of the rounds.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    run: Duration,
    compute: Duration,
}

impl Effort {
    fn new(quick: bool) -> Self {
        let ms = Duration::from_millis;
        if quick {
            Self { rounds: 5, run: ms(120), compute: ms(40) }
        } else {
            Self { rounds: 5, run: ms(1500), compute: ms(300) }
        }
    }
}

/// One round: echo, compute and server, one after the other, so that noise affects all of them.
#[derive(Clone, Copy, Debug)]
struct Round {
    echo: Driven,
    compute_requests_per_second: f64,
    server: Driven,
}

impl Round {
    fn ceiling(&self) -> f64 {
        1.0 / (1.0 / self.echo.requests_per_second + 1.0 / self.compute_requests_per_second)
    }
}

/// The results of a case.
#[derive(Debug)]
pub(crate) struct Figures {
    rounds: Vec<Round>,
    server_cpu_us: f64,
    /// Mean over all batches of the server.
    rows_per_batch: f64,
    /// Share of the server's core that the arithmetic got; below 1, something else ran there.
    core_share: f64,
    callers: usize,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let Self { model, rows, shape: Shape { callers, connections } } = self;
        format!("{} rows={rows} callers={callers} connections={connections}", model.name)
    }

    /// Measures with a fresh server, so that its counts belong to this case.
    pub(crate) fn measure(&self, cores: Cores, driver: Driver, store: &Path, quick: bool) -> Result<Figures, Failure> {
        let effort = Effort::new(quick);
        let scratch = tempfile::tempdir()?;
        let server = RunningServer::start(cores, store, scratch.path(), &[])?;
        let question = self.model.question(self.rows);
        let message = Bytes::from(question.encode_to_vec());
        let reply_bytes = ask(&server, question)?;
        let mut asked = 1;
        let (_echo, echo_address) = echo::start(cores, reply_bytes)?;
        let real = Target { address: server.address, path: ENCODE_PATH, message, reply_bytes };
        let bare = Target { address: echo_address, path: echo::PATH, ..real.clone() };

        let (echo_count, _) = self.calibrate(driver, &bare, effort.run)?;
        let (server_count, sent) = self.calibrate(driver, &real, effort.run)?;
        asked += sent;
        let model = self.model.build();
        // The batch that the server forms when the rows of all callers wait.
        let batch_requests = if self.rows == 1 { self.shape.callers } else { 1 };
        let batch = self.model.batch(self.rows * batch_requests);
        let mut rounds = Vec::new();
        let (mut cpu, mut compute_wall, mut compute_cpu) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..effort.rounds {
            let echo = driver.drive(&bare, self.shape, echo_count)?;
            let arithmetic = cores.on_server_core(|| Arithmetic::measure(&model, &batch, effort.compute))?;
            compute_wall += arithmetic.wall;
            compute_cpu += arithmetic.cpu + CPU_UNCERTAINTY;
            let before = server.process.cpu()?;
            let served = driver.drive(&real, self.shape, server_count)?;
            cpu += server.process.cpu()?.saturating_sub(before);
            asked += server_count;
            rounds.push(Round {
                echo,
                compute_requests_per_second: arithmetic.batches_per_second * batch_requests as f64,
                server: served,
            });
        }
        let counts = server.stop()?;
        if (counts.answered, counts.refused) != (asked as u64, 0) {
            return Err(format!("{}: void: {asked} requests were sent, the server says {counts:?}", self.name()).into());
        }
        let server_cpu_us = cpu.as_secs_f64() * 1e6 / (effort.rounds * server_count) as f64;
        let core_share = compute_cpu.as_secs_f64() / compute_wall.as_secs_f64();
        let rows_per_batch = counts.rows as f64 / counts.batches as f64;
        Ok(Figures { rounds, server_cpu_us, rows_per_batch, core_share, callers: self.shape.callers })
    }

    /// The number of requests that take `run`, and the number sent to find that out.
    pub(crate) fn calibrate(&self, driver: Driver, target: &Target, run: Duration) -> Result<(usize, usize), Failure> {
        // The first requests are slower: they fault in pages and open connections.
        let warm_up = 8 * self.shape.callers;
        let few = driver.drive(target, self.shape, warm_up)?;
        let some = self.count_for(few.requests_per_second, run / 5);
        let many = driver.drive(target, self.shape, some)?;
        Ok((self.count_for(many.requests_per_second, run), warm_up + some))
    }

    /// A multiple of the callers, so that no caller is idle at the end.
    fn count_for(&self, requests_per_second: f64, run: Duration) -> usize {
        let count = (requests_per_second * run.as_secs_f64()).min(REQUESTS_MAX) as usize;
        count.next_multiple_of(self.shape.callers).max(2 * self.shape.callers)
    }
}

impl Figures {
    /// Prints the figures; `rows`: rows of a request.
    pub(crate) fn print(&self, case: &str, rows: usize, report: &mut Report) {
        let of = |figure: fn(&Round) -> f64| median(self.rounds.iter().map(figure));
        let requests_per_second = of(|round| round.server.requests_per_second);
        report.line(&Line {
            case,
            figure: requests_per_second,
            unit: "requests/s",
            ceiling: Some(of(Round::ceiling)),
            ratio: Some(of(|round| round.server.requests_per_second / round.ceiling())),
        });
        report.figure(case, requests_per_second * rows as f64, "rows/s");
        report.figure(case, of(|round| round.echo.requests_per_second), "echo requests/s");
        report.figure(case, of(|round| round.compute_requests_per_second), "compute requests/s");
        report.figure(case, of(|round| round.server.p50_us), "p50 us");
        report.figure(case, of(|round| round.server.p99_us), "p99 us");
        report.figure(case, self.server_cpu_us, "server cpu us/request");
        report.figure(case, self.rows_per_batch, "rows/batch");
        if self.core_share < CORE_SHARE_MIN {
            let others = 100.0 * (1.0 - self.core_share);
            report.note(&format!(
                "something else took at least {others:.0} % of the server's core: the ratio is unreliable"
            ));
        }
        if self.callers == 1 {
            report.figure(case, of(|round| round.server.p50_us - round.echo.p50_us), "p50 above echo us");
        }
    }
}

/// Sends one request; returns the size of the response in bytes.
pub(crate) fn ask(server: &RunningServer, question: EncodeRequest) -> Result<usize, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut client = AutoencoderServiceClient::connect(format!("http://{}", server.address)).await?;
        Ok(client.encode(question).await?.into_inner().encoded_len())
    })
}

/// The model's arithmetic alone, on one thread.
#[derive(Clone, Copy, Debug)]
struct Arithmetic {
    batches_per_second: f64,
    wall: Duration,
    cpu: Duration,
}

impl Arithmetic {
    fn measure(model: &Autoencoder, batch: &PanelMatrix, run: Duration) -> Result<Self, Failure> {
        // Warm up: the first batch finds neither weights nor pages in the caches.
        let mut buffers = BufferPool::default();
        let codes = model.encode(batch, &mut buffers);
        buffers.put(codes);
        let (start, cpu) = (Instant::now(), cpu_of_this_thread()?);
        let mut batches = 0;
        while batches < BATCHES_MAX && start.elapsed() < run {
            let codes = model.encode(black_box(batch), &mut buffers);
            buffers.put(black_box(codes));
            batches += 1;
        }
        let wall = start.elapsed();
        let cpu = cpu_of_this_thread()?.saturating_sub(cpu);
        Ok(Self { batches_per_second: f64::from(batches) / wall.as_secs_f64(), wall, cpu })
    }
}
