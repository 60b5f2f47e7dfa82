//! The walcast binary.

fn main() {}
