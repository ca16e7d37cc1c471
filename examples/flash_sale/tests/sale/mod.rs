//! Runs the program, and reads the table that it prints.

use std::ops::Deref;
use std::process::Command;

use test_servers::program::{self, Finished};

const STRATEGIES: [&str; 5] = ["pessimistic", "optimistic", "serializable", "atomic", "adaptive"];

/// A run of the program.
#[derive(Debug)]
pub(crate) struct Sale(Finished);

impl Deref for Sale {
    type Target = Finished;

    fn deref(&self) -> &Finished {
        &self.0
    }
}

impl Sale {
    /// The number of seats that were sold according to the table.
    #[track_caller]
    pub(crate) fn sold(&self, strategy: &str) -> u64 {
        let mut lines = self.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line.first() == Some(&strategy) && line.len() > 2);
        let line = line.unwrap_or_else(|| panic!("no line for {strategy}: {self:?}"));
        line[1].parse().unwrap_or_else(|_| panic!("no number for {strategy}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn sold_by_every_strategy(&self, seats: u64) {
        assert_eq!(self.code, Some(0), "{self:?}");
        for strategy in STRATEGIES {
            assert_eq!(self.sold(strategy), seats, "{strategy}: {self:?}");
        }
        assert!(self.stdout.contains(&format!("every strategy sold exactly {seats} seats.")), "{self:?}");
        assert_eq!(self.stderr, "", "progress bars are for terminals");
    }
}

pub(crate) fn run(arguments: &[&str]) -> Sale {
    Sale(program::run(Command::new(env!("CARGO_BIN_EXE_flash_sale")).args(arguments)))
}

pub(crate) fn small_sale(arguments: &[&str]) -> Sale {
    run(&[&["--buyers", "200", "--seats", "20"], arguments].concat())
}
