//! Which addresses are whose: the pools of the server's configuration, and those that are objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use xebec_schema::address_range::AddressRange;

use super::nodes::Answering;
use super::{CLASS, Pool};
use crate::runtime::kind;
use crate::runtime::meta::{Condition, condition};
use crate::runtime::plan::{Action, Note, Write};
use crate::views::{LoadBalancerPool, Service};

/// The condition of pools that work.
const READY: &str = "Ready";
/// The condition of pools with nodes of their own: whether there is one that answers for the addresses.
const ANSWERED: &str = "Answered";
/// Why it is false; also the reason of the events.
const NO_NODE: &str = "NoNode";

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
        let mut used: Vec<(AddressRange, String)> =
            configured.iter().map(|pool| (pool.range, "the server's configuration".to_owned())).collect();
        let mut out = Self { configured: configured.to_vec(), custom: Vec::new() };
        for object in by_age {
            let ranges = read(object).and_then(|ranges| match overlap(&ranges, &used) {
                Some(message) => Err(Problem { reason: "Overlap", message }),
                None => Ok(ranges),
            });
            let name = format!("pool {}", object.metadata.name);
            used.extend(ranges.iter().flatten().map(|pool| (pool.range, name.clone())));
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
        self.configured.iter().chain(custom).any(|pool| pool.range.contains(ip))
    }

    /// The ranges that the service may have addresses of.
    pub fn of(&self, service: &Service, namespaces: &Namespaces) -> Vec<Pool> {
        let class = service.spec.load_balancer_class.as_deref().filter(|class| *class != CLASS);
        let configured = self.configured.iter().filter(|_| class.is_none());
        let custom = self.custom.iter().filter(|pool| pool.class() == class && pool.serves(service, namespaces));
        configured.chain(custom.flat_map(|pool| pool.ranges.iter().flatten())).cloned().collect()
    }

    /// The pools' statuses, where they are not what is stored.
    pub fn statuses(&self, holders: &[Holder<'_>], answering: &Answering, now: Timestamp) -> Vec<Action> {
        self.custom.iter().flat_map(|pool| pool.status(holders, answering, now)).collect()
    }
}

/// A service with its addresses, and whether it has got each of them just now.
#[derive(Debug)]
pub struct Holder<'a> {
    /// The service.
    pub service: &'a Service,
    /// Its addresses.
    pub addresses: Vec<(IpAddr, bool)>,
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

    fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().flatten().any(|pool| pool.range.contains(ip))
    }

    fn status(&self, holders: &[Holder<'_>], answering: &Answering, now: Timestamp) -> Vec<Action> {
        let (meta, stored) = (&self.object.metadata, &self.object.status);
        let total = self.ranges.iter().flatten().fold(0_i64, |sum, pool| sum.saturating_add(pool.range.size()));
        let held = holders.iter().flat_map(|holder| &holder.addresses);
        let assigned = held.filter(|(ip, _)| self.contains(*ip)).count() as i64;
        let ready = match &self.ranges {
            Ok(_) => self.condition(READY, true, "Used", "services get addresses of the pool", now),
            Err(problem) => self.condition(READY, false, problem.reason, &problem.message, now),
        };
        let wanted: Vec<Condition> = [ready].into_iter().chain(self.answered(answering, now)).collect();
        let is_new = |new: &Condition| {
            let before = condition(&stored.conditions, &new.kind);
            before.is_none_or(|before| before.status != new.status || before.message != new.message)
        };
        let mut out = Vec::new();
        let is_same = stored.conditions.len() == wanted.len() && !wanted.iter().any(is_new);
        if !is_same || stored.total != Some(total) || stored.assigned != Some(assigned) {
            let patch = json!({"status": {"total": total, "assigned": assigned, "conditions": wanted}});
            out.push(Write::merge_exact(&kind::LOAD_BALANCER_POOL, meta, "status", patch).into());
        }
        for problem in wanted.iter().filter(|condition| condition.status == "False") {
            let (reason, message) = (problem.reason.clone().unwrap_or_default(), problem.message.clone());
            if is_new(problem) {
                let regarding = meta.reference(&kind::LOAD_BALANCER_POOL);
                out.push(Note::warning(regarding, &reason, message.unwrap_or_default()).into());
            }
            if problem.kind == ANSWERED {
                out.extend(self.unanswered(holders, is_new(problem)));
            }
        }
        out
    }

    /// Whether a node answers for the addresses; nothing is said of a pool that all nodes answer for.
    fn answered(&self, answering: &Answering, now: Timestamp) -> Option<Condition> {
        let selector = self.object.spec.node_selector.as_ref()?;
        Some(match answering.has(selector) {
            true => self.condition(ANSWERED, true, "NodesMatch", "nodes answer for the pool's addresses", now),
            false => {
                let message = "no node that is ready matches the nodeSelector: nobody answers for the pool's addresses";
                self.condition(ANSWERED, false, NO_NODE, message, now)
            }
        })
    }

    /// Tells the services whose addresses nobody answers for: all, or those that have just got them.
    fn unanswered(&self, holders: &[Holder<'_>], all: bool) -> Vec<Action> {
        let name = &self.object.metadata.name;
        let tell = |holder: &Holder<'_>, ip: IpAddr| {
            let message = format!(
                "No node answers for the address {ip}: none that is ready matches the nodeSelector of pool {name}"
            );
            Note::warning(holder.service.metadata.reference(&kind::SERVICE), NO_NODE, message).into()
        };
        let concerned = |holder: &Holder<'_>| -> Vec<Action> {
            let own = holder.addresses.iter().filter(|(ip, is_new)| (all || *is_new) && self.contains(*ip));
            own.map(|(ip, _)| tell(holder, *ip)).collect()
        };
        holders.iter().flat_map(concerned).collect()
    }

    /// A condition, with the time since when it is so.
    fn condition(&self, kind: &str, is_true: bool, reason: &str, message: &str, now: Timestamp) -> Condition {
        let status = if is_true { "True" } else { "False" };
        let before = condition(&self.object.status.conditions, kind).filter(|before| before.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(self.object.metadata.generation),
            last_transition_time: Some(before.and_then(|before| before.last_transition_time).unwrap_or(now)),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..Condition::default()
        }
    }
}

fn read(object: &LoadBalancerPool) -> Result<Vec<Pool>, Problem> {
    let auto = object.spec.auto_assign.unwrap_or(true);
    let read = |text: &String| match text.parse() {
        Ok(range) => Ok(Pool { range, auto }),
        Err(message) => Err(Problem { reason: "Invalid", message }),
    };
    let ranges: Vec<Pool> = object.spec.addresses.iter().map(read).collect::<Result<_, _>>()?;
    let own = format!("pool {}", object.metadata.name);
    for (index, pool) in ranges.iter().enumerate() {
        let others: Vec<(AddressRange, String)> = ranges[..index].iter().map(|r| (r.range, own.clone())).collect();
        if let Some(message) = overlap(std::slice::from_ref(pool), &others) {
            return Err(Problem { reason: "Overlap", message });
        }
    }
    Ok(ranges)
}

fn overlap(pools: &[Pool], used: &[(AddressRange, String)]) -> Option<String> {
    pools.iter().find_map(|pool| {
        let (other, whose) = used.iter().find(|(other, _)| pool.range.meets(other))?;
        Some(format!("{} overlaps {other} of {whose}; the pool is not used", pool.range))
    })
}
