//! Says in a ValidatingAdmissionPolicy's status what its expressions get wrong about the kinds that it is for (upstream
//! `pkg/controller/validatingadmissionpolicystatus`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_schema::custom;
use xebec_schema::policy_types::{Warning, warnings};
use xebec_schema::registry::Registry;

use crate::context::Context;
use crate::runtime::api::Scope;
use crate::runtime::cache::Change;
use crate::runtime::informer::read_list;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::ValidatingAdmissionPolicy;

/// Says what has been found of the policy as it is now.
pub fn plan(policy: &ValidatingAdmissionPolicy, found: &[Warning]) -> Plan {
    let mut plan = Plan::nothing();
    let found: Vec<Value> = found.iter().map(|w| json!({"fieldRef": w.field, "warning": w.warning})).collect();
    let checking =
        if found.is_empty() { json!({"expressionWarnings": null}) } else { json!({"expressionWarnings": found}) };
    let status = json!({"observedGeneration": policy.metadata.generation, "typeChecking": checking});
    let patch = json!({"status": status});
    plan.act(Write::merge_exact(&kind::VALIDATING_ADMISSION_POLICY, &policy.metadata, "status", patch).into());
    plan
}

fn is_checked(policy: &ValidatingAdmissionPolicy) -> bool {
    policy.status.observed_generation >= policy.metadata.generation
}

/// The controller.
#[derive(Debug)]
pub struct PolicyStatuses {
    cx: Context,
    queue: Arc<Keys>,
    registry: Registry,
}

impl PolicyStatuses {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.admission_policies.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) && !is_checked(change.latest()) {
                keys.add(change.latest().metadata.key());
            }
        });
        let cx = cx.of("validatingadmissionpolicy-status-controller");
        Arc::new(Self { cx, queue, registry: Registry::builtin() })
    }
}

#[async_trait]
impl Controller for PolicyStatuses {
    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(policy) = self.cx.caches.admission_policies.get(key).filter(|p| !is_checked(p)) else {
            return Ok(None);
        };
        let kind = &kind::CUSTOM_RESOURCE_DEFINITION;
        let (definitions, _) = read_list::<Value>(&self.cx.api, kind, &Scope::default()).await?;
        let rows = definitions.iter().filter_map(custom::rows).flat_map(|rows| rows.served);
        let registry = self.registry.with_custom(rows);
        let found = warnings(&json!({"spec": policy.spec}), &registry);
        self.cx.execute(plan(&policy, &found)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    #[test]
    fn a_policy_is_checked_once_for_each_generation() {
        let policy = |observed: i64| -> ValidatingAdmissionPolicy {
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": {},
                "status": {"observedGeneration": observed}}))
            .unwrap()
        };
        assert!(!is_checked(&policy(1)) && is_checked(&policy(2)));
        let found = [Warning { field: "spec.validations[0].expression".into(), warning: "odd".into() }];
        let plan = plan(&policy(1), &found);
        let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
        let Verb::Patch("status", _, patch) = &write.verb else { panic!("no status") };
        assert_eq!(patch["status"]["observedGeneration"], 2);
        let warning = json!({"fieldRef": "spec.validations[0].expression", "warning": "odd"});
        assert_eq!(patch["status"]["typeChecking"]["expressionWarnings"], json!([warning]));
    }
}
