//! `kube::Client` in process, as the control plane's components use it.

use futures::{StreamExt, TryStreamExt};
use kube::api::{Api as KubeApi, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::core::{ApiResource, GroupVersionKind, WatchEvent};
use serde_json::json;
use xebec_apiserver::authn::UserInfo;

use crate::harness::Api;

#[tokio::test]
async fn kube_works_without_a_socket() {
    let server = Api::start().await;
    let client = server.server.client(UserInfo::system("system:kube-controller-manager"));
    let maps = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let api: KubeApi<DynamicObject> = KubeApi::namespaced_with(client, "default", &maps);
    let map = DynamicObject::new("a", &maps).data(json!({"data": {"k": "v"}}));
    let made = api.create(&PostParams::default(), &map).await.unwrap();
    let version = made.metadata.resource_version.clone().unwrap();
    let mut watch = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();

    let patch = Patch::Merge(json!({"data": {"k": "w"}}));
    let patched = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data["data"]["k"], "w");
    let listed = api.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let stale = api.replace("a", &PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());

    let first = watch.try_next().await.unwrap();
    assert!(matches!(first, Some(WatchEvent::Modified(object)) if object.data["data"]["k"] == "w"));
    assert!(matches!(watch.try_next().await.unwrap(), Some(WatchEvent::Deleted(_))));
}
