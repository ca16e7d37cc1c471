//! Runs the program.

use std::process::Command;

use test_servers::program;

#[test]
fn sells_each_bike_once() {
    let run = program::run(Command::new(env!("CARGO_BIN_EXE_sea_orm_shop")).env("RUST_BACKTRACE", "0"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let last = run.stdout.lines().last().unwrap_or_default();
    assert_eq!(last, "The bike has 7 orders, and 0 are left in stock.", "{run:?}");
}
