//! `pods/eviction`: a deletion that a PodDisruptionBudget can refuse
//! (`registry/core/pod/storage/eviction.go`).

use std::collections::BTreeMap;

use http::{Method, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use xebec_schema::selector::LabelSelector;
use xebec_schema::status::{Cause, Status};

use super::{parent, posted, success};
use crate::admission::Operation;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::reader::Reader;
use crate::respond;
use crate::verbs::admit::{self, Admission};
use crate::verbs::conversions::Conversions;
use crate::verbs::decode::{self, Expected};
use crate::verbs::delete::{self, Options};
use crate::verbs::modify::{self, Modify, Next, Rules};

/// A budget does not keep track of more disrupted pods than this.
const MAX_DISRUPTED_PODS: usize = 2000;

/// Serves it.
///
/// # Errors
///
/// 429 if a budget does not permit it; else as a deletion.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let body = body::read(body).await?;
    let expected = Expected {
        group: "policy",
        version: "v1",
        kind: "Eviction",
        definition: decode::definition("policy.v1.Eviction"),
    };
    let eviction = posted(call, &expected, &body)?;
    let said = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !said.is_empty() && said != call.path.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let dry_run = decode::dry_run(&call.query)?;
    // Admission sees the eviction, not the deletion that comes of it.
    let admission = Admission { operation: Operation::Create, old: None, dry_run };
    let eviction = admit::mutate(call, admission, Some(eviction)).await?;
    let pod = parent(call).await?;
    let eviction = admit::validate(call, admission, eviction).await?.unwrap_or_default();
    let mut options = Options { dry_run, ..Options::default() };
    if eviction["deleteOptions"].is_object() {
        options.merge(&eviction["deleteOptions"])?;
    }
    if !free_to_go(&pod) {
        permit(call, &pod, options.dry_run).await?;
    }
    // From here on, it is a deletion of the pod.
    call.path.subresource.clear();
    delete::remove(call, &options, tell_why).await?;
    Ok(respond::encoded(201, &success(201), call.wanted))
}

/// Tells in the pod's status that it was evicted (KEP-3329).
fn tell_why(pod: &mut Value, now: Timestamp) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now.to_string(),
        "observedGeneration": pod["metadata"]["generation"],
    });
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "DisruptionTarget") {
        Some(old) if old["status"] == "True" && old["reason"] == condition["reason"] => return,
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    pod["status"]["conditions"] = conditions.into();
}

/// Whether no budget counts the pod: it does not serve, or is going anyway.
fn free_to_go(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the pod's budget, if it has one.
async fn permit(call: &mut Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let mut budgets = Vec::new();
    for entry in call.server.cache.list("policy", "poddisruptionbudgets", call.namespace()) {
        let budget: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
        let selector = &budget["spec"]["selector"];
        let selects = !selector.is_null()
            && LabelSelector::from_json(selector).is_ok_and(|selector| selector.matches(&pod["metadata"]["labels"]));
        if selects {
            budgets.push(budget);
        }
    }
    let [budget] = budgets.as_slice() else {
        if budgets.is_empty() {
            return Ok(());
        }
        let message =
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::new(500, "", message));
    };
    let status = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    if !ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy_enough = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        if always || healthy_enough {
            return Ok(());
        }
    }
    take_disruption(call, budget["metadata"]["name"].as_str().unwrap_or_default(), dry_run).await
}

/// Counts the pod in the budget's status, so that another eviction sees it before the controller has.
async fn take_disruption(call: &mut Call, budget: &str, dry_run: bool) -> Result<(), Status> {
    let registry = call.server.registry.load_full();
    let resource = registry.get("policy", "v1", "poddisruptionbudgets").cloned().ok_or_else(Status::no_such_path)?;
    let pod = call.path.name.clone();
    let mut on_budget = Call {
        server: call.server.clone(),
        user: call.user.clone(),
        path: crate::request::ResourcePath {
            verb: "update",
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            plural: resource.plural.to_string(),
            subresource: "status".into(),
            rest: String::new(),
            namespace: call.path.namespace.clone(),
            name: budget.to_owned(),
            field_selector: String::new(),
            resource: Some(resource.clone()),
        },
        stored: resource.clone(),
        resource,
        query: crate::query::Query::default(),
        wanted: call.wanted,
        parts: http::Request::builder().method(Method::PUT).body(()).map_err(Status::internal)?.into_parts().0,
        warnings: Vec::new(),
        annotations: BTreeMap::new(),
        conversions: Conversions::default(),
    };
    let how = Modify { rules: Rules::Internal, admission: false, dry_run };
    modify::modify(&mut on_budget, how, |call, old| disrupted(call, &pod, old).map(Next::Put)).await?;
    Ok(())
}

fn disrupted(call: &Call, pod: &str, old: &Value) -> Result<Value, Status> {
    let budget = &call.path.name;
    let status = |key: &str| old["status"][key].as_i64().unwrap_or(0);
    if status("observedGeneration") < old["metadata"]["generation"].as_i64().unwrap_or(0) {
        let why = format!("The disruption budget {budget} is still being processed by the server.");
        return Err(refused(why, 10));
    }
    let allowed = status("disruptionsAllowed");
    let tracked = old["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if allowed < 0 {
        return Err(Status::forbidden("policy", "poddisruptionbudget", budget, "pdb disruptions allowed is negative"));
    }
    if tracked > MAX_DISRUPTED_PODS {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden("policy", "poddisruptionbudget", budget, why));
    }
    if allowed == 0 {
        let conditions = old["status"]["conditions"].as_array();
        let failed = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False" && c["reason"] == "SyncFailed");
        let (needs, has) = (status("desiredHealthy"), status("currentHealthy"));
        let why = match failed {
            Some(condition) => format!(
                "The disruption budget {budget} does not allow evicting pods currently because it failed sync: {}",
                condition["message"].as_str().unwrap_or_default()
            ),
            None => format!("The disruption budget {budget} needs {needs} healthy pods and has {has} currently"),
        };
        return Err(refused(why, 0));
    }
    let mut new = old.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = call.server.clock.now_seconds().to_string().into();
    new["metadata"].as_object_mut().map(|metadata| metadata.remove("resourceVersion"));
    Ok(new)
}

fn refused(why: String, retry_after_seconds: u32) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, retry_after_seconds);
    let cause = Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() };
    if let Some(details) = &mut status.details {
        details.causes.push(cause);
    }
    status
}
