//! Which kinds the API serves: for controllers that look after all of them.

use std::borrow::Cow;

use serde::Deserialize;

use super::api::{Api, ApiError};
use super::kind::Kind;
use super::meta::null_default;

/// A kind that the API serves, and what can be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The kind.
    pub kind: Kind,
    /// `create`, `delete`, ...
    pub verbs: Vec<String>,
}

impl Served {
    /// Whether all of these can be done.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|have| have == v))
    }
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default, deserialize_with = "null_default")]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default, deserialize_with = "null_default")]
    resources: Vec<ServedResource>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ServedResource {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(deserialize_with = "null_default")]
    verbs: Vec<String>,
}

/// The kinds of each group's preferred version, without subresources, sorted. Also whether some group did not answer.
pub async fn served(api: &Api) -> Result<(Vec<Served>, Option<String>), ApiError> {
    let groups: GroupList = decode(&api.get_raw("/apis".into(), "application/json").await?)?;
    let mut versions = vec!["v1".to_owned()];
    versions.extend(groups.groups.into_iter().map(|g| g.preferred_version.group_version));
    let mut found = Vec::new();
    let mut missing = None;
    for version in versions {
        let path = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let list: Result<ResourceList, ApiError> = match api.get_raw(path, "application/json").await {
            Ok(body) => decode(&body),
            Err(error) => Err(error),
        };
        match list {
            Ok(list) => found.extend(list.resources.into_iter().filter_map(|r| of(&version, r))),
            // A group that just went away is no failure; an aggregated one that is down is.
            Err(error) if error.is_not_found() => {}
            Err(error) => missing = Some(format!("{version}: {error}")),
        }
    }
    found.sort_by(|a, b| a.kind.cmp(&b.kind));
    Ok((found, missing))
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|e| ApiError::Decode(e.to_string()))
}

fn of(group_version: &str, resource: ServedResource) -> Option<Served> {
    if resource.name.contains('/') {
        return None;
    }
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let kind = Kind {
        group: Cow::Owned(group.to_owned()),
        version: Cow::Owned(version.to_owned()),
        plural: Cow::Owned(resource.name),
        kind: Cow::Owned(resource.kind),
        namespaced: resource.namespaced,
    };
    Some(Served { kind, verbs: resource.verbs })
}
