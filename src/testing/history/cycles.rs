//! Finds the shortest cycle of each kind.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef as _};

use super::anomaly::{Anomaly, AnomalyKind, CycleStep, DependencyKind};
use super::dependencies::{Dependency, Graph};
use super::versions::Versions;

/// The definition of a kind of cycle: its first step, and the steps that may follow.
struct Shape {
    kind: AnomalyKind,
    first: DependencyKind,
    /// Whether wr steps may follow.
    reads: bool,
    /// How many rw steps there may be.
    misses: Misses,
}

/// How many rw steps a cycle may have, including its first step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Misses {
    /// Only the first step.
    Once,
    /// Several, no two of them adjacent.
    Apart,
    /// Several, two of them adjacent.
    Adjacent,
}

const SHAPES: [Shape; 5] = [
    Shape {
        kind: AnomalyKind::DirtyWrite,
        first: DependencyKind::WriteWrite,
        reads: false,
        misses: Misses::Once,
    },
    Shape {
        kind: AnomalyKind::CircularInformationFlow,
        first: DependencyKind::WriteRead,
        reads: true,
        misses: Misses::Once,
    },
    Shape { kind: AnomalyKind::GSingle, first: DependencyKind::ReadWrite, reads: true, misses: Misses::Once },
    Shape {
        kind: AnomalyKind::GNonadjacent,
        first: DependencyKind::ReadWrite,
        reads: true,
        misses: Misses::Apart,
    },
    Shape {
        kind: AnomalyKind::G2Item,
        first: DependencyKind::ReadWrite,
        reads: true,
        misses: Misses::Adjacent,
    },
];

/// The maximum number of steps of a search for a simple cycle in one component.
const MAX_STEPS: usize = 500_000;

/// The state of a search at a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct SearchState {
    node: Node,
    /// Whether there was an rw step after the first step.
    missed_again: bool,
    /// Whether the last step was rw.
    just_missed: bool,
    /// Whether there were two adjacent rw steps.
    adjacent: bool,
}

type Node = NodeIndex<usize>;
type Edge = EdgeIndex<usize>;

/// The result of a search for a cycle.
enum Searched {
    Found(Vec<Edge>),
    None,
    /// The search was given up.
    Undecided,
}

/// The shortest cycle of each kind in each strongly connected component, and the kinds whose search was given
/// up in some component.
pub(super) fn anomalies(versions: &Versions<'_>, graph: &Graph<'_>) -> (Vec<Anomaly>, Vec<AnomalyKind>) {
    let (mut anomalies, mut undecided) = (Vec::new(), Vec::new());
    // Cycles that the data alone show are found first, without the order of sessions or time.
    let passes: &[bool] =
        if graph.dependencies.edge_weights().all(is_data) { &[false] } else { &[false, true] };
    for &with_order in passes {
        let allowed = EdgeFiltered::from_fn(&graph.dependencies, |edge| with_order || is_data(edge.weight()));
        for component in kosaraju_scc(&allowed).into_iter().filter(|component| component.len() > 1) {
            let search = CycleSearch::new(graph, &component, with_order);
            for shape in &SHAPES {
                match search.shortest(shape) {
                    Searched::Found(cycle) => {
                        if !with_order || !cycle.iter().all(|edge| is_data(&graph.dependencies[*edge])) {
                            anomalies.push(anomaly(versions, graph, shape.kind, &cycle));
                        }
                    }
                    Searched::Undecided if !undecided.contains(&shape.kind) => undecided.push(shape.kind),
                    Searched::Undecided | Searched::None => {}
                }
            }
        }
    }
    undecided.retain(|kind| anomalies.iter().all(|anomaly| anomaly.kind != *kind));
    (anomalies, undecided)
}

const fn is_data(dependency: &Dependency<'_>) -> bool {
    !matches!(dependency.kind, DependencyKind::Session | DependencyKind::RealTime)
}

/// A search for cycles in one strongly connected component.
struct CycleSearch<'g, 'h> {
    graph: &'g Graph<'h>,
    /// For each node of the graph, whether it is in the component.
    inside: Vec<bool>,
    nodes: Vec<Node>,
    /// Whether the order of sessions or time counts.
    with_order: bool,
}

impl<'g, 'h> CycleSearch<'g, 'h> {
    fn new(graph: &'g Graph<'h>, component: &[Node], with_order: bool) -> Self {
        let mut inside = vec![false; graph.dependencies.node_count()];
        for node in component {
            inside[node.index()] = true;
        }
        let mut nodes = component.to_vec();
        nodes.sort_unstable();
        Self { graph, inside, nodes, with_order }
    }

    fn steps(&self, from: Node) -> impl Iterator<Item = (Edge, Node, DependencyKind)> {
        let edges = self.graph.dependencies.edges(from).filter(|edge| self.inside[edge.target().index()]);
        edges.map(|edge| (edge.id(), edge.target(), edge.weight().kind))
    }

    /// All steps that a cycle of this shape can begin with.
    fn first_steps(&self, shape: &Shape) -> impl Iterator<Item = (Node, Edge, Node)> {
        let first = shape.first;
        self.nodes.iter().flat_map(move |&from| {
            let steps = self.steps(from).filter(move |(_, _, kind)| *kind == first);
            steps.map(move |(edge, to, _)| (from, edge, to))
        })
    }

    fn shortest(&self, shape: &Shape) -> Searched {
        let mut shortest: Option<Vec<Edge>> = None;
        for (from, first, to) in self.first_steps(shape) {
            let limit = shortest.as_ref().map_or(usize::MAX, Vec::len);
            shortest = self.close(shape, from, first, to, limit).or(shortest);
        }
        match shortest {
            None => Searched::None,
            Some(cycle) if self.is_simple(&cycle) => Searched::Found(cycle),
            // The walk repeats a node: going round a shorter cycle twice doubles its rw steps.
            Some(walk) => SimpleSearch { search: self, shape, steps: 0 }.shortest(walk.len()),
        }
    }

    fn is_simple(&self, cycle: &[Edge]) -> bool {
        let nodes: HashSet<_> = cycle
            .iter()
            .filter_map(|edge| self.graph.dependencies.edge_endpoints(*edge))
            .map(|ends| ends.0)
            .collect();
        nodes.len() == cycle.len()
    }

    /// The shortest closed walk that begins with this step, if it has fewer steps than `limit`, by a
    /// breadth-first search. It may visit a node several times.
    fn close(&self, shape: &Shape, from: Node, first: Edge, to: Node, limit: usize) -> Option<Vec<Edge>> {
        let start = shape.begin(to);
        let mut reached: HashMap<SearchState, Option<(SearchState, Edge)>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([(start, 1)]);
        while let Some((state, length)) = queue.pop_front() {
            if state.node == from && shape.is_closed(state) {
                return Some(path(first, state, &reached));
            }
            if length + 1 >= limit {
                continue;
            }
            for (edge, next, kind) in self.steps(state.node) {
                let Some(next) = shape.step(state, next, kind, self.with_order) else { continue };
                if let Entry::Vacant(vacant) = reached.entry(next) {
                    vacant.insert(Some((state, edge)));
                    queue.push_back((next, length + 1));
                }
            }
        }
        None
    }
}

impl Shape {
    /// The state after the first step.
    fn begin(&self, node: Node) -> SearchState {
        let just_missed = self.first == DependencyKind::ReadWrite;
        SearchState { node, missed_again: false, just_missed, adjacent: false }
    }

    /// The state after a further step, if the shape allows it.
    fn step(
        &self,
        from: SearchState,
        node: Node,
        kind: DependencyKind,
        with_order: bool,
    ) -> Option<SearchState> {
        let just_missed = kind == DependencyKind::ReadWrite;
        let fits = match kind {
            DependencyKind::WriteWrite => true,
            DependencyKind::WriteRead => self.reads,
            DependencyKind::ReadWrite => match self.misses {
                Misses::Once => false,
                Misses::Apart => !from.just_missed,
                Misses::Adjacent => true,
            },
            DependencyKind::Session | DependencyKind::RealTime => with_order,
        };
        fits.then_some(SearchState {
            node,
            missed_again: from.missed_again || just_missed,
            just_missed,
            adjacent: from.adjacent || (from.just_missed && just_missed),
        })
    }

    /// Whether a cycle may end in this state, given that its first step follows its last.
    const fn is_closed(&self, end: SearchState) -> bool {
        match self.misses {
            Misses::Once => true,
            Misses::Apart => end.missed_again && !end.just_missed,
            Misses::Adjacent => end.missed_again && (end.adjacent || end.just_missed),
        }
    }
}

/// A search for a simple cycle, which visits each node once, by iterative deepening.
struct SimpleSearch<'s, 'g, 'h> {
    search: &'s CycleSearch<'g, 'h>,
    shape: &'s Shape,
    steps: usize,
}

impl SimpleSearch<'_, '_, '_> {
    fn shortest(mut self, min_length: usize) -> Searched {
        for limit in min_length..=self.search.nodes.len() {
            for (from, first, to) in self.search.first_steps(self.shape) {
                let distances = self.distances(from);
                let mut cycle = vec![first];
                let mut visited = HashSet::from([to]);
                if self.extend(from, self.shape.begin(to), limit, &distances, &mut cycle, &mut visited) {
                    return Searched::Found(cycle);
                }
                if self.steps > MAX_STEPS {
                    return Searched::Undecided;
                }
            }
        }
        Searched::None
    }

    /// The distance from each node to this one.
    fn distances(&mut self, to: Node) -> HashMap<Node, usize> {
        let mut distances = HashMap::from([(to, 0)]);
        let mut queue = VecDeque::from([(to, 0)]);
        while let Some((node, distance)) = queue.pop_front() {
            let into = self.search.graph.dependencies.edges_directed(node, Direction::Incoming);
            for edge in into.filter(|edge| self.search.inside[edge.source().index()]) {
                self.steps += 1;
                if let Entry::Vacant(vacant) = distances.entry(edge.source()) {
                    vacant.insert(distance + 1);
                    queue.push_back((edge.source(), distance + 1));
                }
            }
        }
        distances
    }

    /// Extends the path in every possible way. Returns whether `cycle` is complete.
    fn extend(
        &mut self,
        start: Node,
        state: SearchState,
        limit: usize,
        distances: &HashMap<Node, usize>,
        cycle: &mut Vec<Edge>,
        visited: &mut HashSet<Node>,
    ) -> bool {
        let steps: Vec<_> = self.search.steps(state.node).collect();
        for (edge, node, kind) in steps {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return false;
            }
            let Some(next) = self.shape.step(state, node, kind, self.search.with_order) else { continue };
            let distance = distances.get(&node).copied().unwrap_or(usize::MAX);
            if (cycle.len() + 1).saturating_add(distance) > limit {
                continue;
            }
            cycle.push(edge);
            if node == start {
                if self.shape.is_closed(next) {
                    return true;
                }
            } else if visited.insert(node) {
                if self.extend(start, next, limit, distances, cycle, visited) {
                    return true;
                }
                visited.remove(&node);
            }
            cycle.pop();
        }
        false
    }
}

fn path(
    first: Edge,
    end: SearchState,
    reached: &HashMap<SearchState, Option<(SearchState, Edge)>>,
) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut state = end;
    while let Some(Some((before, edge))) = reached.get(&state) {
        edges.push(*edge);
        state = *before;
    }
    edges.push(first);
    edges.reverse();
    edges
}

fn anomaly(versions: &Versions<'_>, graph: &Graph<'_>, kind: AnomalyKind, cycle: &[Edge]) -> Anomaly {
    let mut steps = Vec::new();
    for &edge in cycle {
        let dependency = &graph.dependencies[edge];
        let Some((from, to)) = graph.dependencies.edge_endpoints(edge) else { continue };
        let (from, to) = (from.index(), to.index());
        let evidence = dependency.explain(from, to);
        steps.push(CycleStep { from: from + 1, to: to + 1, kind: dependency.kind, evidence });
    }
    let transactions = versions.displayed(steps.iter().map(|step| step.from - 1));
    Anomaly { kind, evidence: String::new(), cycle: steps, transactions }
}

#[cfg(test)]
mod tests;
