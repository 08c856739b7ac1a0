//! The names of what quotas limit.

use std::collections::BTreeSet;

use super::STORAGE_CLASS;

/// Compute resources of pods.
const OF_PODS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// Kinds that are counted under their own name, too: from before `count/`.
const ALIASES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

pub(super) fn of_pods(name: &str) -> bool {
    OF_PODS.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || (!is_native(name) && name.starts_with("requests."))
}

pub(super) fn of_claims(name: &str) -> bool {
    let plain = |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
    plain(name) || name.rsplit_once(STORAGE_CLASS).is_some_and(|(_, resource)| plain(resource))
}

pub(super) fn has_alias(plural: &str) -> bool {
    ALIASES.contains(&plural)
}

/// Resources of the node itself, as against extended ones such as `example.com/gpu`.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// What has to be looked at to find out how much of a resource is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The objects of a kind of the core group: `pods`, `services`, `persistentvolumeclaims`.
    Objects(&'static str),
    /// How many objects there are.
    Count {
        /// API group.
        group: String,
        /// Plural resource name.
        plural: String,
    },
}

/// Where the resources of these names are counted, each source once.
pub fn sources<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<Source> {
    names.into_iter().filter_map(source).collect()
}

fn source(name: &str) -> Option<Source> {
    let counted = |group: &str, plural: &str| match (group, plural) {
        ("", "pods") => Source::Objects("pods"),
        ("", "services") => Source::Objects("services"),
        ("", "persistentvolumeclaims") => Source::Objects("persistentvolumeclaims"),
        _ => Source::Count { group: group.to_owned(), plural: plural.to_owned() },
    };
    if let Some(counted_kind) = name.strip_prefix("count/") {
        let (plural, group) = counted_kind.split_once('.').unwrap_or((counted_kind, ""));
        return Some(counted(group, plural));
    }
    if of_pods(name) {
        return Some(Source::Objects("pods"));
    }
    if of_claims(name) {
        return Some(Source::Objects("persistentvolumeclaims"));
    }
    if matches!(name, "services" | "services.nodeports" | "services.loadbalancers") {
        return Some(Source::Objects("services"));
    }
    has_alias(name).then(|| counted("", name))
}
