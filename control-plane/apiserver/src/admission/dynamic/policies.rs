//! Policies with their bindings, compiled, and the parameters that bindings name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use xebec_schema::convert;
use xebec_schema::policy::{self, Policy};
use xebec_schema::selector::LabelSelector;

use super::matching::Matcher;
use crate::admission::Review;
use crate::json::{decode, strings, text};
use crate::reader::Reader;

const GROUP: &str = "admissionregistration.k8s.io";

/// A policy in force.
#[derive(Debug)]
pub(super) struct Bound {
    pub name: String,
    pub matcher: Matcher,
    /// What cannot be evaluated is refused.
    pub fail: bool,
    /// It sees the object again when others have changed it.
    pub reinvoked: bool,
    pub policy: Policy,
    pub bindings: Vec<Binding>,
    /// API version and kind of its parameters.
    param_kind: Option<(String, String)>,
}

/// Where a policy is in force.
#[derive(Debug)]
pub(super) struct Binding {
    pub name: String,
    pub matcher: Option<Matcher>,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
    param_ref: Value,
}

/// All policies of one sort that are bound, by name.
pub(super) struct Policies {
    reader: Arc<dyn Reader>,
    mutating: bool,
    known: ArcSwapOption<Known>,
}

/// The policies that were compiled, and the generations of what they were compiled from.
type Known = ((u64, u64), Arc<Vec<Bound>>);

impl Policies {
    pub fn new(reader: Arc<dyn Reader>, mutating: bool) -> Self {
        Self { reader, mutating, known: ArcSwapOption::empty() }
    }

    /// As they are now.
    pub fn load(&self) -> Arc<Vec<Bound>> {
        let (policies, bindings) = if self.mutating {
            ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
        } else {
            ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
        };
        let generation = (self.reader.generation(GROUP, policies), self.reader.generation(GROUP, bindings));
        if let Some(known) = &*self.known.load()
            && known.0 == generation
        {
            return known.1.clone();
        }
        let bound = Arc::new(self.compile(policies, bindings));
        self.known.store(Some(Arc::new((generation, bound.clone()))));
        bound
    }

    fn compile(&self, policies: &str, bindings: &str) -> Vec<Bound> {
        let mut by_policy: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
        for entry in self.reader.list(GROUP, bindings, "") {
            let binding = decode(&entry.bytes);
            let policy = text(&binding, "/spec/policyName").to_owned();
            by_policy.entry(policy).or_default().push(Binding::new(&entry.name, &binding["spec"]));
        }
        let mut out = Vec::new();
        for entry in self.reader.list(GROUP, policies, "") {
            // A policy that nothing binds does nothing, and is not compiled.
            let Some(bindings) = by_policy.remove(entry.name.as_ref()) else { continue };
            let spec = decode(&entry.bytes)["spec"].take();
            let kind = |key: &str| text(&spec, &format!("/paramKind/{key}")).to_owned();
            out.push(Bound {
                name: entry.name.to_string(),
                matcher: Matcher::new(&spec["matchConstraints"]),
                fail: text(&spec, "/failurePolicy") != "Ignore",
                reinvoked: text(&spec, "/reinvocationPolicy") == "IfNeeded",
                policy: policy::policy(&spec, self.mutating).0,
                bindings,
                param_kind: spec["paramKind"].is_object().then(|| (kind("apiVersion"), kind("kind"))),
            });
        }
        out
    }
}

impl Binding {
    fn new(name: &str, spec: &Value) -> Self {
        let resources = &spec["matchResources"];
        Self {
            name: name.to_owned(),
            matcher: resources.is_object().then(|| Matcher::new(resources)),
            actions: strings(spec, "/validationActions"),
            param_ref: spec["paramRef"].clone(),
        }
    }
}

impl Bound {
    /// The parameters with which the policy is evaluated, each by itself: null for one that takes none.
    ///
    /// # Errors
    ///
    /// In upstream's words, if there are none and that is not permitted.
    pub fn params(&self, binding: &Binding, review: &Review<'_>, reader: &dyn Reader) -> Result<Vec<Value>, String> {
        let Some((api_version, kind)) = self.param_kind.as_ref().filter(|_| binding.param_ref.is_object()) else {
            return Ok(vec![Value::Null]);
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let row = review.registry.by_kind(group, version, kind);
        let row = row.ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")
        })?;
        let reference = &binding.param_ref;
        let namespace = match (row.namespaced, text(reference, "/namespace")) {
            (false, "") => "",
            (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
            (true, "") if review.namespace.is_empty() || !review.resource.namespaced => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => review.namespace,
            (true, namespace) => namespace,
        };
        let name = text(reference, "/name");
        let entries = if name.is_empty() {
            let selector = LabelSelector::from_json(&reference["selector"])?;
            let mut entries = reader.list(row.storage_group(), &row.plural, namespace);
            entries.retain(|entry| selector.matches(&decode(&entry.bytes)["metadata"]["labels"]));
            entries
        } else {
            reader.get(row.storage_group(), &row.plural, namespace, name).into_iter().collect()
        };
        if entries.is_empty() {
            return match text(reference, "/parameterNotFoundAction") {
                "Allow" => Ok(Vec::new()),
                _ => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
            };
        }
        let shown = entries.iter().map(|entry| {
            let mut object = decode(&entry.bytes);
            convert::from_stored(row, &mut object);
            object
        });
        Ok(shown.collect())
    }
}
