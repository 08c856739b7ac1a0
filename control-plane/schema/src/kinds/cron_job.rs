//! Cron jobs (`pkg/apis/batch`).

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::checks::{not_negative, required, required_one_of};
use super::json::{at, default_text, default_to, has, set, text, truth, within};
use super::{job, keep_status, pod_spec};
use crate::cron::Schedule;
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create: |object| set(object, "status", json!({})),
    prepare_update: keep_status,
    validate: |object| {
        let mut errors = validate(object);
        check_name(&mut errors, object);
        errors
    },
    validate_update: |new, _| validate(new),
    warnings: |object| {
        pod_spec::warnings(at(object, "spec.jobTemplate.spec.template"), &Path::new("spec.jobTemplate.spec.template"))
    },
    generation: true,
    ..PLAIN
};

/// Its jobs are called as it is, and then eleven characters.
const MAX_NAME: usize = 52;

fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    default_text(spec, "concurrencyPolicy", "Allow");
    default_to(spec, "suspend", false);
    default_to(spec, "successfulJobsHistoryLimit", 3);
    default_to(spec, "failedJobsHistoryLimit", 1);
    // The job's own defaults come with the job; the template has those of its pods.
    within(spec, "jobTemplate", |job| {
        default_to(job, "metadata", json!({}));
        within(job, "spec", |spec| {
            if let Some(template) = spec.get_mut("template") {
                pod_spec::default_template(template);
            }
        });
    });
}

fn check_name(errors: &mut ErrorList, object: &Value) {
    let name = text(object, "metadata.name");
    if name.len() > MAX_NAME {
        let detail = format!("must be no more than {MAX_NAME} characters");
        errors.push(Error::invalid(Path::new("metadata").child("name"), name, detail));
    }
}

fn validate(object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    if let Some(schedule) = required(&mut errors, spec, &path, "schedule") {
        check_schedule(&mut errors, schedule, has(spec, "timeZone"), &path.child("schedule"));
    }
    not_negative(&mut errors, spec, &path, "startingDeadlineSeconds");
    check_time_zone(&mut errors, spec, &path.child("timeZone"));
    required_one_of(&mut errors, spec, &path, "concurrencyPolicy", &["Allow", "Forbid", "Replace"]);
    check_job_template(&mut errors, at(spec, "jobTemplate"), &path.child("jobTemplate"));
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(&mut errors, spec, &path, key);
    }
    errors
}

fn check_schedule(errors: &mut ErrorList, schedule: &str, has_zone: bool, path: &Path) {
    if schedule.contains("TZ") {
        let detail = if has_zone {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        } else {
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        };
        errors.push(Error::invalid(path.clone(), schedule, detail));
        return;
    }
    if let Err(error) = Schedule::parse(schedule) {
        errors.push(Error::invalid(path.clone(), schedule, error.to_string()));
    }
}

fn check_time_zone(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let Some(zone) = at(spec, "timeZone").as_str() else { return };
    let detail = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
    } else if TimeZone::get(zone).is_err() {
        format!("unknown time zone {zone}")
    } else {
        return;
    };
    errors.push(Error::invalid(path.clone(), zone, detail));
}

fn check_job_template(errors: &mut ErrorList, template: &Value, path: &Path) {
    let (spec, path) = (at(template, "spec"), path.child("spec"));
    if has(spec, "selector") {
        let detail = "`selector` will be auto-generated";
        errors.push(Error::invalid(path.child("selector"), at(spec, "selector").clone(), detail));
    }
    if truth(spec, "manualSelector") {
        errors.push(Error::not_supported(path.child("manualSelector"), true, &["nil", "false"]));
    }
    // What will be filled in when the job is made.
    let mut whole = spec.clone();
    job::default_spec(&mut whole);
    job::check_spec(errors, &whole, &path);
}
