//! `halfhitch impute`: fills in missing values and changes nothing else.
//!
//! A text file keeps its header, column order, quotes and the text of existing values: the command fills gaps inside
//! the original records. Arrays keep the bits of existing values.

use std::io::{BufWriter, Write};

use futures_util::stream::{self, StreamExt};
use serde_json::json;

use super::client::{Context, answered, named_matrix, print_notes};
use super::reading::{self, ReadArgs, print_notes_at_end};
use super::rows::{REQUESTS_MAX, ROWS, WriteArgs, progress_bar};
use super::{CliError, report, writing};
use crate::client::{Connection, model_ref, patiently, request_rows};
use crate::files::output::Output;
use crate::files::table::TextRecord;
use crate::files::{self, Decimal, FileError, Format, RowReader, RowWriter, Separator, Table, TextReader};
use crate::model::{Form, Matrix};
use crate::rpc::pb;
use crate::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch train sensors history.csv --code 8 --missing-values\n  halfhitch impute sensors gaps.csv -o whole.csv\n\nOnly missing values change. A text file keeps its header, columns, quotes and the text of existing values, also in columns\nthat are left out. Arrays keep the bits of existing values."
)]
pub(super) struct ImputeArgs {
    /// Model trained with --missing-values: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows: .csv, .npy, .parquet, .jsonl, plain or compressed; - for standard input. NaN is missing; in CSV also an
    /// empty field, NA or null; in Parquet and Arrow a null
    file: String,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    read: ReadArgs,
}

/// Maximum text of a block in bytes. Columns that are left out may be long.
const BLOCK_TEXT_BYTES: usize = 8 << 20;

/// The input.
enum Source {
    /// A text file whose records are written back.
    Text(Box<TextReader>),
    Rows(Box<dyn RowReader>),
}

impl Source {
    fn reader(&self) -> &dyn RowReader {
        match self {
            Self::Text(reader) => reader.as_ref(),
            Self::Rows(reader) => reader.as_ref(),
        }
    }
}

/// A block of rows of the file.
#[derive(Default)]
struct Block {
    /// Index of the first row in the file, from 0.
    first_row: u64,
    /// Row-major; NaN where a value is missing.
    values: Vec<f64>,
    /// Of a text file: the records. `tail` is the text after the last record of the file.
    records: Vec<TextRecord>,
    tail: String,
}

/// Reads the file block by block.
struct Blocks {
    file: String,
    source: Source,
    block_rows: usize,
    next_row: u64,
    ended: bool,
}

impl Blocks {
    fn read(&mut self) -> Result<Block, FileError> {
        let mut block = Block { first_row: self.next_row, ..Block::default() };
        match &mut self.source {
            Source::Rows(reader) => {
                let rows = reader.next_rows(&mut block.values, self.block_rows)?;
                self.ended = rows == 0;
                if self.ended {
                    print_notes_at_end(&self.file, reader.as_ref());
                }
                self.next_row += rows as u64;
            }
            Source::Text(reader) => {
                let mut bytes = 0;
                while block.records.len() < self.block_rows && bytes < BLOCK_TEXT_BYTES {
                    let Some(record) = reader.next_record(&mut block.values)? else {
                        (self.ended, block.tail) = (true, reader.rest());
                        print_notes_at_end(&self.file, reader.as_ref());
                        break;
                    };
                    bytes += record.before.len() + record.text.len();
                    block.records.push(record);
                }
                self.next_row += block.records.len() as u64;
            }
        }
        Ok(block)
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, FileError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        self.ended |= read.is_err();
        Some(read)
    }
}

/// How to write values into a text file.
#[derive(Clone)]
struct TextStyle {
    /// Field index of each column that is read.
    kept: Vec<usize>,
    decimal: Decimal,
    separator: Separator,
}

impl TextStyle {
    /// The text of a record with its gaps filled.
    fn fill(&self, record: &TextRecord, row: &[f64], filled: &[String]) -> String {
        let is_gap = |(column, _): &(usize, &usize)| row[*column].is_nan() && !filled[*column].is_empty();
        let gaps = self.kept.iter().enumerate().filter(is_gap);
        let mut gaps: Vec<(usize, &String)> = gaps.map(|(column, field)| (*field, &filled[column])).collect();
        gaps.sort_unstable();
        let (mut text, mut at) = (String::with_capacity(record.text.len() + 16 * gaps.len()), 0);
        for (field, value) in gaps {
            let Some(cell) = record.cells.get(field) else { continue };
            // Keeps the white space around a missing-value mark.
            let content = &record.text[cell.clone()];
            let trimmed = content.trim();
            let before = if trimmed.is_empty() { 0 } else { content.len() - content.trim_start().len() };
            text.push_str(&record.text[at..cell.start + before]);
            text.push_str(&self.quoted(value, trimmed));
            at = if trimmed.is_empty() { cell.end } else { cell.start + before + trimmed.len() };
        }
        text.push_str(&record.text[at..]);
        text
    }

    /// The text of a value, in quotes if the mark was quoted or if the value contains the separator.
    fn quoted(&self, value: &str, mark: &str) -> String {
        let value = match self.decimal {
            Decimal::Dot => value.to_owned(),
            Decimal::Comma => value.replace('.', ","),
        };
        let splits = matches!(self.separator, Separator::Byte(byte) if value.as_bytes().contains(&byte));
        if splits || mark.starts_with('"') { format!("\"{value}\"") } else { value }
    }
}

/// Values of a response in its own precision.
enum Numbers {
    Narrow(Vec<f32>),
    Wide(Vec<f64>),
}

impl Numbers {
    fn of(answer: &Matrix) -> Self {
        match answer.form() {
            Form::Float64Le => Self::Wide(answer.values().to_f64()),
            _ => Self::Narrow(answer.values().to_f32()),
        }
    }

    fn get(&self, index: usize) -> f64 {
        match self {
            Self::Narrow(values) => f64::from(values[index]),
            Self::Wide(values) => values[index],
        }
    }

    /// The shortest text that parses to the same number; empty for NaN.
    fn text(&self, index: usize) -> String {
        let value = self.get(index);
        if value.is_nan() {
            return String::new();
        }
        let is_plain = value == 0.0 || (1e-5..1e16).contains(&value.abs());
        match self {
            Self::Narrow(values) if is_plain => values[index].to_string(),
            Self::Narrow(values) => format!("{:e}", values[index]),
            Self::Wide(values) if is_plain => values[index].to_string(),
            Self::Wide(values) => format!("{:e}", values[index]),
        }
    }
}

/// The output.
enum Sink {
    Text(BufWriter<Output>, TextStyle),
    /// The flag selects 32-bit floats, if the input has them; else the output has 64-bit floats.
    Rows(Box<dyn RowWriter>, bool),
}

impl Sink {
    /// `places` gives the column of the response for each column of the rows; `None` if the model does not have the
    /// column.
    fn write(&mut self, block: &Block, answer: Option<&Matrix>, places: &[Option<usize>]) -> Result<(), CliError> {
        let columns = places.len();
        let numbers = answer.map(|answer| (answer.columns(), Numbers::of(answer)));
        let at = |width: usize, row: usize, column: usize| places[column].map(|place| row * width + place);
        match self {
            Self::Text(output, style) => {
                let mut text = String::new();
                for (number, record) in block.records.iter().enumerate() {
                    let row = &block.values[number * columns..][..columns];
                    text.push_str(&record.before);
                    if row.iter().any(|value| value.is_nan())
                        && let Some((width, numbers)) = &numbers
                    {
                        let value = |column: usize| {
                            at(*width, number, column).map_or(String::new(), |index| numbers.text(index))
                        };
                        let filled: Vec<String> = (0..columns).map(value).collect();
                        text.push_str(&style.fill(record, row, &filled));
                    } else {
                        text.push_str(&record.text);
                    }
                }
                text.push_str(&block.tail);
                let path = output.get_ref().path().to_owned();
                output.write_all(text.as_bytes()).map_err(|source| FileError::Io { path, source })?;
            }
            Self::Rows(writer, is_narrow) => {
                let Some((width, numbers)) = numbers else { return Ok(()) };
                let whole = |(index, value): (usize, &f64)| match at(width, index / columns, index % columns) {
                    Some(index) if value.is_nan() => numbers.get(index),
                    _ => *value,
                };
                let whole: Vec<f64> = block.values.iter().enumerate().map(whole).collect();
                if *is_narrow {
                    writer.write(files::narrow(&whole).as_slice().into(), columns)?;
                } else {
                    writer.write(whole.as_slice().into(), columns)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), CliError> {
        match self {
            Self::Text(output, _) => {
                let path = output.get_ref().path().to_owned();
                let output = output.into_inner().map_err(|error| FileError::Io { path, source: error.into_error() })?;
                Ok(output.finish()?)
            }
            Self::Rows(writer, _) => Ok(writer.finish()?),
        }
    }
}

/// The response to a request.
struct Filled {
    version: u64,
    values: Matrix,
    notes: Vec<String>,
    /// Names of the remaining columns; empty if no column was left out.
    kept_names: Vec<String>,
}

/// Sends one request; retries while the server is full.
async fn fill(
    client: &AutoencoderServiceClient<Connection>,
    model: &pb::ModelRef,
    (columns, names): (usize, &[String]),
    values: &[f64],
) -> Result<Filled, CliError> {
    patiently(|| fill_once(client.clone(), model.clone(), (columns, names), values)).await
}

async fn fill_once(
    mut client: AutoencoderServiceClient<Connection>,
    model: pb::ModelRef,
    (columns, names): (usize, &[String]),
    values: &[f64],
) -> Result<Filled, CliError> {
    let (model, rows) = (Some(model), Some(named_matrix(columns, values, names)));
    let request = pb::ImputeRequest { model, rows, answer_format: ROWS.into() };
    let pb::ImputeResponse { version, rows, notes } = client.impute(request).await?.into_inner();
    let kept_names = rows.as_ref().map_or(Vec::new(), |rows| rows.column_names.clone());
    Ok(Filled { version, values: answered(rows)?, notes, kept_names })
}

pub(super) async fn run(context: &Context, args: ImputeArgs) -> Result<(), CliError> {
    let ImputeArgs { model: name, file, write, mut read } = args;
    read.allow_missing_values();
    let model = model_ref(&name)?;
    // Opens the output first, so that an unwritable path fails before rows are read and sent.
    let format = files::format_of(&write.output, write.format())
        .map_err(|error| CliError::Usage(format!("--output {error}")))?;
    let (mut output, mut writer) = (None, None);
    if format == Format::Csv {
        output = Some(writing::output("--output", &write.output)?);
    } else {
        writer = Some(writing::rows("--output", &write.output, Some(format))?);
    }
    let source = match (reading::open_for(context, &model, &file, &read, true).await?, format) {
        (Table::Text(mut reader), Format::Csv) => {
            reader.keep_text();
            Source::Text(reader)
        }
        (Table::Text(reader), _) => Source::Rows(reader),
        (Table::Other(reader), _) => Source::Rows(reader),
    };
    let columns = source.reader().columns();
    let rows_hint = source.reader().rows_hint();
    let names = read.names(source.reader());
    let is_narrow = source.reader().is_single();
    let mut sink = match (&source, output, writer) {
        (Source::Text(reader), Some(output), _) => {
            if reader.encoding() != "UTF-8" {
                note_line!("note: {file} is {}; the output is the same text in UTF-8", reader.encoding());
            }
            let style =
                TextStyle { kept: reader.kept().to_vec(), decimal: reader.decimal(), separator: reader.separator() };
            Sink::Text(BufWriter::new(output), style)
        }
        (_, Some(output), _) => Sink::Rows(files::csv_writer(output), is_narrow),
        (source, None, Some(mut writer)) => {
            writer.set_names(source.reader().names());
            Sink::Rows(writer, is_narrow)
        }
        (_, None, None) => return Err(CliError::Failed("no output was opened".to_owned())),
    };
    if read.chooses_columns() && matches!(sink, Sink::Rows(..)) {
        note_line!("note: columns of {file} that were left out are not in {}", write.output);
    }
    let client = context.autoencoder().await?;
    let mut blocks =
        Blocks { file: file.clone(), source, block_rows: request_rows(columns), next_row: 0, ended: false };
    // The first response names the version; the other requests use the same version.
    let first = blocks.read()?;
    let answer = fill(&client, &model, (columns, &names), &first.values).await;
    let answer = answer.map_err(|error| error.in_file(&file, 0))?;
    print_notes(context, &answer.notes);
    // If some columns are not features, the response names those that are.
    let place = |column: usize| match answer.kept_names.as_slice() {
        [] => Some(column),
        kept => kept.iter().position(|name| Some(name) == names.get(column)),
    };
    let places: Vec<Option<usize>> = (0..columns).map(place).collect();
    let version = answer.version;
    let model = pb::ModelRef { selector: Some(pb::model_ref::Selector::Version(version)), ..model };
    let bar = progress_bar(context, rows_hint);
    let mut rows = answer.values.rows();
    sink.write(&first, Some(&answer.values), &places)?;
    let mut answers = stream::iter(blocks)
        .map(|block| {
            let (client, model, file, names) = (&client, &model, &file, names.as_slice());
            async move {
                let block = block?;
                if block.values.is_empty() {
                    return Ok::<_, CliError>((block, None));
                }
                let answer = fill(client, model, (columns, names), &block.values).await;
                let answer = answer.map_err(|error| error.in_file(file, block.first_row))?;
                Ok((block, Some(answer.values)))
            }
        })
        .buffered(REQUESTS_MAX);
    while let Some(answer) = answers.next().await {
        let (block, answer) = answer?;
        rows += answer.as_ref().map_or(0, Matrix::rows);
        bar.set_position(rows as u64);
        sink.write(&block, answer.as_ref(), &places)?;
    }
    drop(answers);
    bar.finish_and_clear();
    sink.finish()?;
    let output = &write.output;
    if output == "-" {
        return Ok(());
    }
    if context.json {
        note_line!("{}", json!({ "model": name, "version": version, "rows": rows, "output": output }));
    } else {
        let bytes = report::bytes(std::fs::metadata(output).map_or(0, |data| data.len()));
        note_line!("{rows} rows of version {version} in {output} ({bytes})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(decimal: Decimal, separator: u8, kept: &[usize]) -> TextStyle {
        TextStyle { kept: kept.to_vec(), decimal, separator: Separator::Byte(separator) }
    }

    /// A record of fields that are joined by `separator`.
    fn record(fields: &[&str], separator: &str, end: &str) -> TextRecord {
        let (mut text, mut cells) = (String::new(), Vec::new());
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                text.push_str(separator);
            }
            cells.push(text.len()..text.len() + field.len());
            text.push_str(field);
        }
        TextRecord { before: String::new(), text: text + end, cells }
    }

    #[test]
    fn only_gaps_of_a_record_change() {
        let gap = f64::NAN;
        let values = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let plain = style(Decimal::Dot, b',', &[0, 2, 3]);
        let row = record(&["1.50", "name", "", " NA "], ",", "\r\n");
        assert_eq!(plain.fill(&row, &[1.5, gap, gap], &values(&["", "2.5", "-3"])), "1.50,name,2.5, -3 \r\n");
        let quoted = record(&["\"1\"", "x", "\"\"", "4"], ",", "");
        assert_eq!(plain.fill(&quoted, &[1.0, gap, 4.0], &values(&["", "2.5", ""])), "\"1\",x,\"2.5\",4");
        let german = style(Decimal::Comma, b';', &[1, 0]);
        let row = record(&["", "1,50"], ";", "\n");
        assert_eq!(german.fill(&row, &[1.5, gap], &values(&["", "0.25"])), "0,25;1,50\n");
        // The comma is both the separator and the decimal mark: the value is quoted.
        let both = style(Decimal::Comma, b',', &[0]);
        assert_eq!(both.fill(&record(&["", "b"], ",", "\n"), &[gap], &values(&["0.25"])), "\"0,25\",b\n");
    }
}
