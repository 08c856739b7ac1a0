use proptest::prelude::*;
use serde_json::json;

use super::*;

fn facts() -> Facts {
    Facts {
        addresses: vec!["10.244.1.5".parse().unwrap()],
        host_ip: "172.30.0.11".parse().unwrap(),
        allocatable_cpu_milli: 2000,
        allocatable_memory_bytes: 8 << 30,
    }
}

fn pod(container: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "labels": { "app": "web", "tier": "1" } },
        "spec": { "nodeName": "n1", "containers": [container] },
    }))
    .unwrap()
}

fn env_of(container: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String)>, ConfigError> {
    let pod = pod(container);
    environment(&pod, &pod.spec.containers[0], sources, &facts())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn later_variables_see_earlier_ones_and_unknown_ones_stay() {
    let container = json!({ "name": "c", "env": [
        { "name": "A", "value": "1" },
        { "name": "B", "value": "$(A)-$(C)-$$(A)" },
        { "name": "C", "value": "x" },
    ]});
    assert_eq!(env_of(container, &Sources::default()).unwrap(), pairs(&[("A", "1"), ("B", "1-$(C)-$(A)"), ("C", "x")]));
}

#[test]
fn fields_and_resources_are_read_from_pod_and_node() {
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    let container = json!({ "name": "c", "resources": { "limits": { "cpu": "1500m" } }, "env": [
        { "name": "IP", "valueFrom": field("status.podIP") },
        { "name": "APP", "valueFrom": field("metadata.labels['app']") },
        { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
        { "name": "MILLI", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } } },
        { "name": "MEM", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
    ]});
    let expected = [("IP", "10.244.1.5"), ("APP", "web"), ("CPU", "2"), ("MILLI", "1500"), ("MEM", "8192")];
    assert_eq!(env_of(container, &Sources::default()).unwrap(), pairs(&expected));
}

#[test]
fn what_is_missing_is_an_error_unless_it_is_optional() {
    let reference = |optional: bool| {
        json!({ "name": "c", "env": [
            { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "k", "optional": optional } } },
        ]})
    };
    assert_eq!(env_of(reference(false), &Sources::default()).unwrap_err().to_string(), "configmap \"m\" not found");
    assert_eq!(env_of(reference(true), &Sources::default()).unwrap(), Vec::new());
    let sources = Sources { config_maps: [("m".to_owned(), Some(ConfigMap::default()))].into(), ..Sources::default() };
    assert_eq!(env_of(reference(false), &sources).unwrap_err().to_string(), "couldn't find key k in ConfigMap shop/m");
}

#[test]
fn services_are_told_as_upstream_does() {
    let service: Service = serde_json::from_value(json!({}))
        .map(|mut s: Service| {
            s.metadata.name = "redis-main".to_owned();
            s.spec.cluster_ip = "10.96.0.11".to_owned();
            s.spec.ports =
                vec![crate::api::config::ServicePort { name: "db".to_owned(), protocol: "TCP".to_owned(), port: 6379 }];
            s
        })
        .unwrap();
    let links = service_links(&[service]);
    assert_eq!(links["REDIS_MAIN_SERVICE_HOST"], "10.96.0.11");
    assert_eq!(links["REDIS_MAIN_SERVICE_PORT_DB"], "6379");
    assert_eq!(links["REDIS_MAIN_PORT_6379_TCP"], "tcp://10.96.0.11:6379");
    assert_eq!(links.len(), 8);
}

proptest! {
    #[test]
    fn text_without_dollars_is_left_alone(text in "[^$]*") {
        prop_assert_eq!(expand(&text, |_| Some("x".to_owned())), text);
    }

    #[test]
    fn expansion_never_panics(text in ".*") {
        expand(&text, |name| (name.len() % 2 == 0).then(|| "v".to_owned()));
    }
}
