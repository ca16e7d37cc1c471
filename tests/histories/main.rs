//! Tests of the history checker without a database: histories written by hand, histories of simulated
//! databases, and a comparison with another checker.

mod other_checker;
mod recorded;
mod simulation;
mod written;
