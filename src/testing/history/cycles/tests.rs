//! Which circles are found, and which are none.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

use DependencyKind::{ReadWrite, WriteRead, WriteWrite};

/// Extends a way in each possible manner, and notes which shapes the cycles among these have.
fn all_cycles(graph: &Graph<'_>, way: &mut Vec<(Node, DependencyKind)>, at: Node, found: &mut [bool; 5]) {
    for edge in graph.dependencies.edges(at) {
        way.push((at, edge.weight().kind));
        if edge.target() == way[0].0 {
            note(&way.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), found);
        } else if way.iter().all(|(node, _)| *node != edge.target()) {
            all_cycles(graph, way, edge.target(), found);
        }
        way.pop();
    }
}

/// By what the kinds of anomalies say of themselves.
fn note(cycle: &[DependencyKind], found: &mut [bool; 5]) {
    let misses = cycle.iter().filter(|kind| **kind == ReadWrite).count();
    let next = |at: usize| cycle[(at + 1) % cycle.len()];
    let in_a_row = (0..cycle.len()).any(|at| cycle[at] == ReadWrite && next(at) == ReadWrite);
    found[0] |= cycle.iter().all(|kind| *kind == WriteWrite);
    found[1] |= misses == 0 && cycle.contains(&WriteRead);
    found[2] |= misses == 1;
    found[3] |= misses > 1 && !in_a_row;
    found[4] |= misses > 1 && in_a_row;
}

/// No cycle of one kind hides one of another kind, and none is made up.
#[test]
fn every_kind_of_cycle_is_found_and_no_other() {
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
        for knot in kosaraju_scc(&graph.dependencies).into_iter().filter(|knot| knot.len() > 1) {
            let search = Search::new(&graph, &knot, false);
            for (shape, found) in SHAPES.iter().zip(&mut found) {
                *found |= matches!(search.smallest(shape), Searched::Found(_));
            }
        }
        assert_eq!(found, expected, "seed {seed}: {edges:?}");
        for (seen, is_there) in seen.iter_mut().zip(expected) {
            seen[usize::from(is_there)] += 1;
        }
    }
    assert!(seen.iter().flatten().all(|times| *times > 20), "{seen:?}");
}
