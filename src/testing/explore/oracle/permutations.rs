//! All orders of a few things.

/// Returns all orders of the numbers below `count`, the ascending one first.
pub(super) fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        let longer = all.iter().flat_map(|order: &Vec<usize>| {
            let rest = (0..count).filter(|next| !order.contains(next));
            rest.map(|next| order.iter().copied().chain([next]).collect())
        });
        all = longer.collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_order_once() {
        assert_eq!(permutations(0), [Vec::<usize>::new()]);
        assert_eq!(permutations(2), [[0, 1], [1, 0]]);
        let mut all = permutations(4);
        assert_eq!((all.len(), &all[0]), (24, &vec![0, 1, 2, 3]));
        all.dedup();
        assert_eq!(all.len(), 24);
    }
}
