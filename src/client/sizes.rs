//! Sizes of chunks and requests.

/// Bytes of the binary32 values of a chunk or request; binary64 takes twice as many. Large enough to be fast, far below
/// the server's message limit.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Rows of a chunk. Depends only on the number of columns, so that a resumed upload cuts the same chunks.
pub(crate) fn chunk_rows(columns: usize) -> usize {
    (CHUNK_BYTES / (4 * columns.max(1))).max(1)
}

/// Maximum rows of a request: a quarter of the rows that the server queues by default.
const REQUEST_ROWS_MAX: usize = 16_384;

/// Rows of a request to a row-by-row RPC such as Encode.
pub(crate) fn request_rows(columns: usize) -> usize {
    chunk_rows(columns).min(REQUEST_ROWS_MAX)
}
