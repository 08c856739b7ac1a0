use serde_json::{Value, json};

use crate::kinds::strategy;
use crate::resource::Strategy;

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn pods() -> Strategy {
    strategy("", "Pod")
}

fn defaulted(text: &str) -> Value {
    let mut pod = yaml(text);
    (pods().default)(&mut pod);
    pod
}

fn problems(text: &str) -> Vec<String> {
    (pods().validate)(&defaulted(text)).iter().map(ToString::to_string).collect()
}

const PLAIN_POD: &str = "{metadata: {name: a}, spec: {containers: [{name: c, image: 'nginx:1'}]}}";

#[test]
fn an_applied_pod_looks_as_it_does_upstream() {
    insta::assert_json_snapshot!(defaulted(include_str!("fixtures/web.yaml")));
}

#[test]
fn defaults_are_idempotent() {
    let once = defaulted(include_str!("fixtures/web.yaml"));
    let mut twice = once.clone();
    (pods().default)(&mut twice);
    assert_eq!(once, twice);
    assert_eq!((pods().validate)(&once), []);
}

#[test]
fn messages_are_upstreams() {
    insta::assert_snapshot!(problems(include_str!("fixtures/wrong.yaml")).join("\n"));
}

#[test]
fn a_plain_pod_is_fine() {
    assert_eq!(problems(PLAIN_POD), [""; 0]);
}

#[test]
fn names_of_sysctls_have_parts() {
    let problems = |name: &str| {
        let sysctls = format!("securityContext: {{sysctls: [{{name: {name:?}, value: '1'}}]}}");
        problems(&PLAIN_POD.replace("spec: {", &format!("spec: {{{sysctls}, ")))
    };
    for good in ["kernel.shmmax", "safe-and-unsafe", "net/ipv4/conf.1/a_b", "a"] {
        assert_eq!(problems(good), [""; 0], "{good}");
    }
    for bad in ["foo-", "bar..", ".a", "a//b", "A", "a.-b", &"a".repeat(254)] {
        let problem = format!("spec.securityContext.sysctls[0].name: Invalid value: {bad:?}: must have at most 253 ");
        assert!(problems(bad)[0].starts_with(&problem), "{bad}: {:?}", problems(bad));
    }
}

#[test]
fn a_new_pod_is_pending() {
    let mut pod = defaulted(PLAIN_POD);
    pod["status"] = json!({"phase": "Running"});
    (pods().prepare_create)(&mut pod);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/x"}]);
    (pods().prepare_create)(&mut pod);
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
}

fn update(change: impl Fn(&mut Value)) -> Vec<String> {
    let old = defaulted(include_str!("fixtures/web.yaml"));
    let mut new = old.clone();
    change(&mut new);
    (pods().validate_update)(&new, &old).iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_may_change_next_to_nothing() {
    let none = [""; 0];
    assert_eq!(update(|_| {}), none);
    assert_eq!(update(|pod| pod["spec"]["containers"][0]["image"] = "nginx:2".into()), none);
    assert_eq!(update(|pod| pod["spec"]["activeDeadlineSeconds"] = 5.into()), none);
    let toleration = json!([{"key": "a", "operator": "Exists"}]);
    assert_eq!(update(|pod| pod["spec"]["tolerations"] = toleration.clone()), none);
    assert_eq!(
        update(|pod| pod["spec"]["restartPolicy"] = "Never".into()),
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.\
          initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
          tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n  \
          spec.restartPolicy: \"Always\" -> \"Never\""]
    );
    assert_eq!(
        update(|pod| pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
            "name": "d", "image": "i:1", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}))),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        update(|pod| pod["spec"]["containers"][0]["image"] = "".into()),
        ["spec.containers[0].image: Required value"]
    );
}

#[test]
fn warnings_name_what_is_hardly_meant() {
    let pod = yaml(
        "{metadata: {annotations: {scheduler.alpha.kubernetes.io/critical-pod: ''}}, spec: {nodeSelector: \
         {beta.kubernetes.io/os: linux}, containers: [{name: c, env: [{name: A, value: x}, {name: A, value: y}]}]}}",
    );
    assert_eq!(
        (pods().warnings)(&pod),
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \
         \"priorityClassName\" field instead",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ]
    );
}

#[test]
fn a_gated_pod_may_be_narrowed() {
    let mut old = defaulted(PLAIN_POD);
    old["spec"]["schedulingGates"] = json!([{"name": "example.com/x"}]);
    old["spec"]["nodeSelector"] = json!({"a": "b"});
    let terms = |requirements: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": requirements}]}}})
    };
    let (one, two) = (json!({"key": "a", "operator": "Exists"}), json!({"key": "b", "operator": "Exists"}));
    let update = |old: &Value, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        let errors = (pods().validate_update)(&new, old);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = [""; 0];
    assert_eq!(update(&old, &|pod| pod["spec"]["nodeSelector"]["c"] = "d".into()), none);
    assert_eq!(update(&old, &|pod| pod["spec"]["affinity"] = terms(json!([one]))), none);
    assert_eq!(update(&old, &|pod| pod["spec"]["schedulingGates"] = json!([])), none);
    assert_eq!(
        update(&old, &|pod| pod["spec"]["nodeSelector"] = json!({"a": "c"})),
        [
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations \
         or deletions)"
        ]
    );
    old["spec"]["affinity"] = terms(json!([one]));
    assert_eq!(update(&old, &|pod| pod["spec"]["affinity"] = terms(json!([one, two]))), none);
    assert_eq!(update(&old, &|pod| pod["spec"]["affinity"] = terms(json!([two]))).len(), 1);
    let more = update(&old, &|pod| pod["spec"]["schedulingGates"] = json!([{"name": "example.com/y"}]));
    assert_eq!(
        more,
        ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate \
        'example.com/y'"]
    );
}

#[test]
fn volumes_and_devices_say_where_they_are() {
    let pod = "{metadata: {name: a}, spec: {volumes: [
        {name: m, nfs: {server: s}}, {name: r, rbd: {monitors: []}}, {name: e, ephemeral: {}}, {name: d, downwardAPI:
          {items: [{path: x, fieldRef: {fieldPath: spec.nodeName}}]}}, {name: p, projected: {sources: [
            {secret: {name: s, items: [{key: k, path: f}]}}, {serviceAccountToken: {path: f}}, {clusterTrustBundle: {path: t}}]}},
        {name: c, persistentVolumeClaim: {claimName: c}}],
      containers: [{name: c, image: i, volumeMounts: [{name: m, mountPath: /m, recursiveReadOnly: Enabled},
        {name: p, mountPath: /dev/x}], volumeDevices: [{name: c, devicePath: /dev/x}, {name: c, devicePath: ../y}]}]}}";
    assert_eq!(
        problems(pod),
        [
            "spec.volumes[0].nfs.path: Required value",
            "spec.volumes[1].rbd.monitors: Required value",
            "spec.volumes[1].rbd.image: Required value",
            "spec.volumes[2].ephemeral.volumeClaimTemplate: Required value",
            "spec.volumes[3].downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported \
             values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \
             \"metadata.uid\"",
            "spec.volumes[4].projected: Invalid value: \"f\": conflicting duplicate paths",
            "spec.volumes[4].projected.sources[2].clusterTrustBundle: Required value: either name or signerName must be \
             specified",
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/dev/x\": must not already exist as a path in \
             volumeDevices",
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/dev/x\": must not already exist as a path \
             in volumeMounts",
            "spec.containers[0].volumeDevices[1].name: Invalid value: \"c\": must be unique",
            "spec.containers[0].volumeDevices[1].devicePath: Invalid value: \"../y\": can not contain backsteps ('..')",
            "spec.volumes[4].projected.sources[1].serviceAccountToken: Forbidden: must not be specified when \
             serviceAccountName is not set",
        ]
    );
}

#[test]
fn volumes_may_be_images() {
    let volumes = |sources: &str| {
        format!("{{metadata: {{name: a}}, spec: {{volumes: [{sources}], containers: [{{name: c, image: i}}]}}}}")
    };
    let pod = defaulted(&volumes("{name: a, image: {reference: 'a:1'}}, {name: b, image: {reference: b}}"));
    assert_eq!(pod["spec"]["volumes"][0]["image"], json!({"reference": "a:1", "pullPolicy": "IfNotPresent"}));
    assert_eq!(pod["spec"]["volumes"][1]["image"]["pullPolicy"], "Always");
    assert_eq!(
        problems(&volumes("{name: a, image: {}}, {name: b, image: {reference: b, pullPolicy: Sometimes}}")),
        [
            "spec.volumes[1].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.volumes[0].image.reference: Required value",
        ]
    );
    // What a template does not say yet, its pods will.
    let template = "{metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, \
                    spec: {volumes: [{name: v, image: {}}], containers: [{name: c, image: i}]}}}}";
    let mut deployment = yaml(template);
    let deployments = strategy("apps", "Deployment");
    (deployments.default)(&mut deployment);
    assert!((deployments.validate)(&deployment).is_empty());
}

#[test]
fn claims_namespaces_and_profiles_go_together() {
    let pod = "{metadata: {name: a}, spec: {restartPolicy: Never, shareProcessNamespace: true, hostPID: true, hostUsers: false,
      securityContext: {seLinuxChangePolicy: Often, appArmorProfile: {type: Localhost}},
      resourceClaims: [{name: gpu}], containers: [{name: c, image: i, resizePolicy: [{resourceName: disk, restartPolicy:
        RestartContainer}], resources: {claims: [{name: gpu}, {name: gpu}, {name: tpu}]}}]}}";
    assert_eq!(
        problems(pod),
        [
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"gpu\"}: must specify one of: `resourceClaimName`, \
             `resourceClaimTemplateName`",
            "spec.containers[0].resources.claims[1]: Duplicate value: \"gpu\"",
            "spec.containers[0].resources.claims[2]: Not found: \"tpu\": must be one of the names in \
             pod.spec.resourceClaims: gpu",
            "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when \
             `restartPolicy` is 'Never'",
            "spec.securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is \
             Localhost",
            "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"Often\": supported values: \"MountOption\", \
             \"Recursive\"",
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot \
             both be enabled",
            "spec.HostPID: Forbidden: when `hostUsers` is false",
        ]
    );
}

/// What is wrong with a pod whose spec has this, too; the container has `of_container`.
fn with(of_pod: &str, of_container: &str) -> Vec<String> {
    problems(&format!(
        "{{metadata: {{name: a}}, spec: {{{of_pod} containers: [{{name: c, image: 'nginx:1', {of_container}}}]}}}}"
    ))
}

#[test]
fn sysctls_of_the_nodes_own_namespaces_are_not_a_pods() {
    let sysctls = |names: &[&str], host: &str| {
        let list: Vec<String> = names.iter().map(|name| format!("{{name: {name}, value: '1'}}")).collect();
        with(&format!("{host} securityContext: {{sysctls: [{}]}},", list.join(", ")), "")
    };
    let names = ["net.core.somaxconn", "kernel.shm_rmid_forced", "net/ipv4/ip_forward", "kernel.sem"];
    assert_eq!(sysctls(&names, ""), [""; 0]);
    assert_eq!(
        sysctls(&names, "hostNetwork: true,"),
        [
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when \
             'hostNetwork' is true",
            "spec.securityContext.sysctls[2].name: Invalid value: \"net/ipv4/ip_forward\": may not be specified when \
             'hostNetwork' is true",
        ]
    );
    assert_eq!(
        sysctls(&names, "hostIPC: true,"),
        [
            "spec.securityContext.sysctls[1].name: Invalid value: \"kernel.shm_rmid_forced\": may not be specified when \
             'hostIPC' is true",
            "spec.securityContext.sysctls[3].name: Invalid value: \"kernel.sem\": may not be specified when 'hostIPC' is true",
        ]
    );
}

#[test]
fn a_containers_restart_rules_are_checked() {
    let good = "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]";
    assert_eq!(with("", good), [""; 0]);
    assert_eq!(
        with("", "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]"),
        ["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"]
    );
    assert_eq!(
        with("", "restartPolicy: Sometimes, restartPolicyRules: [{action: Stop, exitCodes: {operator: Is}}, {}]"),
        [
            "spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
             \"OnFailure\"",
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \
             \"RestartAllContainers\"",
            "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \
             \"In\", \"NotIn\"",
            "spec.containers[0].restartPolicyRules[1].action: Required value: must be specified",
            "spec.containers[0].restartPolicyRules[1].exitCodes: Required value: must be specified",
        ]
    );
    let rules = vec!["{action: Restart, exitCodes: {operator: In, values: [1]}}"; 21].join(", ");
    assert_eq!(
        with("", &format!("restartPolicy: Never, restartPolicyRules: [{rules}]")),
        ["spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items"]
    );
}

#[test]
fn what_is_for_windows_is_checked() {
    let user = |name: &str| with("", &format!("securityContext: {{windowsOptions: {{runAsUserName: '{name}'}}}}"));
    for good in ["ContainerAdministrator", "CONTOSO\\jane", "corp.example.com\\svc-1"] {
        assert_eq!(user(good), [""; 0], "{good}");
    }
    for (bad, says) in [
        ("", "runAsUserName cannot be an empty string"),
        ("a\\b\\c", "runAsUserName cannot contain more than one backslash"),
        (".dot\\u", "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
        ("d\\", "runAsUserName's User cannot be empty"),
        ("..", "runAsUserName's User cannot contain only periods or spaces"),
        ("a|b", "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
    ] {
        let problems = user(bad);
        let path = "spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: ";
        assert!(problems.len() == 1 && problems[0].starts_with(path) && problems[0].ends_with(says), "{problems:?}");
    }
    let host = "securityContext: {windowsOptions: {hostProcess: true}},";
    assert_eq!(
        with(host, ""),
        ["spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers"]
    );
    assert_eq!(with(&format!("hostNetwork: true, {host}"), ""), [""; 0]);
    assert_eq!(
        with(&format!("hostNetwork: true, {host}"), "securityContext: {windowsOptions: {hostProcess: false}}"),
        ["spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value \
             must be identical if both are specified, was true"]
    );
    assert_eq!(
        with("os: {name: linux}, hostNetwork: true, securityContext: {windowsOptions: {hostProcess: true}},", ""),
        ["spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"]
    );
    assert_eq!(
        with("os: {name: windows}, hostPID: true,", "securityContext: {privileged: false, runAsUser: 1}"),
        [
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            "spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ]
    );
}

#[test]
fn certificates_and_bundles_in_volumes_are_checked() {
    let projected =
        |source: &str| with(&format!("volumes: [{{name: v, projected: {{sources: [{{{source}}}]}}}}],"), "");
    let at = "spec.volumes[0].projected.sources[0]";
    let good = "podCertificate: {signerName: example.com/s, keyType: ED25519, credentialBundlePath: b.pem}";
    assert_eq!(projected(good), [""; 0]);
    assert_eq!(
        projected("podCertificate: {signerName: s, keyType: DSA, maxExpirationSeconds: 60}"),
        [
            format!(
                "{at}.podCertificate.signerName: Invalid value: \"s\": must be a fully qualified domain and path of the form 'example.com/signer-name'"
            ),
            format!(
                "{at}.podCertificate.keyType: Unsupported value: \"DSA\": supported values: \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\", \"RSA3072\", \"RSA4096\""
            ),
            format!(
                "{at}.podCertificate.maxExpirationSeconds: Invalid value: 60: if provided, maxExpirationSeconds must be >= 3600"
            ),
            format!(
                "{at}.podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath"
            ),
        ]
    );
    assert_eq!(
        projected(
            "podCertificate: {signerName: example.com/s, keyType: RSA3072, keyPath: ../k, certificateChainPath: k}, "
        ),
        [format!("{at}.podCertificate.keyPath: Invalid value: \"../k\": must not contain '..'")]
    );
    assert_eq!(
        projected("podCertificate: {signerName: example.com/s, keyType: RSA3072, keyPath: k, certificateChainPath: k}"),
        ["spec.volumes[0].projected: Invalid value: \"k\": conflicting duplicate paths"]
    );
    assert_eq!(
        projected("clusterTrustBundle: {name: b, labelSelector: {matchLabels: {a: b}}, path: ca.pem}"),
        [format!(
            "{at}.clusterTrustBundle.labelSelector: Invalid value: {{\"matchLabels\":{{\"a\":\"b\"}}}}: labelSelector must be unset if name is specified"
        )]
    );
    let bad = projected("clusterTrustBundle: {signerName: nobody, path: ca.pem}");
    assert!(bad.len() == 1 && bad[0].contains("fully qualified domain and path"), "{bad:?}");
}

#[test]
fn a_pods_own_hostname_fits_the_kernel() {
    assert_eq!(with("hostnameOverride: a.example.com,", ""), [""; 0]);
    let long = format!("hostnameOverride: {},", "a".repeat(65));
    assert!(with(&long, "").iter().any(|problem| problem.contains("spec.hostnameOverride: Too long")));
}
