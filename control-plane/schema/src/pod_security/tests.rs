use serde_json::{Value, json};

use super::*;

fn standard(level: Level, version: &str) -> Standard {
    Standard { level, version: version.parse().unwrap() }
}

fn of(level: Level, version: &str, spec: Value) -> String {
    details(&violations(standard(level, version), &json!({}), &spec))
}

fn baseline(spec: Value) -> String {
    of(Level::Baseline, "latest", spec)
}

/// A pod that the restricted level permits, changed.
fn restricted(change: impl FnOnce(&mut Value)) -> String {
    let mut spec = hardened();
    change(&mut spec);
    of(Level::Restricted, "latest", spec)
}

fn hardened() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}}}],
    })
}

#[test]
fn an_ordinary_pod_is_told_what_upstream_tells_it() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    assert_eq!(
        of(Level::Restricted, "latest", spec.clone()),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
    assert_eq!(baseline(spec.clone()), "");
    assert_eq!(of(Level::Privileged, "latest", json!({"hostNetwork": true})), "");
    assert_eq!(restricted(|_| {}), "");
}

#[test]
fn baseline_forbids() {
    let container = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}, {"name": "b", "securityContext": context}]});
    for (spec, says) in [
        (
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        ),
        (
            json!({"volumes": [{"name": "x", "hostPath": {"path": "/"}}, {"name": "y", "emptyDir": {}}]}),
            "hostPath volumes (volume \"x\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 8080}, {"hostPort": 80}]}, {"name": "b", "ports": [{"containerPort": 1}]}]}),
            "hostPort (container \"a\" uses hostPorts 80, 8080)",
        ),
        (
            container(json!({"privileged": true})),
            "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}})),
            "non-default capabilities (containers \"a\", \"b\" must not include \"BPF\", \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (containers \"a\", \"b\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "foo", "user": "u"}}, "containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"role": "r"}}}]}),
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"foo\"; user may not be set; role may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}, {"name": "a"}]}}),
            "forbidden sysctls (kernel.msgmax, a)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}, "lifecycle": {"preStop": {"tcpSocket": {"host": "g"}}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"g\", \"h\")",
        ),
    ] {
        assert_eq!(baseline(spec), says);
    }
    let metadata = json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}});
    let found = violations(standard(Level::Baseline, "latest"), &metadata, &json!({}));
    assert_eq!(found[0].reason, "forbidden AppArmor profile");
    assert!(found[0].detail.starts_with("annotation must not set AppArmor profile type to \"container.apparmor"));
}

#[test]
fn restricted_forbids_more() {
    assert_eq!(
        restricted(|spec| spec["volumes"] =
            json!([{"name": "n", "nfs": {}}, {"name": "h", "hostPath": {}}, {"name": "e", "emptyDir": {}}])),
        "restricted volume types (volumes \"n\", \"h\" use restricted volume types \"hostPath\", \"nfs\")"
    );
    assert_eq!(
        restricted(|spec| spec["securityContext"]["runAsUser"] = 0.into()),
        "runAsUser=0 (pod must not set runAsUser=0)"
    );
    assert_eq!(
        restricted(|spec| spec["containers"][0]["securityContext"]["runAsNonRoot"] = false.into()),
        "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)"
    );
    assert_eq!(
        restricted(|spec| spec["containers"][0]["securityContext"]["capabilities"] =
            json!({"drop": ["KILL"], "add": ["CHOWN", "NET_BIND_SERVICE"]})),
        "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \
         \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)"
    );
    let relaxed = |spec: &mut Value| {
        spec["hostUsers"] = false.into();
        spec["securityContext"]["runAsUser"] = 0.into();
        spec["securityContext"]["runAsNonRoot"] = false.into();
    };
    assert_eq!(restricted(relaxed), "");
    assert!(
        restricted(|spec| {
            spec["hostUsers"] = false.into();
            spec["containers"][0]["securityContext"]["procMount"] = "Unmasked".into();
        })
        .starts_with("procMount")
    );
    assert_eq!(
        restricted(|spec| {
            spec["os"] = json!({"name": "windows"});
            spec["containers"][0]["securityContext"] = json!({});
            spec["securityContext"]["seccompProfile"] = Value::Null;
        }),
        ""
    );
}

#[test]
fn versions_know_what_was_known_then() {
    let sysctl = || json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_keepalive_time"}]}});
    assert_eq!(of(Level::Baseline, "v1.28", sysctl()), "forbidden sysctls (net.ipv4.tcp_keepalive_time)");
    assert_eq!(of(Level::Baseline, "v1.29", sysctl()), "");
    assert_eq!(of(Level::Baseline, "v1.99", sysctl()), "");
    let mut spec = hardened();
    spec["containers"][0]["securityContext"] = json!({"allowPrivilegeEscalation": false});
    assert_eq!(of(Level::Restricted, "v1.21", spec.clone()), "");
    assert!(of(Level::Restricted, "v1.22", spec).starts_with("unrestricted capabilities"));
    let unmasked =
        json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]});
    assert!(of(Level::Baseline, "v1.34", unmasked.clone()).starts_with("procMount"));
    assert_eq!(of(Level::Baseline, "v1.35", unmasked), "");
}

#[test]
fn labels_make_the_policy() {
    let read = |labels: Value| policy(&json!({"metadata": {"labels": labels}}), Policy::default());
    let (found, errors) = read(json!({
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30",
        "pod-security.kubernetes.io/audit": "restricted",
    }));
    assert_eq!(
        (found.enforce.to_string(), found.audit.to_string()),
        ("baseline:v1.30".into(), "restricted:latest".into())
    );
    assert_eq!(found.warn.to_string(), "baseline:v1.30", "who is not asked to warn warns of what is enforced");
    assert!(errors.is_empty());
    let (found, errors) = read(json!({
        "pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn": "x",
        "pod-security.kubernetes.io/audit-version": "1.2",
    }));
    assert_eq!((found.enforce.level, found.warn.level), (Level::Restricted, Level::Privileged));
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, \
             baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"1.2\": must be \"latest\" or \
             \"v1.x\"",
            "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be one of privileged, \
             baseline, restricted",
        ]
    );
}

#[test]
fn updates_matter_when_images_change() {
    let pod = |image: &str| json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": image}]}});
    assert!(!is_significant_update(&pod("a"), &pod("a")) && is_significant_update(&pod("a"), &pod("b")));
    let mut debugged = pod("a");
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "x"}]);
    assert!(is_significant_update(&debugged, &pod("a")) && !is_significant_update(&debugged, &debugged));
}
