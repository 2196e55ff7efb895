//! Names of file formats.

use serde::{Deserialize, Serialize};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A text table: CSV and its relatives, with or without column names.
    Csv,
    /// NumPy's array file; dimensions after the first are flattened.
    Npy,
    /// The IDX format of MNIST; images are flattened.
    Idx,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow's IPC format, as a file (also known as Feather 2) or as a stream.
    Arrow,
    /// NumPy's archive of arrays; one of them is read.
    Npz,
    /// safetensors; one of the tensors is read.
    Safetensors,
    /// JSON Lines: each row is an array of numbers or an object. One array of such rows is read too.
    JsonLines,
    /// Rows of 32-bit floats, each preceded by its length.
    Fvecs,
    /// Rows of unsigned bytes, each preceded by its length.
    Bvecs,
    /// Rows of 32-bit integers, each preceded by its length.
    Ivecs,
    /// Rows of 32-bit floats after a header with the number of rows and their length.
    Fbin,
    /// Rows of unsigned bytes after a header with the number of rows and their length.
    U8bin,
    /// Rows of signed bytes after a header with the number of rows and their length.
    I8bin,
    /// Word vectors of GloVe, fastText or word2vec; the words are skipped.
    WordVectors,
}
