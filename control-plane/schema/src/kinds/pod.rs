//! Pods (`pkg/registry/core/pod`).

use serde_json::{Value, json};

use super::checks::{ip_problems, report};
use super::json::{at, has, list, set, text, truth};
use super::{keep_status, pod_spec};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy {
    default: pod_spec::default_pod,
    prepare_create,
    prepare_update: keep_status,
    validate,
    validate_update,
    validate_status,
    fields,
    warnings: |pod| pod_spec::warnings(pod, &Path::default()),
    generation: true,
    graceful_delete: true,
    parts: super::pod_parts::PARTS,
    ..PLAIN
};

fn prepare_create(pod: &mut Value) {
    let mut status = json!({ "phase": "Pending", "qosClass": pod_spec::qos_class(at(pod, "spec")) });
    if !list(pod, "spec.schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    set(pod, "status", status);
}

fn validate(pod: &Value) -> ErrorList {
    let mut errors = check(pod);
    let path = Path::new("spec");
    if !list(pod, "spec.ephemeralContainers").is_empty() {
        errors.push(Error::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(pod, "spec.nodeName").is_empty() && !list(pod, "spec.schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(Error::forbidden(path.child("nodeName"), detail));
    }
    errors
}

pub(super) fn check(pod: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(pod, "spec"), Path::new("spec"));
    pod_spec::check_spec(&mut errors, spec, &path);
    if text(spec, "serviceAccountName").is_empty() {
        for (v, volume) in list(spec, "volumes").iter().enumerate() {
            for (s, source) in list(volume, "projected.sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let path = path.child("volumes").index(v).child("projected").child("sources").index(s);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(Error::forbidden(path.child("serviceAccountToken"), detail));
                }
            }
        }
    }
    pod_spec::check_images_of_pod(&mut errors, spec, &path);
    errors
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = check(new);
    pod_spec::check_pod_update(&mut errors, new, old);
    errors
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    for (index, ip) in list(new, "status.podIPs").iter().enumerate() {
        report(&mut errors, &path.child("podIPs").index(index), text(ip, "ip"), ip_problems(text(ip, "ip")));
    }
    let of_family =
        |v6: bool| list(new, "status.podIPs").iter().filter(|ip| text(ip, "ip").contains(':') == v6).count();
    if of_family(false) > 1 || of_family(true) > 1 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(path.child("podIPs"), at(new, "status.podIPs").clone(), detail));
    }
    // A container that has ended for good stays so.
    if text(new, "spec.restartPolicy") != "Always" {
        let (before, after) = (list(old, "status.containerStatuses"), list(new, "status.containerStatuses"));
        for (index, container) in after.iter().enumerate() {
            let was = before.iter().find(|c| text(c, "name") == text(container, "name"));
            let failed = was.is_some_and(|c| at(c, "state.terminated.exitCode") != 0);
            let retried = failed && text(new, "spec.restartPolicy") == "OnFailure";
            let ended = was.is_some_and(|c| has(c, "state.terminated"));
            if ended && !retried && !has(container, "state.terminated") && !own_policy(new, container) {
                let path = path.child("containerStatuses").index(index).child("state");
                errors.push(Error::forbidden(path, "may not be transitioned to non-terminated state"));
            }
        }
    }
    errors
}

/// Whether the container's own restart policy stands above the pod's.
fn own_policy(pod: &Value, status: &Value) -> bool {
    list(pod, "spec.containers").iter().any(|c| text(c, "name") == text(status, "name") && has(c, "restartPolicy"))
}

fn fields(pod: &Value) -> Vec<(&'static str, String)> {
    let mut out: Vec<_> = [
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ]
    .into_iter()
    .map(|label| (label, text(pod, label).to_owned()))
    .collect();
    out.push(("spec.hostNetwork", truth(pod, "spec.hostNetwork").to_string()));
    out
}
