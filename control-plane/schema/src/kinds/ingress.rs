//! Ingresses and their classes (`pkg/apis/networking/validation`).

use serde_json::{Value, json};

use super::checks::{
    IMMUTABLE, dns_label_problems, dns_subdomain_problems, ip_problems, one_of, port_name_problems, port_number,
    report, required,
};
use super::json::{at, default_text, has, int, list, same, set, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const INGRESS: Strategy = Strategy {
    prepare_create: |ingress| set(ingress, "status", json!({"loadBalancer": {}})),
    prepare_update: super::keep_status,
    validate: |ingress| {
        let mut errors = validate(ingress);
        // The annotation and the field are two ways of saying one thing; both are permitted if they agree.
        let annotation = at(ingress, "metadata.annotations").get(CLASS_ANNOTATION);
        if annotation.is_some()
            && has(ingress, "spec.ingressClassName")
            && annotation != Some(at(ingress, "spec.ingressClassName"))
        {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            let value = annotation.cloned().unwrap_or_default();
            errors.push(Error::invalid(path, value, "must match `ingressClassName` when both are specified"));
        }
        errors
    },
    validate_update: |new, _| validate(new),
    validate_status: |new, _| check_status(new),
    generation: true,
    ..PLAIN
};

pub(super) const CLASS: Strategy = Strategy {
    default: |class| {
        if let Some(parameters) = class.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            default_text(parameters, "scope", "Cluster");
        }
    },
    validate: check_class,
    validate_update: |new, old| {
        let mut errors = check_class(new);
        if !same(at(new, "spec.controller"), at(old, "spec.controller")) {
            let value = at(new, "spec.controller").clone();
            errors.push(Error::invalid(Path::new("spec").child("controller"), value, IMMUTABLE));
        }
        errors
    },
    generation: true,
    ..PLAIN
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const MAX_CONTROLLER_BYTES: usize = 250;

fn validate(ingress: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(ingress, "spec"), Path::new("spec"));
    let rules = list(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(path.clone(), rules.to_vec(), detail));
    }
    if has(spec, "defaultBackend") {
        check_backend(&mut errors, at(spec, "defaultBackend"), &path.child("defaultBackend"));
    }
    for (index, rule) in rules.iter().enumerate() {
        check_rule(&mut errors, rule, &path.child("rules").index(index));
    }
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        let path = path.child("tls").index(index);
        for (n, host) in list(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            report(&mut errors, &path.child("hosts").index(n), host, host_problems(host));
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            report(&mut errors, &path.child("secretName"), secret, dns_subdomain_problems(secret));
        }
    }
    if let Some(class) = at(spec, "ingressClassName").as_str() {
        report(&mut errors, &path.child("ingressClassName"), class, dns_subdomain_problems(class));
    }
    errors
}

/// A host name, perhaps with a wildcard for its first label.
fn host_problems(host: &str) -> Vec<String> {
    match host.strip_prefix("*.") {
        Some(rest) if !rest.contains('*') && dns_subdomain_problems(rest).is_empty() => Vec::new(),
        Some(_) => vec![
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
             '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        ],
        None => dns_subdomain_problems(host),
    }
}

fn check_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let host = text(rule, "host");
    if !host.is_empty() {
        if ip_problems(host).is_empty() {
            errors.push(Error::invalid(path.child("host"), host, "must be a DNS name, not an IP address"));
        }
        report(errors, &path.child("host"), host, host_problems(host));
    }
    if !has(rule, "http") {
        return;
    }
    let (paths, path) = (list(rule, "http.paths"), path.child("http").child("paths"));
    if paths.is_empty() {
        errors.push(Error::required(path.clone(), ""));
    }
    for (index, entry) in paths.iter().enumerate() {
        check_path(errors, entry, &path.index(index));
        check_backend(errors, at(entry, "backend"), &path.index(index).child("backend"));
    }
}

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

fn check_path(errors: &mut ErrorList, entry: &Value, path: &Path) {
    let value = text(entry, "path");
    match text(entry, "pathType") {
        "" => errors.push(Error::required(path.child("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(Error::invalid(path.child("path"), value, "must be an absolute path"));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(sequence) {
                    errors.push(Error::invalid(path.child("path"), value, format!("must not contain '{sequence}'")));
                }
            }
            for suffix in ["/..", "/."] {
                if value.ends_with(suffix) {
                    errors.push(Error::invalid(path.child("path"), value, format!("cannot end with '{suffix}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(Error::invalid(path.child("path"), value, "must be an absolute path"));
            }
        }
        other => errors.push(Error::not_supported(path.child("pathType"), other, &PATH_TYPES)),
    }
}

fn check_backend(errors: &mut ErrorList, backend: &Value, path: &Path) {
    let (service, resource) = (at(backend, "service"), at(backend, "resource"));
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            errors.push(Error::invalid(path.clone(), "", "cannot set both resource and service backends"));
        }
        (true, false) => {
            let path = path.child("resource");
            for key in ["kind", "name"] {
                required(errors, resource, &path, key);
            }
        }
        (false, true) => check_service(errors, service, &path.child("service")),
        (true, true) => errors.push(Error::required(path.clone(), "backend must not be empty")),
    }
}

fn check_service(errors: &mut ErrorList, service: &Value, path: &Path) {
    if let Some(name) = required(errors, service, path, "name") {
        report(errors, &path.child("name"), name, dns_label_problems(name));
    }
    let (name, number, path) = (text(service, "port.name"), int(service, "port.number"), path.child("port"));
    match (name.is_empty(), number.unwrap_or_default() == 0) {
        (false, false) => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
        (false, true) => report(errors, &path.child("name"), name, port_name_problems(name)),
        (true, false) => port_number(errors, &path.child("number"), number.unwrap_or_default()),
        (true, true) => errors.push(Error::required(path, "port name or number is required")),
    }
}

fn check_status(ingress: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status.loadBalancer.ingress");
    for (index, point) in list(ingress, "status.loadBalancer.ingress").iter().enumerate() {
        let (ip, host, path) = (text(point, "ip"), text(point, "hostname"), path.index(index));
        if !ip.is_empty() {
            report(&mut errors, &path.child("ip"), ip, ip_problems(ip));
        }
        if !host.is_empty() {
            report(&mut errors, &path.child("hostname"), host, dns_subdomain_problems(host));
            if ip_problems(host).is_empty() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(Error::invalid(path.child("hostname"), host, detail));
            }
        }
    }
    errors
}

fn check_class(class: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (spec, path) = (at(class, "spec"), Path::new("spec"));
    let controller = text(spec, "controller");
    if controller.len() > MAX_CONTROLLER_BYTES {
        errors.push(Error::too_long(path.child("controller"), MAX_CONTROLLER_BYTES));
    }
    check_domain_prefixed_path(&mut errors, controller, &path.child("controller"));
    let parameters = at(spec, "parameters");
    if !parameters.is_null() {
        check_parameters(&mut errors, parameters, &path.child("parameters"));
    }
    errors
}

/// `example.com/controller`.
pub(super) fn check_domain_prefixed_path(errors: &mut ErrorList, value: &str, path: &Path) {
    if value.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    match value.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            report(errors, path, domain, dns_subdomain_problems(domain));
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(Error::invalid(path.clone(), value, detail));
        }
    }
}

fn check_parameters(errors: &mut ErrorList, parameters: &Value, path: &Path) {
    let group = text(parameters, "apiGroup");
    if !group.is_empty() {
        report(errors, &path.child("apiGroup"), group, dns_subdomain_problems(group));
    }
    for key in ["kind", "name"] {
        required(errors, parameters, path, key);
    }
    let namespace = at(parameters, "namespace").as_str();
    match text(parameters, "scope") {
        "" => errors.push(Error::required(path.child("scope"), "")),
        "Namespace" if namespace.is_none() => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(Error::required(path.child("namespace"), detail));
        }
        "Cluster" if namespace.is_some() => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(Error::forbidden(path.child("namespace"), detail));
        }
        _ => one_of(errors, parameters, path, "scope", &["Cluster", "Namespace"]),
    }
    if let Some(namespace) = namespace {
        report(errors, &path.child("namespace"), namespace, dns_label_problems(namespace));
    }
}
