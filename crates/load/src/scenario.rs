//! What is measured.

pub(crate) mod changes;
pub(crate) mod fan_out;
pub(crate) mod idle;
pub(crate) mod joins;
pub(crate) mod presence;
pub(crate) mod rooms;
