//! A rule of a role, and whether it covers a request.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::authz::Attributes;

/// `rbac.authorization.k8s.io/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `get`, `*`...
    #[serde(default, deserialize_with = "nullable")]
    pub verbs: Vec<String>,
    /// Empty string for the core group.
    #[serde(default, deserialize_with = "nullable")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(default, deserialize_with = "nullable")]
    pub resources: Vec<String>,
    /// Only objects of these names; empty for all.
    #[serde(default, deserialize_with = "nullable")]
    pub resource_names: Vec<String>,
    /// `/healthz`, `/apis/*`.
    #[serde(default, rename = "nonResourceURLs", deserialize_with = "nullable")]
    pub non_resource_urls: Vec<String>,
}

/// A list that may be null.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|x| x == "*" || x == item)
}

impl Rule {
    /// Whether the rule permits the request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, &attributes.path));
        }
        has(&self.api_groups, &attributes.group)
            && self.resources.iter().any(|r| resource_matches(r, &attributes.resource, &attributes.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    /// Whether this rule alone permits everything that `other` does (upstream `validation.ruleCovers`). `other` should
    /// be a simple one: see [`Self::split`].
    pub fn covers(&self, other: &Self) -> bool {
        let all = |items: &[String], test: &dyn Fn(&str) -> bool| items.iter().all(|item| test(item));
        let names = self.resource_names.is_empty()
            || (!other.resource_names.is_empty()
                && other.resource_names.iter().all(|n| self.resource_names.contains(n)));
        let resource = |item: &str| {
            let (resource, subresource) = item.split_once('/').unwrap_or((item, ""));
            self.resources.iter().any(|r| r == item || resource_matches(r, resource, subresource))
        };
        all(&other.verbs, &|v| has(&self.verbs, v))
            && all(&other.api_groups, &|g| has(&self.api_groups, g))
            && all(&other.resources, &resource)
            && all(&other.non_resource_urls, &|url| {
                self.non_resource_urls.iter().any(|u| u == url || url_matches(u, url))
            })
            && names
    }

    /// The rule as rules of one verb, group and resource, or one verb and URL, each.
    pub fn split(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let rule =
                        Self { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Self::default() };
                    if self.resource_names.is_empty() {
                        out.push(rule);
                        continue;
                    }
                    out.extend(self.resource_names.iter().map(|n| Self { resource_names: one(n), ..rule.clone() }));
                }
            }
            let urls = self.non_resource_urls.iter();
            out.extend(urls.map(|url| Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() }));
        }
        out
    }

    /// The rule as it is stored: empty lists left out.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        for (key, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                out[key] = list.clone().into();
            }
        }
        out
    }
}

/// Whether a rule's resource, `pods/log` or with wildcards, is the requested one.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((parent, sub)) => !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource),
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}
