//! Options and helpers of commands that read files of rows.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::json;

use super::CliError;
use super::client::{Context, print_notes};
use crate::files::{
    self, Decimal, FileError, Format, Location, ReadOptions, RowReader, Separator, Table, TextEncoding, TextOptions,
    Thousands,
};
use crate::model::match_columns;
use crate::rpc::pb;

/// Maximum bytes of the first rows of a file, as binary32; below the default message limit of the server.
const FIRST_ROWS_BYTES_MAX: usize = 8 << 20;

/// Options of the file reader.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReadArgs {
    /// Format of the files [default: detected from the first bytes]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// CSV: whether the first line has the column names [default: detected]
    #[arg(long, value_parser = yes_or_no, value_name = "yes|no")]
    header: Option<bool>,
    /// CSV: field separator: one character, tab, blanks, or none [default: detected]
    #[arg(long, value_name = "MARK")]
    separator: Option<Separator>,
    /// CSV: decimal mark, . or , [default: detected]
    #[arg(long, value_name = "MARK")]
    decimal: Option<Decimal>,
    /// CSV: mark between groups of three digits, for example , or . [default: none]
    #[arg(long, value_name = "MARK")]
    thousands: Option<Thousands>,
    /// CSV: text encoding, for example utf-8, utf-16le or windows-1252 [default: detected]
    #[arg(long, value_name = "NAME")]
    encoding: Option<TextEncoding>,
    /// CSV, JSON Lines, Parquet, Arrow: columns to read, in this order, by name or by number from 1; #2 is always a
    /// number, even if a column is named 2 [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
    columns: Vec<String>,
    /// CSV, JSON Lines, Parquet, Arrow: columns to leave out, by name or by number from 1
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
    drop_columns: Vec<String>,
    /// Match columns with the features of the model by position and ignore their names [default: by name, if both have
    /// names]
    #[arg(long)]
    by_position: bool,
    /// Allow missing values: NaN; in CSV also empty fields, NA, N/A, null, None, ?, - and similar marks; in Parquet and
    /// Arrow nulls
    #[arg(long)]
    missing_values: bool,
    /// CSV: additional marks of missing values, for example -999; implies --missing-values
    #[arg(long, value_delimiter = ',', value_name = "MARK,...", allow_hyphen_values = true)]
    missing_marks: Vec<String>,
    /// Array to read from a .npz or safetensors file [default: the only array that can be rows]
    #[arg(long, value_name = "NAME")]
    array: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormatArg {
    Csv,
    Npy,
    Idx,
    Parquet,
    Arrow,
    Npz,
    Safetensors,
    #[value(alias = "json")]
    Jsonl,
    Fvecs,
    Bvecs,
    Ivecs,
    Fbin,
    U8bin,
    I8bin,
    Words,
}

impl ReadArgs {
    pub(super) fn options(&self) -> ReadOptions {
        let format = self.format.map(|format| match format {
            FormatArg::Csv => Format::Csv,
            FormatArg::Npy => Format::Npy,
            FormatArg::Idx => Format::Idx,
            FormatArg::Parquet => Format::Parquet,
            FormatArg::Arrow => Format::Arrow,
            FormatArg::Npz => Format::Npz,
            FormatArg::Safetensors => Format::Safetensors,
            FormatArg::Jsonl => Format::JsonLines,
            FormatArg::Fvecs => Format::Fvecs,
            FormatArg::Bvecs => Format::Bvecs,
            FormatArg::Ivecs => Format::Ivecs,
            FormatArg::Fbin => Format::Fbin,
            FormatArg::U8bin => Format::U8bin,
            FormatArg::I8bin => Format::I8bin,
            FormatArg::Words => Format::WordVectors,
        });
        ReadOptions {
            format,
            header: self.header,
            columns: self.columns.clone(),
            drop_columns: self.drop_columns.clone(),
            missing_values: self.missing_values(),
            text: TextOptions {
                separator: self.separator,
                decimal: self.decimal,
                thousands: self.thousands,
                encoding: self.encoding,
                missing_marks: self.missing_marks.clone(),
            },
            features: Vec::new(),
            array: self.array.clone(),
        }
    }

    /// Column names that the server matches with the features of a model; empty with --by-position.
    pub(super) fn names(&self, reader: &dyn RowReader) -> Vec<String> {
        if self.by_position { Vec::new() } else { reader.names().to_vec() }
    }

    /// Whether column names are ignored.
    pub(super) fn by_position(&self) -> bool {
        self.by_position
    }

    /// Allows missing values even without --missing-values.
    pub(super) fn allow_missing_values(&mut self) {
        self.missing_values = true;
    }

    /// Whether --columns or --drop-columns is set.
    pub(super) fn chooses_columns(&self) -> bool {
        !self.columns.is_empty() || !self.drop_columns.is_empty()
    }

    /// Whether missing values are allowed.
    pub(super) fn missing_values(&self) -> bool {
        self.missing_values || !self.missing_marks.is_empty()
    }

    /// The options as a specification of files of the server.
    pub(super) fn server_files(self, paths: Vec<String>, test_paths: Vec<String>) -> pb::ServerFiles {
        let format = match self.format {
            None => pb::FileFormat::Unspecified,
            Some(FormatArg::Csv) => pb::FileFormat::Csv,
            Some(FormatArg::Npy) => pb::FileFormat::Npy,
            Some(FormatArg::Idx) => pb::FileFormat::Idx,
            Some(FormatArg::Parquet) => pb::FileFormat::Parquet,
            Some(FormatArg::Arrow) => pb::FileFormat::Arrow,
            Some(FormatArg::Npz) => pb::FileFormat::Npz,
            Some(FormatArg::Safetensors) => pb::FileFormat::Safetensors,
            Some(FormatArg::Jsonl) => pb::FileFormat::JsonLines,
            Some(FormatArg::Fvecs) => pb::FileFormat::Fvecs,
            Some(FormatArg::Bvecs) => pb::FileFormat::Bvecs,
            Some(FormatArg::Ivecs) => pb::FileFormat::Ivecs,
            Some(FormatArg::Fbin) => pb::FileFormat::Fbin,
            Some(FormatArg::U8bin) => pb::FileFormat::U8bin,
            Some(FormatArg::I8bin) => pb::FileFormat::I8bin,
            Some(FormatArg::Words) => pb::FileFormat::WordVectors,
        };
        pb::ServerFiles {
            paths,
            test_paths,
            format: format.into(),
            header: self.header,
            columns: self.columns,
            drop_columns: self.drop_columns,
            separator: self.separator.map(String::from).unwrap_or_default(),
            decimal: self.decimal.map(String::from).unwrap_or_default(),
            thousands: self.thousands.map(String::from).unwrap_or_default(),
            encoding: self.encoding.map(String::from).unwrap_or_default(),
            missing_marks: self.missing_marks,
            array: self.array.unwrap_or_default(),
        }
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

/// Opens a file, or standard input for `-`, and prints what its reader detected.
pub(super) fn open(path: &str, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    Ok(match open_table(path, options)? {
        Table::Text(reader) => reader,
        Table::Other(reader) => reader,
    })
}

/// As [`open`], but gives access to the original text records of a text file.
pub(super) fn open_table(path: &str, options: &ReadOptions) -> Result<Table, FileError> {
    let table = if path == "-" {
        files::read_table(path, io::stdin(), options)
    } else {
        files::open_table(Path::new(path), options)
    }?;
    print_table_notes(path, &table);
    Ok(table)
}

/// Prints what the reader of a table detected.
fn print_table_notes(path: &str, table: &Table) {
    print_notes_of(
        path,
        match table {
            Table::Text(reader) => reader.notes(),
            Table::Other(reader) => reader.notes(),
        },
    );
}

/// Opens a file for a model. Named columns that are not features of the model are skipped without parsing. With
/// `keeps`, all columns of arrays stay, because they are written back.
pub(super) async fn open_for(
    context: &Context,
    model: &pb::ModelRef,
    path: &str,
    read: &ReadArgs,
    keeps: bool,
) -> Result<Table, CliError> {
    let options = read.options();
    if read.by_position || read.chooses_columns() {
        return Ok(open_table(path, &options)?);
    }
    // A stream can be opened only once: after the features are known.
    let opened = if is_stream(path) { None } else { Some(files::open_table(Path::new(path), &options)) };
    let names = opened.as_ref().and_then(|opened| opened.as_ref().ok()).map(|table| names_of(table).to_vec());
    let is_array = matches!(&opened, Some(Ok(Table::Other(_))));
    let has_no_names = names.as_ref().is_some_and(Vec::is_empty);
    let features = if has_no_names || keeps && is_array { Vec::new() } else { features_of(context, model).await };
    let fits = names.as_ref().is_some_and(|names| names.len() <= features.len());
    let Some(opened) = opened else { return Ok(open_table(path, &ReadOptions { features, ..options })?) };
    if !features.is_empty() && !fits {
        let wanted = ReadOptions { features: features.clone(), ..options };
        match (files::open_table(Path::new(path), &wanted), &opened) {
            (Ok(table), _) if names_of(&table).len() == features.len() => {
                print_table_notes(path, &table);
                let matching = names.and_then(|names| match_columns(&features, &names).ok()?.note());
                let others = || "columns that are not features of the model are left out".to_owned();
                print_notes(context, &[matching.unwrap_or_else(others)]);
                return Ok(table);
            }
            (Err(error), Ok(_)) => return Err(error.into()),
            // Either features are missing, which the server reports, or the file has an unrelated error.
            _ => {}
        }
    }
    let table = opened?;
    print_table_notes(path, &table);
    Ok(table)
}

fn names_of(table: &Table) -> &[String] {
    match table {
        Table::Text(reader) => reader.names(),
        Table::Other(reader) => reader.names(),
    }
}

/// As [`open_for`], for commands that need only rows.
pub(super) async fn open_rows_for(
    context: &Context,
    model: &pb::ModelRef,
    path: &str,
    read: &ReadArgs,
) -> Result<Box<dyn RowReader>, CliError> {
    Ok(match open_for(context, model, path, read, false).await? {
        Table::Text(reader) => reader,
        Table::Other(reader) => reader,
    })
}

/// Feature names of a version. Empty if it has none or on any error; the call that follows reports the error.
async fn features_of(context: &Context, model: &pb::ModelRef) -> Vec<String> {
    let request = pb::GetModelVersionRequest { model: Some(model.clone()) };
    let Ok(mut models) = context.models().await else { return Vec::new() };
    let version = models.get_model_version(request).await.map(tonic::Response::into_inner);
    version.ok().and_then(|answer| answer.version?.spec).unwrap_or_default().feature_names
}

/// As [`open`], for a stream that may pause for a long time.
pub(super) fn open_live(path: &str, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    if path != "-" {
        return open(path, options);
    }
    let reader = files::read_live(path, io::stdin(), options)?;
    print_notes_of(path, reader.notes());
    Ok(reader)
}

/// Whether notes are printed as JSON. Set once at startup.
static IN_JSON: OnceLock<bool> = OnceLock::new();
/// Notes that were already printed. A file that is opened twice prints each note once.
static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Sets whether notes are printed as JSON or text.
pub(super) fn print_notes_in_json(json: bool) {
    // The first call wins; a process has one command line.
    let _ = IN_JSON.set(json);
}

/// Prints what the reader of a file detected, in one line on standard error.
pub(super) fn print_notes_of(path: &str, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    let line = if IN_JSON.get() == Some(&true) {
        json!({ "file": path, "notes": notes }).to_string()
    } else {
        format!("note: {path}: {}", notes.join("; "))
    };
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    if printed.insert(line.clone()) {
        note_line!("{line}");
    }
}

/// Prints the notes that are known only at the end of a file.
pub(super) fn print_notes_at_end(path: &str, reader: &dyn RowReader) {
    print_notes_of(path, &reader.notes_at_end());
}

/// Whether a path can be opened only once: standard input, a pipe, a process substitution.
pub(super) fn is_stream(path: &str) -> bool {
    path == "-" || std::fs::metadata(path).is_ok_and(|data| !data.is_file() && !data.is_dir())
}

/// The first rows of a file, as many as fit into one message.
pub(super) struct FirstRows {
    pub(super) columns: usize,
    /// Column names; empty if there are none.
    pub(super) names: Vec<String>,
    /// Row-major.
    pub(super) values: Vec<f64>,
    /// Whether these are all rows of the file.
    pub(super) is_all: bool,
}

/// Reads the first rows. `expected` gives the required number of columns and the features of the model, whose order the
/// columns then have.
///
/// [`CliError`] if the file cannot be read, does not match or has no rows.
pub(super) fn first_rows(
    path: &str,
    read: &ReadArgs,
    expected: Option<(usize, &[String])>,
) -> Result<FirstRows, CliError> {
    let mut options = read.options();
    if let Some((_, features)) = expected.filter(|_| !read.by_position) {
        options.features = features.to_vec();
    }
    let mut reader = open(path, &options)?;
    if let Some((columns, features)) = expected {
        if !read.by_position {
            reader = files::by_name(path, reader, features)?;
        }
        check_columns(path, reader.as_ref(), columns)?;
    }
    let (columns, names) = (reader.columns(), read.names(reader.as_ref()));
    let most = (FIRST_ROWS_BYTES_MAX / (4 * columns)).max(1);
    let mut values = Vec::new();
    reader.next_rows(&mut values, most)?;
    if values.is_empty() {
        return Err(CliError::Usage(format!("{path} has no rows, expected at least one to measure on")));
    }
    // An error in later rows does not matter here.
    let mut is_all = reader.next_rows(&mut Vec::new(), 1).is_ok_and(|rows| rows == 0);
    // Binary64 takes twice the space, so half of the rows fit.
    let room = (most / 2).max(1) * columns;
    if values.len() > room && files::needs_f64(&values) {
        values.truncate(room);
        is_all = false;
    }
    Ok(FirstRows { columns, names, values, is_all })
}

/// Checks that the rows of a file have `columns` numbers.
pub(super) fn check_columns(path: &str, reader: &dyn RowReader, columns: usize) -> Result<(), FileError> {
    if reader.columns() == columns {
        return Ok(());
    }
    Err(FileError::Content {
        path: path.to_owned(),
        place: Location::Whole,
        got: format!("its rows have {} numbers", reader.columns()),
        expected: columns.to_string(),
    })
}
