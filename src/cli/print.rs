//! Output of commands: results on standard output, everything else on standard error.
//!
//! The reader may stop early, as `| head -1` does. A closed standard output ends the program without an error. A closed
//! standard error does not: the command continues without messages.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::panic::resume_unwind;

/// Panic payload: the reader closed standard output. It unwinds to [`super::run`], which ends the program without an
/// error. Destructors run on the way and remove temporary folders.
pub(super) struct OutputClosed;

/// Writes text to standard output.
pub(super) fn out(text: Arguments<'_>) {
    let mut output = io::stdout().lock();
    match output.write_fmt(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            drop(output);
            // Unlike a panic, `resume_unwind` prints nothing.
            resume_unwind(Box::new(OutputClosed));
        }
        Err(error) => {
            drop(output);
            resume_unwind(Box::new(OutputFailed(error)));
        }
        Ok(()) => {}
    }
}

/// Panic payload: standard output cannot be written for another reason, for example a full disk.
pub(super) struct OutputFailed(pub(super) io::Error);

/// Writes text to standard error.
pub(super) fn note(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Prints a line of results to standard output.
macro_rules! out_line {
    ($($text:tt)*) => {
        $crate::cli::print::out(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Prints a line to standard error.
macro_rules! note_line {
    ($($text:tt)*) => {
        $crate::cli::print::note(format_args!("{}\n", format_args!($($text)*)))
    };
}
