use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;

use http::{Request, Response};
use kube::client::Body;
use xebec_apiserver::reader::Entry;
use xebec_node_agent::sight::{Flow, Frontend};

use super::*;
use crate::kubelets::text;

/// Objects that never change.
struct Objects(Vec<(&'static str, &'static str, Value)>);

impl Reader for Objects {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.list(group, plural, namespace).into_iter().find(|entry| *entry.name == *name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let entry = |object: &Value| {
            let field = |pointer: &str| -> Box<str> { text(object, pointer).into() };
            let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
            Arc::new(Entry {
                namespace: text(object, "/metadata/namespace").into(),
                name: text(object, "/metadata/name").into(),
                uid: "".into(),
                revision: 1,
                labels: labels.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap().into())).collect(),
                fields: vec![("status.podIP".into(), field("/status/podIP"))].into(),
                bytes: object.to_string().into(),
            })
        };
        let of_kind = self.0.iter().filter(|(g, p, _)| *g == group && *p == plural);
        of_kind
            .map(|(_, _, object)| entry(object))
            .filter(|entry| namespace.is_empty() || *entry.namespace == *namespace)
            .collect()
    }

    fn generation(&self, _group: &str, _plural: &str) -> u64 {
        1
    }
}

fn node(name: &str, ip: &str) -> (&'static str, &'static str, Value) {
    let addresses = json!([{"type": "InternalIP", "address": ip}]);
    ("", "nodes", json!({"metadata": {"name": name}, "status": {"addresses": addresses}}))
}

fn pod(namespace: &str, name: &str, ips: &[&str]) -> (&'static str, &'static str, Value) {
    let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({"phase": "Running", "podIP": ips[0], "podIPs": all});
    ("", "pods", json!({"metadata": {"name": name, "namespace": namespace}, "spec": {}, "status": status}))
}

fn service(namespace: &str, name: &str, ip: &str) -> (&'static str, &'static str, Value) {
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    let metadata = json!({"name": name, "namespace": namespace, "resourceVersion": "1", "labels": {"app": name}});
    ("", "services", json!({"metadata": metadata, "spec": spec}))
}

fn slice(namespace: &str, service: &str, pods: &[&str]) -> (&'static str, &'static str, Value) {
    let endpoints: Vec<Value> =
        pods.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let metadata = json!({"name": format!("{service}-x"), "namespace": namespace, "resourceVersion": "1",
        "labels": {"kubernetes.io/service-name": service}});
    let object = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    ("discovery.k8s.io", "endpointslices", object)
}

/// The API, over agents that answer with `answer` (by the path behind `/proxy/`), or not at all.
fn datapath(
    objects: Vec<(&'static str, &'static str, Value)>,
    answer: impl Fn(&str, &str) -> Option<String> + Clone + Send + Sync + 'static,
) -> Arc<Datapath> {
    let agents = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().path_and_query().unwrap().to_string();
        let (node, path) = path.strip_prefix("/api/v1/nodes/").unwrap().split_once("/proxy/xebec/").unwrap();
        let response = match answer(node, path) {
            Some(text) => Response::new(Body::from(text.into_bytes())),
            None => Response::builder().status(502).body(Body::from(b"nobody there".to_vec())).unwrap(),
        };
        async { Ok::<_, Infallible>(response) }
    });
    let datapath = Datapath::new(Arc::new(Objects(objects)));
    datapath.connect(kube::Client::new(agents, "default"));
    datapath
}

fn flow(id: u64, node: &str, source: &str, destination: &str) -> String {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (source, destination) = (end(source), end(destination));
    let flow = Flow {
        id,
        time: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        node: node.to_owned(),
        verdict: "forwarded".to_owned(),
        reason: None,
        direction: None,
        protocol: "TCP".to_owned(),
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
        service: 0,
        length: 74,
    };
    String::from_utf8(flow.line().to_vec()).unwrap()
}

fn flows() -> Arc<Datapath> {
    let objects = vec![
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
        node("n3", "192.0.2.3"),
        pod("shop", "client", &["10.244.1.5", "fd00::5"]),
        pod("back", "web-1", &["10.244.2.7", "fd00::7"]),
        service("back", "web", "10.96.0.9"),
        slice("back", "web", &["10.244.2.7"]),
    ];
    datapath(objects, |node, path| {
        let all = match node {
            "n1" => {
                [flow(10, "n1", "10.244.1.5:40000", "10.244.2.7:8080"), flow(30, "n1", "192.0.2.1:1", "198.51.100.1:2")]
            }
            "n2" => [flow(20, "n2", "[fd00::5]:1", "[fd00::7]:2"), "\n".to_owned()],
            _ => return None,
        };
        let after: u64 = path.strip_prefix("flows?after=").unwrap().split('&').next().unwrap().parse().unwrap();
        let later = |line: &String| serde_json::from_str::<Flow>(line).is_ok_and(|flow| flow.id > after);
        Some(all.into_iter().filter(later).collect())
    })
}

fn selection(plural: &str, namespace: &str) -> Selection {
    Selection { plural: plural.to_owned(), namespace: namespace.to_owned(), ..Selection::default() }
}

fn names(page: &Page) -> Vec<String> {
    let name = |item: &Value| format!("{}/{}", text(item, "/metadata/namespace"), text(item, "/metadata/name"));
    page.items.iter().map(name).collect()
}

/// Each flow is in the namespaces of its ends, and once in all; a node that does not answer hides no other's.
#[tokio::test]
async fn flows_are_where_their_ends_are() {
    let api = flows();
    let all = api.list(&selection("flows", "")).await.unwrap();
    assert_eq!(names(&all), ["shop/n1-a", "shop/n2-14", "kube-system/n1-1e"]);
    assert_eq!(all.resource_version, "30");
    assert_eq!(
        all.items[0]["source"],
        json!({"ip": "10.244.1.5", "port": 40000, "namespace": "shop", "pod": "client"})
    );
    assert_eq!(all.items[0]["destination"]["service"], json!({"namespace": "back", "name": "web"}));
    assert_eq!(all.items[1]["destination"]["pod"], "web-1", "of the other family, too");
    assert_eq!(names(&api.list(&selection("flows", "back")).await.unwrap()), ["back/n1-a", "back/n2-14"]);
    assert_eq!(names(&api.list(&selection("flows", "kube-system")).await.unwrap()), ["kube-system/n1-1e"]);
    assert_eq!(names(&api.list(&selection("flows", "other")).await.unwrap()), Vec::<String>::new());
    let one = Selection { name: "n2-14".to_owned(), ..selection("flows", "back") };
    assert_eq!(names(&api.list(&one).await.unwrap()), ["back/n2-14"]);
}

#[tokio::test]
async fn a_list_says_if_nobody_answers() {
    let api = datapath(vec![node("n1", "192.0.2.1")], |_, _| None);
    for plural in ["flows", "datapathservices"] {
        let status = api.list(&selection(plural, "")).await.unwrap_err();
        assert_eq!((status.code, status.message.contains("n1: ")), (503, true), "{}", status.message);
    }
    let none = datapath(Vec::new(), |_, _| None);
    assert_eq!(none.list(&selection("flows", "")).await.unwrap().items, Vec::<Value>::new());
}

/// A watch goes on where the list ended, on all nodes.
#[tokio::test(start_paused = true)]
async fn a_watch_shows_what_came_since() {
    let api = flows();
    let watch = Selection { after: "10".to_owned(), ..selection("flows", "") };
    let seen: Vec<Value> = api.watch(&watch).unwrap().take(2).collect().await;
    let seen: BTreeSet<&str> = seen.iter().map(|flow| text(flow, "/metadata/name")).collect();
    assert_eq!(seen, BTreeSet::from(["n1-1e", "n2-14"]));

    // There are so many watches at a time and no more; one that ends makes room.
    let mut all: Vec<_> = (0..WATCHES_MAX).map(|_| api.watch(&watch).unwrap()).collect();
    assert_eq!(api.watch(&watch).err().map(|status| status.code), Some(429));
    all.pop();
    assert!(api.watch(&watch).is_ok());
}

fn frontend(service: &str, address: &str, id: u32, backends: &[&str]) -> Value {
    json!({"address": address, "protocol": "TCP", "scope": "cluster", "id": id, "affinityTimeoutS": 0,
        "of": {"namespace": "shop", "service": service, "port": "http"}, "backends": backends,
        "socketConnections": 5, "uplinkFlows": 2, "refused": 1,
        "inside": {"sumUs": 100, "buckets": [1, 3]}})
}

fn services() -> Arc<Datapath> {
    let objects = vec![
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
        node("n3", "192.0.2.3"),
        service("shop", "api", "10.96.0.8"),
        service("shop", "headless", "None"),
        service("shop", "web", "10.96.0.9"),
        slice("shop", "web", &["10.244.1.5", "10.244.2.7"]),
    ];
    datapath(objects, |node, _| {
        let web = |backends: &[&str]| frontend("web", "10.96.0.9:80", 7, backends);
        let api = frontend("api", "10.96.0.8:80", 8, &[]);
        let gone = frontend("gone", "10.96.0.10:80", 9, &[]);
        let host_port = frontend("pod:x", "192.0.2.1:8080", 10, &["10.244.1.9:80"]);
        let held = match node {
            "n1" => json!([api, web(&["10.244.1.5:8080", "10.244.2.7:8080"]), host_port]),
            "n2" => json!([api, web(&["10.244.1.5:8080", "10.244.9.9:8080"]), gone]),
            _ => return None,
        };
        assert!(serde_json::from_value::<Vec<Frontend>>(held.clone()).is_ok());
        Some(held.to_string())
    })
}

#[tokio::test]
async fn services_are_what_kernels_hold_beside_what_they_should() {
    let page = services().list(&selection("datapathservices", "")).await.unwrap();
    assert_eq!(names(&page), ["shop/api", "shop/gone", "shop/web"]);
    let [api, gone, web] = &page.items[..] else { panic!() };
    assert_eq!((&api["status"]["synced"], &gone["status"]["synced"]), (&json!(true), &json!(false)));
    let status = &web["status"];
    assert_eq!(
        [&status["nodesAnswered"], &status["nodesTotal"], &status["connections"], &status["refused"]],
        [2, 3, 14, 2]
    );
    assert_eq!(
        (&status["backends"], &status["connectP50Microseconds"], &status["synced"]),
        (&json!(3), &json!(32), &json!(false))
    );
    assert_eq!(web["metadata"]["labels"]["app"], "web");
    assert_eq!(status["nodes"][0]["synced"], true);
    let differs = &status["nodes"][1]["frontends"][0];
    assert_eq!(
        (&differs["missingBackends"], &differs["excessBackends"]),
        (&json!(["10.244.2.7:8080"]), &json!(["10.244.9.9:8080"]))
    );
    assert!(text(&status["nodes"][2], "/error").contains("nobody there"), "{}", status["nodes"][2]);
    let cells: Vec<Value> =
        services::KIND.columns.iter().map(|column| (column.cell)(web, jiff::Timestamp::UNIX_EPOCH)).collect();
    let expected = json!(["web", "2/3", 1, 3, 14, 2, "0.032ms", false, "<unknown>", "0.032ms", "10.96.0.9:80/TCP"]);
    assert_eq!(json!(cells), expected);
}

#[tokio::test]
async fn services_have_pages() {
    let api = services();
    let first = Selection { limit: Some(2), ..selection("datapathservices", "shop") };
    let page = api.list(&first).await.unwrap();
    assert_eq!(page.next, "shop/headless");
    let page = api.list(&Selection { after: page.next, ..first }).await.unwrap();
    assert_eq!((names(&page).last().map(String::as_str), page.next.as_str()), (Some("shop/web"), ""));
}
