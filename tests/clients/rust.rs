//! kube-rs, after its own integration cases: typed and dynamic objects, apply, watches, subresources.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{GroupVersionKind, WatchEvent};
use serde_json::{Value, json};

use crate::Server;

/// A client, if there is a kubeconfig already.
pub async fn client(kubeconfig: &Path) -> Option<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig).ok()?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.ok()?;
    kube::Client::try_from(config).ok()
}

/// Whether there is what the cases need.
pub async fn has_namespace(client: &kube::Client) -> bool {
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    matches!(tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await, Ok(Ok(_)))
}

fn objects(client: &kube::Client, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), "default", &resource)
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).expect("an object")
}

fn config_map(name: &str, data: &Value) -> DynamicObject {
    object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}))
}

#[tokio::test]
async fn kube_rs() {
    let server = tokio::task::spawn_blocking(Server::start).await.expect("a server");
    let client = client(&server.kubeconfig()).await.expect("a client");
    assert_eq!(client.apiserver_version().await.expect("version").major, "1");
    writes(&client).await;
    applies(&client).await;
    parts(&client).await;
    watches(&client).await;
}

async fn writes(client: &kube::Client) {
    let maps = objects(client, "", "v1", "ConfigMap");
    let made = maps.create(&PostParams::default(), &config_map("rs", &json!({"a": "1"}))).await.expect("create");
    let mut changed = made.clone();
    changed.data["data"]["b"] = "2".into();
    let replaced = maps.replace("rs", &PostParams::default(), &changed).await.expect("replace");
    assert_eq!(replaced.data["data"], json!({"a": "1", "b": "2"}));
    let stale = maps.replace("rs", &PostParams::default(), &changed).await.expect_err("a stale version");
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));
    let merge = Patch::Merge(json!({"data": {"a": null}}));
    assert_eq!(maps.patch("rs", &PatchParams::default(), &merge).await.expect("merge").data["data"], json!({"b": "2"}));
    let meta = maps.get_metadata("rs").await.expect("metadata");
    assert_eq!(meta.metadata.name.as_deref(), Some("rs"));
    let list = maps.list_metadata(&ListParams::default().fields("metadata.name=rs")).await.expect("list");
    assert_eq!(list.items.len(), 1);
    assert!(maps.get_opt("none").await.expect("get").is_none());
    maps.delete("rs", &DeleteParams::default()).await.expect("delete");
}

async fn applies(client: &kube::Client) {
    let maps = objects(client, "", "v1", "ConfigMap");
    let apply = |manager: &'static str, value: &'static str, force: bool| {
        let parameters = PatchParams { force, ..PatchParams::apply(manager) };
        let maps = maps.clone();
        async move {
            let patch = Patch::Apply(config_map("ssa", &json!({"a": value})));
            maps.patch("ssa", &parameters, &patch).await
        }
    };
    apply("one", "1", false).await.expect("the first apply");
    let conflict = apply("two", "2", false).await.expect_err("a conflict");
    let kube::Error::Api(status) = conflict else { panic!("{conflict}") };
    assert_eq!(
        (status.code, status.message.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"one\": .data.a")
    );
    let forced = apply("two", "2", true).await.expect("by force");
    let managers = forced.metadata.managed_fields.unwrap_or_default();
    assert_eq!(managers.len(), 1, "{managers:?}");
    assert_eq!(managers[0].manager.as_deref(), Some("two"));
    maps.delete("ssa", &DeleteParams::default()).await.expect("delete");
}

async fn parts(client: &kube::Client) {
    let deployments = objects(client, "apps", "v1", "Deployment");
    let body = object(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rs"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "rs"}}, "template": {
            "metadata": {"labels": {"app": "rs"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
    }));
    deployments.create(&PostParams::default(), &body).await.expect("create");
    let scale = deployments.get_scale("rs").await.expect("scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(0));
    let merge = Patch::Merge(json!({"spec": {"replicas": 1}}));
    deployments.patch_scale("rs", &PatchParams::default(), &merge).await.expect("scale");
    let status = Patch::Merge(json!({"status": {"observedGeneration": 1}}));
    deployments.patch_status("rs", &PatchParams::default(), &status).await.expect("status");
    assert_eq!(deployments.get("rs").await.expect("get").data["spec"]["replicas"], 1);
    deployments.delete("rs", &DeleteParams::foreground()).await.expect("delete");
}

async fn watches(client: &kube::Client) {
    let secrets = objects(client, "", "v1", "Secret");
    let version = secrets.list(&ListParams::default()).await.expect("list").metadata.resource_version;
    let stream = secrets.watch(&WatchParams::default().timeout(30), &version.expect("a version")).await;
    let mut stream = stream.expect("watch").boxed();
    let body =
        object(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rs"}, "stringData": {"a": "b"}}));
    secrets.create(&PostParams::default(), &body).await.expect("create");
    secrets.delete("rs", &DeleteParams::default()).await.expect("delete");
    let mut seen = Vec::new();
    while let Some(event) = stream.try_next().await.expect("an event") {
        match event {
            WatchEvent::Added(object) => seen.push(format!("added {}", object.metadata.name.unwrap_or_default())),
            WatchEvent::Deleted(object) => {
                seen.push(format!("deleted {}", object.metadata.name.unwrap_or_default()));
                break;
            }
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["added rs", "deleted rs"]);
}
