//! Cases 25 to 48: what a join asks for, and what it is answered.

mod channels;
mod fields;
mod replies;
