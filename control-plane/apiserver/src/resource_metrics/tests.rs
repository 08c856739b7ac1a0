use proptest::prelude::*;

use xebec_schema::table::Include;

use super::*;
use crate::respond::{Form, Wanted};
use crate::test_reader::FakeReader;

fn scrape(cpu: f64, memory: u64, at_ms: i64) -> String {
    format!(
        "# TYPE container_cpu_usage_seconds_total counter\n\
         container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} {cpu} {at_ms}\n\
         container_memory_working_set_bytes{{container=\"c\",namespace=\"n\",pod=\"p\"}} {memory} {at_ms}\n\
         node_cpu_usage_seconds_total {cpu:e} {at_ms}\nnode_memory_working_set_bytes {memory} {at_ms}\n\
         scrape_error 0\nnonsense\n"
    )
}

fn metrics() -> Arc<ResourceMetrics> {
    let reader = FakeReader::new();
    reader.put("", "nodes", json!({"metadata": {"name": "a", "labels": {"zone": "z"}}}));
    reader.put("", "pods", json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}}}));
    ResourceMetrics::new(reader)
}

#[test]
fn two_answers_make_a_metric() {
    let metrics = metrics();
    metrics.take_in("a", scrape::parse(&scrape(10.0, 2 << 20, 1_700_000_000_000)));
    assert!(metrics.objects("pods", "").is_empty(), "one answer says nothing of a rate");
    metrics.take_in("a", scrape::parse(&scrape(12.5, 3 << 20, 1_700_000_010_000)));
    let pods = metrics.objects("pods", "n");
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["containers"], json!([{"name": "c", "usage": {"cpu": "250000000n", "memory": "3Mi"}}]));
    assert_eq!((&pods[0]["window"], &pods[0]["timestamp"]), (&json!("10.000s"), &json!("2023-11-14T22:13:30Z")));
    assert_eq!(pods[0]["metadata"]["labels"]["app"], "web");
    let nodes = metrics.objects("nodes", "");
    assert_eq!(nodes[0]["usage"], json!({"cpu": "250000000n", "memory": "3Mi"}));
    assert!(metrics.objects("pods", "other").is_empty());
    // A container that was started anew counts from nothing.
    metrics.take_in("a", scrape::parse(&scrape(0.5, 1 << 20, 1_700_000_020_000)));
    assert!(metrics.objects("pods", "").is_empty());
}

#[test]
fn a_node_that_is_silent_has_no_metrics() {
    let metrics = metrics();
    metrics.take_in("a", scrape::parse(&scrape(10.0, 2 << 20, 1_700_000_000_000)));
    metrics.take_in("a", scrape::parse(&scrape(12.5, 3 << 20, 1_700_000_010_000)));
    metrics.take_in("b", scrape::parse(&scrape(1.0, 1 << 20, 1_700_000_071_000)));
    assert!(metrics.objects("nodes", "").is_empty());
}

#[tokio::test]
async fn requests_are_answered() {
    let metrics = metrics();
    metrics.take_in("a", scrape::parse(&scrape(10.0, 2 << 20, 1_700_000_000_000)));
    metrics.take_in("a", scrape::parse(&scrape(12.5, 3 << 20, 1_700_000_010_000)));
    let api: Arc<dyn ComputedApi> = metrics;
    let server = crate::computed::tests::Server::new(Arc::clone(&api));
    let get = async |path: &str, query: &str| {
        let answer = server.get(&format!("/apis/metrics.k8s.io/v1beta1/{path}"), query, Wanted::plain()).await;
        answer.map_err(|status| status.code)
    };
    let pods = get("pods", "labelSelector=app%3Dweb").await.unwrap();
    assert_eq!((&pods["kind"], &pods["items"][0]["kind"]), (&json!("PodMetricsList"), &json!("PodMetrics")));
    assert_eq!(get("pods", "labelSelector=app%3Dother").await.unwrap()["items"], json!([]));
    assert_eq!(get("namespaces/n/pods/p", "").await.unwrap()["apiVersion"], "metrics.k8s.io/v1beta1");
    assert_eq!(get("namespaces/n/pods/q", "").await, Err(404));
    assert_eq!(get("things", "").await, Err(404));
    assert_eq!(get("pods", "fieldSelector=spec.nodeName%3Da").await, Err(400));
    assert_eq!(get("pods", "watch=true").await, Err(405));
    let table = Wanted { form: Form::Table(Include::None), ..Wanted::plain() };
    let table = server.get("/apis/metrics.k8s.io/v1beta1/pods", "", table).await.unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["p", "250m", "3Mi", "10.000s"]));
    let all = crate::computed::resources(&*api);
    assert_eq!(
        (&all["resources"][1]["kind"], &all["resources"][1]["verbs"]),
        (&json!("PodMetrics"), &json!(["get", "list"]))
    );
}

proptest! {
    /// Whatever a node says, it is read or left out.
    #[test]
    fn any_text_is_read(text in "(?s)[a-z_{}=\", 0-9.\\\\\n]{0,200}") {
        let _ = scrape::parse(&text);
    }

    /// Labels are read back as they were written.
    #[test]
    fn labels_are_escaped(pod in "[a-z\"\\\\\n,}]{1,12}") {
        let escaped = pod.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let lines = ["cpu_usage_seconds_total", "memory_working_set_bytes"]
            .map(|m| format!("container_{m}{{pod=\"{escaped}\",namespace=\"n\",container=\"c\"}} 1 1700000000000\n"));
        let scrape = scrape::parse(&lines.concat());
        let key = ("n".to_owned(), pod, "c".to_owned());
        prop_assert_eq!(scrape.containers.keys().collect::<Vec<_>>(), vec![&key]);
    }
}
