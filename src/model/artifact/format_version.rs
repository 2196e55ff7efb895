//! The version of the file format.

/// The version of the file format that this program writes and reads.
pub const FORMAT_VERSION: u64 = 1;
