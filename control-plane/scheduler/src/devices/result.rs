//! What a claim's status says of the devices that were found for it.

use std::collections::BTreeMap;

use xebec_controllers::runtime::labels::Requirement;
use xebec_controllers::views::{
    AllocatedDevice, Allocation, DeviceAllocation, DeviceConfiguration, NodeSelector, NodeTerm,
};

use super::search::{ClaimPlan, Pick, Search};
use crate::views::Node;

/// The solution at hand, claim by claim. Shares have no names yet: those are random.
pub(super) fn allocations(search: &Search<'_>, node: &Node) -> Result<Vec<Allocation>, String> {
    search.claims.iter().map(|plan| allocation(search, plan, node)).collect()
}

fn allocation(search: &Search<'_>, plan: &ClaimPlan<'_>, node: &Node) -> Result<Allocation, String> {
    let results = plan.picks.iter().map(|pick| device(search, plan, pick)).collect();
    let devices = DeviceAllocation { results, config: config(plan) };
    Ok(Allocation { devices, node_selector: node_selector(search, plan, node)?, allocation_timestamp: None })
}

fn device(search: &Search<'_>, plan: &ClaimPlan<'_>, pick: &Pick) -> AllocatedDevice {
    let candidate = &search.candidates[pick.candidate];
    let alternative = &plan.requests[pick.request].alternatives[pick.alternative];
    let spec = &candidate.slice.spec;
    AllocatedDevice {
        request: alternative.full_name.clone(),
        driver: spec.driver.clone(),
        pool: spec.pool.name.clone(),
        device: candidate.device.name.clone(),
        admin_access: alternative.wanted.admin_access.filter(|admin| *admin),
        tolerations: alternative.wanted.tolerations.clone(),
        binding_conditions: candidate.device.binding_conditions.clone(),
        binding_failure_conditions: candidate.device.binding_failure_conditions.clone(),
        share_id: pick.share.as_ref().map(|_| String::new()),
        consumed_capacity: pick.share.clone().unwrap_or_default(),
    }
}

/// What drivers are told: by the classes that were chosen, each once, and by the claim, for requests that were chosen.
/// What is for all requests names none.
fn config(plan: &ClaimPlan<'_>) -> Vec<DeviceConfiguration> {
    let mut out: Vec<DeviceConfiguration> = Vec::new();
    let mut of_class: BTreeMap<&str, std::ops::Range<usize>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for request in &plan.requests {
        let Some(alternative) = request.alternatives.get(request.chosen) else { continue };
        chosen.push((request.request.name.as_str(), alternative.full_name.as_str()));
        let class = &alternative.class;
        if let Some(range) = of_class.get(class.metadata.name.as_str()) {
            out[range.clone()].iter_mut().for_each(|config| config.requests.push(alternative.full_name.clone()));
            continue;
        }
        let start = out.len();
        out.extend(class.spec.config.iter().map(|config| DeviceConfiguration {
            source: "FromClass".into(),
            requests: vec![alternative.full_name.clone()],
            opaque: config.opaque.clone(),
        }));
        of_class.insert(&class.metadata.name, start..out.len());
    }
    let names = |config: &DeviceConfiguration, (request, full): (&str, &str)| {
        config.requests.iter().any(|name| name == request || name == full)
    };
    for config in &plan.claim.spec.devices.config {
        if config.requests.is_empty() || chosen.iter().any(|request| names(config, *request)) {
            out.push(DeviceConfiguration { source: "FromClaim".into(), ..config.clone() });
        }
    }
    for config in &mut out {
        if chosen.iter().all(|request| names(config, *request)) {
            config.requests.clear();
        }
    }
    out
}

/// Where the devices can be used; `None` is everywhere.
fn node_selector(search: &Search<'_>, plan: &ClaimPlan<'_>, node: &Node) -> Result<Option<NodeSelector>, String> {
    let mut together = NodeTerm::default();
    for pick in &plan.picks {
        let candidate = &search.candidates[pick.candidate];
        let (spec, device) = (&candidate.slice.spec, candidate.device);
        let (name, selector) = match spec.per_device_node_selection {
            Some(true) => (&device.node_name, &device.node_selector),
            _ => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || device.binds_to_node {
            let by_name = Requirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: vec![node.metadata.name.clone()],
            };
            let term = NodeTerm { match_fields: vec![by_name], ..NodeTerm::default() };
            return Ok(Some(NodeSelector { node_selector_terms: vec![term] }));
        }
        match selector.as_ref().map(|selector| selector.node_selector_terms.as_slice()) {
            None | Some([]) => {}
            Some([term]) => {
                add_new(&term.match_fields, &mut together.match_fields);
                add_new(&term.match_expressions, &mut together.match_expressions);
            }
            Some(terms) => {
                let claim = &plan.claim.metadata.name;
                let count = terms.len();
                return Err(format!(
                    "create NodeSelector for claim {claim}: unsupported ResourceSlice.NodeSelector with {count} terms"
                ));
            }
        }
    }
    let nothing = together == NodeTerm::default();
    Ok((!nothing).then(|| NodeSelector { node_selector_terms: vec![together] }))
}

fn add_new(from: &[Requirement], to: &mut Vec<Requirement>) {
    let sorted = |requirement: &Requirement| {
        let mut values = requirement.values.clone();
        values.sort();
        values
    };
    for requirement in from {
        let same = |known: &Requirement| {
            known.key == requirement.key
                && known.operator == requirement.operator
                && sorted(known) == sorted(requirement)
        };
        if !to.iter().any(same) {
            to.push(requirement.clone());
        }
    }
}
