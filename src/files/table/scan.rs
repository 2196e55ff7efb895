//! The beginning of a file, split by one separator.

use super::cell::CellReader;
use super::options::Separator;
use super::split::{Kind, Splitter};

/// Maximum number of records and fields of a sample.
const RECORDS_MAX: usize = 500;
const FIELDS_MAX: usize = 200_000;

/// The beginning of a file, on which it is classified.
pub(super) struct Sample<'a> {
    pub(super) text: &'a [u8],
    /// The number of its first line.
    pub(super) line: u64,
    /// Whether it is the whole file.
    pub(super) ends: bool,
}

/// A record of a sample.
#[derive(Clone, Debug)]
pub(super) struct Sampled {
    pub(super) line: u64,
    pub(super) fields: Vec<String>,
    /// Whether all its fields are quoted.
    pub(super) quoted: bool,
}

/// A sample, split by one separator.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    pub(super) separator: Separator,
    /// The records, without those whose fields are all empty.
    pub(super) records: Vec<Sampled>,
    /// Number of comments, and the last comment before the first record with its line.
    pub(super) comments: usize,
    pub(super) comment_before: Option<(u64, String)>,
    /// The line where an unclosed quoted field begins.
    pub(super) unclosed: Option<u64>,
    /// The line that is not valid UTF-8.
    pub(super) no_text: Option<u64>,
}

impl Scan {
    /// Splits the sample by a separator.
    pub(super) fn of(sample: &Sample, separator: Separator) -> Self {
        let mut splitter = Splitter::new(separator);
        let (mut rest, mut line, mut fields) = (sample.text, sample.line, 0);
        let mut scan = Self { separator, ..Self::default() };
        while scan.records.len() < RECORDS_MAX && (fields < FIELDS_MAX || scan.records.len() < 4) {
            let extent = match splitter.next(rest, sample.ends) {
                Ok(Some(extent)) => extent,
                Ok(None) => break,
                Err(_) => {
                    scan.unclosed = Some(line);
                    break;
                }
            };
            // The reader reports invalid bytes when it reaches their line.
            let Ok(content) = std::str::from_utf8(&rest[..extent.content_bytes]) else {
                scan.no_text = Some(line);
                break;
            };
            match extent.kind {
                Kind::Blank => {}
                Kind::Comment => {
                    scan.comments += 1;
                    if scan.records.is_empty() {
                        scan.comment_before = Some((line, content.trim().trim_start_matches('#').trim().to_owned()));
                    }
                }
                Kind::Record => {
                    let record: Vec<String> =
                        (0..splitter.count()).map(|index| splitter.field(content, index).trim().to_owned()).collect();
                    fields += record.len();
                    if record.iter().any(|field| !field.is_empty()) {
                        let in_quotes = |cell: &std::ops::Range<usize>| content[cell.clone()].starts_with('"');
                        let quoted = splitter.cells().iter().all(in_quotes);
                        scan.records.push(Sampled { line, fields: record, quoted });
                    }
                }
            }
            line += extent.lines;
            rest = &rest[extent.bytes..];
        }
        scan
    }

    /// The most common number of fields in a record; the greater one if two are equally common.
    pub(super) fn width(&self) -> usize {
        let mut counts = std::collections::BTreeMap::new();
        for record in &self.records {
            *counts.entry(record.fields.len()).or_insert(0usize) += 1;
        }
        counts.into_iter().max_by_key(|(width, count)| (*count, *width)).map_or(0, |(width, _)| width)
    }

    /// The share of fields that are a number or a missing value. Records of another width count as wrong.
    pub(super) fn values(&self, width: usize, cells: &CellReader) -> f64 {
        let good = |record: &&Sampled| record.fields.len() == width;
        let fields = self.records.iter().filter(good).flat_map(|record| &record.fields);
        let values = fields.filter(|field| cells.value(field).is_some()).count();
        values as f64 / (self.records.len() * width).max(1) as f64
    }
}
