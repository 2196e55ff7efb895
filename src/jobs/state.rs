//! States of a job, and the allowed state changes.

use serde::{Deserialize, Serialize};

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The server receives rows, or waits for them.
    Uploading,
    /// Waits to run: all rows are on disk, or the server reads them from files when the job starts.
    Queued,
    /// Training.
    Running,
    /// Paused by an operator.
    Paused,
    /// Training is complete. A version was published, unless it was no better than its base.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Cancelled by a client or by the server.
    Cancelled,
}

/// A state change that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job is {}: it cannot become {}; {}", from.name(), to.name(), self.advice())]
pub struct IllegalMove {
    /// Current state.
    pub from: JobState,
    /// Requested state.
    pub to: JobState,
}

impl IllegalMove {
    /// What the caller can do.
    fn advice(self) -> &'static str {
        match (self.from, self.to) {
            (JobState::Succeeded | JobState::Failed | JobState::Cancelled, _) => {
                "it has ended; train again to start a new job"
            }
            (JobState::Uploading, _) => "finish its upload first",
            (JobState::Paused, JobState::Paused) => "resume it first",
            (JobState::Paused, _) => "resume it first, then wait until it runs",
            (JobState::Queued | JobState::Running, JobState::Queued) => "only a paused job can be resumed",
            (JobState::Queued, _) => "wait until it runs",
            (JobState::Running, _) => "wait until it has ended, or cancel it",
        }
    }
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Uploading, Self::Queued, Self::Running, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state after the change. RUNNING to QUEUED happens only when a restart finds a job that was running.
    ///
    /// # Errors
    /// [`IllegalMove`] if the change is not allowed.
    pub fn to(self, next: Self) -> Result<Self, IllegalMove> {
        let allowed = match self {
            Self::Uploading => matches!(next, Self::Queued | Self::Failed | Self::Cancelled),
            Self::Queued => matches!(next, Self::Running | Self::Paused | Self::Failed | Self::Cancelled),
            Self::Running => {
                matches!(next, Self::Queued | Self::Paused | Self::Succeeded | Self::Failed | Self::Cancelled)
            }
            Self::Paused => matches!(next, Self::Queued | Self::Failed | Self::Cancelled),
            Self::Succeeded | Self::Failed | Self::Cancelled => false,
        };
        if allowed { Ok(next) } else { Err(IllegalMove { from: self, to: next }) }
    }

    /// Whether this state is final.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// In words: "the job is ...".
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// In words: "the job ...".
    pub fn ended_as(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "was cancelled",
            Self::Uploading | Self::Queued | Self::Running | Self::Paused => "has not ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_move_is_allowed_or_not() {
        use JobState::*;
        let allowed = [
            (Uploading, Queued),
            (Uploading, Failed),
            (Uploading, Cancelled),
            (Queued, Running),
            (Queued, Paused),
            (Queued, Failed),
            (Queued, Cancelled),
            (Running, Queued),
            (Running, Paused),
            (Running, Succeeded),
            (Running, Failed),
            (Running, Cancelled),
            (Paused, Queued),
            (Paused, Failed),
            (Paused, Cancelled),
        ];
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert_eq!(from.to(to).is_ok(), allowed.contains(&(from, to)), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn rejected_transitions_explain_the_reason() {
        let text = |from: JobState, to| from.to(to).expect_err("no such move").to_string();
        assert_eq!(
            text(JobState::Uploading, JobState::Paused),
            "the job is uploading: it cannot become paused; finish its upload first"
        );
        assert!(text(JobState::Queued, JobState::Queued).ends_with("only a paused job can be resumed"));
        assert!(text(JobState::Paused, JobState::Paused).ends_with("resume it first"));
        assert!(text(JobState::Succeeded, JobState::Queued).contains("it has ended"));
    }

    #[test]
    fn ended_jobs_never_change_state() {
        for from in JobState::ALL {
            assert_eq!(from.has_ended(), JobState::ALL.iter().all(|to| from.to(*to).is_err()), "{from:?}");
        }
    }
}
