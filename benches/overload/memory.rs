//! Records the server's memory over time.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::load::Memory;

const INTERVAL: Duration = Duration::from_millis(100);

/// Samples the memory of a process until stopped.
#[derive(Debug)]
pub(crate) struct Watch {
    task: JoinHandle<()>,
    samples: tokio::sync::mpsc::UnboundedReceiver<f64>,
}

impl Watch {
    pub(crate) fn start(memory: Memory) -> Self {
        let (sender, samples) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                // The process or the receiver is gone.
                let Ok(kib) = memory.anonymous_kib() else { return };
                if sender.send(kib as f64).is_err() {
                    return;
                }
            }
        });
        Self { task, samples }
    }

    /// Means of the middle and of the last third, in KiB.
    pub(crate) fn stop(mut self) -> Option<(f64, f64)> {
        self.task.abort();
        let mut samples = Vec::new();
        while let Ok(kib) = self.samples.try_recv() {
            samples.push(kib);
        }
        let third = samples.len() / 3;
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        (third > 0).then(|| (mean(&samples[third..2 * third]), mean(&samples[samples.len() - third..])))
    }
}
