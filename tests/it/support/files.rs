//! Writers of row files in foreign formats, and digests of published model files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// The header of a NumPy file of `rows` x `columns` numbers; `descr` is NumPy's name of their type.
pub(crate) fn npy_head(descr: &str, rows: u64, columns: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(header.len() as u16).to_le_bytes());
    head.extend_from_slice(header.as_bytes());
    head
}

/// Writes a NumPy file of binary32.
pub(crate) fn npy(path: &Path, columns: usize, values: &[f32]) {
    let mut bytes = npy_head("<f4", (values.len() / columns) as u64, columns);
    values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    std::fs::write(path, bytes).expect("writes");
}

/// Writes a NumPy file of binary32 row by row, for files larger than memory. `row(number, values)` fills each row.
pub(crate) fn npy_of(path: &Path, rows: u64, columns: usize, row: impl Fn(u64, &mut [f32])) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("creates"));
    file.write_all(&npy_head("<f4", rows, columns)).expect("writes");
    let mut values = vec![0.0; columns];
    for number in 0..rows {
        row(number, &mut values);
        values.iter().for_each(|value| file.write_all(&value.to_le_bytes()).expect("writes"));
    }
    file.flush().expect("writes");
}

/// Writes a CSV file; its numbers read back as the same bits.
pub(crate) fn csv(path: &Path, columns: usize, values: &[f32]) {
    let mut text = String::new();
    for row in values.chunks(columns) {
        let numbers: Vec<String> = row.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{}", numbers.join(","));
    }
    std::fs::write(path, text).expect("writes");
}

/// Writes an IDX file (the format of MNIST) of binary32.
pub(crate) fn idx(path: &Path, columns: usize, values: &[f32]) {
    let mut bytes = vec![0, 0, 0x0d, 2];
    bytes.extend_from_slice(&((values.len() / columns) as u32).to_be_bytes());
    bytes.extend_from_slice(&(columns as u32).to_be_bytes());
    values.iter().for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
    std::fs::write(path, bytes).expect("writes");
}

/// SHA-256 of the tensors of a version in a store's folder: of the model file without its header, because the header
/// names the job.
pub(crate) fn tensors_sha256(store: &Path, name: &str, version: u64) -> String {
    let path = store.join("models").join(name).join(version.to_string()).join("model.safetensors");
    let bytes = std::fs::read(&path).expect("published");
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    hex(&Sha256::digest(&bytes[8 + header..]))
}

/// SHA-256 of training and test rows, as a training report has it.
pub(crate) fn rows_sha256(training: &[f32], test: &[f32]) -> String {
    let mut digest = Sha256::new();
    for values in [training, test] {
        digest.update((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
