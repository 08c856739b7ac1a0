//! Making room: which pods of lower priority are to go, and on which node (upstream
//! `pkg/scheduler/framework/preemption`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use xebec_controllers::runtime::meta::Key;

use crate::filters::{Prepared, Refusal, check};
use crate::schedule::nominated_on;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::views::{Node, Pod, PodRef};

/// How many more disruptions each budget grants, and which pods it is for.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// Its pods.
    pub selector: xebec_controllers::runtime::labels::LabelSelector,
    /// How many may still go.
    pub allowed: i32,
}

/// Room to be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// On this node.
    pub node: String,
    /// By deleting these pods, the most important first.
    pub victims: Vec<PodRef>,
}

/// Finds the node where making room costs least, among those that refused the pod, or says in upstream's words why there
/// is none.
pub fn preempt(
    snapshot: &Snapshot,
    pod: &Pod,
    prepared: &Prepared,
    refusals: &BTreeMap<String, Refusal>,
    budgets: &[Budget],
) -> Result<Preemption, String> {
    if pod.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    // Room is being made already: wait for it.
    if let Some(info) = snapshot.nodes.get(&pod.nominated_node)
        && !refusals.get(&pod.nominated_node).is_some_and(|r| r.is_final)
        && info.pods.values().any(|p| p.metadata.is_terminating() && p.priority < pod.priority)
    {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut best: Option<(Cost, Preemption)> = None;
    let mut helpless = 0_usize;
    let mut without_victims = 0_usize;
    for (name, refusal) in refusals {
        if refusal.is_final {
            helpless += 1;
            continue;
        }
        let Some(info) = snapshot.nodes.get(name) else { continue };
        let Some(node) = info.node.as_deref() else { continue };
        match victims(snapshot, pod, prepared, (node, info), budgets) {
            Some((violations, victims)) => {
                let cost = Cost::new(violations, &victims);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, Preemption { node: name.clone(), victims }));
                }
            }
            None => without_victims += 1,
        }
    }
    best.map(|(_, found)| found).ok_or_else(|| {
        let mut parts = Vec::new();
        if without_victims > 0 {
            parts.push(format!("{without_victims} No preemption victims found for incoming pod"));
        }
        if helpless > 0 {
            parts.push(format!("{helpless} Preemption is not helpful for scheduling"));
        }
        parts.sort();
        format!("0/{} nodes are available: {}.", refusals.len(), parts.join(", "))
    })
}

/// What making room costs; less is better.
type StartOrder = Reverse<Option<jiff::Timestamp>>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    violations: usize,
    highest_priority: i32,
    sum_of_priorities: i64,
    count: usize,
    /// The later the most important victim started, the better.
    started: StartOrder,
}

impl Cost {
    fn new(violations: usize, victims: &[PodRef]) -> Self {
        let highest = victims.first().map_or(i32::MIN, |p| p.priority);
        Self {
            violations,
            highest_priority: highest,
            // Shifted, so that victims of negative priority count too.
            sum_of_priorities: victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum(),
            count: victims.len(),
            started: Reverse(victims.iter().filter(|p| p.priority == highest).filter_map(|p| p.start_time).min()),
        }
    }
}

/// The pods that must go from a node, and how many of them against a budget: all of lower priority are thought away, and
/// then as many as possible are let stay, those that a budget guards first, then the important.
fn victims(
    snapshot: &Snapshot,
    pod: &Pod,
    prepared: &Prepared,
    (node, info): (&Node, &NodeInfo),
    budgets: &[Budget],
) -> Option<(usize, Vec<PodRef>)> {
    let mut lower: Vec<PodRef> = info.pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let mut trial = info.clone();
    let mut gone: BTreeSet<Key> = BTreeSet::new();
    for victim in &lower {
        trial.remove(&victim.metadata.key());
        gone.insert(victim.metadata.key());
    }
    let nominated = nominated_on(snapshot, pod, &node.metadata.name);
    let fits = |trial: &NodeInfo, gone: &BTreeSet<Key>| {
        let prepared = prepared
            .without(snapshot, pod, &|p: &Pod| p.node_name == node.metadata.name && gone.contains(&p.metadata.key()));
        check(pod, (node, trial), &nominated, snapshot, &prepared).is_ok()
    };
    if !fits(&trial, &gone) {
        return None;
    }
    lower.sort_by_key(|p| (Reverse(p.priority), p.start_time, p.metadata.key()));
    let guarded = guarded(&lower, budgets);
    let mut violations = 0;
    let mut victims = Vec::new();
    for is_guarded in [true, false] {
        for candidate in lower.iter().filter(|p| guarded.contains(&p.metadata.key()) == is_guarded) {
            let key = candidate.metadata.key();
            trial.add(candidate);
            gone.remove(&key);
            if !fits(&trial, &gone) {
                trial.remove(&key);
                gone.insert(key);
                violations += usize::from(is_guarded);
                victims.push(candidate.clone());
            }
        }
    }
    victims.sort_by_key(|p| (Reverse(p.priority), p.start_time, p.metadata.key()));
    Some((violations, victims))
}

/// Those of the pods whose going would break a budget, were they to go in this order.
fn guarded(pods: &[PodRef], budgets: &[Budget]) -> BTreeSet<Key> {
    let mut left: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    let mut guarded = BTreeSet::new();
    for pod in pods {
        for (budget, left) in budgets.iter().zip(&mut left) {
            let selected = budget.namespace == pod.metadata.namespace
                && !pod.metadata.labels.is_empty()
                && budget.selector.matches(&pod.metadata.labels);
            if selected {
                *left -= 1;
                if *left < 0 {
                    guarded.insert(pod.metadata.key());
                }
            }
        }
    }
    guarded
}
