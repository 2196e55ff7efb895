//! Limit of transfers of model files.

/// Maximum concurrent imports, and maximum concurrent exports. Each holds a file in memory.
pub(super) const TRANSFERS_MAX: usize = 2;
