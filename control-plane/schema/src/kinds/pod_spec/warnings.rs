//! What is legal in a pod, and hardly meant (`pkg/api/pod/warnings.go`).

use serde_json::Value;

use crate::field::Path;
use crate::kinds::json::{entries, has, list, text};

/// Warnings about a pod's metadata and spec: `object` is a pod, or a template at `path`.
pub(crate) fn warnings(object: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let spec = path.child("spec");
    let Some(value) = object.get("spec") else { return out };
    for (key, _) in entries(value, "nodeSelector") {
        if let Some(instead) = deprecated_label(key) {
            out.push(format!("{}: deprecated since {instead}", spec.child("nodeSelector").key(key)));
        }
    }
    annotations(object, path, &mut out);
    for key in ["containers", "initContainers"] {
        for (index, container) in list(value, key).iter().enumerate() {
            repeated_variables(container, &spec.child(key).index(index), &mut out);
        }
    }
    for (index, volume) in list(value, "volumes").iter().enumerate() {
        if has(volume, "gitRepo") {
            let path = spec.child("volumes").index(index).child("gitRepo");
            out.push(format!("{path}: deprecated in v1.11, and disabled by default in v1.33+"));
        }
    }
    if has(value, "terminationGracePeriodSeconds")
        && value["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0)
    {
        let path = spec.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => "v1.17; use \"topology.kubernetes.io/region\" instead",
        "failure-domain.beta.kubernetes.io/zone" => "v1.17; use \"topology.kubernetes.io/zone\" instead",
        "beta.kubernetes.io/instance-type" => "v1.17; use \"node.kubernetes.io/instance-type\" instead",
        _ => return None,
    })
}

fn annotations(object: &Value, path: &Path, out: &mut Vec<String>) {
    let at = path.child("metadata").child("annotations");
    for (key, _) in entries(object, "metadata.annotations") {
        if key == "scheduler.alpha.kubernetes.io/critical-pod" {
            let instead = "use the \"priorityClassName\" field instead";
            out.push(format!("{}: non-functional in v1.16+; {instead}", at.key(key)));
        } else if key == "seccomp.security.alpha.kubernetes.io/pod" {
            let instead = "use the \"seccompProfile\" field instead";
            out.push(format!("{}: non-functional in v1.27+; {instead}", at.key(key)));
        } else if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            let instead = "use the \"appArmorProfile\" field instead";
            out.push(format!("{}: deprecated since v1.30; {instead}", at.key(key)));
        }
    }
}

/// A variable that is set twice: the first is lost, unless the second refers to it.
fn repeated_variables(container: &Value, path: &Path, out: &mut Vec<String>) {
    let variables = list(container, "env");
    for (index, variable) in variables.iter().enumerate() {
        let name = text(variable, "name");
        let refers = text(variable, "value").contains(&format!("$({name})"));
        if !refers && variables[..index].iter().any(|v| text(v, "name") == name) {
            let path = path.child("env").index(index);
            out.push(format!("{path}: hides previous definition of \"{name}\", which may be dropped when using apply"));
        }
    }
}
