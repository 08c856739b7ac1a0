//! The resource table: which kinds there are.

mod rows;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Resource, Subresource};
use crate::{columns, kinds, types};

use rows::Row;

/// The table. Cheap to clone: a CustomResourceDefinition makes a new one with more rows, and readers swap.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Sorted by group, version and plural.
    resources: Vec<Arc<Resource>>,
    /// Positions in `resources`, sorted by group, version and kind.
    kinds: Vec<u32>,
}

/// The groups that upstream names first in discovery, in its order of priority; the core group before all.
const GROUP_ORDER: [&str; 23] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "resource.k8s.io",
    "storagemigration.k8s.io",
];

/// What APIServices say of the priority of a group, and of a version in it (upstream's `apiVersionPriorities`).
pub fn priorities(group: &str, version: &str) -> (i32, i32) {
    const GROUPS: [(&str, i32); 23] = [
        ("", 18000),
        ("apiregistration.k8s.io", 18000),
        ("apps", 17800),
        ("events.k8s.io", 17750),
        ("authentication.k8s.io", 17700),
        ("authorization.k8s.io", 17600),
        ("autoscaling", 17500),
        ("batch", 17400),
        ("certificates.k8s.io", 17300),
        ("networking.k8s.io", 17200),
        ("policy", 17100),
        ("rbac.authorization.k8s.io", 17000),
        ("storage.k8s.io", 16800),
        ("admissionregistration.k8s.io", 16700),
        ("apiextensions.k8s.io", 16700),
        ("scheduling.k8s.io", 16600),
        ("coordination.k8s.io", 16500),
        ("node.k8s.io", 16300),
        ("discovery.k8s.io", 16200),
        ("flowcontrol.apiserver.k8s.io", 16100),
        ("internal.apiserver.k8s.io", 16000),
        ("resource.k8s.io", 15900),
        ("storagemigration.k8s.io", 15800),
    ];
    match GROUPS.iter().find(|(known, _)| *known == group) {
        None => (1000, 100),
        Some((_, priority)) => (
            *priority,
            match (group, version) {
                ("", _) => 1,
                ("autoscaling", "v2") => 30,
                ("flowcontrol.apiserver.k8s.io", "v1") => 21,
                (_, version) if version.contains("alpha") => 1,
                (_, version) if version.contains("beta") => 9,
                _ => 15,
            },
        ),
    }
}

fn group_rank(group: &str) -> usize {
    GROUP_ORDER.iter().position(|g| *g == group).unwrap_or(GROUP_ORDER.len())
}

/// Where a version stands among others, best first: `v2`, `v1`, `v1beta2`, `v1alpha1`, and what is none of these by
/// name (apimachinery `version.CompareKubeAwareVersionStrings`).
pub(crate) fn version_rank(version: &str) -> (u8, i64, i64, &str) {
    fn parse(version: &str) -> Option<(u8, i64, i64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: i64 = rest[..digits].parse().ok()?;
        let (class, minor) = match &rest[digits..] {
            "" => return Some((0, -major, 0)),
            tail if tail.starts_with("beta") => (1, &tail[4..]),
            tail if tail.starts_with("alpha") => (2, &tail[5..]),
            _ => return None,
        };
        Some((class, -major, -minor.parse::<i64>().ok()?))
    }
    let (class, major, minor) = parse(version).unwrap_or((3, 0, 0));
    (class, major, minor, version)
}

impl Registry {
    /// The kinds that Xebec serves by itself.
    pub fn builtin() -> Self {
        Self::from_rows(rows::ROWS.iter().map(|row| Arc::new(row.resource())).collect())
    }

    fn from_rows(mut resources: Vec<Arc<Resource>>) -> Self {
        resources.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut kinds: Vec<u32> = (0u32..).take(resources.len()).collect();
        kinds.sort_by(|a, b| kind_key(&resources[*a as usize]).cmp(&kind_key(&resources[*b as usize])));
        Self { resources, kinds }
    }

    /// The built-in rows of this table with these rows that CustomResourceDefinitions make. Where a built-in row has the
    /// group, version and plural already, it stays.
    #[must_use]
    pub fn with_custom(&self, rows: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut resources: Vec<_> = self.resources.iter().filter(|r| r.custom.is_none()).cloned().collect();
        let own = Self::from_rows(resources.clone());
        resources.extend(rows.into_iter().filter(|r| own.get(&r.group, &r.version, &r.plural).is_none()));
        Self::from_rows(resources)
    }

    /// The row served under `/apis/{group}/{version}/{plural}`; the core group is empty.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let at = self.resources.binary_search_by(|r| key(r).cmp(&(group, version, plural))).ok()?;
        self.resources.get(at)
    }

    /// The row of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let row = |at: u32| &self.resources[at as usize];
        let at = self.kinds.binary_search_by(|at| kind_key(row(*at)).cmp(&(group, version, kind))).ok()?;
        Some(row(self.kinds[at]))
    }

    /// The row of a kind in whichever version its group prefers.
    pub fn preferred(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.versions(group).into_iter().find_map(|version| self.by_kind(group, version, kind))
    }

    /// Every row, sorted by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The groups, as discovery orders them; the core group (empty) first.
    pub fn groups(&self) -> Vec<&str> {
        let groups: BTreeSet<&str> = self.resources.iter().map(|r| r.group.as_ref()).collect();
        let mut groups: Vec<&str> = groups.into_iter().collect();
        groups.sort_by_key(|g| (group_rank(g), *g));
        groups
    }

    /// The versions of a group, the preferred one first.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let rows = self.resources.iter().filter(|r| r.group == group);
        let versions: BTreeSet<&str> = rows.map(|r| r.version.as_ref()).collect();
        let mut versions: Vec<&str> = versions.into_iter().collect();
        versions.sort_by_key(|v| version_rank(v));
        versions
    }

    /// The rows of a group and version, sorted by plural.
    pub fn resources(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(move |r| r.group == group && r.version == version)
    }
}

fn key(r: &Resource) -> (&str, &str, &str) {
    (&r.group, &r.version, &r.plural)
}

fn kind_key(r: &Resource) -> (&str, &str, &str) {
    (&r.group, &r.version, &r.kind)
}

fn cows(words: &'static str) -> Cow<'static, [Cow<'static, str>]> {
    words.split_whitespace().map(Cow::Borrowed).collect()
}

impl Row {
    fn resource(&self) -> Resource {
        let subresources = self.subresources.iter().map(|sub| Subresource {
            name: sub.name.into(),
            group: sub.group.into(),
            version: sub.version.into(),
            kind: if sub.kind.is_empty() { self.kind } else { sub.kind }.into(),
            verbs: cows(sub.verbs),
        });
        let listed = self.verbs.contains("list");
        let list_kind = if listed { format!("{}List", self.kind) } else { String::new() };
        Resource {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            list_kind: list_kind.into(),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase().into(),
            short_names: cows(self.short),
            categories: cows(self.categories),
            namespaced: self.namespaced,
            verbs: cows(self.verbs),
            subresources: subresources.collect(),
            schema: types::full(self.schema).into(),
            strategy: kinds::strategy(self.group, self.kind),
            columns: columns::columns(self.group, self.kind),
            virtual_kind: self.virtual_kind,
            custom: None,
        }
    }
}

impl Resource {
    /// What an object of this kind looks like. `None` for a kind without a schema: everything is permitted then.
    pub fn definition(&self) -> Option<&types::Definition> {
        match &self.custom {
            Some(custom) => Some(custom.definition()),
            None => types::definition(&self.schema),
        }
    }

    /// The group under which objects of this kind are stored. Only `events.k8s.io` differs from the group itself: its
    /// events are the core group's, in other words (see [`crate::convert`]).
    pub fn storage_group(&self) -> &str {
        if self.group == "events.k8s.io" { "" } else { &self.group }
    }

    /// The version in which objects of this kind are stored. Only autoscalers have more than one that is served by
    /// itself; what they have in common is in `autoscaling/v2`.
    pub fn storage_version(&self) -> &str {
        if self.group == "autoscaling" { "v2" } else { &self.version }
    }
}

#[cfg(test)]
mod tests;
