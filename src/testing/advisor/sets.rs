//! Sets of units that run at the same time.

/// All multisets of 2 to `max` of the numbers below `count`, in ascending order.
pub(super) fn multisets(count: usize, max: usize) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    let mut longest: Vec<Vec<usize>> = (0..count).map(|unit| vec![unit]).collect();
    for _ in 2..=max {
        let longer = longest.iter().flat_map(|set| {
            let first = set.last().copied().unwrap_or_default();
            (first..count).map(move |unit| [set.as_slice(), &[unit]].concat())
        });
        longest = longer.collect();
        all.extend(longest.iter().cloned());
    }
    all
}

/// All ways to choose one of `choices[i]` options for each unit of a set. Of choices that differ only by
/// exchanging equal units, one is listed.
pub(super) fn combinations(set: &[usize], choices: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for (at, count) in choices.iter().enumerate() {
        let longer = all.iter().flat_map(|chosen: &Vec<usize>| {
            let is_equal = at > 0 && set[at] == set[at - 1] && choices[at] == choices[at - 1];
            let first = chosen.last().copied().filter(|_| is_equal).unwrap_or_default();
            (first..*count).map(move |next| [chosen.as_slice(), &[next]].concat())
        });
        all = longer.collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_also_runs_beside_itself() {
        assert_eq!(multisets(1, 2), [[0, 0]]);
        assert_eq!(multisets(2, 2), [[0, 0], [0, 1], [1, 1]]);
        assert_eq!(multisets(2, 3).len(), 3 + 4);
    }

    #[test]
    fn equal_units_are_not_exchanged() {
        assert_eq!(combinations(&[0, 0], &[2, 2]), [[0, 0], [0, 1], [1, 1]]);
        assert_eq!(combinations(&[0, 1], &[2, 2]).len(), 4);
        assert_eq!(combinations(&[0, 1], &[1, 1]), [[0, 0]]);
    }
}
