//! Lines for people and programs: results on standard output, everything else on standard error.
//!
//! The reader may stop early, as `| head -1` does. On standard output that ends the program quietly; on standard
//! error the work goes on and says no more.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::panic::resume_unwind;

/// Standard output was closed by its reader. It unwinds to [`super::run`], which ends the program without an error:
/// destructors run on the way, so that temporary folders go.
pub(super) struct OutputClosed;

/// Writes text to standard output.
pub(super) fn out(text: Arguments<'_>) {
    let mut output = io::stdout().lock();
    match output.write_fmt(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            drop(output);
            // Unlike a panic, it prints nothing.
            resume_unwind(Box::new(OutputClosed));
        }
        Err(error) => {
            drop(output);
            resume_unwind(Box::new(OutputFailed(error)));
        }
        Ok(()) => {}
    }
}

/// Standard output cannot be written, for another reason: its disk is full, for example.
pub(super) struct OutputFailed(pub(super) io::Error);

/// Writes text to standard error.
pub(super) fn note(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// A line of results.
macro_rules! out_line {
    ($($text:tt)*) => {
        $crate::cli::print::out(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// A line beside the results.
macro_rules! note_line {
    ($($text:tt)*) => {
        $crate::cli::print::note(format_args!("{}\n", format_args!($($text)*)))
    };
}
