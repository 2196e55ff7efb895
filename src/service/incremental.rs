//! Incremental training: an endless stream of rows is divided into rounds. Each round is an ordinary durable job. It
//! starts from the newest version, and publishes only if the result is better. The stream continues with the next
//! round meanwhile.

use std::time::{Duration, Instant};

use super::{AllowedTraining, RoundJob, Service, ServiceError};
use crate::jobs::{
    Acknowledged, Begun, EndReason, IdempotencyKey, JobError, JobId, JobSnapshot, JobState, Priority, Round, RowRole,
    Upload,
};
use crate::model::Matrix;

/// Allowed values of `publish_rows`: training rows per round.
pub const PUBLISH_ROWS: std::ops::RangeInclusive<u64> = 10..=1_000_000_000;
/// Allowed values of `publish_interval`.
pub const PUBLISH_INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
/// Minimum training rows of a round that ends by time; with fewer, it continues.
pub const INTERVAL_ROWS_MIN: u64 = 100;
/// Maximum rounds of a stream that are complete and have not ended; at this limit the stream waits.
const ROUNDS_WAITING_MAX: usize = 8;
/// Maximum results that are sent again to a client that reconnects.
const RETOLD_MAX: usize = 16;

/// When a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    rows: Option<u64>,
    interval: Option<Duration>,
}

impl Cadence {
    /// A round ends after `rows` training rows or after `interval`. At least one must be set.
    pub fn new(rows: Option<u64>, interval: Option<Duration>) -> Result<Self, ServiceError> {
        if let Some(got) = rows.filter(|rows| !PUBLISH_ROWS.contains(rows)) {
            return Err(ServiceError::invalid(
                "spec.incremental.publish_rows",
                format!("is {got}, expected {} to {} (or 0: none)", PUBLISH_ROWS.start(), PUBLISH_ROWS.end()),
            ));
        }
        if let Some(got) = interval.filter(|interval| !PUBLISH_INTERVAL.contains(interval)) {
            return Err(ServiceError::invalid(
                "spec.incremental.publish_interval",
                format!("is {got:?}, expected 1 second to 30 days"),
            ));
        }
        if rows.is_none() && interval.is_none() {
            return Err(ServiceError::invalid(
                "spec.incremental",
                "has neither publish_rows nor publish_interval, expected at least one of them",
            ));
        }
        Ok(Self { rows, interval })
    }

    /// Whether a round with `rows` training rows, whose first chunk arrived `age` ago, is complete.
    fn is_due(&self, rows: u64, age: Duration) -> bool {
        let enough = self.rows.is_some_and(|wanted| rows >= wanted);
        enough || (self.is_enough_for_time(rows) && self.interval.is_some_and(|interval| age >= interval))
    }

    fn is_enough_for_time(&self, rows: u64) -> bool {
        rows >= self.rows.map_or(INTERVAL_ROWS_MIN, |wanted| wanted.min(INTERVAL_ROWS_MIN))
    }
}

/// A stream that is divided into rounds.
#[derive(Debug)]
pub struct RoundStream {
    upload: Option<Upload>,
    round: Round,
    cadence: Cadence,
    /// When the first chunk of the round arrived, or the client reconnected to the round.
    began: Option<Instant>,
    /// The round has the maximum number of rows or bytes of a job.
    is_full: bool,
}

/// The start of a stream.
#[derive(Debug)]
pub struct StreamBegun {
    /// Takes the chunks; closed if all chunks were received before.
    pub stream: RoundStream,
    /// The current round, or the last one.
    pub snapshot: JobSnapshot,
    /// The last chunk of the stream that is on disk; 0: none.
    pub last_chunk: u64,
    /// Earlier rounds whose results may not have reached the client, oldest first.
    pub rounds: Vec<RoundJob>,
}

/// What happened to a chunk.
#[derive(Debug)]
pub enum Taken {
    /// These chunks are on disk. Numbers and rows are those of the stream.
    Acknowledged(Vec<Acknowledged>),
    /// No room now: append the chunk again when a round has ended or this one was cut.
    Later(Matrix),
}

impl Service {
    /// Starts a stream of rounds, or takes over the existing stream with the same key.
    pub async fn train_in_rounds(
        &self,
        training: AllowedTraining,
        cadence: Cadence,
        key: Option<IdempotencyKey>,
        priority: Priority,
    ) -> Result<StreamBegun, ServiceError> {
        let (spec, owner) = training.of_rounds()?;
        let key = match key {
            Some(key) => key,
            // A random key: the client cannot reconnect.
            None => JobId::new().as_str().parse()?,
        };
        let key_bytes = key.to_string().len();
        if key_bytes > Round::STREAM_KEY_BYTES_MAX {
            let expected = Round::STREAM_KEY_BYTES_MAX;
            return Err(ServiceError::invalid(
                "spec.idempotency_key",
                format!("has {key_bytes} characters, expected at most {expected} for incremental training"),
            ));
        }
        let (round, begun) = self.jobs.begin_round(spec, &key, priority, &owner).await?;
        let (upload, snapshot, last_chunk) = match begun {
            Begun::Uploading { upload, snapshot, last_chunk } => (Some(upload), snapshot, last_chunk),
            Begun::Complete { snapshot, last_chunk } => (None, snapshot, last_chunk),
        };
        let mut rounds = self.jobs.rounds(&key, &owner);
        if upload.is_some() || is_left(&snapshot) {
            rounds.retain(|round| round.id != snapshot.id);
        }
        let retold = rounds.split_off(rounds.len().saturating_sub(RETOLD_MAX));
        let last_chunk = round.chunks_before + last_chunk;
        let began = (snapshot.chunks > 0).then(Instant::now);
        let stream = RoundStream { upload, round, cadence, began, is_full: false };
        Ok(StreamBegun { stream, snapshot, last_chunk, rounds: retold.iter().map(RoundJob::from).collect() })
    }
}

/// Whether a round was abandoned because it received no rows.
fn is_left(snapshot: &JobSnapshot) -> bool {
    snapshot.state == JobState::Cancelled && snapshot.failure.as_ref().is_some_and(EndReason::is_round_left)
}

impl RoundStream {
    /// Whether the stream takes chunks.
    pub fn is_open(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether the stream takes more chunks, with `rounds_waiting` rounds that have not ended.
    pub fn has_room(&self, rounds_waiting: usize) -> bool {
        rounds_waiting < ROUNDS_WAITING_MAX
    }

    /// Adds a chunk to the current round. A chunk of an earlier round is acknowledged again. `may_wait`: other rounds
    /// have not ended yet, and will free space.
    pub async fn append(
        &mut self,
        number: u64,
        role: RowRole,
        rows: Matrix,
        may_wait: bool,
    ) -> Result<Taken, ServiceError> {
        let Round { chunks_before, rows_before, .. } = self.round;
        if number > 0 && number <= chunks_before {
            return Ok(Taken::Acknowledged(vec![Acknowledged { number, rows: rows_before }]));
        }
        let upload = self.upload()?;
        let was_ahead = upload.waits_for_a_chunk();
        match upload.append(number.saturating_sub(chunks_before), role, rows.clone()).await {
            Ok(taken) => {
                self.began.get_or_insert_with(Instant::now);
                let of_stream = |taken: Acknowledged| Acknowledged {
                    number: taken.number + chunks_before,
                    rows: taken.rows + rows_before,
                };
                Ok(Taken::Acknowledged(taken.into_iter().map(of_stream).collect()))
            }
            // The next round takes it.
            Err(JobError::TooManyRows { .. } | JobError::JobTooLarge { .. })
                if upload.training_rows() > 0 && !was_ahead =>
            {
                self.is_full = true;
                Ok(Taken::Later(rows))
            }
            // If early chunks are buffered, it is unknown which of them did not fit.
            Err(JobError::SpoolFull { .. } | JobError::DiskReserve { .. }) if may_wait && !was_ahead => {
                Ok(Taken::Later(rows))
            }
            Err(error) => Err(error.of_stream(chunks_before).into()),
        }
    }

    /// Whether the round is complete.
    pub fn is_due(&self) -> bool {
        let Some(upload) = &self.upload else { return false };
        let age = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        (self.is_full || self.cadence.is_due(upload.training_rows(), age)) && !upload.waits_for_a_chunk()
    }

    /// When the round ends by time, if it has enough rows for that.
    pub fn due_at(&self) -> Option<Instant> {
        let upload = self.upload.as_ref()?;
        let enough = self.cadence.is_enough_for_time(upload.training_rows()) && !upload.waits_for_a_chunk();
        self.began.filter(|_| enough)?.checked_add(self.cadence.interval?)
    }

    /// Ends the round, which becomes QUEUED, and starts the next one. `None`: too many jobs or no space now; retry
    /// later.
    pub async fn cut(&mut self) -> Result<Option<JobSnapshot>, ServiceError> {
        let upload = self.upload()?;
        match upload.cut().await {
            Ok((ended, round)) => {
                (self.round, self.began, self.is_full) = (round, None, false);
                Ok(Some(ended))
            }
            Err(
                JobError::TooManyJobs { .. }
                | JobError::TooManyUploads { .. }
                | JobError::SpoolFull { .. }
                | JobError::DiskReserve { .. },
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the stream if the counts of the whole stream match. Returns the last round, if it has rows.
    pub async fn finish(&mut self, chunks: u64, rows: u64) -> Result<Option<JobSnapshot>, ServiceError> {
        let Round { chunks_before, rows_before, number, .. } = self.round;
        let Some(upload) = self.upload.take() else { return Ok(None) };
        let (chunks_here, rows_here) = (chunks_before + upload.chunks(), rows_before + upload.rows());
        if (chunks, rows) != (chunks_here, rows_here) {
            return Err(JobError::CountsDiffer { chunks, rows, chunks_here, rows_here }.into());
        }
        if upload.rows() == 0 && number > 1 {
            upload.leave().await?;
            return Ok(None);
        }
        Ok(Some(upload.finish(chunks - chunks_before, rows - rows_before).await?))
    }

    /// Resolves when another stream takes over, when the round ends without this stream, or when the server stops.
    pub async fn taken_over(&mut self) -> ServiceError {
        match &mut self.upload {
            Some(upload) => upload.taken_over().await.into(),
            None => std::future::pending().await,
        }
    }

    fn upload(&mut self) -> Result<&mut Upload, ServiceError> {
        self.upload
            .as_mut()
            .ok_or_else(|| ServiceError::invalid("message", "the stream is complete, expected no more messages"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cadence(rows: Option<u64>, seconds: Option<u64>) -> Cadence {
        Cadence::new(rows, seconds.map(Duration::from_secs)).expect("allowed")
    }

    #[test]
    fn a_round_ends_after_its_rows() {
        let cadence = cadence(Some(50), None);
        assert!(!cadence.is_due(49, Duration::from_hours(1)));
        assert!(cadence.is_due(50, Duration::ZERO));
    }

    #[test]
    fn a_round_ends_after_its_time_if_enough_rows_arrived() {
        let by_time = cadence(None, Some(2));
        assert!(!by_time.is_due(INTERVAL_ROWS_MIN - 1, 9 * SECOND));
        assert!(!by_time.is_due(INTERVAL_ROWS_MIN, SECOND));
        assert!(by_time.is_due(INTERVAL_ROWS_MIN, 2 * SECOND));
        // With `publish_rows` below the minimum, that many rows are enough for a round by time too.
        assert!(cadence(Some(20), Some(2)).is_due(20, Duration::ZERO));
    }

    #[test]
    fn errors_name_the_limits() {
        for (rows, interval, text) in [
            (None, None, "at least one"),
            (Some(9), None, "is 9, expected 10 to"),
            (None, Some(Duration::from_millis(999)), "is 999ms, expected 1 second"),
        ] {
            let error = Cadence::new(rows, interval).expect_err("refused").to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
