//! Runs everything at once, and prints what it found.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use soak::Settings;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let report = soak::run(&Settings::parse()).await?;
    println!("{report}");
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
