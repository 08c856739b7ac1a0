//! Pod templates.

use serde_json::{Value, json};

use super::{check_spec, default_spec};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{check_labels, qualified_name_problems, report, selector_is_empty, selector_matches};
use crate::kinds::json::{at, default_to, entries, has, list, text};

/// Defaults of a template.
pub(crate) fn default_template(template: &mut Value) {
    if !template.is_object() {
        return;
    }
    default_to(template, "metadata", json!({}));
    if let Some(spec) = template.get_mut("spec") {
        default_spec(spec);
    }
}

/// Everything wrong with a template.
pub(crate) fn check_template(errors: &mut ErrorList, template: &Value, path: &Path) {
    // Upstream's paths, which leave `metadata` out.
    check_labels(errors, template, "metadata.labels", &path.child("labels"));
    for (key, _) in entries(template, "metadata.annotations") {
        report(errors, &path.child("annotations"), key, qualified_name_problems(&key.to_lowercase()));
    }
    check_spec(errors, at(template, "spec"), &path.child("spec"));
    if !list(template, "spec.ephemeralContainers").is_empty() {
        let path = path.child("spec").child("ephemeralContainers");
        errors.push(Error::forbidden(path, "ephemeral containers not allowed in pod template"));
    }
}

/// A template of pods that are kept running: it matches its owner's selector, restarts always and has no deadline.
/// `owner` is the kind that upstream's message names.
pub(crate) fn check_always_restarting_template(
    errors: &mut ErrorList,
    template: &Value,
    selector: &Value,
    owner: &str,
    path: &Path,
) {
    let labels = at(template, "metadata.labels");
    if !selector_is_empty(selector) && !selector_matches(selector, labels) {
        let labels = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.child("metadata").child("labels");
        errors.push(Error::invalid(path, labels, "`selector` does not match template `labels`"));
    }
    check_template(errors, template, path);
    let policy = text(template, "spec.restartPolicy");
    if policy != "Always" {
        errors.push(Error::not_supported(path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if has(template, "spec.activeDeadlineSeconds") {
        let path = path.child("spec").child("activeDeadlineSeconds");
        errors.push(Error::forbidden(path, format!("activeDeadlineSeconds in {owner} is not Supported")));
    }
}
