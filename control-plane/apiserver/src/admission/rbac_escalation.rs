//! Nobody grants by RBAC what they do not have (upstream `registry/rbac/*/policybased`): to write a role's rules or to
//! bind a role, one holds these rules, or the verb `escalate` or `bind` on the role.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::{Operation, Plugin, Review};
use crate::authz::rbac::{GROUP, Rbac, Rule};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::json::{list, text};

/// The check, as a plugin.
pub struct RbacEscalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl RbacEscalation {
    /// `rbac` knows what users hold; `authorizer` is asked for `escalate` and `bind`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    async fn permitted(&self, review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let namespaced = resource == "roles" || review.resource.namespaced;
        let attributes = Attributes {
            user: review.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: if namespaced { review.namespace.to_owned() } else { String::new() },
            name: name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&attributes).await, Decision::Allow(_))
    }

    /// Refuses if the user does not hold all of `rules`.
    fn check(&self, review: &Review<'_>, rules: &[Rule]) -> Result<(), Status> {
        let namespace = if review.resource.namespaced { review.namespace } else { "" };
        let held = self.rbac.permissions(review.user, namespace);
        let lacking: Vec<Rule> = rules
            .iter()
            .flat_map(Rule::split)
            .filter(|part| !held.rules.iter().any(|rule| rule.covers(part)))
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            review.user.name,
            quoted(&review.user.groups),
            describe(&lacking)
        );
        if !held.errors.is_empty() {
            why = format!("{why}; resolution errors: {}", quoted(&held.errors));
        }
        Err(super::support::forbidden(review, &why))
    }
}

/// A list as Go's `%q` prints it.
fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Simple rules as upstream prints them: a line for each group, resource and name, with all its verbs.
fn describe(rules: &[Rule]) -> String {
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in rules {
        let mut parts = Vec::new();
        for (name, items) in [
            ("APIGroups", &rule.api_groups),
            ("Resources", &rule.resources),
            ("NonResourceURLs", &rule.non_resource_urls),
            ("ResourceNames", &rule.resource_names),
        ] {
            if !items.is_empty() {
                parts.push(format!("{name}:{}", quoted(items)));
            }
        }
        let verbs = lines.entry(parts.join(", ")).or_default();
        verbs.extend(rule.verbs.iter().filter(|v| !verbs.contains(v)).cloned().collect::<Vec<_>>());
    }
    let line = |(what, verbs): (&String, &Vec<String>)| format!("{{{what}, Verbs:{}}}", quoted(verbs));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn rules_of(role: &Value) -> Vec<Rule> {
    list(role, "/rules").iter().filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || review.resource.group != GROUP || review.user.in_group("system:masters") {
            return Ok(());
        }
        let Some(object) = &review.object else { return Ok(()) };
        let plural: &str = &review.resource.plural;
        if matches!(plural, "roles" | "clusterroles") {
            let unchanged = review.old.is_some_and(|old| {
                old.get("rules") == object.get("rules") && old.get("aggregationRule") == object.get("aggregationRule")
            });
            if unchanged || self.permitted(review, "escalate", plural, review.name).await {
                return Ok(());
            }
            if object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                // It will have the rules of roles that are not known yet: only who has all may write it.
                let any = || vec!["*".to_owned()];
                let everything = [
                    Rule { verbs: any(), api_groups: any(), resources: any(), ..Rule::default() },
                    Rule { verbs: any(), non_resource_urls: any(), ..Rule::default() },
                ];
                self.check(review, &everything)?;
            }
            return self.check(review, &rules_of(object));
        }
        let unchanged = review.old.is_some_and(|old| {
            old.get("roleRef") == object.get("roleRef") && old.get("subjects") == object.get("subjects")
        });
        let (kind, name) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
        let roles = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if unchanged || self.permitted(review, "bind", roles, name).await {
            return Ok(());
        }
        match self.rbac.rules_of(kind, name, review.namespace) {
            Ok(rules) => self.check(review, &rules.iter().map(|rule| Rule::clone(rule)).collect::<Vec<_>>()),
            // Nobody knows what the role will permit.
            Err(_) => Err(Status::not_found(GROUP, roles, name)),
        }
    }
}
