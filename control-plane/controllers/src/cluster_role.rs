//! ClusterRoles that are made up of others (upstream `pkg/controller/clusterroleaggregation`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::context::Context;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::ClusterRole;

/// Brings a role's rules to those of the roles that it selects, in the order of their names.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Plan {
    let mut plan = Plan::nothing();
    let Some(aggregation) = &role.aggregation_rule else { return plan };
    let mut rules: Vec<&Value> = Vec::new();
    for selector in &aggregation.cluster_role_selectors {
        for other in all.iter().filter(|r| r.metadata.name != role.metadata.name) {
            if selector.matches(&other.metadata.labels) {
                for rule in &other.rules {
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
            }
        }
    }
    if !rules.iter().copied().eq(role.rules.iter()) {
        plan.act(Write::merge_exact(&kind::CLUSTER_ROLE, &role.metadata, "", json!({"rules": rules})).into());
    }
    plan
}

/// The controller.
#[derive(Debug)]
pub struct ClusterRoles {
    cx: Context,
    queue: Arc<Keys>,
}

impl ClusterRoles {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let (keys, roles) = (queue.clone(), cx.caches.cluster_roles.clone());
        cx.caches.cluster_roles.on_change(move |_| {
            roles.list().iter().filter(|r| r.aggregation_rule.is_some()).for_each(|r| keys.add(r.metadata.key()));
        });
        Arc::new(Self { cx: cx.of("clusterrole-aggregation-controller"), queue })
    }
}

#[async_trait]
impl Controller for ClusterRoles {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(role) = self.cx.caches.cluster_roles.get(key) else { return Ok(None) };
        self.cx.execute(plan(&role, &self.cx.caches.cluster_roles.list())).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn role(name: &str, labels: Value, rules: Value, aggregation: Value) -> Arc<ClusterRole> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "rules": rules,
                "aggregationRule": aggregation}))
            .unwrap(),
        )
    }

    #[test]
    fn rules_are_gathered_without_repeats() {
        let edit = json!({"to-edit": "true"});
        let target = role("edit", json!({}), json!([]), json!({"clusterRoleSelectors": [{"matchLabels": edit}]}));
        let all = [
            role("a", edit.clone(), json!([{"verbs": ["get"]}, {"verbs": ["list"]}]), Value::Null),
            role("b", edit, json!([{"verbs": ["get"]}]), Value::Null),
            role("c", json!({}), json!([{"verbs": ["*"]}]), Value::Null),
            target.clone(),
        ];
        let plan = super::plan(&target, &all);
        let Some(Action::Write(write)) = plan.actions().next() else { panic!("no write") };
        let Verb::Patch(_, _, patch) = &write.verb else { panic!("no patch") };
        assert_eq!(patch["rules"], json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
        let mut done = ClusterRole::clone(&target);
        done.rules = serde_json::from_value(patch["rules"].clone()).unwrap();
        assert!(super::plan(&done, &all).is_empty());
    }
}
