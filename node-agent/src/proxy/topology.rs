//! Which of a port's endpoints a node uses (upstream `pkg/proxy/topology.go`).

use std::collections::BTreeSet;

use super::desired::{BackendSet, Candidate, Facts};
use super::views::Conditions;

/// For policy `Cluster`: the ready endpoints, those meant for this node or zone if there are any; with no ready one, those
/// that still serve while they terminate (KEP-1669).
pub fn reachable(candidates: &[Candidate<'_>], facts: &Facts) -> BackendSet {
    let ready = |c: &Candidate<'_>| c.conditions.is_ready();
    let near = nearness(candidates, facts);
    let set = collect(candidates, |c| ready(c) && near.includes(c, facts));
    if set.is_empty() { collect(candidates, |c| c.conditions.serves_while_terminating()) } else { set }
}

/// For policy `Local`: this node's.
pub fn local(candidates: &[Candidate<'_>], facts: &Facts) -> BackendSet {
    let here = |c: &Candidate<'_>| c.node == Some(facts.node.as_str());
    let set = collect(candidates, |c| here(c) && c.conditions.is_ready());
    if set.is_empty() { collect(candidates, |c| here(c) && c.conditions.serves_while_terminating()) } else { set }
}

/// The nodes that have an endpoint to serve with.
pub fn nodes(candidates: &[Candidate<'_>]) -> BTreeSet<String> {
    let of = |good: fn(Conditions) -> bool| -> BTreeSet<String> {
        candidates.iter().filter(|c| good(c.conditions)).filter_map(|c| c.node).map(str::to_owned).collect()
    };
    let ready = of(Conditions::is_ready);
    if ready.is_empty() { of(Conditions::serves_while_terminating) } else { ready }
}

fn collect(candidates: &[Candidate<'_>], which: impl Fn(&Candidate<'_>) -> bool) -> BackendSet {
    let mut set: Vec<_> = candidates.iter().filter(|c| which(c)).map(|c| c.address).collect();
    set.sort_unstable();
    set.dedup();
    set.into()
}

/// How near an endpoint must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Any,
    Zone,
    Node,
}

/// Hints count only if every ready endpoint has some, and one is for us: else the slices are being rewritten, or there is
/// nothing near.
fn nearness(candidates: &[Candidate<'_>], facts: &Facts) -> Nearness {
    let ready = || candidates.iter().filter(|c| c.conditions.is_ready());
    let all = |has: fn(&super::views::Hints) -> bool| ready().all(|c| c.hints.is_some_and(has));
    if all(|hints| !hints.nodes.is_empty()) && ready().any(|c| Nearness::Node.includes(c, facts)) {
        return Nearness::Node;
    }
    if all(|hints| !hints.zones.is_empty()) && ready().any(|c| Nearness::Zone.includes(c, facts)) {
        return Nearness::Zone;
    }
    Nearness::Any
}

impl Nearness {
    fn includes(self, candidate: &Candidate<'_>, facts: &Facts) -> bool {
        match (self, candidate.hints) {
            (Self::Any, _) => true,
            (Self::Node, Some(hints)) => hints.nodes.iter().any(|node| **node == *facts.node),
            (Self::Zone, Some(hints)) => hints.zones.iter().any(|zone| Some(zone) == facts.zone.as_ref()),
            (_, None) => false,
        }
    }
}
