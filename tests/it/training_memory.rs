//! Memory of a server that copies rows from its files and trains on them.

use std::path::Path;
use std::time::{Duration, Instant};

use halfhitch::rpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::train_response::Message as Answer;

use crate::support::files::{npy_head, npy_of};
use crate::support::process::ServerProcess;
use crate::support::{finish, question, temporary_store};

/// Maximum RssAnon while the deep model trains on 60,000 rows.
const DEEP_KIB_MAX: u64 = 500 * 1000 * 1000 / 1024;
/// Interval between memory samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// When the measurement ends.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// The job has ended.
    Ended,
    /// The first step of training.
    Trains,
}

/// Peak RssAnon in KiB while rows are copied, and after that.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    copying: u64,
    training: u64,
}

impl Peaks {
    fn all(self) -> u64 {
        self.copying.max(self.training)
    }
}

/// Trains `spec` on `rows.npy` in `folder` and measures memory; `None` where the system does not report it.
async fn watched(folder: &Path, spec: pb::TrainSpec, until: Until) -> Option<Peaks> {
    let began = Instant::now();
    let folder_flag = folder.to_string_lossy();
    let server = ServerProcess::start_with(&folder.join("store"), &["--train-folder", &folder_flag]);
    let files = Some(pb::ServerFiles { paths: vec!["rows.npy".into()], ..Default::default() });
    let widths = spec.widths.clone();
    let spec = pb::TrainSpec { model_name: "m".into(), seed: 1, files, ..spec };
    let questions = vec![question(pb::train_request::Message::Spec(spec)), finish(0, 0)];
    let mut client = server.autoencoder().await;
    let mut answers = client.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    let id = match answers.message().await.expect("goes well").and_then(|answer| answer.message) {
        Some(Answer::Accepted(accepted)) => accepted.job.expect("a job").id,
        other => panic!("expected `accepted`, got {other:?}"),
    };
    let mut jobs = JobServiceClient::new(server.channel().await);
    let mut peaks = Peaks::default();
    let last = loop {
        // Sample memory before reading the job's state: the sample belongs to that state or an earlier one.
        let now = server.memory_kib("RssAnon")?;
        let job = jobs.get_job(pb::GetJobRequest { id: id.clone() }).await.expect("known").into_inner().job;
        let job = job.expect("a job");
        let peak = if job.progress.is_none() { &mut peaks.copying } else { &mut peaks.training };
        *peak = now.max(*peak);
        let ended = job.state() != pb::JobState::Queued && job.state() != pb::JobState::Running;
        if ended || (until == Until::Trains && job.progress.is_some()) {
            break job;
        }
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    };
    assert_ne!(last.state(), pb::JobState::Failed, "{last:?}");
    let state = last.state();
    println!(
        "{widths:?}, {} rows, {state:?} after {:.0?}: RssAnon at most {} KiB while copying, {} KiB while training",
        last.row_count,
        began.elapsed(),
        peaks.copying,
        peaks.training
    );
    Some(peaks)
}

/// Writes rows near a curved surface.
fn write_rows(folder: &Path, rows: u64, columns: usize) {
    npy_of(&folder.join("rows.npy"), rows, columns, |row, values| {
        let turn = |factor: u64| ((row * factor) % 10_007) as f32 / 10_007.0 - 0.5;
        let (a, b, c) = (turn(7), turn(1_313), turn(4_999));
        for (column, value) in values.iter_mut().enumerate() {
            let at = column as f32 / columns as f32;
            *value = a * at + b * (1.0 - at) + c * c * (at - 0.5) + 0.02 * turn(37 * column as u64 + 11);
        }
    });
}

/// Writes a sparse file of `rows` rows of zeros.
fn write_zeros(folder: &Path, rows: u64, columns: usize) {
    let path = folder.join("rows.npy");
    let head = npy_head("<f4", rows, columns);
    std::fs::write(&path, &head).expect("writes");
    let file = std::fs::File::options().write(true).open(&path).expect("there");
    file.set_len(head.len() as u64 + rows * columns as u64 * 4).expect("grows");
}

#[tokio::test(flavor = "multi_thread")]
async fn copying_memory_does_not_grow_with_the_files() {
    let mut highest = Vec::new();
    for rows in [10_000, 160_000] {
        let folder = temporary_store();
        write_zeros(folder.path(), rows, 128);
        let spec = pb::TrainSpec { widths: vec![128, 2], epochs: 1, ..Default::default() };
        let Some(peaks) = watched(folder.path(), spec, Until::Trains).await else {
            eprintln!("skipped: this system does not tell RssAnon");
            return;
        };
        highest.push(peaks.copying);
    }
    // 80 MB of rows instead of 5 MB. The tolerance covers one chunk, its copy, and what the allocator keeps.
    assert!(highest[1] <= highest[0] + 8 * 1024, "{highest:?} KiB");
}

/// The deep model of MNIST's size; all its rows are in memory while it trains.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test --test it training_memory -- --ignored --nocapture --test-threads 1"]
async fn the_deep_model_on_60000_rows_stays_below_500_mb() {
    let folder = temporary_store();
    write_rows(folder.path(), 60_000, 784);
    let spec = pb::TrainSpec { widths: vec![784, 1000, 500, 250, 30], epochs: 1, ..Default::default() };
    let Some(peaks) = watched(folder.path(), spec, Until::Ended).await else { return };
    assert!(peaks.all() <= DEEP_KIB_MAX, "{peaks:?}, at most {DEEP_KIB_MAX} KiB");
}

/// One million rows are all in memory; two and four million are not, and take no more memory.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test --test it training_memory -- --ignored --nocapture --test-threads 1"]
async fn rows_beyond_a_million_take_no_more_memory() {
    let mut highest = Vec::new();
    for rows in [1_000_000, 2_000_000, 4_000_000] {
        let folder = temporary_store();
        write_rows(folder.path(), rows, 64);
        let spec = pb::TrainSpec { widths: vec![64, 32, 8], epochs: 1, ..Default::default() };
        let Some(peaks) = watched(folder.path(), spec, Until::Ended).await else { return };
        highest.push(peaks.all());
    }
    let most = |than: u64| than + than / 20;
    assert!(highest[1] <= most(highest[0]) && highest[2] <= most(highest[1]), "{highest:?} KiB");
}
