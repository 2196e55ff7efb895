//! Sends requests with h2load.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::drive::{Driven, Shape, Target};
use crate::load::Failure;

/// Size of the gRPC frame header: a compression flag and the length.
const FRAME_BYTES: usize = 5;

pub(crate) fn drive(target: &Target, shape: Shape, count: usize) -> Result<Driven, Failure> {
    let mut body = NamedTempFile::new()?;
    body.write_all(&[0])?;
    body.write_all(&u32::try_from(target.message.len())?.to_be_bytes())?;
    body.write_all(&target.message)?;
    body.flush()?;
    // h2load appends to this file.
    let log = NamedTempFile::new()?;
    let Target { address, path, .. } = target;
    let output = Command::new("h2load")
        .args(["-n", &count.to_string(), "-c", &shape.connections.to_string()])
        .args(["-m", &(shape.callers / shape.connections).to_string()])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg("--data")
        .arg(body.path())
        .arg("--log-file")
        .arg(log.path())
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("h2load failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    check(&text, count, target.reply_bytes + FRAME_BYTES)?;
    let times = fs::read_to_string(log.path())?.lines().map(times_of).collect::<Result<Vec<_>, _>>()?;
    if times.len() != count {
        return Err(format!("h2load timed {} of {count} requests", times.len()).into());
    }
    Driven::of(&times)
}

/// HTTP status 200 does not imply success in gRPC. A failed response has no message, so the number of bytes shows it.
fn check(text: &str, count: usize, frame_bytes: usize) -> Result<(), Failure> {
    let succeeded = number_before(text, "requests: ", " succeeded")?;
    if succeeded != count {
        return Err(format!("{succeeded} of {count} requests succeeded:\n{text}").into());
    }
    let bytes = text.lines().find(|line| line.starts_with("traffic: ")).and_then(|line| line.rsplit_once('('));
    let bytes: usize = bytes.and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok()).ok_or("no count of bytes")?;
    if bytes != count * frame_bytes {
        return Err(format!("{count} answers have {bytes} bytes, expected {frame_bytes} each").into());
    }
    Ok(())
}

/// The number before `word` in the line that starts with `start`.
fn number_before(text: &str, start: &str, word: &str) -> Result<usize, Failure> {
    let number = || {
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.split_once(word)?.0.rsplit_once(' ')?.1.parse().ok()
    };
    number().ok_or_else(|| format!("the output of h2load has no number of{word}:\n{text}").into())
}

/// Parses a line of the log: start (microseconds since 1970), status, duration in microseconds.
fn times_of(line: &str) -> Result<(f64, f64), Failure> {
    let mut fields = line.split('\t');
    let mut next = || fields.next().and_then(|field| field.parse::<f64>().ok());
    match (next(), next(), next()) {
        (Some(start), Some(200.0), Some(duration)) => Ok((start, duration)),
        _ => Err(format!("not the line of a successful request: {line:?}").into()),
    }
}
