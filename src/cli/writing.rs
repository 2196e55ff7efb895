//! Output files of commands. A path that cannot be written is an error of the command line.

use super::CliError;
use crate::files::output::Output;
use crate::files::{self, FileError, Format, RowWriter};

/// Opens the output file that `flag` names; `-` means standard output.
pub(super) fn output(flag: &str, path: &str) -> Result<Output, CliError> {
    Output::create(path).map_err(|error| usage(flag, error))
}

/// As [`output`], for rows.
pub(super) fn rows(flag: &str, path: &str, format: Option<Format>) -> Result<Box<dyn RowWriter>, CliError> {
    files::create(path, format).map_err(|error| usage(flag, error))
}

fn usage(flag: &str, error: FileError) -> CliError {
    match error {
        FileError::Content { .. } => CliError::Usage(format!("{flag} {error}")),
        other => other.into(),
    }
}

/// Rejects an output that would replace the input rows with something other than rows.
pub(super) fn check_keeps_input((flag, output): (&str, &str), input: &str) -> Result<(), CliError> {
    if output != "-" && files::output::is_same(output, input)? {
        return Err(CliError::Usage(format!("{flag} is {output}, the file with the rows, expected another file")));
    }
    Ok(())
}

/// Rejects two outputs that are the same file.
pub(super) fn check_apart(one: (&str, &str), other: (&str, &str)) -> Result<(), CliError> {
    if files::output::is_same(one.1, other.1)? {
        let place = if one.1 == "-" { "standard output" } else { one.1 };
        return Err(CliError::Usage(format!("{} and {} are both {place}, expected different files", one.0, other.0)));
    }
    Ok(())
}
