//! Probes, and the hooks of a container's life.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{
    http_header_problems, not_negative, port_number, port_number_or_name, report, required, required_one_of,
};
use crate::kinds::json::{at, has, int, list, text};

pub(super) fn check_probe(errors: &mut ErrorList, probe: &Value, path: &Path) {
    if probe.is_null() {
        return;
    }
    check_handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"], 0, path);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(errors, probe, path, key);
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(Error::invalid(path, seconds, "must be greater than 0"));
    }
}

pub(super) fn check_lifecycle(errors: &mut ErrorList, lifecycle: &Value, grace_s: i64, path: &Path) {
    for hook in ["postStart", "preStop"].into_iter().filter(|hook| has(lifecycle, hook)) {
        let path = path.child(hook);
        check_handler(errors, at(lifecycle, hook), &["exec", "httpGet", "tcpSocket", "sleep"], grace_s, &path);
    }
}

fn check_handler(errors: &mut ErrorList, handler: &Value, kinds: &[&str], grace_s: i64, path: &Path) {
    let given: Vec<_> = kinds.iter().copied().filter(|kind| has(handler, kind)).collect();
    if given.is_empty() {
        errors.push(Error::required(path.clone(), "must specify a handler type"));
    }
    for (index, kind) in given.into_iter().enumerate() {
        let (action, path) = (at(handler, kind), path.child(kind));
        if index > 0 {
            errors.push(Error::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if list(action, "command").is_empty() => {
                errors.push(Error::required(path.child("command"), ""));
            }
            "httpGet" => check_http_get(errors, action, &path),
            "tcpSocket" => port_number_or_name(errors, &path.child("port"), at(action, "port")),
            "grpc" => port_number(errors, &path.child("port"), int(action, "port").unwrap_or_default()),
            "sleep" if int(action, "seconds").is_none_or(|s| !(0..=grace_s).contains(&s)) => {
                let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
                errors.push(Error::invalid(path, at(action, "seconds").clone(), detail));
            }
            _ => {}
        }
    }
}

fn check_http_get(errors: &mut ErrorList, get: &Value, path: &Path) {
    required(errors, get, path, "path");
    port_number_or_name(errors, &path.child("port"), at(get, "port"));
    required_one_of(errors, get, path, "scheme", &["HTTP", "HTTPS"]);
    for header in list(get, "httpHeaders") {
        let name = text(header, "name");
        report(errors, &path.child("httpHeaders"), name, http_header_problems(name));
    }
}
