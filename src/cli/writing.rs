//! Where commands write results: a place that cannot be written is a mistake in the command.

use super::CliError;
use crate::files::output::Output;
use crate::files::{self, FileError, Format, RowWriter};

/// Prepares the file that `flag` names (`-`: standard output).
pub(super) fn output(flag: &str, path: &str) -> Result<Output, CliError> {
    Output::create(path).map_err(|error| usage(flag, error))
}

/// The same for rows.
pub(super) fn rows(flag: &str, path: &str, format: Option<Format>) -> Result<Box<dyn RowWriter>, CliError> {
    files::create(path, format).map_err(|error| usage(flag, error))
}

fn usage(flag: &str, error: FileError) -> CliError {
    match error {
        FileError::Content { .. } => CliError::Usage(format!("{flag} {error}")),
        other => other.into(),
    }
}

/// Refuses to put something that is no table of rows in the place of the rows that it was made of.
pub(super) fn check_keeps_input((flag, output): (&str, &str), input: &str) -> Result<(), CliError> {
    if output != "-" && files::output::is_same(output, input)? {
        return Err(CliError::Usage(format!("{flag} is {output}, the file with the rows, expected another file")));
    }
    Ok(())
}

/// Refuses two outputs that are one file.
pub(super) fn check_apart(one: (&str, &str), other: (&str, &str)) -> Result<(), CliError> {
    if files::output::is_same(one.1, other.1)? {
        let place = if one.1 == "-" { "standard output" } else { one.1 };
        return Err(CliError::Usage(format!("{} and {} are both {place}, expected a file for each", one.0, other.0)));
    }
    Ok(())
}
