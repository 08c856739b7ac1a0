//! `PodSecurity`: pods keep to the standard that their namespace's labels name (upstream
//! `pod-security-admission/admission`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xebec_schema::pod_security::{self, Level, Policy, Standard, Violation};
use xebec_schema::status::Status;

use super::support::{forbidden, is};
use super::{Operation, Plugin, Review};
use crate::json::{decode, text};
use crate::reader::Reader;

/// Pods that are looked at when a namespace's labels change (upstream's `defaultNamespaceMaxPodsToCheck`).
const MOST_PODS: usize = 3000;
/// Keys of audit annotations begin so.
const ANNOTATION: &str = "pod-security.kubernetes.io/";
/// Subresources of pods that leave the pod as it is.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Who and what is not looked at, and what applies without labels (`pod-security.admission.config.k8s.io/v1
/// PodSecurityConfiguration`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSecurityConfig {
    /// What applies in namespaces without labels; keys and values as the labels' (`enforce: baseline`).
    pub defaults: BTreeMap<String, String>,
    /// Not looked at.
    pub exemptions: Exemptions,
}

/// Not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exemptions {
    /// What these users do.
    pub usernames: Vec<String>,
    /// Pods of these runtime classes.
    pub runtime_classes: Vec<String>,
    /// What is in these namespaces.
    pub namespaces: Vec<String>,
}

impl PodSecurityConfig {
    /// What applies without labels.
    ///
    /// # Errors
    ///
    /// A key or value that is none, in words.
    pub fn policy(&self) -> Result<Policy, String> {
        const KEYS: [&str; 6] = ["enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version"];
        if let Some(key) = self.defaults.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("podSecurity.defaults: there is no {key:?}; there are {}", KEYS.join(", ")));
        }
        let labels: BTreeMap<String, &String> =
            self.defaults.iter().map(|(key, value)| (format!("{ANNOTATION}{key}"), value)).collect();
        let (policy, errors) =
            pod_security::policy(&serde_json::json!({"metadata": {"labels": labels}}), Policy::default());
        match errors.first() {
            Some(error) => Err(format!("podSecurity.defaults: {error}")),
            None => Ok(policy),
        }
    }
}

/// The plugin.
pub struct PodSecurity {
    reader: Arc<dyn Reader>,
    defaults: Policy,
    exemptions: Exemptions,
}

impl PodSecurity {
    /// Namespaces and pods are read from `reader`. Defaults that make no sense are taken for the strictest.
    pub fn new(reader: Arc<dyn Reader>, config: &PodSecurityConfig) -> Self {
        let strict = Standard { level: Level::Restricted, ..Standard::default() };
        let defaults = config.policy().unwrap_or(Policy { enforce: strict, ..Policy::default() });
        Self { reader, defaults, exemptions: config.exemptions.clone() }
    }

    fn is_exempt(&self, review: &Review<'_>) -> bool {
        let has = |list: &[String], item: &str| !item.is_empty() && list.iter().any(|own| own == item);
        has(&self.exemptions.namespaces, review.namespace) || has(&self.exemptions.usernames, &review.user.name)
    }

    fn is_exempt_class(&self, spec: &Value) -> bool {
        let class = text(spec, "/runtimeClassName");
        !class.is_empty() && self.exemptions.runtime_classes.iter().any(|own| own == class)
    }

    /// The policy of the review's namespace, and whether its labels are wrong.
    fn policy(&self, namespace: &str) -> Result<(Policy, Option<String>), Status> {
        let Some(entry) = self.reader.get("", "namespaces", "", namespace) else {
            return Err(Status::internal(format!("failed to lookup namespace {namespace:?}")));
        };
        let (policy, errors) = pod_security::policy(&decode(&entry.bytes), self.defaults);
        let wrong = errors.first().map(|error| format!("Failed to parse policy: {error}"));
        Ok((policy, wrong))
    }

    fn namespace(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !review.subresource.is_empty() {
            return Ok(());
        }
        let Some(new) = &review.object else { return Ok(()) };
        let (policy, errors) = pod_security::policy(new, self.defaults);
        let (before, old_errors) = match review.old {
            Some(old) => pod_security::policy(old, self.defaults),
            None => (self.defaults, Vec::new()),
        };
        // What was wrong before may stay so.
        if !errors.is_empty() && (review.old.is_none() || errors != old_errors) {
            return Err(Status::invalid("", "Namespace", text(new, "/metadata/name"), &errors));
        }
        let (now, then) = (policy.enforce, before.enforce);
        let relaxed = now.version == then.version && now.level <= then.level;
        let exempt = self.exemptions.namespaces.iter().any(|own| own == text(new, "/metadata/name"));
        if review.old.is_none() || now == then || now.level == Level::Privileged || relaxed || exempt {
            return Ok(());
        }
        let warnings = self.warnings(text(new, "/metadata/name"), now);
        review.warnings.extend(warnings);
        Ok(())
    }

    /// What to say of the pods that are there when their namespace begins to enforce something else.
    fn warnings(&self, namespace: &str, standard: Standard) -> Vec<String> {
        let pods = self.reader.list("", "pods", namespace);
        let mut by_reasons: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for entry in pods.iter().take(MOST_PODS) {
            let pod = decode(&entry.bytes);
            if self.is_exempt_class(&pod["spec"]) {
                continue;
            }
            let violations = pod_security::violations(standard, &pod["metadata"], &pod["spec"]);
            if !violations.is_empty() {
                // The pods come by name: the first is the one to tell of.
                let reasons = pod_security::reasons(&violations);
                by_reasons.entry(reasons).or_insert_with(|| (entry.name.to_string(), 0)).1 += 1;
            }
        }
        let mut out = Vec::new();
        if pods.len() > MOST_PODS {
            let all = pods.len();
            out.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {all} existing pods"
            ));
        }
        if !by_reasons.is_empty() {
            let standard = standard.to_string();
            out.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {standard:?}"
            ));
        }
        let told = by_reasons.into_iter().map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            more => format!("{pod} (and {} other pods): {reasons}", more - 1),
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        out.append(&mut told);
        out
    }

    fn pod(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if IGNORED.contains(&review.subresource) || self.is_exempt(review) {
            return Ok(());
        }
        let (policy, wrong) = self.policy(review.namespace)?;
        if wrong.is_none() && !demands(policy, true) {
            return Ok(());
        }
        let Some(pod) = review.object.take() else { return Ok(()) };
        let unchanged = review.old.is_some_and(|old| !pod_security::is_significant_update(&pod, old));
        let outcome = if unchanged || self.is_exempt_class(&pod["spec"]) {
            Outcome::default()
        } else {
            evaluate(policy, &pod["metadata"], &pod["spec"], true)
        };
        review.object = Some(pod);
        outcome.conclude(review, wrong)
    }

    fn workload(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !review.subresource.is_empty() || self.is_exempt(review) {
            return Ok(());
        }
        let (policy, wrong) = self.policy(review.namespace)?;
        if wrong.is_none() && !demands(policy, false) {
            return Ok(());
        }
        let Some(object) = review.object.take() else { return Ok(()) };
        let template = pod_security::template(&review.resource.group, &review.resource.plural, &object);
        let outcome = match template {
            Some((metadata, spec)) if !self.is_exempt_class(spec) => evaluate(policy, metadata, spec, false),
            _ => Outcome::default(),
        };
        review.object = Some(object);
        outcome.conclude(review, wrong)
    }
}

/// Whether the policy can have any effect.
fn demands(policy: Policy, enforced: bool) -> bool {
    let any = |standard: Standard| standard.level != Level::Privileged;
    (enforced && any(policy.enforce)) || any(policy.audit) || any(policy.warn)
}

#[derive(Default)]
struct Outcome {
    refused: Option<String>,
    audit: Option<String>,
    warning: Option<String>,
}

fn evaluate(policy: Policy, metadata: &Value, spec: &Value, enforce: bool) -> Outcome {
    let violations = |standard| pod_security::violations(standard, metadata, spec);
    let say = |words: &str, standard: Standard, found: Vec<Violation>| {
        let standard = standard.to_string();
        (!found.is_empty()).then(|| format!("{words} PodSecurity {standard:?}: {}", pod_security::details(&found)))
    };
    let refused = if enforce { say("violates", policy.enforce, violations(policy.enforce)) } else { None };
    let audit = say("would violate", policy.audit, violations(policy.audit));
    // Who is refused need not be warned.
    let warning = match refused {
        Some(_) => None,
        None => say("would violate", policy.warn, violations(policy.warn)),
    };
    Outcome { refused, audit, warning }
}

impl Outcome {
    fn conclude(self, review: &mut Review<'_>, wrong_labels: Option<String>) -> Result<(), Status> {
        for (key, value) in [("error", wrong_labels), ("audit", self.audit)] {
            review.annotations.extend(value.map(|value| (format!("{ANNOTATION}{key}"), value)));
        }
        review.warnings.extend(self.warning);
        match self.refused {
            Some(why) => Err(forbidden(review, &why)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !matches!(review.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if is(review, "", "namespaces") {
            return self.namespace(review);
        }
        if review.resource.group.is_empty() && review.resource.plural == "pods" {
            return self.pod(review);
        }
        let found = review.object.as_ref();
        let (group, plural) = (&review.resource.group, &review.resource.plural);
        if found.is_some_and(|object| pod_security::template(group, plural, object).is_some()) {
            return self.workload(review);
        }
        Ok(())
    }
}
