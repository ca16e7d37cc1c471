//! The smallest cycle of each kind.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef as _};

use super::anomaly::{Anomaly, AnomalyKind, DependencyKind, Step};
use super::dependencies::{Dependency, Graph};
use super::versions::Versions;

/// Which cycles are of a kind: what they begin with, and what may follow.
struct Shape {
    kind: AnomalyKind,
    first: DependencyKind,
    reads: bool,
    misses: Misses,
}

/// How often a cycle may go from a read to what it missed, its first step included.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Misses {
    /// Not after the first step.
    Once,
    /// Several times, and never twice in a row.
    Apart,
    /// Several times, and twice in a row somewhere.
    InARow,
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
        misses: Misses::InARow,
    },
];

/// How many steps a search for a cycle without repetitions may take in one knot.
const MAX_STEPS: usize = 500_000;

/// Where a search is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    node: Node,
    /// Whether a read missed something after the first step.
    again: bool,
    /// Whether the last step was that.
    just_missed: bool,
    /// Whether there were two such steps in a row.
    in_a_row: bool,
}

type Node = NodeIndex<usize>;
type Edge = EdgeIndex<usize>;

/// What a search for a cycle came to.
enum Searched {
    Found(Vec<Edge>),
    None,
    /// It was given up.
    Undecided,
}

/// For each knot of transactions that depend on each other, the smallest cycle of each kind that is in it;
/// and the kinds that some knot is too large for.
pub(super) fn anomalies(versions: &Versions<'_>, graph: &Graph<'_>) -> (Vec<Anomaly>, Vec<AnomalyKind>) {
    let (mut anomalies, mut undecided) = (Vec::new(), Vec::new());
    // What the data alone show needs no clock to be believed.
    let passes: &[bool] =
        if graph.dependencies.edge_weights().all(is_data) { &[false] } else { &[false, true] };
    for &ordered in passes {
        let allowed = EdgeFiltered::from_fn(&graph.dependencies, |edge| ordered || is_data(edge.weight()));
        for knot in kosaraju_scc(&allowed).into_iter().filter(|knot| knot.len() > 1) {
            let search = Search::new(graph, &knot, ordered);
            for shape in &SHAPES {
                match search.smallest(shape) {
                    Searched::Found(cycle) => {
                        if !ordered || !cycle.iter().all(|edge| is_data(&graph.dependencies[*edge])) {
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

struct Search<'g, 'h> {
    graph: &'g Graph<'h>,
    inside: Vec<bool>,
    nodes: Vec<Node>,
    ordered: bool,
}

impl<'g, 'h> Search<'g, 'h> {
    fn new(graph: &'g Graph<'h>, knot: &[Node], ordered: bool) -> Self {
        let mut inside = vec![false; graph.dependencies.node_count()];
        for node in knot {
            inside[node.index()] = true;
        }
        let mut nodes = knot.to_vec();
        nodes.sort_unstable();
        Self { graph, inside, nodes, ordered }
    }

    fn steps(&self, from: Node) -> impl Iterator<Item = (Edge, Node, DependencyKind)> {
        let edges = self.graph.dependencies.edges(from).filter(|edge| self.inside[edge.target().index()]);
        edges.map(|edge| (edge.id(), edge.target(), edge.weight().kind))
    }

    /// All steps that a cycle of this shape can begin with.
    fn firsts(&self, shape: &Shape) -> impl Iterator<Item = (Node, Edge, Node)> {
        let first = shape.first;
        self.nodes.iter().flat_map(move |&from| {
            let steps = self.steps(from).filter(move |(_, _, kind)| *kind == first);
            steps.map(move |(edge, to, _)| (from, edge, to))
        })
    }

    fn smallest(&self, shape: &Shape) -> Searched {
        let mut smallest: Option<Vec<Edge>> = None;
        for (from, first, to) in self.firsts(shape) {
            let limit = smallest.as_ref().map_or(usize::MAX, Vec::len);
            smallest = self.close(shape, from, first, to, limit).or(smallest);
        }
        match smallest {
            None => Searched::None,
            Some(cycle) if self.is_simple(&cycle) => Searched::Found(cycle),
            // Whoever goes round a smaller cycle twice misses something twice.
            Some(walk) => Simple { search: self, shape, steps: 0 }.smallest(walk.len()),
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

    /// The shortest way back to the beginning that begins with this step, if it has fewer steps than `limit`:
    /// a search in breadth. It may come through one place several times.
    fn close(&self, shape: &Shape, from: Node, first: Edge, to: Node, limit: usize) -> Option<Vec<Edge>> {
        let start = shape.begin(to);
        let mut reached: HashMap<Place, Option<(Place, Edge)>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([(start, 1)]);
        while let Some((place, length)) = queue.pop_front() {
            if place.node == from && shape.is_closed(place) {
                return Some(path(first, place, &reached));
            }
            if length + 1 >= limit {
                continue;
            }
            for (edge, next, kind) in self.steps(place.node) {
                let Some(next) = shape.step(place, next, kind, self.ordered) else { continue };
                if let Entry::Vacant(vacant) = reached.entry(next) {
                    vacant.insert(Some((place, edge)));
                    queue.push_back((next, length + 1));
                }
            }
        }
        None
    }
}

impl Shape {
    /// After the first step.
    fn begin(&self, node: Node) -> Place {
        let just_missed = self.first == DependencyKind::ReadWrite;
        Place { node, again: false, just_missed, in_a_row: false }
    }

    fn step(&self, from: Place, node: Node, kind: DependencyKind, ordered: bool) -> Option<Place> {
        let just_missed = kind == DependencyKind::ReadWrite;
        let fits = match kind {
            DependencyKind::WriteWrite => true,
            DependencyKind::WriteRead => self.reads,
            DependencyKind::ReadWrite => match self.misses {
                Misses::Once => false,
                Misses::Apart => !from.just_missed,
                Misses::InARow => true,
            },
            DependencyKind::Session | DependencyKind::RealTime => ordered,
        };
        fits.then_some(Place {
            node,
            again: from.again || just_missed,
            just_missed,
            in_a_row: from.in_a_row || (from.just_missed && just_missed),
        })
    }

    /// Whether a cycle may end like this, where its last step is followed by its first.
    const fn is_closed(&self, end: Place) -> bool {
        match self.misses {
            Misses::Once => true,
            Misses::Apart => end.again && !end.just_missed,
            Misses::InARow => end.again && (end.in_a_row || end.just_missed),
        }
    }
}

/// A search for a cycle that comes through each place once: in depth, for longer and longer ones.
struct Simple<'s, 'g, 'h> {
    search: &'s Search<'g, 'h>,
    shape: &'s Shape,
    steps: usize,
}

impl Simple<'_, '_, '_> {
    fn smallest(mut self, shortest: usize) -> Searched {
        for limit in shortest..=self.search.nodes.len() {
            for (from, first, to) in self.search.firsts(self.shape) {
                let home = self.distances(from);
                let mut cycle = vec![first];
                let mut visited = HashSet::from([to]);
                if self.extend(from, self.shape.begin(to), limit, &home, &mut cycle, &mut visited) {
                    return Searched::Found(cycle);
                }
                if self.steps > MAX_STEPS {
                    return Searched::Undecided;
                }
            }
        }
        Searched::None
    }

    /// How many steps it takes at least from each place to this one.
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

    fn extend(
        &mut self,
        home: Node,
        place: Place,
        limit: usize,
        distances: &HashMap<Node, usize>,
        cycle: &mut Vec<Edge>,
        visited: &mut HashSet<Node>,
    ) -> bool {
        let steps: Vec<_> = self.search.steps(place.node).collect();
        for (edge, node, kind) in steps {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return false;
            }
            let Some(next) = self.shape.step(place, node, kind, self.search.ordered) else { continue };
            let distance = distances.get(&node).copied().unwrap_or(usize::MAX);
            if (cycle.len() + 1).saturating_add(distance) > limit {
                continue;
            }
            cycle.push(edge);
            if node == home {
                if self.shape.is_closed(next) {
                    return true;
                }
            } else if visited.insert(node) {
                if self.extend(home, next, limit, distances, cycle, visited) {
                    return true;
                }
                visited.remove(&node);
            }
            cycle.pop();
        }
        false
    }
}

fn path(first: Edge, end: Place, reached: &HashMap<Place, Option<(Place, Edge)>>) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut place = end;
    while let Some(Some((before, edge))) = reached.get(&place) {
        edges.push(*edge);
        place = *before;
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
        steps.push(Step { from: from + 1, to: to + 1, kind: dependency.kind, evidence });
    }
    let transactions = versions.printed(steps.iter().map(|step| step.from - 1));
    Anomaly { kind, evidence: String::new(), cycle: steps, transactions }
}

#[cfg(test)]
mod tests;
