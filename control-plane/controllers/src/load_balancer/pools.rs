//! Which addresses are whose: the pools of the server's configuration, and those that are objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::{CLASS, Pool};
use crate::runtime::kind;
use crate::runtime::meta::{Condition, condition};
use crate::runtime::plan::{Action, Note, Write};
use crate::views::{LoadBalancerPool, Service};

/// Labels of namespaces, by name.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// What the pools offer, and to whom.
#[derive(Debug, Default)]
pub struct Offers {
    configured: Vec<Pool>,
    custom: Vec<Custom>,
}

/// A pool that is an object.
#[derive(Debug)]
struct Custom {
    object: Arc<LoadBalancerPool>,
    /// Its ranges, or why it is not used.
    ranges: Result<Vec<Pool>, Problem>,
}

/// Why a pool is not used.
#[derive(Debug)]
struct Problem {
    reason: &'static str,
    message: String,
}

impl Offers {
    /// The configured pools come first, the others by age; a later pool that overlaps an earlier one is not used.
    pub fn new(configured: &[Pool], custom: &[Arc<LoadBalancerPool>]) -> Self {
        let mut by_age: Vec<&Arc<LoadBalancerPool>> =
            custom.iter().filter(|pool| !pool.metadata.is_terminating()).collect();
        by_age.sort_by_key(|pool| (pool.metadata.creation_timestamp, &pool.metadata.name));
        let mut used: Vec<(Pool, String)> =
            configured.iter().map(|pool| (pool.clone(), "the server's configuration".to_owned())).collect();
        let mut out = Self { configured: configured.to_vec(), custom: Vec::new() };
        for object in by_age {
            let ranges = read(object).and_then(|ranges| match overlap(&ranges, &used) {
                Some(message) => Err(Problem { reason: "Overlap", message }),
                None => Ok(ranges),
            });
            let name = format!("pool {}", object.metadata.name);
            used.extend(ranges.iter().flatten().map(|range| (range.clone(), name.clone())));
            out.custom.push(Custom { object: Arc::clone(object), ranges });
        }
        out
    }

    /// Whether there is any pool at all: without, load balancers are somebody else's.
    pub fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.custom.is_empty()
    }

    /// Whether the service's addresses are ours to give.
    pub fn is_ours(&self, service: &Service) -> bool {
        let class = service.spec.load_balancer_class.as_deref();
        let is_pools = |class: &str| self.custom.iter().any(|pool| pool.class() == Some(class));
        service.spec.kind == "LoadBalancer"
            && class.is_none_or(|class| class == CLASS || is_pools(class))
            && !service.metadata.is_terminating()
    }

    /// Whether any pool has the address.
    pub fn contain(&self, ip: IpAddr) -> bool {
        let custom = self.custom.iter().flat_map(|pool| pool.ranges.iter().flatten());
        self.configured.iter().chain(custom).any(|range| range.contains(ip))
    }

    /// The ranges that the service may have addresses of.
    pub fn of(&self, service: &Service, namespaces: &Namespaces) -> Vec<Pool> {
        let class = service.spec.load_balancer_class.as_deref().filter(|class| *class != CLASS);
        let configured = self.configured.iter().filter(|_| class.is_none());
        let custom = self.custom.iter().filter(|pool| pool.class() == class && pool.serves(service, namespaces));
        configured.chain(custom.flat_map(|pool| pool.ranges.iter().flatten())).cloned().collect()
    }

    /// The pools' statuses, where they are not what is stored. `taken` are the addresses that services have.
    pub fn statuses(&self, taken: &BTreeSet<IpAddr>, now: Timestamp) -> Vec<Action> {
        self.custom.iter().flat_map(|pool| pool.status(taken, now)).collect()
    }
}

impl Custom {
    fn class(&self) -> Option<&str> {
        self.object.spec.load_balancer_class.as_deref().filter(|class| *class != CLASS)
    }

    fn serves(&self, service: &Service, namespaces: &Namespaces) -> bool {
        let spec = &self.object.spec;
        let namespace = namespaces.get(&service.metadata.namespace);
        spec.service_selector.as_ref().is_none_or(|selector| selector.matches(&service.metadata.labels))
            && spec
                .namespace_selector
                .as_ref()
                .is_none_or(|selector| namespace.is_some_and(|labels| selector.matches(labels)))
    }

    fn status(&self, taken: &BTreeSet<IpAddr>, now: Timestamp) -> Vec<Action> {
        let (meta, stored) = (&self.object.metadata, &self.object.status);
        let ranges = self.ranges.as_deref().unwrap_or_default();
        let total = ranges.iter().fold(0_i64, |sum, range| sum.saturating_add(range.size()));
        let assigned = taken.iter().filter(|ip| ranges.iter().any(|range| range.contains(**ip))).count() as i64;
        let (status, reason, message) = match &self.ranges {
            Ok(_) => ("True", "Used", "services get addresses of the pool".to_owned()),
            Err(problem) => ("False", problem.reason, problem.message.clone()),
        };
        let before = condition(&stored.conditions, "Ready");
        let is_same = before.is_some_and(|c| c.status == status && c.message.as_ref() == Some(&message));
        if is_same && stored.total == Some(total) && stored.assigned == Some(assigned) {
            return Vec::new();
        }
        let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        let ready = Condition {
            kind: "Ready".to_owned(),
            status: status.to_owned(),
            observed_generation: Some(meta.generation),
            last_transition_time: Some(since.unwrap_or(now)),
            reason: Some(reason.to_owned()),
            message: Some(message.clone()),
            ..Condition::default()
        };
        let patch = json!({"status": {"total": total, "assigned": assigned, "conditions": [ready]}});
        let mut out: Vec<Action> = vec![Write::merge_exact(&kind::LOAD_BALANCER_POOL, meta, "status", patch).into()];
        if !is_same && status == "False" {
            out.push(Note::warning(meta.reference(&kind::LOAD_BALANCER_POOL), reason, message).into());
        }
        out
    }
}

fn read(object: &LoadBalancerPool) -> Result<Vec<Pool>, Problem> {
    let auto = object.spec.auto_assign.unwrap_or(true);
    let read = |text: &String| match text.parse::<Pool>() {
        Ok(range) => Ok(Pool { auto, ..range }),
        Err(message) => Err(Problem { reason: "Invalid", message }),
    };
    let ranges: Vec<Pool> = object.spec.addresses.iter().map(read).collect::<Result<_, _>>()?;
    let own = format!("pool {}", object.metadata.name);
    for (index, range) in ranges.iter().enumerate() {
        let others: Vec<(Pool, String)> = ranges[..index].iter().map(|r| (r.clone(), own.clone())).collect();
        if let Some(message) = overlap(std::slice::from_ref(range), &others) {
            return Err(Problem { reason: "Overlap", message });
        }
    }
    Ok(ranges)
}

fn overlap(ranges: &[Pool], used: &[(Pool, String)]) -> Option<String> {
    let meet = |a: &Pool, b: &Pool| a.contains(b.first) || b.contains(a.first);
    ranges.iter().find_map(|range| {
        let (other, whose) = used.iter().find(|(other, _)| meet(range, other))?;
        let Pool { first, last, .. } = range;
        Some(format!("{first}-{last} overlaps {}-{} of {whose}; the pool is not used", other.first, other.last))
    })
}
