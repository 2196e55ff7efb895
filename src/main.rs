//! The program: reads the command, hands over.

fn main() {}
