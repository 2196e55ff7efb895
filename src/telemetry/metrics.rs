//! Every metric by name, unit, help and label, each spelled once, and the page that says what they are now, in the text format
//! of Prometheus.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric as Sample};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Error, TEXT_FORMAT, TextEncoder};

use super::measures::HistogramCounts;

/// What the page is, for the header of an answer.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// A metric's name, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; the unit is last.
    pub name: &'static str,
    /// In words.
    pub help: &'static str,
    kind: MetricType,
}

impl Metric {
    /// What it is, as the page says it.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        }
    }
}

macro_rules! metrics {
    ($($kind:ident $id:ident $name:literal $help:literal)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric { name: $name, help: $help, kind: MetricType::$kind };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    COUNTER CALLS "halfhitch_calls_total"
        "Calls that have ended, by model (empty: none was named or found), method and gRPC code; a stream is one call."
    COUNTER REFUSALS "halfhitch_refusals_total" "Calls that ended with another code than OK, by cause."
    HISTOGRAM REQUEST_SECONDS "halfhitch_request_seconds"
        "Time of a question that was answered with a result, from its rows being there to the result."
    HISTOGRAM QUEUE_SECONDS "halfhitch_queue_seconds" "Of that, the time until its first batch began."
    HISTOGRAM ASSEMBLY_SECONDS "halfhitch_batch_assembly_seconds" "Time in which the rows of a batch are copied together."
    HISTOGRAM COMPUTE_SECONDS "halfhitch_batch_compute_seconds" "Time of the arithmetic of a batch."
    HISTOGRAM BATCH_ROWS "halfhitch_batch_rows" "Rows that a batch has."
    GAUGE QUEUED_ROWS "halfhitch_queued_rows" "Rows accepted and not yet computed."
    GAUGE QUEUED_BYTES "halfhitch_queued_bytes" "Bytes of questions, and of their answers, that are not yet answered."
    GAUGE QUEUE_OLDEST_SECONDS "halfhitch_queue_oldest_seconds"
        "Age of the question that has waited longest for its next batch; 0 where none waits."
    COUNTER CANCELLED_ROWS "halfhitch_cancelled_rows_total" "Rows that were not computed because their caller left."
    COUNTER EXPIRED_ROWS "halfhitch_expired_rows_total" "Rows that were not computed because their deadline passed."
    COUNTER RECEIVED_BYTES "halfhitch_received_bytes_total" "Bytes that came over the sockets of clients."
    COUNTER SENT_BYTES "halfhitch_sent_bytes_total" "Bytes that went over the sockets of clients."
    COUNTER ACCEPTED_CONNECTIONS "halfhitch_accepted_connections_total" "Connections of clients that were accepted."
    GAUGE OPEN_CONNECTIONS "halfhitch_open_connections" "Connections of clients that are open."
    GAUGE JOBS "halfhitch_jobs" "Training jobs that are remembered, by state."
    COUNTER ENDED_JOBS "halfhitch_ended_jobs_total" "Training jobs that have ended since the start, by outcome."
    COUNTER TRAINED_ROWS "halfhitch_trained_rows_total"
        "Rows that jobs have gone through since the start, each as often as it was trained on."
    GAUGE TRAINING_ROWS_PER_SECOND "halfhitch_training_rows_per_second" "Rows that running jobs go through, by model."
    GAUGE TRAINING_LOSS "halfhitch_training_loss" "Mean loss by row of the current epoch, of running jobs by model."
    GAUGE VALIDATION_LOSS "halfhitch_validation_loss" "Loss by row on held-out rows after the last epoch, of running jobs by model."
    GAUGE BEST_VALIDATION_LOSS "halfhitch_best_validation_loss"
        "The lowest loss by row on held-out rows of all epochs so far, of running jobs by model."
    GAUGE RESIDENT_MODELS "halfhitch_resident_models" "Versions in memory."
    GAUGE RESIDENT_BYTES "halfhitch_resident_bytes" "Bytes that versions in memory take."
    GAUGE VERSIONS "halfhitch_versions" "Versions in the store, by model."
    GAUGE STORE_WRITABLE "halfhitch_store_writable" "1 if this server holds the writer's lock of the store, else 0."
    COUNTER EXPORTED_SPANS "halfhitch_exported_spans_total" "Spans of traces that the collector took."
    COUNTER DROPPED_SPANS "halfhitch_dropped_spans_total"
        "Spans that no collector took; a whole call that found no room counts once."
    COUNTER LIMITED_TRACES "halfhitch_limited_traces_total"
        "Calls that were to be traced and were not, for traces_per_second_max."
    GAUGE READINESS "halfhitch_readiness" "1 for the state that the server is in, 0 for the others."
    GAUGE BUILD_INFO "halfhitch_build_info" "1; the label says which version runs."
    COUNTER CPU_SECONDS "process_cpu_seconds_total" "Total user and system CPU time spent in seconds."
    GAUGE PROCESS_RESIDENT_BYTES "process_resident_memory_bytes" "Resident memory size in bytes."
    GAUGE PROCESS_VIRTUAL_BYTES "process_virtual_memory_bytes" "Virtual memory size in bytes."
    GAUGE ANONYMOUS_BYTES "halfhitch_anonymous_memory_bytes"
        "Resident memory of no file: what the allocator holds, models and buffers among it, and stacks."
    GAUGE OPEN_FDS "process_open_fds" "Number of open file descriptors."
    GAUGE MAX_FDS "process_max_fds" "Maximum number of open file descriptors."
    GAUGE START_SECONDS "process_start_time_seconds" "Start time of the process since unix epoch in seconds."
    GAUGE THREADS "process_threads" "Number of OS threads in the process."
}

/// Label and value.
pub type Label<'a> = (&'static str, &'a str);

/// What the metrics are now.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    /// Adds a number of a counter or a gauge. All of one metric are to come one after the other.
    pub fn add(&mut self, metric: &Metric, labels: &[Label<'_>], value: f64) {
        let mut sample = Sample::from_label(pairs(labels));
        if metric.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.family(metric).mut_metric().push(sample);
    }

    /// Adds a histogram, likewise.
    pub fn add_histogram(&mut self, metric: &Metric, labels: &[Label<'_>], counts: &HistogramCounts) {
        let mut histogram = HistogramProto::default();
        let buckets = counts.buckets.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.count);
        histogram.set_sample_sum(counts.sum);
        let mut sample = Sample::from_label(pairs(labels));
        sample.set_histogram(histogram);
        self.family(metric).mut_metric().push(sample);
    }

    /// As text.
    ///
    /// # Errors
    /// None that is known: the encoder refuses metrics without a name or a number.
    pub fn to_text(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.families)
    }

    fn family(&mut self, metric: &Metric) -> &mut MetricFamily {
        let place = self.families.iter().position(|family| family.name() == metric.name).unwrap_or_else(|| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(metric.kind);
            self.families.push(family);
            self.families.len() - 1
        });
        &mut self.families[place]
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_conventions() {
        for (place, Metric { name, help, kind }) in ALL.iter().enumerate() {
            assert!(name.starts_with("halfhitch_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricType::COUNTER, "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert!(ALL[..place].iter().all(|other| other.name != *name), "{name} twice");
        }
    }
}
