//! Finds the test data and reads its archives. Tests and benchmarks share this file.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use halfhitch::files::{self, ReadOptions};

/// The folder of the test data, if it exists: ../shared/data next to the project, or the value of `HALFHITCH_DATA`.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("HALFHITCH_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The entries of a deflated NumPy archive whose local headers contain the sizes: name, and bytes of the `.npy` file.
fn entries(path: &Path) -> Vec<(String, Vec<u8>)> {
    let archive = std::fs::read(path).expect("an archive");
    let number =
        |at: usize, bytes: usize| archive[at..at + bytes].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
    let (mut entries, mut at) = (Vec::new(), 0);
    while archive[at..].starts_with(b"PK\x03\x04") {
        let (length, name_length) = (number(at + 18, 4), number(at + 26, 2));
        let start = at + 30 + name_length + number(at + 28, 2);
        let name = String::from_utf8_lossy(&archive[at + 30..at + 30 + name_length]).into_owned();
        let mut bytes = Vec::new();
        let entry = Cursor::new(archive[start..start + length].to_vec());
        flate2::read::DeflateDecoder::new(entry).read_to_end(&mut bytes).expect("an entry");
        entries.push((name, bytes));
        at = start + length;
    }
    entries
}

/// Row-major values of `X`, the row width, and whether each label in `y` is 1.
pub(crate) fn labeled(path: &Path) -> (Vec<f32>, usize, Vec<bool>) {
    let entries = entries(path);
    let of = |wanted: &str| entries.iter().find(|(name, _)| name == wanted).expect("an array").1.clone();
    let mut reader = files::read("X.npy", Cursor::new(of("X.npy")), &ReadOptions::default()).expect("rows");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 4096).expect("rows") > 0 {}
    let labels = of("y.npy");
    let head = 10 + usize::from(u16::from_le_bytes([labels[8], labels[9]]));
    let rows = values.len() / reader.columns();
    let bytes = (labels.len() - head) / rows;
    // Little-endian integers of 4 or 8 bytes.
    let labels = labels[head..].chunks_exact(bytes).map(|number| number[0] == 1).collect();
    (files::narrow(&values), reader.columns(), labels)
}
