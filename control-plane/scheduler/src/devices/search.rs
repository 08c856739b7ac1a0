//! Finds devices that meet all requests of all of a pod's claims on a node (upstream `structured/internal/incubating`).
//!
//! One device after the other is picked, tentatively; where nothing fits any more, the last pick is taken back and the
//! next device tried. The first solution is taken. Devices of one request are picked in the order in which they are
//! published, so that no set of devices is tried twice; the number of picks is bounded all the same.

use xebec_controllers::views::{
    Amounts, Device, DeviceAttribute, DeviceClass, DeviceId, DeviceRequest, DeviceSelector, ResourceClaim,
    ResourceSlice, WantedDevices,
};
use xebec_schema::cel::device as cel;

use super::claimed::Claimed;
use super::constraints::Constraint;
use super::counters::Counters;
use super::pools::{Pool, State, device_is_for};
use super::{Taken, capacity};
use crate::views::Node;

/// A claim has no more devices (`AllocationResultsMaxSize`).
const MAX_RESULTS: usize = 32;
/// Devices that are looked at for one node at most (upstream gives up after 10 s).
const MAX_LOOKS: usize = 250_000;

/// Why nothing can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Something is wrong with claims, classes or devices, whatever the node.
    Error(String),
    /// It is the node's.
    Node(String),
}

/// A device that can be used on the node, unless it is taken.
#[derive(Debug)]
pub(super) struct Candidate<'d> {
    pub pool: usize,
    pub slice: &'d ResourceSlice,
    pub device: &'d Device,
    /// A claim has it for itself.
    taken: bool,
    /// How much of it claims have that share it.
    consumed: Option<&'d Amounts>,
    /// Claims that have it in the solution at hand.
    picked_by: Vec<usize>,
    /// What shares of it are in the solution at hand.
    shares: Vec<Amounts>,
}

impl Candidate<'_> {
    fn id(&self) -> DeviceId {
        let spec = &self.slice.spec;
        DeviceId { driver: spec.driver.clone(), pool: spec.pool.name.clone(), device: self.device.name.clone() }
    }
}

/// A claim, and the devices that it has in the solution at hand.
#[derive(Debug)]
pub(super) struct ClaimPlan<'d> {
    pub claim: &'d ResourceClaim,
    pub requests: Vec<RequestPlan<'d>>,
    constraints: Vec<Constraint<'d>>,
    pub picks: Vec<Pick>,
}

/// A request, and which of its alternatives is taken.
#[derive(Debug)]
pub(super) struct RequestPlan<'d> {
    pub request: &'d DeviceRequest,
    pub alternatives: Vec<Alternative<'d>>,
    pub chosen: usize,
}

/// What meets a request.
#[derive(Debug)]
pub(super) struct Alternative<'d> {
    pub wanted: &'d WantedDevices,
    pub class: &'d DeviceClass,
    /// The request's name or, if it has alternatives, `request/alternative`.
    pub full_name: String,
    count: usize,
    /// The devices, where all are wanted.
    all: Option<Vec<usize>>,
    /// Which candidates are what is wanted, as far as they have been looked at.
    known: Vec<Option<bool>>,
}

impl Alternative<'_> {
    fn is_admin(&self) -> bool {
        self.wanted.admin_access == Some(true)
    }
}

/// A device that a claim gets.
#[derive(Debug)]
pub(super) struct Pick {
    pub candidate: usize,
    pub request: usize,
    pub alternative: usize,
    /// How much of it, if others may have it too.
    pub share: Option<Amounts>,
    /// Whether it drew on counters.
    drew: bool,
}

/// Which device is to be found next.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    claim: usize,
    request: usize,
    /// `None` while the request's alternatives are still to be tried.
    alternative: Option<usize>,
    /// The how manieth of them.
    number: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Found,
    NotFound,
    /// A claim would have too many devices.
    TooMany,
}

/// The search on one node.
#[derive(Debug)]
pub(super) struct Search<'d> {
    node: &'d Node,
    claimed: &'d Claimed,
    taken: &'d Taken,
    pools: Vec<Pool<'d>>,
    /// What is left of the pools' counters, of those that were asked for.
    counters: Vec<Option<Counters<'d>>>,
    pub candidates: Vec<Candidate<'d>>,
    pub claims: Vec<ClaimPlan<'d>>,
    looks: usize,
}

impl<'d> Search<'d> {
    pub fn new(node: &'d Node, claimed: &'d Claimed, taken: &'d Taken, pools: Vec<Pool<'d>>) -> Result<Self, Problem> {
        let counters = pools.iter().map(|_| None).collect();
        let mut search =
            Self { node, claimed, taken, pools, counters, candidates: Vec::new(), claims: Vec::new(), looks: 0 };
        for (pool, known) in search.pools.iter().enumerate().filter(|(_, pool)| pool.state == State::Usable) {
            for &slice in &known.slices {
                search.candidates.extend(slice.spec.devices.iter().map(|device| candidate(pool, slice, device, taken)));
            }
        }
        for claim in &claimed.wanted {
            search.add_claim(claim)?;
        }
        Ok(search)
    }

    /// Looks for a solution; whether there is one.
    pub fn run(&mut self) -> Result<bool, Problem> {
        if self.next(At::default(), 0)? == Outcome::Found {
            return Ok(true);
        }
        match self.pools.iter().any(|pool| pool.state == State::Invalid) {
            true => Err(Problem::Node("invalid resource pools were encountered".into())),
            false => Ok(false),
        }
    }

    fn add_claim(&mut self, claim: &'d ResourceClaim) -> Result<(), Problem> {
        let at = self.claims.len();
        let key = claim.metadata.key();
        let devices = &claim.spec.devices;
        self.claims.push(ClaimPlan { claim, requests: Vec::new(), constraints: Vec::new(), picks: Vec::new() });
        let mut least = 0;
        for request in &devices.requests {
            let (number, mut alternatives) = (self.claims[at].requests.len(), Vec::new());
            self.claims[at].requests.push(RequestPlan { request, alternatives: Vec::new(), chosen: 0 });
            for wanted in request.exactly.iter().chain(&request.first_available) {
                let alternative = self.alternative(claim, request, wanted)?;
                alternatives.push(alternative);
            }
            self.claims[at].requests[number].alternatives = alternatives;
            for alternative in 0..self.claims[at].requests[number].alternatives.len() {
                self.find_all(at, number, alternative)?;
            }
            let alternatives = &self.claims[at].requests[number].alternatives;
            least += alternatives.iter().map(|a| a.count).min().unwrap_or_default();
        }
        if least > MAX_RESULTS {
            return Err(Problem::Error(format!(
                "claim {key}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
            )));
        }
        for (number, constraint) in devices.constraints.iter().enumerate() {
            let constraint = Constraint::new(constraint).ok_or_else(|| {
                Problem::Error(format!(
                    "claim {key}, constraint #{number}: empty constraint (unsupported constraint type?)"
                ))
            })?;
            self.claims[at].constraints.push(constraint);
        }
        Ok(())
    }

    fn alternative(
        &self,
        claim: &ResourceClaim,
        request: &'d DeviceRequest,
        wanted: &'d WantedDevices,
    ) -> Result<Alternative<'d>, Problem> {
        let name = if request.exactly.is_some() { &request.name } else { &wanted.name };
        let wrong = |what: String| Problem::Error(format!("claim {}, request {name}: {what}", claim.metadata.key()));
        let class = self.claimed.classes.get(&wanted.device_class_name);
        let class = class
            .ok_or_else(|| wrong(format!("could not retrieve device class {}: not found", wanted.device_class_name)))?;
        let mut alternative = Alternative {
            wanted,
            class,
            full_name: match request.exactly {
                Some(_) => request.name.clone(),
                None => format!("{}/{}", request.name, wanted.name),
            },
            count: 0,
            all: None,
            known: vec![None; self.candidates.len()],
        };
        match wanted.allocation_mode.as_str() {
            "ExactCount" => alternative.count = usize::try_from(wanted.count).unwrap_or(usize::MAX),
            "All" => {
                for pool in &self.pools {
                    let state = match pool.state {
                        State::Usable => continue,
                        State::Incomplete => "being updated",
                        State::Invalid => "invalid",
                    };
                    let pool = pool.name();
                    return Err(wrong(format!("asks for all devices, but resource pool {pool} is currently {state}")));
                }
                alternative.all = Some(Vec::new());
            }
            other => return Err(wrong(format!("unsupported count mode {other}"))),
        }
        Ok(alternative)
    }

    /// Finds out which devices all are, where all are wanted.
    fn find_all(&mut self, claim: usize, request: usize, alternative: usize) -> Result<(), Problem> {
        if self.claims[claim].requests[request].alternatives[alternative].all.is_none() {
            return Ok(());
        }
        let at = At { claim, request, alternative: Some(alternative), number: 0 };
        let mut all = Vec::new();
        for candidate in 0..self.candidates.len() {
            if self.is_wanted(at, alternative, candidate)? && self.share(at, alternative, candidate).is_some() {
                all.push(candidate);
            }
        }
        let alternative = &mut self.claims[claim].requests[request].alternatives[alternative];
        alternative.count = all.len();
        alternative.all = Some(all);
        Ok(())
    }

    fn next(&mut self, at: At, from: usize) -> Result<Outcome, Problem> {
        let Some(plan) = self.claims.get(at.claim) else { return Ok(Outcome::Found) };
        let Some(request) = plan.requests.get(at.request) else {
            // With other devices for claims before it a claim may need fewer, so this is not the end.
            return Ok(match self.next(At { claim: at.claim + 1, ..At::default() }, 0)? {
                Outcome::TooMany => Outcome::NotFound,
                other => other,
            });
        };
        let Some(chosen) = at.alternative else { return self.first_available(at, request.alternatives.len()) };
        let alternative = &request.alternatives[chosen];
        if alternative.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Outcome::NotFound);
        }
        if at.number >= alternative.count {
            return self.next(At { claim: at.claim, request: at.request + 1, ..At::default() }, 0);
        }
        if plan.picks.len() + (alternative.count - at.number) > MAX_RESULTS {
            return Ok(Outcome::TooMany);
        }
        match alternative.all.as_ref().map(|all| all[at.number]) {
            Some(candidate) => {
                if !self.pick(at, chosen, candidate, true)? {
                    return Ok(Outcome::NotFound);
                }
                self.go_on(at, candidate)
            }
            None => self.any(at, chosen, from),
        }
    }

    /// Tries a request's alternatives, the first first.
    fn first_available(&mut self, at: At, alternatives: usize) -> Result<Outcome, Problem> {
        let mut outcome = Outcome::TooMany;
        for alternative in 0..alternatives {
            self.claims[at.claim].requests[at.request].chosen = alternative;
            match self.next(At { alternative: Some(alternative), ..at }, 0)? {
                Outcome::Found => return Ok(Outcome::Found),
                Outcome::NotFound => outcome = Outcome::NotFound,
                Outcome::TooMany => {}
            }
        }
        Ok(outcome)
    }

    /// Tries the devices from a place on.
    fn any(&mut self, at: At, chosen: usize, from: usize) -> Result<Outcome, Problem> {
        for candidate in from..self.candidates.len() {
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                return Err(Problem::Node("timed out trying to allocate devices".into()));
            }
            if self.is_in_use(at, chosen, candidate)
                || !self.is_wanted(at, chosen, candidate)?
                || !self.pick(at, chosen, candidate, false)?
            {
                continue;
            }
            match self.go_on(at, candidate)? {
                Outcome::NotFound => {}
                decided => return Ok(decided),
            }
        }
        Ok(Outcome::NotFound)
    }

    /// Looks for the next device after one has been picked, and takes the pick back if that leads nowhere.
    fn go_on(&mut self, at: At, candidate: usize) -> Result<Outcome, Problem> {
        let outcome = self.next(At { number: at.number + 1, ..at }, candidate + 1)?;
        if outcome != Outcome::Found {
            self.put_back(at);
        }
        Ok(outcome)
    }

    fn chosen(&self, at: At, chosen: usize) -> &Alternative<'d> {
        &self.claims[at.claim].requests[at.request].alternatives[chosen]
    }

    /// Whether a device cannot be had because somebody has it.
    fn is_in_use(&self, at: At, chosen: usize, candidate: usize) -> bool {
        let candidate = &self.candidates[candidate];
        match self.chosen(at, chosen).is_admin() {
            true => candidate.picked_by.contains(&at.claim),
            false => candidate.taken || !candidate.picked_by.is_empty(),
        }
    }

    /// Whether a device is of the class and what the request asks for.
    fn is_wanted(&mut self, at: At, chosen: usize, number: usize) -> Result<bool, Problem> {
        let alternative = self.chosen(at, chosen);
        if let Some(known) = alternative.known.get(number).copied().flatten() {
            return Ok(known);
        }
        let candidate = &self.candidates[number];
        let class = || format!("class {}", alternative.class.metadata.name);
        let claim = || format!("claim {}", self.claims[at.claim].claim.metadata.key());
        let is_here =
            candidate.slice.spec.per_device_node_selection != Some(true) || device_is_for(self.node, candidate.device);
        let wanted = self.select(class, &alternative.class.spec.selectors, candidate)?
            && self.select(claim, &alternative.wanted.selectors, candidate)?
            && is_here;
        if let Some(known) = self.claims[at.claim].requests[at.request].alternatives[chosen].known.get_mut(number) {
            *known = Some(wanted);
        }
        Ok(wanted)
    }

    /// Whether selectors take a device; `whose` they are is said if one of them is wrong.
    fn select(
        &self,
        whose: impl Fn() -> String,
        selectors: &[DeviceSelector],
        candidate: &Candidate<'_>,
    ) -> Result<bool, Problem> {
        for (number, selector) in selectors.iter().enumerate() {
            let expression = selector.cel.as_ref().map_or("", |cel| cel.expression.as_str());
            let compiled = match self.claimed.selectors.get(expression) {
                Some(Ok(compiled)) => compiled,
                Some(Err(error)) => {
                    let whose = whose();
                    return Err(Problem::Error(format!("{whose}: selector #{number}: CEL compile error: {error}")));
                }
                None => return Ok(false),
            };
            let selected = compiled.selects(&as_selected(candidate)).map_err(|error| {
                let (whose, id) = (whose(), candidate.id());
                Problem::Error(format!("{whose}: selector #{number} on device {id}: CEL runtime error: {error}"))
            })?;
            if !selected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How much of a device a request gets; `None` if there is not so much.
    fn share(&self, at: At, chosen: usize, candidate: usize) -> Option<Amounts> {
        let candidate = &self.candidates[candidate];
        let amounts = capacity::consumed(candidate.device, &self.chosen(at, chosen).wanted.capacity.requests)?;
        let others = candidate.consumed.into_iter().chain(&candidate.shares);
        capacity::fits(candidate.device, &amounts, others).then_some(amounts)
    }

    /// Picks a device, unless that is impossible. An impossible one that `must` be had is an error where no other pick
    /// could help.
    fn pick(&mut self, at: At, chosen: usize, number: usize, must: bool) -> Result<bool, Problem> {
        let candidate = &self.candidates[number];
        let (device, pool, slice) = (candidate.device, candidate.pool, candidate.slice);
        let is_shared_already = candidate.consumed.is_some() || !candidate.shares.is_empty();
        let alternative = self.chosen(at, chosen);
        let prevents = |effect: &str| matches!(effect, "NoExecute" | "NoSchedule");
        let tolerated = device
            .taints
            .iter()
            .filter(|taint| prevents(&taint.effect))
            .all(|taint| alternative.wanted.tolerations.iter().any(|toleration| toleration.tolerates(taint)));
        if self.is_in_use(at, chosen, number) || !tolerated {
            return Ok(false);
        }
        let Some(share) = self.share(at, chosen, number) else { return Ok(false) };
        let draws = !(device.consumes_counters.is_empty() || (device.is_shared() && is_shared_already));
        if draws && !self.counters(pool).take(device) {
            return Ok(false);
        }
        if !self.constrain(at, chosen, &slice.spec.driver, device) {
            if draws {
                self.counters(pool).give_back(device);
            }
            if must {
                let (claim, id) = (self.claims[at.claim].claim.metadata.key(), self.candidates[number].id());
                let request = &self.chosen(at, chosen).full_name;
                return Err(Problem::Error(format!(
                    "claim {claim}, request {request}: cannot add device {id} because a claim constraint would not be \
                     satisfied"
                )));
            }
            return Ok(false);
        }
        let candidate = &mut self.candidates[number];
        let share = if device.is_shared() {
            candidate.shares.push(share.clone());
            Some(share)
        } else {
            candidate.picked_by.push(at.claim);
            None
        };
        let pick = Pick { candidate: number, request: at.request, alternative: chosen, share, drew: draws };
        self.claims[at.claim].picks.push(pick);
        Ok(true)
    }

    /// Adds a device to the claim's constraints, unless it breaks one.
    fn constrain(&mut self, at: At, chosen: usize, driver: &str, device: &'d Device) -> bool {
        let ClaimPlan { requests, constraints, .. } = &mut self.claims[at.claim];
        let request = &requests[at.request];
        let names = (request.request.name.as_str(), request.alternatives[chosen].full_name.as_str());
        for added in 0..constraints.len() {
            if !constraints[added].add(names, driver, device) {
                constraints[..added].iter_mut().for_each(|constraint| constraint.remove(names));
                return false;
            }
        }
        true
    }

    /// Takes the claim's last pick back.
    fn put_back(&mut self, at: At) {
        let ClaimPlan { requests, constraints, picks, .. } = &mut self.claims[at.claim];
        let Some(pick) = picks.pop() else { return };
        let request = &requests[pick.request];
        let names = (request.request.name.as_str(), request.alternatives[pick.alternative].full_name.as_str());
        constraints.iter_mut().for_each(|constraint| constraint.remove(names));
        let candidate = &mut self.candidates[pick.candidate];
        match pick.share {
            Some(_) => drop(candidate.shares.pop()),
            None => drop(candidate.picked_by.pop()),
        }
        let (pool, device) = (candidate.pool, candidate.device);
        if pick.drew {
            self.counters(pool).give_back(device);
        }
    }

    fn counters(&mut self, pool: usize) -> &mut Counters<'d> {
        let (known, taken) = (&self.pools[pool], self.taken);
        self.counters[pool].get_or_insert_with(|| Counters::new(known, taken))
    }
}

fn candidate<'d>(pool: usize, slice: &'d ResourceSlice, device: &'d Device, taken: &'d Taken) -> Candidate<'d> {
    let mut candidate =
        Candidate { pool, slice, device, taken: false, consumed: None, picked_by: Vec::new(), shares: Vec::new() };
    let id = candidate.id();
    candidate.taken = taken.is_taken(&id);
    candidate.consumed = taken.consumed(&id);
    candidate
}

/// A device as selectors see it.
fn as_selected<'c>(candidate: &Candidate<'c>) -> cel::Device<'c> {
    let Candidate { device, slice, .. } = candidate;
    let attributes = device.attributes.iter().filter_map(|(name, attribute)| {
        let attribute = match attribute {
            DeviceAttribute::Int(value) => cel::Attribute::Int(*value),
            DeviceAttribute::Bool(value) => cel::Attribute::Bool(*value),
            DeviceAttribute::String(text) => cel::Attribute::Text(text),
            DeviceAttribute::Version(version) => cel::Attribute::Version(version),
            DeviceAttribute::Unknown => return None,
        };
        Some((name.as_str(), attribute))
    });
    cel::Device {
        driver: &slice.spec.driver,
        allow_multiple: device.is_shared(),
        attributes: attributes.collect(),
        capacity: device.capacity.iter().map(|(name, capacity)| (name.as_str(), capacity.value.0)).collect(),
    }
}
