//! The files of published versions. A file never changes.

use std::fmt::Debug;

use super::StoreError;
use crate::model::ModelKey;

/// Files of published versions. All methods block on disk.
///
/// # Errors
/// Each method returns `UnknownVersion` if the version does not exist, and the errors of the disk.
pub trait ModelBlobs: Send + Sync + Debug {
    /// Reads the model file of a version, as stored. At most [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX) bytes.
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Reads a model file up to its tensors: the 8 bytes of the safetensors header length, and the header. Shorter if
    /// the file is; at most [`HEADER_BYTES_MAX`](super::HEADER_BYTES_MAX) bytes.
    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Reads the validation sample file of a version, as stored; `None` if there is none. At most
    /// [`SAMPLE_FILE_BYTES_MAX`](crate::model::sample::SAMPLE_FILE_BYTES_MAX) bytes.
    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError>;
}
