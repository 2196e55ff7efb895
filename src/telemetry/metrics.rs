//! All metrics with name, unit and help, and the page with their current values in the Prometheus text format.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric as Sample};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Error, TEXT_FORMAT, TextEncoder};

use super::measures::HistogramCounts;

/// Content type of the metrics page, for the response header.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// Name, help and type of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name; it ends with the unit, and with `_total` for counters.
    pub name: &'static str,
    /// The help text: one sentence, without line breaks.
    pub help: &'static str,
    kind: MetricType,
}

impl Metric {
    /// The metric type as the page spells it: `counter`, `gauge` or `histogram`.
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
        /// All metrics.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    COUNTER CALLS "halfhitch_calls_total"
        "Finished calls by model (empty: none was named or found), method and gRPC code; a stream is one call."
    COUNTER REFUSALS "halfhitch_refusals_total" "Calls that ended with a code other than OK, by cause."
    HISTOGRAM REQUEST_SECONDS "halfhitch_request_seconds"
        "Time of a successful request, from the arrival of its rows to its result."
    HISTOGRAM QUEUE_SECONDS "halfhitch_queue_seconds" "Part of the request time before its first batch started."
    HISTOGRAM ASSEMBLY_SECONDS "halfhitch_batch_assembly_seconds" "Time to copy the rows of a batch together."
    HISTOGRAM COMPUTE_SECONDS "halfhitch_batch_compute_seconds" "Time to compute a batch."
    HISTOGRAM BATCH_ROWS "halfhitch_batch_rows" "Rows per batch."
    GAUGE QUEUED_ROWS "halfhitch_queued_rows" "Rows that are accepted and not yet computed."
    GAUGE QUEUED_BYTES "halfhitch_queued_bytes" "Bytes of unfinished requests and their responses."
    GAUGE QUEUE_OLDEST_SECONDS "halfhitch_queue_oldest_seconds"
        "Longest time that a request has waited for its next batch; 0 if none waits."
    COUNTER CANCELLED_ROWS "halfhitch_cancelled_rows_total" "Rows that were not computed because their caller left."
    COUNTER EXPIRED_ROWS "halfhitch_expired_rows_total" "Rows that were not computed because their deadline passed."
    COUNTER RECEIVED_BYTES "halfhitch_received_bytes_total" "Bytes received from clients."
    COUNTER SENT_BYTES "halfhitch_sent_bytes_total" "Bytes sent to clients."
    COUNTER ACCEPTED_CONNECTIONS "halfhitch_accepted_connections_total" "Accepted connections of clients."
    GAUGE OPEN_CONNECTIONS "halfhitch_open_connections" "Open connections of clients."
    GAUGE JOBS "halfhitch_jobs" "Training jobs that the server remembers, by state."
    COUNTER ENDED_JOBS "halfhitch_ended_jobs_total" "Training jobs that ended since the server started, by outcome."
    COUNTER TRAINED_ROWS "halfhitch_trained_rows_total"
        "Rows of all training steps since the server started; a row counts each time it is trained on."
    GAUGE TRAINING_ROWS_PER_SECOND "halfhitch_training_rows_per_second" "Training speed of running jobs, by model."
    GAUGE TRAINING_LOSS "halfhitch_training_loss" "Mean loss per row in the current epoch, of running jobs by model."
    GAUGE VALIDATION_LOSS "halfhitch_validation_loss"
        "Loss per held-out row after the last epoch, of running jobs by model."
    GAUGE BEST_VALIDATION_LOSS "halfhitch_best_validation_loss"
        "Lowest loss per held-out row of all epochs so far, of running jobs by model."
    GAUGE RESIDENT_MODELS "halfhitch_resident_models" "Model versions in memory."
    GAUGE RESIDENT_BYTES "halfhitch_resident_bytes" "Bytes of the model versions in memory."
    GAUGE VERSIONS "halfhitch_versions" "Model versions in the store, by model."
    GAUGE STORE_WRITABLE "halfhitch_store_writable" "1 if this server holds the write lock of the store, else 0."
    COUNTER EXPORTED_SPANS "halfhitch_exported_spans_total" "Spans that the collector accepted."
    COUNTER DROPPED_SPANS "halfhitch_dropped_spans_total"
        "Spans that were not delivered; a call that found the queue full counts once."
    COUNTER LIMITED_TRACES "halfhitch_limited_traces_total"
        "Calls not traced because of traces_per_second_max."
    GAUGE READINESS "halfhitch_readiness" "1 for the current state of the server, 0 for the others."
    GAUGE BUILD_INFO "halfhitch_build_info" "Always 1; the label is the version of the server."
    COUNTER CPU_SECONDS "process_cpu_seconds_total" "Total user and system CPU time spent in seconds."
    GAUGE PROCESS_RESIDENT_BYTES "process_resident_memory_bytes" "Resident memory size in bytes."
    GAUGE PROCESS_VIRTUAL_BYTES "process_virtual_memory_bytes" "Virtual memory size in bytes."
    GAUGE ANONYMOUS_BYTES "halfhitch_anonymous_memory_bytes"
        "Resident memory that is not backed by a file: models, buffers, stacks."
    GAUGE OPEN_FDS "process_open_fds" "Number of open file descriptors."
    GAUGE MAX_FDS "process_max_fds" "Maximum number of open file descriptors."
    GAUGE START_SECONDS "process_start_time_seconds" "Start time of the process since unix epoch in seconds."
    GAUGE THREADS "process_threads" "Number of OS threads in the process."
}

/// Name and value of a label.
pub type Label<'a> = (&'static str, &'a str);

/// The metrics page: current values in the order in which they were added.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    /// Adds a value of a counter or a gauge. Values of one metric are grouped under its first occurrence.
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

    /// Adds a histogram, grouped in the same way.
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

    /// The page as text.
    ///
    /// # Errors
    /// The encoder rejects metrics without a name or a value; this type cannot build one.
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
