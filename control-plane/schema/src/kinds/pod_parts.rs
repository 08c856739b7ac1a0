//! The parts of a pod's spec that change while it runs, each by a subresource of its own: ephemeral containers, and
//! resources (`pkg/registry/core/pod/strategy.go`, KEP-277, KEP-1287).

use serde_json::Value;

use super::json::{at, carry_over, entries, has, list, list_mut, same, set, text};
use super::pod_spec::{differences, qos_class};
use crate::field::{Error, ErrorList, Path};
use crate::resource::Part;

/// What `pods/ephemeralcontainers` and `pods/resize` change.
pub(super) const PARTS: &[(&str, Part)] = &[
    ("ephemeralcontainers", Part { prepare: keep_all_but_ephemeral, validate: check_ephemeral }),
    ("resize", Part { prepare: keep_all_but_resources, validate: check_resize }),
];

/// Kubelets mark the API's image of a pod that they run by themselves with it.
const STATIC_POD: &str = "kubernetes.io/config.mirror";

fn is_static(pod: &Value) -> bool {
    at(pod, "metadata.annotations").get(STATIC_POD).is_some()
}

fn keep_all_but_ephemeral(new: &mut Value, old: &Value) {
    let mut spec = at(old, "spec").clone();
    carry_over(&mut spec, at(new, "spec"), "ephemeralContainers");
    set(new, "spec", spec);
    carry_over(new, old, "status");
}

/// `ValidatePodEphemeralContainersUpdate`.
fn check_ephemeral(new: &Value, old: &Value) -> ErrorList {
    if is_static(old) {
        return vec![Error::forbidden(Path::new(""), "static pods do not support ephemeral containers")];
    }
    let mut errors = super::pod::check(new);
    let path = Path::new("spec").child("ephemeralContainers");
    for before in list(old, "spec.ephemeralContainers") {
        let name = text(before, "name");
        match list(new, "spec.ephemeralContainers").iter().find(|c| text(c, "name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(Error::forbidden(path.clone(), detail));
            }
            Some(after) if !same(after, before) => {
                let changed = differences(after, before, &Path::default()).join("\n");
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{changed}");
                errors.push(Error::forbidden(path.clone(), detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Where the containers are that have resources of their own.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Containers that were added, removed or moved stay so: the validation refuses them.
fn keep_all_but_resources(new: &mut Value, old: &Value) {
    let names = |pod: &Value, key: &str| -> Vec<String> {
        list(at(pod, "spec"), key).iter().map(|c| text(c, "name").to_owned()).collect()
    };
    let mut spec = at(old, "spec").clone();
    for key in LISTS {
        if names(new, key) != names(old, key) {
            carry_over(&mut spec, at(new, "spec"), key);
            continue;
        }
        for (container, asked) in list_mut(&mut spec, key).iter_mut().zip(list(at(new, "spec"), key)) {
            carry_over(container, asked, "resources");
            carry_over(container, asked, "resizePolicy");
        }
    }
    carry_over(&mut spec, at(new, "spec"), "resources");
    set(new, "spec", spec);
    carry_over(new, old, "status");
}

/// `ValidatePodResize`.
fn check_resize(new: &Value, old: &Value) -> ErrorList {
    if is_static(old) {
        return vec![Error::forbidden(Path::new(""), "static pods cannot be resized")];
    }
    if text(old, "spec.os.name") == "windows" {
        return vec![Error::forbidden(Path::new(""), "windows pods cannot be resized")];
    }
    let mut errors = super::pod::check(new);
    let (path, spec, before) = (Path::new("spec"), at(new, "spec"), at(old, "spec"));
    if LISTS.iter().any(|key| list(spec, key).len() != list(before, key).len()) {
        errors.push(Error::forbidden(path, ONLY_CPU_AND_MEMORY));
        return errors;
    }
    if qos_class(spec) != qos_class(before) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(Error::invalid(path.clone(), at(old, "status.qosClass").clone(), detail));
    }
    if !node_resizes(old) {
        errors.push(Error::forbidden(path.clone(), "Pod running on node without support for resize"));
    }
    check_not_removed(&mut errors, at(spec, "resources"), at(before, "resources"), &path.child("resources"));
    for key in ["initContainers", "containers"] {
        for (index, (container, was)) in list(spec, key).iter().zip(list(before, key)).enumerate() {
            let path = path.child(key).index(index).child("resources");
            if key == "containers" || is_sidecar(was) {
                check_not_removed(&mut errors, at(container, "resources"), at(was, "resources"), &path);
            }
        }
    }
    check_only_resources(&mut errors, spec, before, &path);
    errors
}

const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// A node that can change a running container's resources reports them. Of a pod that does not run, nobody knows.
fn node_resizes(pod: &Value) -> bool {
    let running = list(pod, "status.containerStatuses").iter().find(|c| has(c, "state.running"));
    running.is_none_or(|c| has(c, "resources"))
}

fn check_not_removed(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    for key in ["requests", "limits"] {
        if entries(old, key).iter().any(|(name, _)| at(new, key).get(name).is_none()) {
            errors.push(Error::forbidden(path.child(key), format!("resource {key} cannot be removed")));
        }
    }
}

/// With CPU and memory put back to what they were, nothing may differ.
fn check_only_resources(errors: &mut ErrorList, spec: &Value, before: &Value, path: &Path) {
    let mut rest = spec.clone();
    for (key, detail) in [
        ("containers", ONLY_CPU_AND_MEMORY),
        ("initContainers", "only cpu and memory resources for sidecar containers are mutable"),
    ] {
        for (container, was) in list_mut(&mut rest, key).iter_mut().zip(list(before, key)) {
            let fixed = key == "initContainers" && !is_sidecar(was);
            if !fixed {
                put_back(container, was);
            }
            if !same(container, was) {
                let fixed_detail = "resources for non-sidecar init containers are immutable";
                errors.push(Error::forbidden(path.clone(), if fixed { fixed_detail } else { detail }));
            }
        }
    }
    put_back(&mut rest, before);
    if errors.is_empty() && !same(&rest, before) {
        errors.push(Error::forbidden(path.clone(), ONLY_CPU_AND_MEMORY));
    }
}

/// Gives a container (or a pod's spec) the CPU and memory that it had. How it is resized may change, too.
fn put_back(new: &mut Value, old: &Value) {
    carry_over(new, old, "resizePolicy");
    let Some(resources) = new.get_mut("resources") else { return };
    for key in ["requests", "limits"] {
        let Some(amounts) = resources.get_mut(key) else { continue };
        for name in ["cpu", "memory"] {
            carry_over(amounts, at(at(old, "resources"), key), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        super::super::pod_spec::default_pod(&mut pod);
        pod
    }

    fn messages(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn resize(old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new);
        keep_all_but_resources(&mut new, old);
        messages(&check_resize(&new, old))
    }

    #[test]
    fn ephemeral_containers_can_only_be_added() {
        let old = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
        let mut new = old.clone();
        new["spec"]["nodeName"] = "elsewhere".into();
        new["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "i", "targetContainerName": "a", "imagePullPolicy": "Always",
                "terminationMessagePolicy": "File"}]);
        keep_all_but_ephemeral(&mut new, &old);
        assert!(new["spec"].get("nodeName").is_none());
        assert_eq!(messages(&check_ephemeral(&new, &old)), Vec::<String>::new());
        let again = old.clone();
        assert_eq!(
            messages(&check_ephemeral(&again, &new)),
            ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"]
        );
        let mut changed = new.clone();
        changed["spec"]["ephemeralContainers"][0]["image"] = "j".into();
        let told = messages(&check_ephemeral(&changed, &new)).concat();
        assert!(told.contains("existing ephemeral containers \"d\" may not be changed"), "{told}");
        let mut wrong = new.clone();
        wrong["spec"]["ephemeralContainers"][0]["targetContainerName"] = "nobody".into();
        assert!(!check_ephemeral(&wrong, &old).is_empty());
    }

    #[test]
    fn resources_change_within_the_class() {
        let old = pod(json!({"containers": [
            {"name": "a", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m"}}},
        ]}));
        let up = resize(&old, |p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "150m".into());
        assert_eq!(up, Vec::<String>::new());
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        assert!(resize(&old, |p| p["spec"]["containers"][0]["resizePolicy"] = policy).is_empty());
        let class = resize(&old, |p| {
            p["spec"]["containers"][0]["resources"] =
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        });
        assert_eq!(class, ["spec: Invalid value: \"null\": Pod QOS Class may not change as a result of resizing"]);
        let less = resize(&old, |p| p["spec"]["containers"][0]["resources"]["limits"] = json!({}));
        assert_eq!(less, ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]);
        let other = resize(&old, |p| {
            p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = "1Gi".into();
        });
        assert_eq!(other, ["spec: Forbidden: only cpu and memory resources are mutable"]);
        assert!(resize(&old, |p| p["spec"]["containers"][0]["image"] = "j".into()).is_empty(), "put back");
        assert!(!resize(&old, |p| p["spec"]["containers"][0]["name"] = "b".into()).is_empty());
    }

    #[test]
    fn init_containers_stay_unless_they_are_sidecars() {
        let old = pod(json!({
            "initContainers": [
                {"name": "i", "image": "i", "resources": {"requests": {"cpu": "1"}}},
                {"name": "s", "image": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            ],
            "containers": [{"name": "a", "image": "i"}],
        }));
        let cpu = |index: usize| {
            resize(&old, |p| p["spec"]["initContainers"][index]["resources"]["requests"]["cpu"] = "2".into())
        };
        assert_eq!(cpu(0), ["spec: Forbidden: resources for non-sidecar init containers are immutable"]);
        assert_eq!(cpu(1), Vec::<String>::new());
    }

    #[test]
    fn a_node_that_reports_no_resources_does_not_resize() {
        let mut old =
            pod(json!({"containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}));
        old["status"] = json!({"containerStatuses": [{"name": "a", "state": {"running": {}}}]});
        let told = resize(&old, |p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2".into());
        assert_eq!(told, ["spec: Forbidden: Pod running on node without support for resize"]);
    }
}
