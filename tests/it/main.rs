//! The whole program, tested from outside.
mod golden;
mod layering;
