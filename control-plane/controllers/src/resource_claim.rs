//! Claims to devices (KEP-4381; upstream `pkg/controller/resourceclaim`): those that pods ask for by a template are made for
//! them; who needs a claim no longer is taken off it, and with the last one its devices; and those that were made for pods
//! that have ended are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::cache::{BY_CONTROLLER, Change};
use crate::runtime::meta::{Key, Meta, MetadataOnly};
use crate::runtime::plan::{Action, Note, Plan, Report, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{BY_CONSUMER, ClaimSource, Consumer, Made, Pod, PodClaim, ResourceClaim};

/// Keeps a claim that has devices until they have been taken back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On a claim that was made for a pod: what the pod calls it.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// What of a made claim's name comes from pod and claim at most: five random letters come after it.
const MAX_BASE_BYTES: usize = 57;

/// The claim that was made for a pod by a name, if it was.
fn made<'c>(pod: &Pod, claim: &str, owned: &'c [Arc<ResourceClaim>]) -> Option<&'c ResourceClaim> {
    let is_it = |known: &&Arc<ResourceClaim>| {
        known.metadata.namespace == pod.metadata.namespace
            && known.metadata.annotations.get(POD_CLAIM).is_some_and(|name| name == claim)
    };
    owned.iter().find(is_it).map(AsRef::as_ref)
}

/// The pod's claims that are to be made, with their templates: those that were not, or are not there any more.
fn missing<'p>(
    pod: &Pod,
    claims: &'p [PodClaim],
    owned: &[Arc<ResourceClaim>],
) -> impl Iterator<Item = (&'p PodClaim, &'p str)> {
    claims.iter().filter_map(|claim| {
        let ClaimSource::Template { template, made: known } = &claim.claim else { return None };
        let there = match known {
            Made::Needless => true,
            Made::As(name) => owned.iter().any(|own| *own.metadata.name == **name),
            Made::NotYet => false,
        };
        (!there && made(pod, &claim.name, owned).is_none()).then_some((claim, &**template))
    })
}

/// Makes the claims that a pod lacks. `templates` has what those of them say that are there.
pub fn plan_missing(pod: &Pod, owned: &[Arc<ResourceClaim>], templates: &BTreeMap<String, Value>) -> Plan {
    let mut plan = Plan::nothing();
    let (meta, claims) = (&pod.metadata, pod.device_claims());
    for (claim, name) in missing(pod, &claims, owned) {
        let Some(template) = templates.get(name) else {
            let message = format!(
                "PodResourceClaim {}: resource claim template {name:?}: resourceclaimtemplate.resource.k8s.io {name:?} \
                 not found",
                claim.name
            );
            plan.act(Note::warning(meta.reference(&kind::POD), "FailedResourceClaimCreation", message).into());
            continue;
        };
        let mut annotations = template["spec"]["metadata"]["annotations"].clone();
        if !annotations.is_object() {
            annotations = json!({});
        }
        annotations[POD_CLAIM] = json!(claim.name);
        let body = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"generateName": base_name(&meta.name, &claim.name), "namespace": meta.namespace,
                "ownerReferences": [meta.as_controller(&kind::POD)], "annotations": annotations,
                "labels": template["spec"]["metadata"]["labels"]},
            "spec": template["spec"]["spec"]});
        let report = Report {
            regarding: meta.reference(&kind::POD),
            success: None,
            failure: Some((
                "FailedResourceClaimCreation",
                format!("PodResourceClaim {}: create ResourceClaim : ", claim.name),
            )),
        };
        plan.act(Write::create(&kind::RESOURCE_CLAIM, &meta.namespace, body).reported(report).into());
    }
    plan
}

/// What the name of a claim that is made begins with: what is too long is cut, of pod and claim alike.
fn base_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= MAX_BASE_BYTES {
        return whole;
    }
    let cut = |text: &str| text.chars().take(text.len() * MAX_BASE_BYTES / whole.len()).collect::<String>();
    format!("{}-{}", cut(pod), cut(claim))
}

/// Tells a pod which claims have been made for it; reserves its claims for it if it has been placed already.
pub fn plan_made(pod: &Pod, owned: &[Arc<ResourceClaim>], named: &[Arc<ResourceClaim>]) -> Plan {
    let mut plan = Plan::nothing();
    let claims = pod.device_claims();
    let mut names: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let mut changed = false;
    for claim in &claims {
        let ClaimSource::Template { made: known, .. } = &claim.claim else { continue };
        let now = made(pod, &claim.name, owned).map(|now| now.metadata.name.as_str());
        match known {
            Made::Needless => drop(names.insert(&claim.name, None)),
            Made::As(name) if owned.iter().any(|own| *own.metadata.name == **name) => {
                names.insert(&claim.name, Some(name));
            }
            Made::As(_) | Made::NotYet => {
                changed |= now.is_some();
                if let Some(now) = now {
                    names.insert(&claim.name, Some(now));
                }
            }
        }
    }
    if changed {
        let statuses = names.iter().map(|(name, claim)| match claim {
            Some(claim) => json!({"name": name, "resourceClaimName": claim}),
            None => json!({"name": name}),
        });
        let status = json!({"status": {"resourceClaimStatuses": statuses.collect::<Vec<_>>()}});
        plan.act(Write::merge(&kind::POD, &pod.metadata, "status", status).into());
    }
    if pod.spec.node_name.is_empty() || is_done(pod) {
        return plan;
    }
    let names: Vec<&str> = claims.iter().filter_map(|claim| Some(claim.object()?.0)).collect();
    for claim in owned.iter().chain(named).filter(|claim| names.contains(&claim.metadata.name.as_str())) {
        if claim.status.allocation.is_some() && !claim.is_reserved_for(&pod.metadata.uid) {
            let mut consumers = claim.status.reserved_for.clone();
            consumers.push(Consumer::pod(&pod.metadata));
            let patch = json!({"status": {"reservedFor": consumers}});
            plan.act(Write::merge_exact(&kind::RESOURCE_CLAIM, &claim.metadata, "status", patch).into());
        }
    }
    plan
}

/// Whether none of a pod's containers runs or ever will.
pub fn is_done(pod: &Pod) -> bool {
    pod.is_finished() || (pod.metadata.is_terminating() && pod.spec.node_name.is_empty())
}

/// Takes those off a claim who need it no longer, and with the last one its devices. `needed` says who does.
pub fn plan_consumers(claim: &ResourceClaim, needed: impl Fn(&Consumer) -> bool) -> Plan {
    let mut plan = Plan::nothing();
    let known = &claim.status.reserved_for;
    if known.iter().any(|consumer| !consumer.is_pod()) {
        return plan;
    }
    let left: Vec<&Consumer> = known.iter().filter(|consumer| needed(consumer)).collect();
    let goes = claim.metadata.is_terminating() && left.is_empty() && claim.status.allocation.is_some();
    if left.len() == known.len() && !(goes && is_held(claim)) {
        return plan;
    }
    let mut status = json!({"reservedFor": if left.is_empty() { Value::Null } else { json!(left) }});
    if left.is_empty() && is_held(claim) {
        status["allocation"] = Value::Null;
    }
    plan.act(Write::merge_exact(&kind::RESOURCE_CLAIM, &claim.metadata, "status", json!({"status": status})).into());
    plan
}

fn is_held(claim: &ResourceClaim) -> bool {
    claim.metadata.has_finalizer(FINALIZER)
}

/// Lets go of a claim that has no devices.
pub fn plan_release(claim: &ResourceClaim) -> Plan {
    let mut plan = Plan::nothing();
    if is_held(claim) && claim.status.allocation.is_none() && claim.status.reserved_for.is_empty() {
        plan.act(Write::without_finalizer(&kind::RESOURCE_CLAIM, &claim.metadata, FINALIZER).into());
    }
    plan
}

/// The pod that a claim was made for.
fn owner(meta: &Meta) -> Option<(&str, &str)> {
    let owner = meta.controller().filter(|owner| owner.kind == "Pod" && owner.api_version == "v1")?;
    Some((&owner.name, &owner.uid))
}

/// Deletes a claim that was made for a pod that has ended, or is another one now. The pod may not be known yet: the
/// claims of those that are gone are left to the garbage collector.
pub fn plan_leftover(claim: &ResourceClaim, owning: Option<&Pod>) -> Plan {
    let mut plan = Plan::nothing();
    let Some((_, uid)) = owner(&claim.metadata) else { return plan };
    let leftover = owning.is_some_and(|pod| pod.metadata.uid != uid || is_done(pod));
    if leftover && claim.status.reserved_for.is_empty() && !claim.metadata.is_terminating() {
        let delete: Action = Write::delete(&kind::RESOURCE_CLAIM, &claim.metadata).into();
        plan.act(delete);
    }
    plan
}

/// The controller of pods that claim devices.
#[derive(Debug)]
pub struct PodClaims {
    cx: Context,
    queue: Arc<Keys>,
}

impl PodClaims {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if pod.claims_devices() && pod.is_active() && !matches!(change, Change::Removed(_)) {
                keys.add(pod.metadata.key());
            }
        });
        let keys = queue.clone();
        cx.caches.resource_claims.on_change(move |change| {
            let meta = &change.latest().metadata;
            if let (Change::Removed(_), Some((pod, _))) = (change, owner(meta)) {
                keys.add(Key::new(&meta.namespace, pod));
            }
        });
        Arc::new(Self { cx: cx.of("resource-claim-controller"), queue })
    }
}

#[async_trait]
impl Controller for PodClaims {
    fn name(&self) -> &'static str {
        "resource-claim-pods"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        4
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(pod) = caches.pods.get(key).filter(|pod| pod.claims_devices() && pod.is_active()) else {
            return Ok(None);
        };
        let owned = || caches.resource_claims.by_index(BY_CONTROLLER, &pod.metadata.uid);
        let claims = pod.device_claims();
        let mut templates = BTreeMap::new();
        let mut absent = None;
        for (_, name) in missing(&pod, &claims, &owned()) {
            match self.cx.api.get(&kind::RESOURCE_CLAIM_TEMPLATE, &key.namespace, name).await {
                Ok(template) => drop(templates.insert(name.to_owned(), template)),
                Err(error) if error.is_not_found() => absent = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        self.cx.execute(plan_missing(&pod, &owned(), &templates)).await?;
        let named: Vec<_> = claims
            .iter()
            .filter_map(|claim| caches.resource_claims.get(&Key::new(&key.namespace, claim.object()?.0)))
            .filter(|claim| owner(&claim.metadata).is_none_or(|(_, uid)| uid != pod.metadata.uid))
            .collect();
        self.cx.execute(plan_made(&pod, &owned(), &named)).await?;
        // A template that is not there may come.
        absent.map_or(Ok(None), |error| Err(error.into()))
    }
}

/// The controller of claims.
#[derive(Debug)]
pub struct Claims {
    cx: Context,
    queue: Arc<Keys>,
}

impl Claims {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.resource_claims.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        let (keys, claims) = (queue.clone(), cx.caches.resource_claims.clone());
        cx.caches.pods.on_change(move |change| {
            let pod = change.latest();
            if !pod.claims_devices() || !(is_done(pod) || matches!(change, Change::Removed(_))) {
                return;
            }
            let uid = &pod.metadata.uid;
            let concerned = claims.by_index(BY_CONSUMER, uid).into_iter().chain(claims.by_index(BY_CONTROLLER, uid));
            concerned.for_each(|claim| keys.add(claim.metadata.key()));
        });
        Arc::new(Self { cx: cx.of("resource-claim-controller"), queue })
    }

    /// Which of a claim's consumers need it. Of those that are not known the server knows better.
    async fn needed(&self, claim: &ResourceClaim) -> Result<Vec<String>, SyncError> {
        let mut needed = Vec::new();
        for consumer in claim.status.reserved_for.iter().filter(|consumer| consumer.is_pod()) {
            let key = Key::new(&claim.metadata.namespace, &consumer.name);
            let known = self.cx.caches.pods.get(&key);
            let is_needed = match &known {
                Some(pod) => pod.metadata.uid == consumer.uid && !is_done(pod),
                None => match self.cx.api.get::<MetadataOnly>(&kind::POD, &key.namespace, &key.name).await {
                    Ok(pod) => pod.metadata.uid == consumer.uid,
                    Err(error) if error.is_not_found() => false,
                    Err(error) => return Err(error.into()),
                },
            };
            if is_needed {
                needed.push(consumer.uid.clone());
            }
        }
        Ok(needed)
    }
}

#[async_trait]
impl Controller for Claims {
    fn name(&self) -> &'static str {
        "resource-claims"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        4
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let claims = &self.cx.caches.resource_claims;
        let Some(claim) = claims.get(key) else { return Ok(None) };
        let needed = self.needed(&claim).await?;
        let plan = plan_consumers(&claim, |consumer| needed.contains(&consumer.uid));
        let took_back = !plan.is_empty();
        self.cx.execute(plan).await?;
        // The scheduler holds a claim before it gives it devices: only what has just been taken back is let go.
        if took_back || claim.metadata.is_terminating() {
            let Some(claim) = claims.get(key).filter(|now| now.metadata.uid == claim.metadata.uid) else {
                return Ok(None);
            };
            self.cx.execute(plan_release(&claim)).await?;
        }
        let Some(claim) = claims.get(key) else { return Ok(None) };
        let owning =
            owner(&claim.metadata).and_then(|(pod, _)| self.cx.caches.pods.get(&Key::new(&key.namespace, pod)));
        self.cx.execute(plan_leftover(&claim, owning.as_deref())).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
