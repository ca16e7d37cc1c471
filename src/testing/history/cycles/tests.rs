//! Which cycles are found, compared with an exhaustive search.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

use DependencyKind::{ReadWrite, WriteRead, WriteWrite};

/// Extends a path in every possible way, and records the shapes of all cycles.
fn all_cycles(graph: &Graph<'_>, path: &mut Vec<(Node, DependencyKind)>, at: Node, found: &mut [bool; 5]) {
    for edge in graph.dependencies.edges(at) {
        path.push((at, edge.weight().kind));
        if edge.target() == path[0].0 {
            record(&path.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), found);
        } else if path.iter().all(|(node, _)| *node != edge.target()) {
            all_cycles(graph, path, edge.target(), found);
        }
        path.pop();
    }
}

/// Records the shape of a cycle by the definition of its kind.
fn record(cycle: &[DependencyKind], found: &mut [bool; 5]) {
    let misses = cycle.iter().filter(|kind| **kind == ReadWrite).count();
    let next = |at: usize| cycle[(at + 1) % cycle.len()];
    let adjacent = (0..cycle.len()).any(|at| cycle[at] == ReadWrite && next(at) == ReadWrite);
    found[0] |= cycle.iter().all(|kind| *kind == WriteWrite);
    found[1] |= misses == 0 && cycle.contains(&WriteRead);
    found[2] |= misses == 1;
    found[3] |= misses > 1 && !adjacent;
    found[4] |= misses > 1 && adjacent;
}

#[test]
fn finds_exactly_the_kinds_of_cycles_that_exist() {
    let mut seen = [[0; 2]; 5];
    for seed in 0..6_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = random.random_range(2..=6);
        let edges: Vec<_> = (0..random.random_range(2..=10))
            .map(|_| {
                let kind = [WriteWrite, WriteRead, ReadWrite][random.random_range(0..3)];
                (random.random_range(0..nodes), random.random_range(0..nodes), kind)
            })
            .collect();
        let graph = Graph::of(nodes, &edges);
        let mut expected = [false; 5];
        for node in graph.dependencies.node_indices() {
            all_cycles(&graph, &mut Vec::new(), node, &mut expected);
        }
        let mut found = [false; 5];
        for component in kosaraju_scc(&graph.dependencies).into_iter().filter(|nodes| nodes.len() > 1) {
            let search = CycleSearch::new(&graph, &component, false);
            for (shape, found) in SHAPES.iter().zip(&mut found) {
                *found |= matches!(search.shortest(shape), Searched::Found(_));
            }
        }
        assert_eq!(found, expected, "seed {seed}: {edges:?}");
        for (seen, is_there) in seen.iter_mut().zip(expected) {
            seen[usize::from(is_there)] += 1;
        }
    }
    assert!(seen.iter().flatten().all(|times| *times > 20), "{seen:?}");
}
