use serde_json::{Value, json};

use super::strategy;

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn defaulted(group: &str, kind: &str, text: &str) -> Value {
    let mut object = yaml(text);
    (strategy(group, kind).default)(&mut object);
    let once = object.clone();
    (strategy(group, kind).default)(&mut object);
    assert_eq!(once, object, "defaults are idempotent");
    object
}

fn problems(group: &str, kind: &str, text: &str) -> Vec<String> {
    let errors = (strategy(group, kind).validate)(&defaulted(group, kind, text));
    errors.iter().map(ToString::to_string).collect()
}

/// What is wrong with turning one object into another.
fn update(group: &str, kind: &str, old: &str, new: &str) -> Vec<String> {
    let (old, mut new) = (defaulted(group, kind, old), defaulted(group, kind, new));
    (strategy(group, kind).prepare_update)(&mut new, &old);
    (strategy(group, kind).validate_update)(&new, &old).iter().map(ToString::to_string).collect()
}

const NONE: [&str; 0] = [];

const DEPLOYMENT: &str = "{metadata: {name: web}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: \
    {labels: {app: web}}, spec: {containers: [{name: c, image: 'nginx:1'}]}}}}";

#[test]
fn an_applied_deployment_looks_as_it_does_upstream() {
    insta::assert_json_snapshot!(defaulted("apps", "Deployment", DEPLOYMENT));
    assert_eq!(problems("apps", "Deployment", DEPLOYMENT), NONE);
}

#[test]
fn deployments() {
    let wrong = "{spec: {replicas: -1, progressDeadlineSeconds: 5, minReadySeconds: 5, selector: {matchLabels: {app: \
        web}}, strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}, template: {metadata: {labels: {app: \
        api}}, spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers: [{name: c, image: i}]}}}}";
    assert_eq!(
        problems("apps", "Deployment", wrong),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"api\"}: `selector` does not match template `labels`",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ]
    );
    let recreate = DEPLOYMENT.replace("selector:", "strategy: {type: Recreate, rollingUpdate: {}}, selector:");
    assert_eq!(
        problems("apps", "Deployment", &recreate),
        ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
    );
    assert_eq!(
        problems("apps", "Deployment", "{spec: {template: {}}}"),
        [
            "spec.selector: Required value",
            "spec.template.spec.containers: Required value",
            "spec.template.spec.restartPolicy: Required value",
            "spec.template.spec.dnsPolicy: Required value",
            "spec.template.spec.restartPolicy: Unsupported value: \"\": supported values: \"Always\"",
        ]
    );
    assert_eq!(
        update("apps", "Deployment", DEPLOYMENT, &DEPLOYMENT.replace("web", "api")),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"api\"}}: field is immutable"]
    );
}

const SERVICE: &str = "{metadata: {name: web}, spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: \
    80}], selector: {app: web}}}";

#[test]
fn services() {
    let service = defaulted("", "Service", SERVICE);
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}]));
    assert_eq!(service["spec"]["sessionAffinity"], "None");
    assert_eq!(service["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(problems("", "Service", SERVICE), NONE);
    assert_eq!(problems("", "Service", "{spec: {}}"), ["spec.ports: Required value"]);
    let wrong = "{spec: {clusterIP: 10.96.0.300, ports: [{port: 80, nodePort: 30000}, {name: A, port: 0}, {name: b, \
        port: 80, targetPort: 99999}], externalIPs: [127.0.0.1], sessionAffinity: Sticky, externalTrafficPolicy: Near, \
        loadBalancerClass: x}}";
    insta::assert_snapshot!(problems("", "Service", wrong).join("\n"));
    assert_eq!(
        problems("", "Service", "{spec: {type: ExternalName, clusterIP: None}}"),
        ["spec.clusterIPs: Forbidden: may not be set for ExternalName services", "spec.externalName: Required value",]
    );
    assert_eq!(
        problems("", "Service", "{spec: {type: NodePort, clusterIP: None, ports: [{port: 1}]}}"),
        ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"]
    );
    assert_eq!(
        update("", "Service", SERVICE, &SERVICE.replace("0.7", "0.8")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]
    );
}

#[test]
fn a_service_keeps_what_it_was_given() {
    let old = yaml(
        "{spec: {type: NodePort, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ipFamilies: [IPv4], ipFamilyPolicy: \
         SingleStack, externalTrafficPolicy: Cluster, ports: [{name: a, port: 80, nodePort: 30080}]}, status: {x: 1}}",
    );
    let prepare = |text: &str| {
        let mut new = yaml(text);
        (strategy("", "Service").prepare_update)(&mut new, &old);
        new
    };
    let new = prepare("{spec: {type: NodePort, ports: [{name: a, port: 81}, {name: b, port: 82}]}}");
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
    assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);
    assert_eq!(new["status"]["x"], 1);
    let mut internal = old.clone();
    internal["spec"]["type"] = "ClusterIP".into();
    let new = prepare(&internal.to_string());
    assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(new["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
    let mut external = old.clone();
    external["spec"]["type"] = "ExternalName".into();
    let new = prepare(&external.to_string());
    assert_eq!(new["spec"].get("clusterIP"), None);
    assert_eq!(new["spec"].get("clusterIPs"), None);
}

#[test]
fn a_job_selects_its_own_pods() {
    let mut job = defaulted(
        "batch",
        "Job",
        "{metadata: {name: pi, uid: u-1}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: \
         'i:1'}]}}}}",
    );
    (strategy("batch", "Job").prepare_create)(&mut job);
    insta::assert_json_snapshot!(job);
    assert_eq!((strategy("batch", "Job").validate)(&job), []);
    let mut other = job.clone();
    other["spec"]["completions"] = 2.into();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    let errors = (strategy("batch", "Job").validate_update)(&other, &job);
    assert_eq!(errors[0].to_string(), "spec.completions: Invalid value: 2: field is immutable");
    assert!(errors[1].to_string().starts_with("spec.template: Invalid value: {"));
    assert!(errors[1].to_string().ends_with(": field is immutable"));
    job["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    let errors = (strategy("batch", "Job").validate)(&job);
    assert_eq!(
        errors[0].to_string(),
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
    );
}

#[test]
fn secrets_take_strings_and_keep_their_type() {
    let secret = defaulted("", "Secret", "{data: {a: eA==}, stringData: {a: b, c: d}}");
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    assert_eq!(update("", "Secret", "{type: a}", "{type: b}"), ["type: Invalid value: \"b\": field is immutable"]);
    assert_eq!(
        update("", "Secret", "{immutable: true, data: {a: eA==}}", "{immutable: true}"),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        problems("", "Secret", "{type: kubernetes.io/tls}"),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
    let bad = problems("", "Secret", "{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: s3cret}}");
    assert!(bad[0].starts_with("data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\""));
    assert!(!bad[0].contains("s3cret"));
}

#[test]
fn config_maps_have_bounds() {
    assert_eq!(
        problems("", "ConfigMap", "{data: {a: x}, binaryData: {a: eA==}}"),
        ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
    );
    let big = json!({"data": {"a": "x".repeat(1024 * 1024), "b": "y"}}).to_string();
    assert_eq!(problems("", "ConfigMap", &big).len(), 1);
    assert_eq!(
        update("", "ConfigMap", "{immutable: true, data: {a: x}}", "{data: {a: y}}"),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
}

#[test]
fn namespaces_are_labelled_and_finalized() {
    let mut namespace = defaulted("", "Namespace", "{metadata: {name: a}, status: {phase: Terminating}}");
    (strategy("", "Namespace").prepare_create)(&mut namespace);
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"]["phase"], "Active");
}

#[test]
fn nodes() {
    let wrong = "{spec: {taints: [{key: a, effect: Sometimes}, {key: b, effect: NoSchedule}, {key: b, effect: \
        NoSchedule}, {effect: NoExecute}]}}";
    assert_eq!(
        problems("", "Node", wrong),
        [
            "metadata.taints[0].effect: Unsupported value: \"Sometimes\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\"",
            "metadata.taints[2]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"b\"}: taints must be unique by key \
             and effect pair",
            "metadata.taints[3].key: Invalid value: \"\": name part must be non-empty",
            "metadata.taints[3].key: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or \
             '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ]
    );
    let node = |cidr: &str| format!("{{spec: {{podCIDRs: [{cidr}]}}}}");
    assert_eq!(update("", "Node", &node("10.244.1.0/24"), &node("10.244.2.0/24")).len(), 1);
    assert_eq!(update("", "Node", "{spec: {}}", &node("10.244.2.0/24")), NONE);
}

#[test]
fn access() {
    let group = "rbac.authorization.k8s.io";
    assert_eq!(
        problems(group, "Role", "{rules: [{nonResourceURLs: [/x], verbs: [get]}, {resources: [pods]}]}"),
        [
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            "rules[1].verbs: Required value: verbs must contain at least one value",
            "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
        ]
    );
    let binding = "{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: ann}, {kind: \
        ServiceAccount, name: robot, namespace: ci}]}";
    let full = defaulted(group, "RoleBinding", binding);
    assert_eq!(full["subjects"][0]["apiGroup"], group);
    assert_eq!(full["subjects"][1].get("apiGroup"), None);
    assert_eq!(problems(group, "RoleBinding", binding), NONE);
    assert_eq!(
        problems(group, "ClusterRoleBinding", &binding.replace("ClusterRole", "Role")),
        ["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]
    );
    let changed = update(group, "RoleBinding", binding, &binding.replace("view", "edit"));
    assert_eq!(changed.len(), 1);
    assert!(changed[0].ends_with(": cannot change roleRef"), "{changed:?}");
}

#[test]
fn small_kinds() {
    assert_eq!(
        problems("coordination.k8s.io", "Lease", "{spec: {leaseDurationSeconds: 0}}"),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
    );
    assert_eq!(
        problems("scheduling.k8s.io", "PriorityClass", "{metadata: {name: a}, value: 2000000000}"),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    assert_eq!(
        problems("scheduling.k8s.io", "PriorityClass", "{metadata: {name: system-node-critical}, value: 2000001000}"),
        NONE
    );
    assert_eq!(
        problems("policy", "PodDisruptionBudget", "{spec: {minAvailable: 1, maxUnavailable: 150%}}"),
        [
            "spec: Invalid value: {\"maxUnavailable\":\"150%\",\"minAvailable\":1}: minAvailable and maxUnavailable cannot \
         be both set",
            "spec.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%",
        ]
    );
    let range = defaulted("", "LimitRange", "{spec: {limits: [{type: Container, max: {cpu: 1000m}}]}}");
    assert_eq!(range["spec"]["limits"][0]["defaultRequest"]["cpu"], "1");
    let wrong = "{spec: {limits: [{type: Container, max: {cpu: 1}, default: {cpu: 2}}]}}";
    assert_eq!(
        problems("", "LimitRange", wrong)[0],
        "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": \
        default request value 2 is greater than max value 1"
    );
    assert_eq!(
        problems("discovery.k8s.io", "EndpointSlice", "{addressType: IPv4, endpoints: [{addresses: ['::1']}]}"),
        ["endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address"]
    );
}

#[test]
fn selectors_of_fields() {
    let pod = yaml("{spec: {nodeName: n1, hostNetwork: true}, status: {phase: Running}}");
    let fields = (strategy("", "Pod").fields)(&pod);
    assert!(fields.contains(&("spec.nodeName", "n1".to_owned())));
    assert!(fields.contains(&("spec.hostNetwork", "true".to_owned())));
    assert!(fields.contains(&("status.podIP", String::new())));
    let event = yaml("{involvedObject: {kind: Pod, name: a}, reason: X, source: {component: kubelet}}");
    let fields = (strategy("", "Event").fields)(&event);
    assert!(fields.contains(&("involvedObject.name", "a".to_owned())));
    assert!(fields.contains(&("source", "kubelet".to_owned())));
}

/// Objects with every field that the strategies look at, of all kinds at once.
fn everything() -> Vec<Value> {
    serde_saphyr::from_multiple(include_str!("fixtures/everything.yaml")).unwrap()
}

/// The object with each of its parts, one after the other, replaced by something of another shape.
fn misshapen(object: &Value) -> Vec<Value> {
    let shapes = [json!(null), json!("x"), json!(-1), json!([5, "x", {}]), json!({})];
    let mut out: Vec<_> = shapes.to_vec();
    match object {
        Value::Object(map) => {
            for (key, value) in map {
                out.extend(misshapen(value).into_iter().map(|part| {
                    let mut whole = map.clone();
                    whole.insert(key.clone(), part);
                    Value::Object(whole)
                }));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                out.extend(misshapen(item).into_iter().map(|part| {
                    let mut whole = items.clone();
                    whole[index] = part;
                    Value::Array(whole)
                }));
            }
        }
        _ => {}
    }
    out
}

#[test]
fn no_shape_makes_a_strategy_panic() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    for object in everything() {
        let kind = object["kind"].as_str().unwrap();
        let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group);
        let strategy = strategy(group, kind);
        let mut whole = object.clone();
        (strategy.default)(&mut whole);
        for shape in misshapen(&object) {
            let mut new = shape.clone();
            (strategy.default)(&mut new);
            (strategy.prepare_create)(&mut new);
            (strategy.prepare_update)(&mut new, &whole);
            (strategy.validate)(&new);
            (strategy.validate_update)(&new, &whole);
            (strategy.validate_update)(&whole, &new);
            (strategy.validate_status)(&new, &whole);
            (strategy.fields)(&new);
            (strategy.warnings)(&new);
            for column in crate::columns::columns(group, kind) {
                (column.cell)(&shape, now);
            }
        }
    }
}

#[test]
fn whole_objects_are_fine() {
    for mut object in everything() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(g, _)| g).to_owned();
        let strategy = strategy(&group, &kind);
        (strategy.default)(&mut object);
        (strategy.prepare_create)(&mut object);
        assert_eq!((strategy.validate)(&object), [], "{kind}");
        assert_eq!((strategy.validate_update)(&object, &object), [], "{kind}");
        assert_eq!((strategy.validate_status)(&object, &object), [], "{kind}");
    }
}

/// The table of defaults and the strategies' defaults, one after the other, agree with the strategies alone about these
/// objects, and leave nothing to be checked again.
#[test]
fn whole_objects_pass_the_table_too() {
    let registry = crate::registry::Registry::builtin();
    let mut served = 0;
    for mut object in everything() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), "v1".to_owned()),
        };
        // Strategies may be there before their kind is served.
        let Some(resource) = registry.by_kind(&group, &version, &kind) else { continue };
        served += 1;
        crate::walk::check_types(resource, &object).unwrap();
        assert_eq!(crate::walk::unknown_fields(resource, &object), NONE, "{kind}");
        crate::defaults::apply(resource, &mut object);
        let once = object.clone();
        crate::defaults::apply(resource, &mut object);
        assert_eq!(once, object, "{kind}");
        (resource.strategy.prepare_create)(&mut object);
        if resource.namespaced && object["metadata"].get("namespace").is_none() {
            object["metadata"]["namespace"] = "default".into();
        }
        assert_eq!(crate::validate::create(resource, &object), [], "{kind}");
    }
    assert!(served >= 20, "{served} of the kinds are served");
}

#[test]
fn an_applied_pod_gets_nothing_more_from_the_table() {
    let registry = crate::registry::Registry::builtin();
    let pod = registry.by_kind("", "v1", "Pod").unwrap();
    let mut object = yaml(include_str!("pod_spec/fixtures/web.yaml"));
    crate::defaults::apply(pod, &mut object);
    assert_eq!(object, defaulted("", "Pod", include_str!("pod_spec/fixtures/web.yaml")));
    let deployment = registry.by_kind("apps", "v1", "Deployment").unwrap();
    let mut object = yaml(DEPLOYMENT);
    crate::defaults::apply(deployment, &mut object);
    assert_eq!(object, defaulted("apps", "Deployment", DEPLOYMENT));
    let service = registry.by_kind("", "v1", "Service").unwrap();
    let mut object = yaml(SERVICE);
    crate::defaults::apply(service, &mut object);
    assert_eq!(object, defaulted("", "Service", SERVICE));
}

#[test]
fn resource_quotas() {
    let quota = |spec: &str| format!("{{metadata: {{name: q}}, spec: {spec}}}");
    let fine = quota(
        "{hard: {pods: 10, cpu: 1000m, count/deployments.apps: 2, requests.example.com/gpu: 1, \
         gold.storageclass.storage.k8s.io/requests.storage: 5Gi, services.nodeports: 1, hugepages-2Mi: 4Mi}}",
    );
    assert_eq!(problems("", "ResourceQuota", &fine), NONE);
    assert_eq!(defaulted("", "ResourceQuota", &fine)["spec"]["hard"]["cpu"], "1");
    let wrong = quota("{hard: {nonsense: 1, pods: 1500m, cpu: -1}, scopes: [BestEffort, NotBestEffort, Odd]}");
    let scopes = "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]:";
    assert_eq!(
        problems("", "ResourceQuota", &wrong),
        [
            "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0".to_owned(),
            "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource type or fully qualified"
                .into(),
            "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota".into(),
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer".into(),
            format!("{scopes} unsupported scope applied to resource"),
            format!("{scopes} unsupported scope"),
            format!("{scopes} conflicting scopes"),
        ]
    );
    let selector =
        quota("{hard: {pods: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}]}}");
    assert_eq!(
        problems("", "ResourceQuota", &selector),
        ["spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is \
          'In' or 'NotIn' for scope selector"]
    );
    let changed =
        update("", "ResourceQuota", &quota("{hard: {pods: 1}}"), &quota("{hard: {pods: 1}, scopes: [BestEffort]}"));
    assert_eq!(changed, ["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"]);
}

#[test]
fn limits_leave_room_for_their_ratio() {
    let range = "{spec: {limits: [{type: Container, min: {cpu: 1}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 3}}, \
        {type: Pod, maxLimitRequestRatio: {memory: 500m}}, {type: PersistentVolumeClaim}]}}";
    assert_eq!(
        problems("", "LimitRange", range),
        [
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            "spec.limits[1].maxLimitRequestRatio[memory]: Invalid value: \"500m\": ratio 500m is less than 1",
            "spec.limits[2].limits: Required value: either minimum or maximum storage value is required, but neither was \
             provided",
        ]
    );
}

#[test]
fn hints_name_zones_and_nodes() {
    let slice = "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: a}], \
        forNodes: [{}]}}]}";
    assert_eq!(
        problems("discovery.k8s.io", "EndpointSlice", slice),
        [
            "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
            "endpoints[0].hints.forNodes[0].name: Required value",
        ]
    );
}

#[test]
fn a_runtime_class_puts_up_with_each_taint_once() {
    let class = "{handler: h, overhead: {podFixed: {cpu: -1}}, scheduling: {tolerations: [{key: a, operator: Exists}, \
        {key: a, operator: Exists}]}}";
    assert_eq!(
        problems("node.k8s.io", "RuntimeClass", class),
        [
            "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "scheduling.tolerations[1]: Duplicate value: {\"key\":\"a\",\"operator\":\"Exists\"}",
        ]
    );
}

#[test]
fn counts_of_a_status_fit_together() {
    let status = |kind: &str, status: &str| {
        let object = yaml(status);
        (strategy("apps", kind).validate_status)(&object, &object).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        status("StatefulSet", "{status: {replicas: 1, readyReplicas: 0, availableReplicas: 1, updatedReplicas: 2}}"),
        [
            "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas",
        ]
    );
    assert_eq!(
        status("DaemonSet", "{status: {numberReady: -1}}"),
        ["status.numberReady: Invalid value: -1: must be greater than or equal to 0"]
    );
}
