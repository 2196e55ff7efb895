//! Incremental training: a stream whose rows never end is cut into rounds. Each round is an ordinary durable job that begins
//! with the newest version and is published if it is better; the stream goes on into the next one meanwhile.

use std::time::{Duration, Instant};

use super::{Service, ServiceError};
use crate::jobs::{
    Acknowledged, Begun, IdempotencyKey, JobError, JobId, JobSnapshot, JobState, Owner, Priority, Round, RowRole,
    Upload,
};
use crate::model::{Matrix, Selector};
use crate::training::{Base, CheckedTrainSpec, ParamError, TrainSpec};

/// Rows after which a round may end.
pub const PUBLISH_ROWS: std::ops::RangeInclusive<u64> = 10..=1_000_000_000;
/// Time after which a round may end.
pub const PUBLISH_INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
/// Training rows of a round that ends by time: with fewer it waits for more.
pub const INTERVAL_ROWS_MIN: u64 = 100;
/// Rounds of a stream that have their rows and have not ended, at most: the stream waits then.
const ROUNDS_WAITING_MAX: usize = 8;
/// Rounds whose results are told again to who comes back.
const RETOLD_MAX: usize = 16;

/// When a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    rows: Option<u64>,
    interval: Option<Duration>,
}

impl Cadence {
    /// After so many training rows, or after so long; at least one of them.
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

    /// Whether a round with so many training rows, whose first came so long ago, has come to its end.
    fn is_due(&self, rows: u64, age: Duration) -> bool {
        let enough = self.rows.is_some_and(|wanted| rows >= wanted);
        enough || (self.is_enough_for_time(rows) && self.interval.is_some_and(|interval| age >= interval))
    }

    fn is_enough_for_time(&self, rows: u64) -> bool {
        rows >= self.rows.map_or(INTERVAL_ROWS_MIN, |wanted| wanted.min(INTERVAL_ROWS_MIN))
    }
}

/// A stream that is being cut into rounds.
#[derive(Debug)]
pub struct RoundStream {
    upload: Option<Upload>,
    round: Round,
    cadence: Cadence,
    /// When the first chunk of the round came, or the stream came back to it.
    began: Option<Instant>,
    /// It has as many rows as a job may have.
    is_full: bool,
}

/// How a stream began.
#[derive(Debug)]
pub struct StreamBegun {
    /// To send chunks to; takes none any more if all of them came before.
    pub stream: RoundStream,
    /// The round that takes chunks now, or took the last ones.
    pub snapshot: JobSnapshot,
    /// The last chunk of the stream on disk, 0 if none.
    pub last_chunk: u64,
    /// Rounds before it whose end was not told, or may not have been, oldest first.
    pub rounds: Vec<JobId>,
}

/// What became of a chunk.
#[derive(Debug)]
pub enum Taken {
    /// These are on disk now; numbers and rows are those of the stream.
    Acknowledged(Vec<Acknowledged>),
    /// There is no room for it now: it is to be given again once a round has ended, or this one was cut.
    Later(Matrix),
}

/// The specification of every round: it begins with the newest version, and is published if it is better.
fn of_rounds(mut spec: TrainSpec) -> Result<CheckedTrainSpec, ServiceError> {
    for (is_set, field) in [(spec.base.is_some(), "base"), (spec.publish_if_better, "publish_if_better")] {
        if is_set {
            return Err(JobError::from(ParamError::Both { field, other: "incremental" }).into());
        }
    }
    let or_fresh = !spec.widths.is_empty();
    spec.base = Some(Base { name: spec.model_name.clone(), selector: Selector::Latest, or_fresh });
    spec.publish_if_better = true;
    Ok(spec.check().map_err(JobError::from)?)
}

impl Service {
    /// Begins a stream of rounds, or finds that of the key and takes it over.
    pub async fn train_in_rounds(
        &self,
        spec: TrainSpec,
        cadence: Cadence,
        key: Option<IdempotencyKey>,
        priority: Priority,
        owner: &Owner,
    ) -> Result<StreamBegun, ServiceError> {
        let spec = of_rounds(spec)?;
        let key = match key {
            Some(key) => key,
            // Nobody can come back to it.
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
        let (round, begun) = self.jobs().begin_round(spec, &key, priority, owner).await?;
        let (upload, snapshot, last_chunk) = match begun {
            Begun::Uploading { upload, snapshot, last_chunk } => (Some(upload), snapshot, last_chunk),
            Begun::Complete { snapshot, last_chunk } => (None, snapshot, last_chunk),
        };
        let mut rounds: Vec<JobId> = self.jobs().rounds(&key, owner).into_iter().map(|job| job.id).collect();
        if upload.is_some() || is_left(&snapshot) {
            rounds.retain(|id| *id != snapshot.id);
        }
        let retold = rounds.split_off(rounds.len().saturating_sub(RETOLD_MAX));
        let last_chunk = round.chunks_before + last_chunk;
        let began = (snapshot.chunks > 0).then(Instant::now);
        let stream = RoundStream { upload, round, cadence, began, is_full: false };
        Ok(StreamBegun { stream, snapshot, last_chunk, rounds: retold })
    }
}

/// Whether a round was given up because no row came for it.
fn is_left(snapshot: &JobSnapshot) -> bool {
    snapshot.state == JobState::Cancelled && snapshot.failure.as_deref() == Some(Round::LEFT)
}

impl RoundStream {
    /// Whether it takes chunks.
    pub fn is_open(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether it takes more now, while so many of its rounds have not ended.
    pub fn has_room(&self, rounds_waiting: usize) -> bool {
        rounds_waiting < ROUNDS_WAITING_MAX
    }

    /// Puts a chunk into the round that it belongs to. One of a round before was acknowledged already, and is so again.
    /// `may_wait`: rounds have not ended yet, and will make room.
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
            // With chunks that wait for others it is not known which of them there was no room for.
            Err(JobError::SpoolFull { .. } | JobError::DiskReserve { .. }) if may_wait && !was_ahead => {
                Ok(Taken::Later(rows))
            }
            Err(error) => Err(error.of_stream(chunks_before).into()),
        }
    }

    /// Whether the round has come to its end.
    pub fn is_due(&self) -> bool {
        let Some(upload) = &self.upload else { return false };
        let age = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        (self.is_full || self.cadence.is_due(upload.training_rows(), age)) && !upload.waits_for_a_chunk()
    }

    /// When the round comes to its end by time, if it has the rows for that.
    pub fn due_at(&self) -> Option<Instant> {
        let upload = self.upload.as_ref()?;
        let enough = self.cadence.is_enough_for_time(upload.training_rows()) && !upload.waits_for_a_chunk();
        self.began.filter(|_| enough)?.checked_add(self.cadence.interval?)
    }

    /// Ends the round, which is QUEUED then, and begins the next one. `None`: there are too many jobs now, later.
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

    /// Ends the stream if the counts (of the stream) agree; the last round, if any row came for it.
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

    /// Resolves when another stream takes this one over, when its round ends without it, or when the server stops.
    pub async fn taken_over(&mut self) -> ServiceError {
        match &mut self.upload {
            Some(upload) => upload.taken_over().await.into(),
            None => std::future::pending().await,
        }
    }

    fn upload(&mut self) -> Result<&mut Upload, ServiceError> {
        self.upload.as_mut().ok_or_else(|| {
            ServiceError::invalid("message", "the stream has all its rows already, expected nothing more")
        })
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
    fn a_round_ends_after_its_time_if_rows_came() {
        let by_time = cadence(None, Some(2));
        assert!(!by_time.is_due(INTERVAL_ROWS_MIN - 1, 9 * SECOND));
        assert!(!by_time.is_due(INTERVAL_ROWS_MIN, SECOND));
        assert!(by_time.is_due(INTERVAL_ROWS_MIN, 2 * SECOND));
        // Who wants rounds of few rows has them by time, too.
        assert!(cadence(Some(20), Some(2)).is_due(20, Duration::ZERO));
    }

    #[test]
    fn bounds_are_told() {
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
