//! The smallest cycle of each kind.

use std::collections::{HashMap, VecDeque};

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

/// How often a cycle may go from a read to what it missed, after its first step.
#[derive(PartialEq, Eq)]
enum Misses {
    Never,
    /// At least once, and never right after another one.
    Apart,
    /// At least once.
    Again,
}

const SHAPES: [Shape; 5] = [
    Shape {
        kind: AnomalyKind::DirtyWrite,
        first: DependencyKind::WriteWrite,
        reads: false,
        misses: Misses::Never,
    },
    Shape {
        kind: AnomalyKind::CircularInformationFlow,
        first: DependencyKind::WriteRead,
        reads: true,
        misses: Misses::Never,
    },
    Shape {
        kind: AnomalyKind::GSingle,
        first: DependencyKind::ReadWrite,
        reads: true,
        misses: Misses::Never,
    },
    Shape {
        kind: AnomalyKind::GNonadjacent,
        first: DependencyKind::ReadWrite,
        reads: true,
        misses: Misses::Apart,
    },
    Shape { kind: AnomalyKind::G2Item, first: DependencyKind::ReadWrite, reads: true, misses: Misses::Again },
];

/// Where a search is: the transaction, whether a read missed something on the way, and whether the last step was that.
type Place = (Node, bool, bool);
type Node = NodeIndex<usize>;
type Edge = EdgeIndex<usize>;

/// For each knot of transactions that depend on each other, the smallest cycle of each kind that is in it.
pub(super) fn anomalies(versions: &Versions<'_>, graph: &Graph<'_>) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    // What the data alone show needs no clock to be believed.
    let passes: &[bool] =
        if graph.dependencies.edge_weights().all(is_data) { &[false] } else { &[false, true] };
    for &ordered in passes {
        let allowed = EdgeFiltered::from_fn(&graph.dependencies, |edge| ordered || is_data(edge.weight()));
        for knot in kosaraju_scc(&allowed).into_iter().filter(|knot| knot.len() > 1) {
            let search = Search::new(graph, &knot, ordered);
            let mut implied = false;
            for shape in &SHAPES {
                // Whoever goes round a smaller one twice finds these as well.
                if implied && matches!(shape.misses, Misses::Apart | Misses::Again) {
                    break;
                }
                let Some(cycle) = search.smallest(shape) else { continue };
                implied = true;
                if !ordered || !cycle.iter().all(|edge| is_data(&graph.dependencies[*edge])) {
                    anomalies.push(anomaly(versions, graph, shape.kind, &cycle));
                }
            }
        }
    }
    anomalies
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

    fn smallest(&self, shape: &Shape) -> Option<Vec<Edge>> {
        let mut smallest: Option<Vec<Edge>> = None;
        for &from in &self.nodes {
            for (first, to, kind) in self.steps(from) {
                if kind == shape.first {
                    let limit = smallest.as_ref().map_or(usize::MAX, Vec::len);
                    smallest = self.close(shape, from, first, to, limit).or(smallest);
                }
            }
        }
        smallest
    }

    /// The shortest cycle that begins with this step, if it has fewer steps than `limit`: a search in breadth.
    fn close(&self, shape: &Shape, from: Node, first: Edge, to: Node, limit: usize) -> Option<Vec<Edge>> {
        let missed_first = shape.first == DependencyKind::ReadWrite;
        let start: Place = (to, false, missed_first);
        let mut reached: HashMap<Place, Option<(Place, Edge)>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([(start, 1)]);
        while let Some((place, length)) = queue.pop_front() {
            let (node, again, just_missed) = place;
            let closed = match shape.misses {
                Misses::Never => true,
                Misses::Apart => again && !just_missed,
                Misses::Again => again,
            };
            if node == from && closed {
                return Some(path(first, place, &reached));
            }
            if length + 1 >= limit {
                continue;
            }
            for (edge, next, kind) in self.steps(node) {
                let misses = kind == DependencyKind::ReadWrite;
                let fits = match kind {
                    DependencyKind::WriteWrite => true,
                    DependencyKind::WriteRead => shape.reads,
                    DependencyKind::ReadWrite => match shape.misses {
                        Misses::Never => false,
                        Misses::Apart => !just_missed,
                        Misses::Again => true,
                    },
                    DependencyKind::Session | DependencyKind::RealTime => self.ordered,
                };
                let next: Place = (next, again || misses, misses);
                if fits && !reached.contains_key(&next) {
                    reached.insert(next, Some((place, edge)));
                    queue.push_back((next, length + 1));
                }
            }
        }
        None
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
