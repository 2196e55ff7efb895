//! Flags, environment and file: read once, checked once.
