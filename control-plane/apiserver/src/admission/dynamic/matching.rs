//! Which requests a webhook or policy concerns (apiserver `admission/plugin/webhook/predicates`).

use std::sync::Arc;

use serde_json::Value;
use xebec_schema::custom::Conversion;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_schema::selector::LabelSelector;
use xebec_schema::status::Status;

use crate::admission::{Operation, Review};
use crate::json::{decode, list, strings, text};
use crate::reader::Reader;

/// Rules and selectors, read once.
#[derive(Debug)]
pub(super) struct Matcher {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Requests of other versions of a kind that a rule names match too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

impl Matcher {
    /// Reads a webhook (whose rules are its `rules`), or the match constraints of a policy (`resourceRules`).
    pub fn new(config: &Value) -> Self {
        let selector = |key: &str| match &config[key] {
            Value::Null => LabelSelector::everything(),
            // What is stored has been validated; what can't be read selects nothing.
            selector => LabelSelector::from_json(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let mut rules = rules(config, "/rules");
        rules.extend(self::rules(config, "/resourceRules"));
        Self {
            rules,
            excluded: self::rules(config, "/excludeResourceRules"),
            equivalent: text(config, "/matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The row of the kind in the version that the rules name, if the request is concerned. A policy's binding has no
    /// rules where it concerns all that the policy does.
    ///
    /// # Errors
    ///
    /// 404 for a namespace that does not exist.
    pub fn matches(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
        binding: bool,
    ) -> Result<Option<Arc<Resource>>, Status> {
        // The cheap part first.
        let rows = equivalent_rows(&review.registry, review.requested);
        let custom = review.requested.custom.as_ref();
        let by_webhook = custom.is_some_and(|custom| *custom.conversion() != Conversion::None);
        let matching = |rules: &[Rule]| {
            let exact = rules.iter().any(|rule| rule.matches(review, review.requested));
            if exact {
                return Some(review.requested.clone());
            }
            let mut others = rows.iter().filter(|_| self.equivalent);
            let other = others.find(|row| rules.iter().any(|rule| rule.matches(review, row)))?;
            // What only a webhook could convert is shown as it was asked for.
            Some(if by_webhook { review.requested } else { other }.clone())
        };
        if !self.selects_object(review) || matching(&self.excluded).is_some() {
            return Ok(None);
        }
        let found =
            if binding && self.rules.is_empty() { Some(review.requested.clone()) } else { matching(&self.rules) };
        match found {
            Some(row) if self.selects_namespace(review, reader)? => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    fn selects_object(&self, review: &Review<'_>) -> bool {
        if self.objects.is_everything() {
            return true;
        }
        // What is sent to a stream has no labels, and neither has the pod's side a say.
        let old = review.old.filter(|_| review.operation != Operation::Connect);
        let labels = |object: &Value| self.objects.matches(&object["metadata"]["labels"]);
        review.object.as_ref().is_some_and(labels) || old.is_some_and(labels)
    }

    fn selects_namespace(&self, review: &Review<'_>, reader: &dyn Reader) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let is_namespace = review.resource.group.is_empty() && review.resource.plural == "namespaces";
        let changed = matches!(review.operation, Operation::Create | Operation::Update);
        if is_namespace && review.subresource.is_empty() && changed {
            let labels = review.object.as_ref().map_or(&Value::Null, |object| &object["metadata"]["labels"]);
            return Ok(self.namespaces.matches(labels));
        }
        let name = if is_namespace { review.name } else { review.namespace };
        if name.is_empty() || !(is_namespace || review.resource.namespaced) {
            return Ok(true);
        }
        let namespace =
            reader.get("", "namespaces", "", name).ok_or_else(|| Status::not_found("", "namespaces", name))?;
        Ok(self.namespaces.matches(&decode(&namespace.bytes)["metadata"]["labels"]))
    }
}

/// The other rows under which the same objects are served.
fn equivalent_rows(registry: &Registry, requested: &Resource) -> Vec<Arc<Resource>> {
    let same = |row: &&Arc<Resource>| {
        row.plural == requested.plural
            && row.storage_group() == requested.storage_group()
            && (row.group != requested.group || row.version != requested.version)
    };
    registry.iter().filter(same).cloned().collect()
}

fn rules(config: &Value, pointer: &str) -> Vec<Rule> {
    let rule = |rule: &Value| Rule {
        operations: strings(rule, "/operations"),
        groups: strings(rule, "/apiGroups"),
        versions: strings(rule, "/apiVersions"),
        resources: strings(rule, "/resources"),
        scope: text(rule, "/scope").to_owned(),
        names: strings(rule, "/resourceNames"),
    };
    list(config, pointer).iter().map(rule).collect()
}

impl Rule {
    fn matches(&self, review: &Review<'_>, row: &Resource) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        has(&self.operations, review.operation.name())
            && has(&self.groups, &row.group)
            && has(&self.versions, &row.version)
            && self.resources.iter().any(|resource| matches_resource(resource, &row.plural, review.subresource))
            && self.matches_scope(review)
            && (self.names.is_empty() || self.names.iter().any(|name| name == review.name))
    }

    fn matches_scope(&self, review: &Review<'_>) -> bool {
        let cluster = !review.resource.namespaced || review.namespace.is_empty();
        match self.scope.as_str() {
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => true,
        }
    }
}

fn matches_resource(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (sub == "*" || sub == subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_match_with_their_subresources() {
        assert!(matches_resource("pods", "pods", ""));
        assert!(!matches_resource("pods", "pods", "status"));
        assert!(matches_resource("pods/*", "pods", "status") && matches_resource("pods/*", "pods", ""));
        assert!(matches_resource("*", "pods", "") && !matches_resource("*", "pods", "exec"));
        assert!(matches_resource("*/exec", "pods", "exec") && matches_resource("*/*", "pods", "exec"));
    }
}
