//! How much is noted of a request: the policy file (`audit.k8s.io/v1 Policy`).

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::authz::Attributes;

/// How much is noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what and when.
    Metadata,
    /// The same, and what was sent.
    Request,
    /// The same, and what was answered.
    RequestResponse,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Stage {
    /// The request has come.
    RequestReceived,
    /// The answer has begun, and will go on for long.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed.
    Panic,
}

impl Stage {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    api_version: String,
    kind: String,
    metadata: serde::de::IgnoredAny,
    /// Stages that nothing is noted at.
    omit_stages: BTreeSet<Stage>,
    /// Whether `metadata.managedFields` is left out.
    omit_managed_fields: bool,
    /// The first that a request matches is its rule.
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: BTreeSet<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How much is noted.
    pub level: Level,
    /// When nothing is.
    pub omit_stages: BTreeSet<Stage>,
    /// Whether `metadata.managedFields` is left out of objects.
    pub omit_managed_fields: bool,
}

/// Why a file is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("the audit policy cannot be read: {0}")]
    Syntax(String),
    /// It is of another kind.
    #[error("the audit policy must be of apiVersion audit.k8s.io/v1 and kind Policy, not {0}, {1}")]
    Kind(String, String),
    /// It has no rules.
    #[error("loaded illegal policy with 0 rules")]
    Empty,
    /// A rule makes no sense.
    #[error("the audit policy's rules[{index}].{field}: {why}")]
    Rule {
        /// Which.
        index: usize,
        /// Where.
        field: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

impl Policy {
    /// Reads a policy file, of YAML or JSON.
    ///
    /// # Errors
    ///
    /// It is none, or makes no sense.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_saphyr::from_str(text).map_err(|e| PolicyError::Syntax(e.to_string()))?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind(policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|(field, why)| PolicyError::Rule { index, field, why })?;
        }
        Ok(policy)
    }

    /// What is to be noted of a request.
    pub fn of(&self, request: &Attributes) -> Applied {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(request)) else { return Applied::default() };
        Applied {
            level: rule.level.unwrap_or_default(),
            omit_stages: self.omit_stages.union(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.level.is_none() {
            return Err(("level", "Required value"));
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Err(("nonResourceURLs", "rules cannot apply to both regular resources and non-resource URLs"));
        }
        for url in &self.non_resource_urls {
            if url != "*" && !url.starts_with('/') {
                return Err(("nonResourceURLs", "non-resource URL rules must begin with a '/' character"));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                return Err((
                    "nonResourceURLs",
                    "non-resource URL wildcards '*' must be the final character of the rule",
                ));
            }
        }
        for resources in &self.resources {
            if resources.group == "*" || resources.group.contains('/') {
                return Err((
                    "resources",
                    "group names must be plain: there is no wildcard, and the version is not part of it",
                ));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                return Err(("resources", "using resourceNames requires at least one resource"));
            }
        }
        Ok(())
    }

    fn matches(&self, request: &Attributes) -> bool {
        let among = |list: &[String], item: &str| list.is_empty() || list.iter().any(|own| own == item);
        if !among(&self.users, &request.user.name) || !among(&self.verbs, &request.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| request.user.in_group(group)) {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return request.is_resource
                && among(&self.namespaces, &request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(request)));
        }
        if !self.non_resource_urls.is_empty() {
            return !request.is_resource && self.non_resource_urls.iter().any(|url| matches_path(url, &request.path));
        }
        true
    }
}

fn matches_path(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == pattern,
    }
}

impl Resources {
    fn matches(&self, request: &Attributes) -> bool {
        if self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&request.name) {
            return false;
        }
        let whole = match request.subresource.as_str() {
            "" => request.resource.clone(),
            subresource => format!("{}/{subresource}", request.resource),
        };
        self.resources.iter().any(|pattern| {
            *pattern == whole
                || pattern == "*"
                || pattern.strip_prefix("*/").is_some_and(|s| !s.is_empty() && s == request.subresource)
                || pattern.strip_suffix("/*").is_some_and(|r| r == request.resource)
        })
    }
}
