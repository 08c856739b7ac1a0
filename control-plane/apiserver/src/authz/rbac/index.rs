//! Roles, and bindings by subject.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::{GROUP, Rule};
use crate::authn::UserInfo;
use crate::reader::{Entry, Reader};

const KINDS: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// Roles and bindings as they were at some generation of each kind.
#[derive(Default)]
pub(super) struct Index {
    /// Of each of [`KINDS`]; `None` before the first build.
    generations: Option<[u64; 4]>,
    cluster_roles: BTreeMap<String, Arc<Role>>,
    /// By (namespace, name).
    roles: BTreeMap<(String, String), Arc<Role>>,
    /// Decoded bindings, by (namespace, name), kept to decode only what has changed.
    bindings: BTreeMap<(String, String), Arc<Binding>>,
    /// By namespace (empty for cluster role bindings), then subject.
    by_subject: HashMap<String, HashMap<Subject, Vec<Arc<Binding>>>>,
}

pub(super) struct Role {
    revision: u64,
    labels: Arc<[(Box<str>, Box<str>)]>,
    own: Vec<Arc<Rule>>,
    /// The role's `aggregationRule.clusterRoleSelectors`; empty if it aggregates nothing.
    selectors: Vec<Selector>,
    /// Its own rules, and those of the roles it aggregates.
    rules: Vec<Arc<Rule>>,
}

pub(super) struct Binding {
    revision: u64,
    /// Empty for a ClusterRoleBinding.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) role_kind: String,
    pub(super) role_name: String,
    subjects: Vec<Subject>,
}

/// Whom a binding is for. A service account is the user that it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    User(String),
    Group(String),
}

#[derive(Deserialize)]
struct RoleView {
    #[serde(default)]
    rules: Option<Vec<Arc<Rule>>>,
    #[serde(default, rename = "aggregationRule")]
    aggregation: Option<AggregationView>,
}

#[derive(Deserialize)]
struct AggregationView {
    #[serde(default, rename = "clusterRoleSelectors")]
    selectors: Option<Vec<Selector>>,
}

/// A `metav1.LabelSelector`.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Clone, Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct BindingView {
    #[serde(rename = "roleRef")]
    role: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<SubjectView>>,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct SubjectView {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

impl Index {
    fn generations(reader: &dyn Reader) -> [u64; 4] {
        KINDS.map(|kind| reader.generation(GROUP, kind))
    }

    pub(super) fn is_current(&self, reader: &dyn Reader) -> bool {
        self.generations == Some(Self::generations(reader))
    }

    /// Reads everything, taking over from `old` what has not changed.
    pub(super) fn build(reader: &dyn Reader, old: &Self) -> Self {
        // The generations first: what changes after that is read again the next time.
        let generations = Some(Self::generations(reader));
        let read_roles = |kind| reader.list(GROUP, kind, "");
        let mut cluster_roles = BTreeMap::new();
        for entry in read_roles("clusterroles") {
            let role = decode_role(&entry, old.cluster_roles.get(&*entry.name));
            cluster_roles.insert(entry.name.to_string(), role);
        }
        aggregate(&mut cluster_roles);
        let mut roles = BTreeMap::new();
        for entry in read_roles("roles") {
            let key = (entry.namespace.to_string(), entry.name.to_string());
            roles.insert(key.clone(), decode_role(&entry, old.roles.get(&key)));
        }
        let mut bindings = BTreeMap::new();
        for entry in [read_roles("clusterrolebindings"), read_roles("rolebindings")].concat() {
            let key = (entry.namespace.to_string(), entry.name.to_string());
            if let Some(binding) = decode_binding(&entry, old.bindings.get(&key)) {
                bindings.insert(key, binding);
            }
        }
        let mut by_subject: HashMap<String, HashMap<Subject, Vec<Arc<Binding>>>> = HashMap::new();
        for binding in bindings.values() {
            let subjects = by_subject.entry(binding.namespace.clone()).or_default();
            for subject in &binding.subjects {
                subjects.entry(subject.clone()).or_default().push(binding.clone());
            }
        }
        Self { generations, cluster_roles, roles, bindings, by_subject }
    }

    /// Calls `visit` with each binding of the user, cluster-wide ones first, and the subject by which it is one, until
    /// it returns false.
    pub(super) fn visit(&self, user: &UserInfo, namespace: &str, mut visit: impl FnMut(&Binding, &Subject) -> bool) {
        let namespaces: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.clone())).chain(groups).collect();
        for bindings in namespaces.iter().filter_map(|ns| self.by_subject.get(*ns)) {
            for subject in &subjects {
                for binding in bindings.get(subject).into_iter().flatten() {
                    if !visit(binding, subject) {
                        return;
                    }
                }
            }
        }
    }

    /// The rules that a binding grants.
    pub(super) fn rules(&self, binding: &Binding) -> Result<&[Arc<Rule>], String> {
        self.role(&binding.role_kind, &binding.role_name, &binding.namespace)
    }

    pub(super) fn role(&self, kind: &str, name: &str, namespace: &str) -> Result<&[Arc<Rule>], String> {
        let role = match kind {
            "ClusterRole" => self.cluster_roles.get(name),
            "Role" => self.roles.get(&(namespace.to_owned(), name.to_owned())),
            _ => None,
        };
        let plural = kind.to_lowercase();
        role.map(|r| r.rules.as_slice()).ok_or_else(|| format!("{plural}.{GROUP} {name:?} not found"))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "Group {name:?}"),
            Self::User(name) => match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
            {
                Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
                None => write!(f, "User {name:?}"),
            },
        }
    }
}

fn decode_role(entry: &Entry, old: Option<&Arc<Role>>) -> Arc<Role> {
    if let Some(old) = old.filter(|r| r.revision == entry.revision) {
        return old.clone();
    }
    let view: RoleView = serde_json::from_slice(&entry.bytes).unwrap_or(RoleView { rules: None, aggregation: None });
    let own = view.rules.unwrap_or_default();
    let selectors = view.aggregation.and_then(|a| a.selectors).unwrap_or_default();
    Arc::new(Role { revision: entry.revision, labels: entry.labels.clone(), rules: own.clone(), own, selectors })
}

fn decode_binding(entry: &Entry, old: Option<&Arc<Binding>>) -> Option<Arc<Binding>> {
    if let Some(old) = old.filter(|b| b.revision == entry.revision) {
        return Some(old.clone());
    }
    let view: BindingView = serde_json::from_slice(&entry.bytes).ok()?;
    let subjects = view.subjects.unwrap_or_default().into_iter().filter_map(|s| match s.kind.as_str() {
        "User" => Some(Subject::User(s.name)),
        "Group" => Some(Subject::Group(s.name)),
        "ServiceAccount" => {
            let namespace = s.namespace.filter(|ns| !ns.is_empty()).unwrap_or_else(|| entry.namespace.to_string());
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{}", s.name)))
        }
        _ => None,
    });
    Some(Arc::new(Binding {
        revision: entry.revision,
        namespace: entry.namespace.to_string(),
        name: entry.name.to_string(),
        role_kind: view.role.kind,
        role_name: view.role.name,
        subjects: subjects.collect(),
    }))
}

/// Gives the roles that aggregate others the rules of these. A controller writes them into the role as well; taking
/// them from here, a new role counts at once.
fn aggregate(roles: &mut BTreeMap<String, Arc<Role>>) {
    let aggregating: Vec<String> =
        roles.iter().filter(|(_, role)| !role.selectors.is_empty()).map(|(name, _)| name.clone()).collect();
    // An aggregated role may itself aggregate (admin, edit, view): as many rounds as there are such roles reach all.
    for _ in 0..aggregating.len() {
        let mut changed = false;
        for name in &aggregating {
            let Some(role) = roles.get(name) else { continue };
            let mut rules = role.own.clone();
            for (other, candidate) in &*roles {
                if other != name && role.selectors.iter().any(|s| s.matches(&candidate.labels)) {
                    rules.extend(candidate.rules.iter().filter(|r| !rules.contains(r)).cloned().collect::<Vec<_>>());
                }
            }
            if rules != role.rules {
                let (own, selectors) = (role.own.clone(), role.selectors.clone());
                let (revision, labels) = (role.revision, role.labels.clone());
                roles.insert(name.clone(), Arc::new(Role { revision, labels, own, selectors, rules }));
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

impl Selector {
    fn matches(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        let value = |key: &str| labels.iter().find(|(k, _)| **k == *key).map(|(_, v)| &**v);
        self.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v.as_str()))
            && self.match_expressions.iter().flatten().all(|r| {
                let listed = |v: &str| r.values.iter().flatten().any(|x| x == v);
                match (r.operator.as_str(), value(&r.key)) {
                    ("In", Some(v)) => listed(v),
                    ("NotIn", v) => !v.is_some_and(listed),
                    ("Exists", v) => v.is_some(),
                    ("DoesNotExist", v) => v.is_none(),
                    _ => false,
                }
            })
    }
}
