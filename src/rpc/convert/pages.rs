//! Pages of listings, and their tokens.

use std::str::FromStr;

use crate::service::{ServiceError, Version, shown};

/// Page size if the request sets none.
const PAGE_DEFAULT: u32 = 100;
/// Maximum page size.
const PAGE_MAX: u32 = 1000;

/// Parses a page token: the last entry of the previous page. `None` for the first page.
pub fn page_token<T: FromStr>(token: &str) -> Result<Option<T>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| bad_token(token))
}

/// As [`page_token`], for entries that are versions.
pub fn version_token(token: &str) -> Result<Option<Version>, ServiceError> {
    let number: Option<u64> = page_token(token)?;
    number.map(|number| Version::new(number).map_err(|_| bad_token(token))).transpose()
}

fn bad_token(token: &str) -> ServiceError {
    let shown = shown(token);
    ServiceError::invalid("page_token", format!("{shown:?} is not a token of this list, expected `next_page_token`"))
}

/// Takes a page from `entries`. Returns it with the token of the next page, which is empty on the last.
pub fn page<T>(entries: impl Iterator<Item = T>, size: u32, token: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let size = if size == 0 { PAGE_DEFAULT } else { size.min(PAGE_MAX) } as usize;
    let mut entries = entries.peekable();
    let page: Vec<T> = entries.by_ref().take(size).collect();
    let next = if entries.peek().is_some() { page.last().map(token).unwrap_or_default() } else { String::new() };
    (page, next)
}
