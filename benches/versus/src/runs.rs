//! Several separate runs, and what they have in common.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::compare::{median, range};
use crate::standing::{Panel, Standing};

/// Runs this program several times, each with a server and connections of its own, and returns the panels of
/// each run.
pub(crate) fn separate(runs: u16, arguments: &[String]) -> Result<Vec<Vec<Panel>>> {
    let directory = tempfile::tempdir()?;
    (1..=runs)
        .map(|run| {
            eprintln!("run {run} of {runs}");
            let figures = directory.path().join(run.to_string());
            let mut program = Command::new(std::env::current_exe()?);
            let status =
                program.args(arguments).arg("--figures").arg(&figures).stdin(Stdio::null()).status()?;
            ensure!(status.success(), "run {run} failed");
            let figures = std::fs::read(&figures).context("the figures of the run")?;
            Ok(serde_json::from_slice(&figures)?)
        })
        .collect()
}

/// The medians over the runs. The range of a rate is that of the medians of the runs.
pub(crate) fn medians(runs: &[Vec<Panel>]) -> Vec<Panel> {
    let panels = runs.first().map(Vec::as_slice).unwrap_or_default();
    panels
        .iter()
        .map(|panel| {
            let standings = panel.standings.iter().map(|standing| over_runs(&of(runs, panel, standing)));
            Panel { standings: standings.collect(), ..panel.clone() }
        })
        .collect()
}

/// The standings of one contender in one panel, in the order of the runs.
fn of<'r>(runs: &'r [Vec<Panel>], panel: &Panel, standing: &Standing) -> Vec<&'r Standing> {
    let same = |other: &&Panel| other.workload == panel.workload && other.rtt == panel.rtt;
    let panels = runs.iter().filter_map(|run| run.iter().find(same));
    panels.filter_map(|panel| panel.standings.iter().find(|other| other.name == standing.name)).collect()
}

fn over_runs(standings: &[&Standing]) -> Standing {
    let all = |figure: fn(&Standing) -> f64| median(standings.iter().map(|standing| figure(standing)));
    let some = |figure: fn(&Standing) -> Option<f64>| {
        let figures: Vec<f64> = standings.iter().filter_map(|standing| figure(standing)).collect();
        (!figures.is_empty()).then(|| median(figures.into_iter()))
    };
    let rates: Vec<f64> = standings.iter().map(|standing| standing.per_second).collect();
    Standing {
        name: standings.first().map(|standing| standing.name.clone()).unwrap_or_default(),
        per_second: all(|standing| standing.per_second),
        range: range(&rates),
        p99: some(|standing| standing.p99),
        holds: some(|standing| standing.holds),
        of_pgbench: all(|standing| standing.of_pgbench),
        behind: all(|standing| standing.behind),
    }
}

/// Prints the medians and the spread over the runs as tables in Markdown.
pub(crate) fn print(runs: &[Vec<Panel>], medians: &[Panel]) {
    println!("\n{} separate runs on {}.", runs.len(), machine());
    for panel in medians {
        println!("\n{}\n", panel.title());
        println!(
            "| | per second | spread | p99, ms | lock held, round trips | atomically / this | spread | of pgbench |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for standing in &panel.standings {
            let ratios: Vec<f64> = of(runs, panel, standing).iter().map(|one| one.behind).collect();
            let ((worst, best), (least, most)) = (standing.range, range(&ratios));
            println!(
                "| {} | {:.0} | {worst:.0} to {best:.0} | {} | {} | {:.2} | {least:.2} to {most:.2} | {:.2} |",
                standing.name,
                standing.per_second,
                figure(standing.p99),
                figure(standing.holds),
                standing.behind,
                standing.of_pgbench,
            );
        }
    }
}

/// A figure with one decimal, or nothing.
pub(crate) fn figure(figure: Option<f64>) -> String {
    figure.map(|figure| format!("{figure:.1}")).unwrap_or_default()
}

/// The processors and the system of this machine.
fn machine() -> String {
    let model = line(Path::new("/proc/cpuinfo"), "model name");
    let memory = line(Path::new("/proc/meminfo"), "MemTotal");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let parts = [Some(format!("{cores} cores")), model, memory.map(|memory| format!("{memory} of memory"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The value of the first line `name : value` of a file.
fn line(file: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
    Some(value.trim().to_owned())
}
