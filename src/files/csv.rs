//! Comma-separated numbers.

use super::{COLUMNS_MAX, FileError, Input, ReadOptions, RowReader, content};

struct Csv {
    path: String,
    records: csv::Reader<Input>,
    names: Vec<String>,
    /// Which fields of a record are kept.
    kept: Vec<usize>,
    /// Fields of a record.
    fields: usize,
    /// A first line that was no header.
    first: Option<csv::StringRecord>,
}

pub(super) fn open(path: &str, input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let mut records =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(input);
    let mut first = csv::StringRecord::new();
    if !records.read_record(&mut first).map_err(|error| content(path, error.to_string()))? {
        return Err(content(path, "it has no rows"));
    }
    let fields = first.len();
    if fields > COLUMNS_MAX {
        return Err(content(path, format!("its rows have {fields} numbers, expected at most {COLUMNS_MAX}")));
    }
    let all_numbers = first.iter().all(|field| field.parse::<f32>().is_ok());
    let has_header = options.header.unwrap_or(!all_numbers);
    let names: Vec<String> = if has_header { first.iter().map(str::to_owned).collect() } else { Vec::new() };
    let mut dropped = Vec::new();
    for column in &options.drop_columns {
        let by_name = names.iter().position(|name| name == column);
        let by_number = column.parse::<usize>().ok().filter(|number| (1..=fields).contains(number)).map(|n| n - 1);
        let Some(index) = by_name.or(by_number) else {
            let known = if names.is_empty() { "it has no header".to_owned() } else { names.join(", ") };
            return Err(content(
                path,
                format!(
                    "column {column:?} to drop is not there: expected a number from 1 to {fields} or a name ({known})"
                ),
            ));
        };
        dropped.push(index);
    }
    let kept: Vec<usize> = (0..fields).filter(|index| !dropped.contains(index)).collect();
    if kept.is_empty() {
        return Err(content(path, "every column is dropped, expected at least one to stay"));
    }
    Ok(Box::new(Csv {
        path: path.to_owned(),
        records,
        names: if has_header { kept.iter().map(|index| names[*index].clone()).collect() } else { Vec::new() },
        kept,
        fields,
        first: (!has_header).then_some(first),
    }))
}

impl RowReader for Csv {
    fn columns(&self) -> usize {
        self.kept.len()
    }
    fn names(&self) -> &[String] {
        &self.names
    }
    fn next_block(&mut self, rows_max: usize) -> Result<Vec<f32>, FileError> {
        let mut values = Vec::new();
        let mut record = csv::StringRecord::new();
        for _ in 0..rows_max {
            let line = match self.first.take() {
                Some(first) => {
                    record = first;
                    1
                }
                None => {
                    let line = self.records.position().line();
                    if !self.records.read_record(&mut record).map_err(|error| content(&self.path, error.to_string()))? {
                        break;
                    }
                    record.position().map_or(line, csv::Position::line)
                }
            };
            if record.len() != self.fields {
                return Err(content(
                    &self.path,
                    format!("line {line} has {} fields, the first has {}", record.len(), self.fields),
                ));
            }
            for index in &self.kept {
                let field = &record[*index];
                match field.parse::<f32>() {
                    Ok(value) if value.is_finite() => values.push(value),
                    _ => {
                        let shown: String = field.chars().take(40).collect();
                        return Err(content(
                            &self.path,
                            format!("line {line}, field {}: {shown:?} is not a finite number", index + 1),
                        ));
                    }
                }
            }
        }
        Ok(values)
    }
}
