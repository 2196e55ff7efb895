//! Listens, serves, stops.
