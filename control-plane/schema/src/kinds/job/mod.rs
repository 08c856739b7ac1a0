//! Jobs (`pkg/apis/batch`, `pkg/registry/batch/job`).

mod policies;

use serde_json::{Value, json};

use super::checks::{
    check_selector, dns_label_problems, dns_subdomain_problems, immutable, not_negative, one_of, report,
    required_one_of, selector_matches,
};
use super::deployment::template_warnings;
use super::json::{at, default_to, has, int, object_mut, same, set, text, truth, unset, within};
use super::{clear_status, keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status,
    fields: |job| vec![("status.successful", int(job, "status.succeeded").unwrap_or_default().to_string())],
    warnings: template_warnings,
    generation: true,
    ..PLAIN
};

/// Upstream's bounds.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// With more completions than this, upstream keeps the list of failed indexes shorter.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_FAILED_OF_MANY: i64 = 10_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_MANAGER_BYTES: usize = 63;

fn default(job: &mut Value) {
    let Some(spec) = job.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_spec(spec);
    label_like_template(job);
}

/// The defaults of a job's spec.
pub(super) fn default_spec(spec: &mut Value) {
    // Neither: one pod. Parallelism alone: a work queue, where any success completes the job.
    if !has(spec, "completions") && !has(spec, "parallelism") {
        default_to(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    let retries = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    default_to(spec, "backoffLimit", retries);
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    default_to(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_to(spec, "podReplacementPolicy", replacement);
    if let Some(template) = spec.get_mut("template") {
        pod_spec::default_template(template);
    }
}

/// A job without labels has those of its pods.
fn label_like_template(job: &mut Value) {
    let labels = at(job, "spec.template.metadata.labels").clone();
    if at(job, "metadata.labels").as_object().is_none_or(serde_json::Map::is_empty)
        && labels.as_object().is_some_and(|l| !l.is_empty())
    {
        within(job, "metadata", |metadata| set(metadata, "labels", labels));
    }
}

/// The labels by which a job's pods are told, new and old.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// A job gets a selector of its own, unless its author says that he takes care of it.
fn prepare_create(job: &mut Value) {
    clear_status(job);
    if truth(job, "spec.manualSelector") {
        return;
    }
    let (uid, name) = (text(job, "metadata.uid").to_owned(), text(job, "metadata.name").to_owned());
    if let Some(template) = object_mut(job, "spec.template") {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        default_to(metadata, "labels", json!({}));
        for key in UID_LABELS {
            within(metadata, "labels", |v| set(v, key, uid.as_str()));
        }
        for key in NAME_LABELS {
            within(metadata, "labels", |v| set(v, key, name.as_str()));
        }
    }
    if let Some(spec) = job.get_mut("spec") {
        default_to(spec, "selector", json!({}));
        within(spec, "selector", |v| default_to(v, "matchLabels", json!({})));
        within(spec, "selector", |selector| within(selector, "matchLabels", |labels| set(labels, UID_LABELS[0], uid)));
    }
    label_like_template(job);
}

fn validate(job: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(job, "spec"), Path::new("spec"));
    check_generated_selector(&mut errors, job, &path);
    check_pod_names(&mut errors, job);
    check_spec(&mut errors, spec, &path);
    errors
}

/// The pods of an indexed job have its name and their index for a host name.
fn check_pod_names(errors: &mut ErrorList, job: &Value) {
    let (name, completions) = (text(job, "metadata.name"), int(job, "spec.completions").unwrap_or_default());
    if text(job, "spec.completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let host = format!("{name}-{}", completions - 1);
    if !dns_label_problems(&host).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {host}");
        errors.push(Error::invalid(Path::new("metadata").child("name"), name, detail));
    }
}

/// Everything wrong with a job's spec, its selector excepted; also of one in a template.
pub(super) fn check_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(errors, spec, path, key);
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errors.push(Error::required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = at(spec, "managedBy").as_str() {
        check_manager(errors, manager, &path.child("managedBy"));
    }
    check_completion_mode(errors, spec, path);
    policies::check_failure_policy(errors, spec, &path.child("podFailurePolicy"));
    policies::check_success_policy(errors, spec, &path.child("successPolicy"));
    let replacements: &[&str] =
        if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of(errors, spec, path, "podReplacementPolicy", replacements);
    let at_template = path.child("template");
    pod_spec::check_template(errors, at(spec, "template"), &at_template);
    let at_policy = at_template.child("spec").child("restartPolicy");
    match text(spec, "template.spec.restartPolicy") {
        "OnFailure" | "Never" => {}
        "" | "Always" => {
            errors.push(Error::required(at_policy, "valid values: \"OnFailure\", \"Never\""));
        }
        other => errors.push(Error::not_supported(at_policy, other, &["OnFailure", "Never"])),
    }
    for key in ["podFailurePolicy", "backoffLimitPerIndex"] {
        if has(spec, key) && text(spec, "template.spec.restartPolicy") != "Never" {
            let detail = format!("only \"Never\" is supported when {key} is specified");
            let policy = text(spec, "template.spec.restartPolicy");
            errors.push(Error::invalid(at_template.child("spec.restartPolicy"), policy, detail));
        }
    }
}

/// Who takes care of the job: a path below a domain.
fn check_manager(errors: &mut ErrorList, manager: &str, path: &Path) {
    match manager.split_once('/') {
        Some((domain, rest)) if !rest.is_empty() => report(errors, path, manager, dns_subdomain_problems(domain)),
        _ => errors.push(Error::invalid(
            path.clone(),
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    if manager.len() > MAX_MANAGER_BYTES {
        errors.push(Error::too_long(path.clone(), MAX_MANAGER_BYTES));
    }
}

fn check_generated_selector(errors: &mut ErrorList, job: &Value, path: &Path) {
    let selector = at(job, "spec.selector");
    if selector.is_null() {
        errors.push(Error::required(path.child("selector"), ""));
        return;
    }
    check_selector(errors, selector, &path.child("selector"));
    let labels = at(job, "spec.template.metadata.labels");
    if !selector_matches(selector, labels) {
        let labels = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.child("template").child("metadata").child("labels");
        errors.push(Error::invalid(path, labels, "`selector` does not match template `labels`"));
    }
    let generated = selector
        .get("matchLabels")
        .and_then(|l| l.get(UID_LABELS[0]))
        .or_else(|| selector.get("matchLabels").and_then(|l| l.get(UID_LABELS[1])));
    if !truth(job, "spec.manualSelector") && generated.is_none_or(|uid| uid != text(job, "metadata.uid")) {
        let detail = "`selector` not auto-generated";
        errors.push(Error::invalid(path.child("selector"), selector.clone(), detail));
    }
}

fn check_completion_mode(errors: &mut ErrorList, spec: &Value, path: &Path) {
    required_one_of(errors, spec, path, "completionMode", &["NonIndexed", "Indexed"]);
    if text(spec, "completionMode") != "Indexed" {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if has(spec, key) {
                let detail = "requires indexed completion mode";
                errors.push(Error::invalid(path.child(key), at(spec, key).clone(), detail));
            }
        }
        return;
    }
    if !has(spec, "completions") {
        let detail = "when completion mode is Indexed";
        errors.push(Error::required(path.child("completions"), detail));
    }
    if let Some(parallelism) = int(spec, "parallelism").filter(|n| *n > MAX_INDEXED_PARALLELISM) {
        let detail = format!("must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed");
        errors.push(Error::invalid(path.child("parallelism"), parallelism, detail));
    }
    check_failed_indexes(errors, spec, path);
}

fn check_failed_indexes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (completions, failed) = (int(spec, "completions"), int(spec, "maxFailedIndexes"));
    let at_failed = path.child("maxFailedIndexes");
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errors.push(Error::invalid(at_failed.clone(), failed, "must be less than or equal to completions"));
    }
    if let Some(failed) = failed.filter(|n| *n > MAX_FAILED_INDEXES) {
        let detail = format!("must be less than or equal to {MAX_FAILED_INDEXES}");
        errors.push(Error::invalid(at_failed.clone(), failed, detail));
    }
    if !has(spec, "backoffLimitPerIndex") || completions.is_none_or(|n| n <= MANY_COMPLETIONS) {
        return;
    }
    match failed {
        None => {
            let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.push(Error::required(at_failed, detail));
        }
        Some(failed) if failed > MAX_FAILED_OF_MANY => {
            let detail = format!(
                "must be less than or equal to {MAX_FAILED_OF_MANY} when completions are above {MANY_COMPLETIONS} and \
                 used with backoff limit per index"
            );
            errors.push(Error::invalid(at_failed, failed, detail));
        }
        Some(_) => {}
    }
    if let Some(parallelism) = int(spec, "parallelism").filter(|n| *n > MAX_PARALLELISM_OF_MANY) {
        let detail = format!(
            "must be less than or equal to {MAX_PARALLELISM_OF_MANY} when completions are above {MANY_COMPLETIONS} and \
             used with backoff limit per index"
        );
        errors.push(Error::invalid(path.child("parallelism"), parallelism, detail));
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate(new);
    let (spec, before, path) = (at(new, "spec"), at(old, "spec"), Path::new("spec"));
    // Indexed jobs can be resized, by both numbers at once.
    let elastic = text(spec, "completionMode") == "Indexed"
        && has(spec, "completions")
        && has(before, "completions")
        && same(at(spec, "completions"), at(spec, "parallelism"));
    if !elastic {
        immutable(&mut errors, &path.child("completions"), at(spec, "completions"), at(before, "completions"));
    }
    for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(&mut errors, &path.child(key), at(spec, key), at(before, key));
    }
    let (mut template, old_template) = (at(spec, "template").clone(), at(before, "template"));
    if truth(before, "suspend") && !has(old, "status.startTime") {
        forget_scheduling(&mut template, old_template);
    }
    if !same(&template, old_template) {
        immutable(&mut errors, &path.child("template"), at(spec, "template"), old_template);
    }
    errors
}

/// A job that has not begun may be steered to other nodes.
fn forget_scheduling(template: &mut Value, old: &Value) {
    for key in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
        if let Some(spec) = template.get_mut("spec") {
            unset(spec, key);
            if has(old, "spec") && has(at(old, "spec"), key) {
                set(spec, key, at(at(old, "spec"), key).clone());
            }
        }
    }
    for key in ["labels", "annotations"] {
        let before = at(at(old, "metadata"), key).clone();
        if let Some(metadata) = template.get_mut("metadata") {
            set(metadata, key, before);
        }
    }
}

fn validate_status(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (status, path) = (at(new, "status"), Path::new("status"));
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(&mut errors, status, &path, key);
    }
    if has(status, "completionTime") && !has(status, "startTime") {
        let detail = "completionTime can only be set when startTime is set";
        errors.push(Error::required(path.child("startTime"), detail));
    }
    errors
}
