//! Explores each set of units under each strategy.

use std::sync::Arc;

use crate::backend::Backend;
use crate::strategy::Strategy;
use crate::testing::explore::{Explore, ExploreError, Report, explore};
use crate::transactor::Transactor;

use super::Advisor;
use super::advice::{Advice, AdviceCell};
use super::candidate::Candidate;
use super::paths::UnitPaths;
use super::recommend::Recommendations;
use super::sets::{combinations, multisets};

/// How far an advisor is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdvisorProgress {
    /// How many explorations have ended.
    pub done: usize,
    /// How many there are, except for combinations of recommended strategies.
    pub total: usize,
    /// The names of the units that are explored next.
    pub units: Vec<String>,
    /// The strategy under which they are explored.
    pub strategy: String,
}

impl<DB: Backend> Advisor<'_, DB> {
    /// Explores each set of units under each strategy.
    ///
    /// # Errors
    ///
    /// Those of [`Explore::run`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the transactions of the units are rolled back.
    pub async fn run(mut self) -> Result<Advice, ExploreError> {
        if self.units.is_empty() {
            return Err(ExploreError::ClientCount(0));
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        if candidates.is_empty() {
            candidates = Candidate::defaults(&self.pool);
        }
        let sets = multisets(self.units.len(), self.max_units);
        // Only the others show which units are single statements.
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_key(|index| candidates[*index].for_several.is_some());
        let mut paths = UnitPaths::default();
        let mut cells = Vec::new();
        let total = sets.len() * candidates.len();
        for (done, (index, set)) in
            order.iter().flat_map(|index| sets.iter().map(move |set| (*index, set))).enumerate()
        {
            let candidate = &candidates[index];
            if let Some(notify) = &self.progress {
                let strategy = candidate.label.clone();
                notify(&AdvisorProgress { done, total, units: self.names(set), strategy });
            }
            let is_single = |unit: &usize| paths.is_single_statement(*unit);
            if candidate.for_several.is_some() && !set.iter().any(is_single) {
                continue;
            }
            let ways = self.ways(set, &vec![candidate; set.len()], &paths);
            cells.push(self.cell(set, index, candidate, ways, &mut paths).await?);
        }
        cells.sort_by(|one, other| (&one.set, one.candidate).cmp(&(&other.set, other.candidate)));
        let mut recommendations = Recommendations::new(self.units.len(), &candidates, &cells, &paths);
        let mut conflict = None;
        for set in &sets {
            let Some(chosen) = recommendations.mixed(set) else { continue };
            let chosen: Vec<&Candidate<DB>> = chosen.iter().map(|index| &candidates[*index]).collect();
            let ways = self.ways(set, &chosen, &paths);
            let cell = self.cell(set, 0, chosen[0], ways, &mut paths).await?;
            if cell.wrong > 0 {
                let labels: Vec<&str> = chosen.iter().map(|candidate| candidate.label.as_str()).collect();
                let what = cell.anomaly.map_or("a wrong outcome", |anomaly| anomaly.as_str());
                conflict =
                    Some(format!("{} under {}: {what}", cell.units.join(" and "), labels.join(" and ")));
                break;
            }
        }
        if let Some(conflict) = conflict {
            recommendations.choose_one_for_all(&conflict);
        }
        let names: Vec<&str> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        let units = recommendations.advice(&names);
        let not_covered = not_covered(&names, &cells, &paths);
        Ok(Advice { cells, units, not_covered })
    }

    /// Replays a schedule of a counterexample: of these units, in the order of the cell, under this strategy
    /// at its own isolation level.
    ///
    /// # Errors
    ///
    /// Those of [`Explore::replay`], and an unknown unit.
    pub async fn replay(
        self,
        units: &[&str],
        strategy: impl Strategy + 'static,
        schedule: &str,
    ) -> Result<Report, ExploreError> {
        let find = |name: &&str| {
            let unit = self.units.iter().position(|unit| unit.name == *name);
            unit.ok_or_else(|| ExploreError::NoSuchUnit((*name).to_owned()))
        };
        let set = units.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let candidate = Candidate::new(&self.pool, strategy, None);
        let ways = vec![candidate.ways[0].clone(); set.len()];
        self.exploration(&set, ways).replay(schedule).await
    }

    fn names(&self, set: &[usize]) -> Vec<String> {
        set.iter().map(|unit| self.units[*unit].name.clone()).collect()
    }

    /// The transactors for the units of a set, for each combination of plans that the strategies may choose.
    fn ways(
        &self,
        set: &[usize],
        chosen: &[&Candidate<DB>],
        paths: &UnitPaths,
    ) -> Vec<Vec<Arc<dyn Transactor<DB>>>> {
        let options: Vec<Vec<Arc<dyn Transactor<DB>>>> = set
            .iter()
            .zip(chosen)
            .map(|(unit, candidate)| match &candidate.for_several {
                Some(several) if !paths.is_single_statement(*unit) => vec![several.clone()],
                _ => candidate.ways.clone(),
            })
            .collect();
        let counts: Vec<usize> = options.iter().map(Vec::len).collect();
        let choose = |choice: Vec<usize>| {
            choice.into_iter().zip(&options).map(|(way, options)| options[way].clone()).collect()
        };
        combinations(set, &counts).into_iter().map(choose).collect()
    }

    /// Explores a set under each of these combinations.
    async fn cell(
        &self,
        set: &[usize],
        index: usize,
        candidate: &Candidate<DB>,
        ways: Vec<Vec<Arc<dyn Transactor<DB>>>>,
        paths: &mut UnitPaths,
    ) -> Result<AdviceCell, ExploreError> {
        let mut cell = AdviceCell {
            units: self.names(set),
            strategy: candidate.label.clone(),
            isolation: candidate.isolation,
            schedules: 0,
            wrong: 0,
            anomaly: None,
            wasted_attempts: 0,
            waits: 0,
            waited: 0,
            round_trips: 0,
            counterexample: None,
            runs: 0,
            candidate: index,
            set: set.to_vec(),
            strategy_name: candidate.name,
            missing: None,
            left_out: Vec::new(),
            is_retried: false,
        };
        for transactors in ways {
            let report = self.exploration(set, transactors).run().await?;
            paths.add(set, &report);
            cell.add::<DB>(report);
        }
        Ok(cell)
    }

    fn exploration(&self, set: &[usize], transactors: Vec<Arc<dyn Transactor<DB>>>) -> Explore<'_, DB> {
        let mut exploration = explore(&self.pool)
            .set_up(|pool| (self.set_up)(pool))
            .serializable()
            .tables(self.tables.iter().cloned())
            .allow_deadlocks();
        if self.skips_equivalent {
            exploration = exploration.skip_equivalent();
        }
        for column in &self.ignored {
            exploration = exploration.ignoring(column);
        }
        for group in &self.ids {
            exploration = exploration.renaming(group.iter().map(String::as_str));
        }
        if let Some(schedules) = self.max_schedules {
            exploration = exploration.max_schedules(schedules);
        }
        if let Some(preemptions) = self.max_preemptions {
            exploration = exploration.max_preemptions(preemptions);
        }
        for (at, (unit, transactor)) in set.iter().zip(transactors).enumerate() {
            let unit_of = &self.units[*unit];
            let earlier = set[..at].iter().filter(|other| *other == unit).count();
            let name = match earlier {
                0 => unit_of.name.clone(),
                earlier => format!("{} ({})", unit_of.name, earlier + 1),
            };
            let run = move |options| (unit_of.run)(transactor.clone(), options);
            exploration = exploration.started_client(name, Box::new(run));
        }
        exploration
    }
}

impl AdviceCell {
    fn add<DB: Backend>(&mut self, report: Report) {
        self.missing = self.missing.take().or_else(|| report.missing());
        self.is_retried |= !report.retrying.is_empty();
        for left_out in report.gaps.iter().map(ToString::to_string) {
            if !self.left_out.contains(&left_out) {
                self.left_out.push(left_out);
            }
        }
        let totals = &report.totals;
        self.runs += totals.runs;
        self.schedules += report.schedules;
        self.wasted_attempts += totals.retries + totals.failed;
        self.waits += totals.waits;
        self.waited += totals.waited;
        self.round_trips += totals.round_trips;
        // A schedule that diverged is left out: it was not the one that was meant.
        let wrong = report.counterexamples.into_iter().filter(|counterexample| !counterexample.diverged());
        for counterexample in wrong {
            self.wrong += 1;
            if self.counterexample.is_none() {
                self.anomaly = counterexample.anomaly(DB::SYNTAX, self.isolation);
                self.counterexample = Some(counterexample);
            }
        }
    }
}

/// What the explorations left out.
fn not_covered(names: &[&str], cells: &[AdviceCell], paths: &UnitPaths) -> Vec<String> {
    let mut left_out = Vec::new();
    for cell in cells {
        for gap in &cell.left_out {
            left_out.push(format!("{} under {}: {gap}", cell.units.join(" and "), cell.strategy));
        }
    }
    for (unit, name) in names.iter().enumerate() {
        let count = paths.count(unit);
        if count > 1 {
            left_out.push(format!(
                "{name} decides by its data which statements it sends: {count} sequences were seen, and \
                 other data may lead to others"
            ));
        }
    }
    if cells.iter().any(|cell| cell.is_retried) {
        left_out
            .push(String::from("schedules in which a unit that is retried would use up all its attempts"));
    }
    left_out.push(String::from(
        "data other than that of the set-up, and branches that no unit took with it; more units at a time",
    ));
    left_out
}
