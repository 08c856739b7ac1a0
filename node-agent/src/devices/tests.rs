//! The manager with a driver behind a real socket, against a small API of the test's own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fake::FakeDriver;
use super::manager::DeviceManager;
use super::plugins::Plugins;
use super::prepared::State;
use super::*;
use crate::api::Rest;

const CDI_ID: &str = "xebec.io/fake=one";

/// A pod that claims `c` as `own`, and the claim as the test wants it; what was deleted.
#[derive(Clone, Default)]
struct Api {
    claim: Arc<Mutex<Value>>,
    deleted: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn rest(&self) -> Rest {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(&request)) }
        });
        Rest::new(kube::Client::new(service, "default"))
    }

    fn answer(&self, request: &Request<Body>) -> Response<axum::body::Body> {
        let path = request.uri().path();
        let body = if *request.method() == http::Method::DELETE {
            self.deleted.lock().push(request.uri().to_string());
            json!({})
        } else if path.contains("/resourceclaims/") {
            self.claim.lock().clone()
        } else {
            let uid = path.rsplit('/').next().unwrap_or_default();
            json!({"metadata": {"name": uid, "namespace": "n", "uid": uid},
                "status": {"resourceClaimStatuses": [{"name": "own", "resourceClaimName": "c"}]}})
        };
        Response::new(axum::body::Body::from(body.to_string()))
    }

    fn reserve(&self, pods: &[&str]) {
        let reserved: Vec<Value> =
            pods.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        *self.claim.lock() = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c-uid",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]},
            "status": {"reservedFor": reserved, "allocation": {"devices": {"results": [
                {"request": "r", "driver": "fake", "pool": "pool", "device": "one"}]}}}});
    }
}

fn pod(name: &str, by_name: bool) -> Pod {
    let claim = match by_name {
        true => json!({"name": "own", "resourceClaimName": "c"}),
        false => json!({"name": "own", "resourceClaimTemplateName": "t"}),
    };
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
        "resourceClaims": [claim],
        "containers": [{"name": "c", "resources": {"claims": [{"name": "own"}]}}, {"name": "without"}]}}))
    .unwrap()
}

fn identity(name: &str) -> PodIdentity {
    PodIdentity { namespace: "n".into(), name: name.into(), uid: name.into() }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not so after 10 s: {what}");
}

struct Fixture {
    directory: tempfile::TempDir,
    api: Api,
    plugins: Plugins,
    _stop: tokio_util::sync::DropGuard,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (api, plugins, cancel) = (Api::default(), Plugins::default(), CancellationToken::new());
        let registry = directory.path().join("plugins_registry");
        std::fs::create_dir(&registry).unwrap();
        std::fs::create_dir(directory.path().join("cdi")).unwrap();
        let cdi = json!({"cdiVersion": "0.6.0", "kind": "xebec.io/fake",
            "devices": [{"name": "one", "containerEdits": {"env": ["DEVICE=one"]}}]});
        std::fs::write(directory.path().join("cdi/fake.json"), cdi.to_string()).unwrap();
        let (follower, rest, stop) = (plugins.clone(), api.rest(), cancel.clone());
        tokio::spawn(async move { follower.follow(registry, rest, "node".into(), stop).await });
        api.reserve(&["p"]);
        Self { directory, api, plugins, _stop: cancel.drop_guard() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self, name: &str) -> std::path::PathBuf {
        self.path().join("plugins_registry").join(name)
    }

    fn manager(&self) -> DeviceManager {
        let (cdi, state) = (vec![self.path().join("cdi")], self.path().join("state"));
        DeviceManager::new(self.api.rest(), self.plugins.clone(), cdi, state).unwrap()
    }

    fn noted(&self) -> usize {
        State::load(self.path().join("state")).unwrap().claims.len()
    }
}

#[tokio::test]
async fn what_a_pod_claims_is_prepared_and_given_back() {
    let fixture = Fixture::new();
    let manager = fixture.manager();
    let pod = pod("p", false);
    let away = manager.prepare(&pod).await.unwrap_err();
    assert_eq!(away, "prepare dynamic resources: DRA driver fake is not registered");
    assert_eq!(fixture.noted(), 0, "a pod that got nothing has nothing to give back");

    let driver = FakeDriver::new("fake", &["v1beta1.DRAPlugin", "v1.DRAPlugin"], &[CDI_ID]);
    let _listening = driver.listen(&fixture.socket("fake.sock")).unwrap();
    until("the driver is registered", async || driver.registered() == Some(Ok(()))).await;
    until("the driver is there", async || fixture.plugins.get("fake").await.is_ok()).await;
    driver.fails_with("no power");
    let refused = manager.prepare(&pod).await.unwrap_err();
    assert_eq!(refused, "prepare dynamic resources: NodePrepareResources failed for ResourceClaim c: no power");
    driver.fails_with("");
    manager.prepare(&pod).await.unwrap();
    let edits = manager.edits(&pod, &pod.spec.containers[0]).await.unwrap();
    assert_eq!(edits.iter().flat_map(|edits| &edits.env).collect::<Vec<_>>(), ["DEVICE=one"]);
    assert!(manager.edits(&pod, &pod.spec.containers[1]).await.unwrap().is_empty());

    // An agent that comes after this one knows, and does not ask again.
    let manager = fixture.manager();
    manager.prepare(&pod).await.unwrap();
    assert_eq!(manager.edits(&pod, &pod.spec.containers[0]).await.unwrap().len(), 2);
    assert_eq!(driver.calls(), ["v1 prepare c", "v1 prepare c"]);
    manager.collect(&[identity("p")]).await;
    manager.unprepare(&identity("p")).await.unwrap();
    manager.unprepare(&identity("p")).await.unwrap();
    assert_eq!(driver.calls()[2..], ["v1 unprepare c"]);
    assert_eq!(fixture.noted(), 0);
}

#[tokio::test]
async fn a_shared_claim_is_given_back_by_its_last_pod() {
    let fixture = Fixture::new();
    let driver = FakeDriver::new("fake", &["v1beta1.DRAPlugin"], &[CDI_ID]);
    let _listening = driver.listen(&fixture.socket("fake.sock")).unwrap();
    until("the driver is there", async || fixture.plugins.get("fake").await.is_ok()).await;
    let manager = fixture.manager();
    let refused = manager.prepare(&pod("q", true)).await.unwrap_err();
    assert_eq!(refused, "prepare dynamic resources: pod q (q) is not allowed to use ResourceClaim c (c-uid)");
    fixture.api.reserve(&["p", "q"]);
    let other = manager.prepare(&pod("q", false)).await.unwrap_err();
    assert!(other.ends_with("ResourceClaim n/c was not created for Pod n/q (Pod is not owner)"), "{other}");
    manager.prepare(&pod("p", true)).await.unwrap();
    manager.prepare(&pod("q", true)).await.unwrap();
    assert_eq!(driver.calls(), ["v1beta1 prepare c"]);
    manager.unprepare(&identity("p")).await.unwrap();
    assert_eq!(driver.calls().len(), 1);
    // The other one is gone without a word.
    manager.collect(&[]).await;
    assert_eq!(driver.calls()[1..], ["v1beta1 unprepare c"]);
    assert_eq!(fixture.noted(), 0);
}

#[tokio::test]
async fn drivers_come_and_go() {
    let fixture = Fixture::new();
    until("what was published before is withdrawn", async || !fixture.api.deleted.lock().is_empty()).await;
    assert_eq!(
        fixture.api.deleted.lock()[0],
        "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dnode"
    );
    let strange = FakeDriver::new("csi", &["1.0"], &[]);
    strange.is_a("CSIPlugin");
    let _strange = strange.listen(&fixture.socket("csi.sock")).unwrap();
    until("it is refused", async || strange.registered().is_some_and(|told| told.is_err())).await;
    let told = strange.registered().unwrap().unwrap_err();
    assert!(told.starts_with("no handler registered for plugin type: CSIPlugin at socket "), "{told}");

    let driver = FakeDriver::new("fake", &["v1.DRAPlugin"], &[]);
    let listening = driver.listen(&fixture.socket("fake.sock")).unwrap();
    until("the driver is there", async || fixture.plugins.get("fake").await.is_ok()).await;
    // During an update there are two, and the newer one is asked.
    let newer = FakeDriver::new("fake", &["v1.DRAPlugin"], &[]);
    let _newer = newer.listen(&fixture.socket("newer.sock")).unwrap();
    let asked = async || fixture.plugins.get("fake").await.unwrap().endpoint.ends_with("newer.sock");
    until("the newer one is asked", asked).await;
    drop(_newer);
    until("the older one is asked", async || !asked().await).await;
    drop(listening);
    until("the driver is gone", async || fixture.plugins.get("fake").await.is_err()).await;
}
