//! The history checker on histories that need no database: written by hand, made by a simulated one, and
//! looked at by another checker.

mod opinion;
mod recorded;
mod simulation;
mod written;
