//! The manager and its workers on the fake runtime, in virtual time, against a small API of the test's own.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::*;
use crate::pods::state::Evicted;
use crate::runtime::fake::{FakeRuntime, Script};

/// One pod, and what is said of it.
#[derive(Default)]
struct Store {
    pod: Option<Value>,
    version: u64,
    events: Vec<String>,
    deletes: Vec<Value>,
}

#[derive(Clone)]
struct Api {
    store: Arc<Mutex<Store>>,
    changes: broadcast::Sender<Value>,
}

impl Api {
    fn new() -> Self {
        Self { store: Arc::default(), changes: broadcast::channel(256).0 }
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<axum::body::Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(),
            Method::GET if path == "/api/v1/pods" => {
                let store = self.store.lock();
                let version = store.version.to_string();
                reply(
                    200,
                    &json!({ "metadata": { "resourceVersion": version }, "items": store.pod.iter().collect::<Vec<_>>() }),
                )
            }
            Method::POST if path.ends_with("/events") => {
                let told = format!("{} {}", body["reason"].as_str().unwrap(), body["message"].as_str().unwrap());
                self.store.lock().events.push(told);
                reply(201, &body)
            }
            Method::PATCH if path.ends_with("/status") => {
                self.change(|pod| pod["status"] = body["status"].clone());
                reply(200, &json!({}))
            }
            Method::PATCH => reply(200, &json!({})),
            Method::DELETE => {
                let pod = {
                    let mut store = self.store.lock();
                    store.deletes.push(body);
                    store.version += 1;
                    store.pod.take()
                };
                drop(self.changes.send(json!({ "type": "DELETED", "object": pod })));
                reply(200, &json!({}))
            }
            _ => reply(
                404,
                &json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "nothing there" }),
            ),
        }
    }

    fn watch(&self) -> Response<axum::body::Body> {
        let mut changes = self.changes.subscribe();
        let lines = async_stream::stream! {
            while let Ok(change) = changes.recv().await {
                yield Ok::<_, std::convert::Infallible>(bytes::Bytes::from(format!("{change}\n")));
            }
        };
        Response::new(axum::body::Body::from_stream(lines))
    }

    fn change(&self, apply: impl FnOnce(&mut Value)) {
        let mut store = self.store.lock();
        store.version += 1;
        let version = store.version.to_string();
        let Some(pod) = &mut store.pod else { return };
        apply(pod);
        pod["metadata"]["resourceVersion"] = json!(version);
        drop(self.changes.send(json!({ "type": "MODIFIED", "object": pod })));
    }

    fn put(&self, spec: Value) {
        let mut store = self.store.lock();
        store.version += 1;
        let mut pod = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u", "resourceVersion": store.version.to_string() }, "spec": spec });
        pod["spec"]["nodeName"] = json!("n1");
        store.pod = Some(pod.clone());
        drop(self.changes.send(json!({ "type": "ADDED", "object": pod })));
    }

    fn status(&self) -> Value {
        self.store.lock().pod.as_ref().map(|p| p["status"].clone()).unwrap_or_default()
    }

    fn events(&self) -> Vec<String> {
        self.store.lock().events.clone()
    }

    /// Waits (in virtual time) until the status is as it should be.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..100_000 {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come: {:#}\n{:#?}", self.status(), self.events());
    }
}

fn reply(code: u16, body: &Value) -> Response<axum::body::Body> {
    let mut response = Response::new(axum::body::Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

struct World {
    api: Api,
    fake: FakeRuntime,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        Self { api: Api::new(), fake: FakeRuntime::new(clock.clone(), [10, 244, 1, 0].into()), clock }
    }

    fn agent(&self) -> CancellationToken {
        self.agent_with_evictions().0
    }

    fn agent_with_evictions(&self) -> (CancellationToken, mpsc::Sender<Eviction>) {
        let cancel = CancellationToken::new();
        let manager = PodManager::new(
            PodManagerConfig::simulated("n1", "172.30.0.11".parse().unwrap()),
            self.api.client(),
            Parts::simulated(&self.fake),
            self.clock.clone(),
            Random::seeded(1),
        );
        let evictions = manager.evictions();
        tokio::spawn(manager.run(cancel.clone()));
        (cancel, evictions)
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }
}

fn ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn waiting(status: &Value, reason: &str) -> bool {
    status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
}

#[tokio::test(start_paused = true)]
async fn a_pod_becomes_ready_and_goes_when_deleted() {
    let world = World::new();
    let _agent = world.agent();
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i", "imagePullPolicy": "IfNotPresent" }] }));
    let status = world.api.until("Ready", ready).await;
    assert_eq!(
        (&status["phase"], &status["podIP"], &status["hostIP"]),
        (&json!("Running"), &json!("10.244.1.1"), &json!("172.30.0.11"))
    );
    assert!(status["containerStatuses"][0]["containerID"].as_str().unwrap().starts_with("containerd://"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = world.api.events();
    let expected = [
        "Pulled Container image \"i\" already present on machine and can be accessed by the pod",
        "Created Container created",
        "Started Container started",
    ];
    assert_eq!(events, expected);
    world.api.change(|pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    world.api.until("the end", Value::is_null).await;
    let deletes = world.api.store.lock().deletes.clone();
    assert_eq!(deletes.len(), 1);
    assert_eq!((&deletes[0]["gracePeriodSeconds"], &deletes[0]["preconditions"]["uid"]), (&json!(0), &json!("u")));
    assert!(world.fake.running().is_empty());
    assert!(world.api.events().contains(&"Killing Stopping container a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_sent_away_fails_and_stays() {
    let world = World::new();
    let (_agent, evictions) = world.agent_with_evictions();
    world.fake.script("i", Script { stop_delay: Duration::from_secs(60), ..Script::default() });
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    world.api.until("Ready", ready).await;
    let why =
        Evicted { message: "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".to_owned(), disrupted: false };
    let began = world.now();
    evictions.send(Eviction { uid: "u".to_owned(), why: why.clone() }).await.unwrap();
    let status = world.api.until("Failed", |s| s["phase"] == "Failed").await;
    assert!(world.now() - began <= 3, "a second's grace, and not the pod's thirty");
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(why.message)));
    assert!(!status["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "DisruptionTarget"));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(world.fake.running().is_empty(), "it is not started again");
    assert_eq!(world.api.status()["reason"], "Evicted");
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off() {
    let world = World::new();
    let _agent = world.agent();
    world.fake.script("i", Script { exit: Some((Duration::from_secs(1), 3)), ..Script::default() });
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    let began = world.now();
    let status = world.api.until("the first wait", |s| waiting(s, "CrashLoopBackOff")).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    world.api.until("the third restart", |s| s["containerStatuses"][0]["restartCount"] == 3).await;
    let took = world.now() - began;
    assert!((30..40).contains(&took), "10 s and 20 s of waiting, and took {took} s");
    assert!(world.api.events().iter().any(|e| e == "BackOff Back-off restarting failed container a in pod p_ns(u)"));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_a_volume_is_waited_for() {
    let world = World::new();
    let _agent = world.agent();
    world.fake.script("data:1", Script { pull_error: Some("not found".to_owned()), ..Script::default() });
    world.api.put(json!({
        "containers": [{ "name": "a", "image": "i:1", "volumeMounts": [{ "name": "v", "mountPath": "/data" }] }],
        "volumes": [{ "name": "v", "image": { "reference": "data:1" } }, { "name": "unused", "image": { "reference": "x:1" } }],
    }));
    world.api.until("ErrImagePull", |s| waiting(s, "ErrImagePull")).await;
    let status = world.api.until("ImagePullBackOff", |s| waiting(s, "ImagePullBackOff")).await;
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "Back-off pulling image \"data:1\": ErrImagePull: not found");
    assert!(world.api.events().iter().any(|e| e == "BackOff Back-off pulling image \"data:1\""));
    world.fake.script("data:1", Script { pull_delay: Duration::from_secs(1), ..Script::default() });
    world.api.until("Ready", ready).await;
    let mounts = world.fake.mounts("a");
    assert_eq!(mounts.len(), 1);
    let mount = &mounts[0];
    assert!(
        mount.read_only && mount.no_exec && mount.container == "/data" && mount.host.ends_with("data:1"),
        "{mount:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there_is_tried_again() {
    let world = World::new();
    let _agent = world.agent();
    let script = Script { pull_error: Some("not found".to_owned()), ..Script::default() };
    world.fake.script("i", script);
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    world.api.until("ErrImagePull", |s| waiting(s, "ErrImagePull")).await;
    let status = world.api.until("ImagePullBackOff", |s| waiting(s, "ImagePullBackOff")).await;
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "Back-off pulling image \"i\": ErrImagePull: not found");
    world.fake.script("i", Script::default());
    world.api.until("Ready", ready).await;
    let events = world.api.events();
    for expected in [
        "Pulling Pulling image \"i\"",
        "Failed Failed to pull image \"i\": not found",
        "BackOff Back-off pulling image \"i\"",
    ] {
        assert!(events.iter().any(|e| e == expected), "{expected}: {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_decide_who_is_ready_and_who_is_restarted() {
    let world = World::new();
    let _agent = world.agent();
    let script = Script { ready_delay: Duration::from_secs(12), ..Script::default() };
    world.fake.script("i", script);
    let probe = json!({ "tcpSocket": { "port": 80 }, "periodSeconds": 5 });
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i", "readinessProbe": probe }] }));
    world.api.until("Running", |s| s["phase"] == "Running").await;
    assert!(!ready(&world.api.status()));
    let began = world.now();
    world.api.until("Ready", ready).await;
    assert!((10..18).contains(&(world.now() - began)));
    assert!(world.api.events().iter().any(|e| e.starts_with("Unhealthy Readiness probe failed: ")));

    let world = World::new();
    let _agent = world.agent();
    world.fake.script("i", Script { ready_delay: Duration::from_secs(1000), ..Script::default() });
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i", "livenessProbe": probe }] }));
    world.api.until("the restart", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    let killing = "Killing Container a failed liveness probe, will be restarted";
    assert!(world.api.events().iter().any(|e| e == killing));
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_takes_over_what_runs() {
    let world = World::new();
    let first = world.agent();
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    let before = world.api.until("Ready", ready).await;
    first.cancel();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _second = world.agent();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.api.status(), before, "nothing happened to the pod");
    assert_eq!(world.fake.running().len(), 1);
    assert_eq!(world.fake.crash("u", "a", 9).await, 1);
    let after = world.api.until("the restart", |s| s["containerStatuses"][0]["restartCount"] == 1 && ready(s)).await;
    assert_eq!(after["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_changes_no_wait() {
    for hours in [3, -3] {
        let step = jiff::SignedDuration::from_hours(hours);
        // A restart that waits.
        let world = World::new();
        let _agent = world.agent();
        let steady = world.clock.steady();
        world.fake.script("i", Script { exit: Some((Duration::from_secs(1), 3)), ..Script::default() });
        world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
        world.api.until("the first wait", |s| waiting(s, "CrashLoopBackOff")).await;
        let began = steady.now();
        world.clock.step(step);
        world.api.until("the second restart", |s| s["containerStatuses"][0]["restartCount"] == 2).await;
        let waited = steady.now().duration_since(began).as_secs();
        assert!(waited <= 11, "{waited} s after a step of {hours} h");

        // A probe that is to begin, and a container that takes its time to stop.
        let world = World::new();
        let _agent = world.agent();
        let steady = world.clock.steady();
        world.fake.script("i", Script { stop_delay: Duration::from_secs(1000), ..Script::default() });
        let probe = json!({ "tcpSocket": { "port": 80 }, "initialDelaySeconds": 5, "periodSeconds": 5 });
        world.api.put(json!({ "containers": [{ "name": "a", "image": "i", "readinessProbe": probe }] }));
        world.api.until("Running", |s| s["phase"] == "Running").await;
        let began = steady.now();
        world.clock.step(step);
        world.api.until("Ready", ready).await;
        assert!((4..=6).contains(&steady.now().duration_since(began).as_secs()));
        world.api.change(|pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        let began = steady.now();
        world.clock.step(step);
        world.api.until("the end", Value::is_null).await;
        let took = steady.now().duration_since(began).as_secs();
        assert!((20..=40).contains(&took), "{took} s after a step of {hours} h");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_force_deleted_leaves_nothing() {
    let world = World::new();
    let _agent = world.agent();
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    world.api.until("Ready", ready).await;
    let pod = world.api.store.lock().pod.take();
    drop(world.api.changes.send(json!({ "type": "DELETED", "object": pod })));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.fake.running().is_empty());
    assert!(world.api.store.lock().deletes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_joins_its_target_once() {
    let world = World::new();
    let _agent = world.agent();
    world.api.put(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    world.api.until("Ready", ready).await;
    world.fake.script("d", Script { exit: Some((Duration::from_secs(5), 7)), ..Script::default() });
    world.api.change(|pod| {
        pod["spec"]["ephemeralContainers"] = json!([
            { "name": "d", "image": "d", "targetContainerName": "a" },
            { "name": "lost", "image": "d", "targetContainerName": "nobody" },
        ]);
    });
    let of = |status: &Value, index: usize| status["ephemeralContainerStatuses"][index].clone();
    world.api.until("the debugger", |s| of(s, 0)["state"]["running"].is_object()).await;
    let status = world.api.until("its end", |s| of(s, 0)["state"]["terminated"]["exitCode"] == 7).await;
    assert!(ready(&status), "the pod does not depend on it");
    assert_eq!(of(&status, 1)["state"]["waiting"]["message"], "unable to find target container nobody");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(of(&world.api.status(), 0)["restartCount"], 0);
    assert_eq!(world.fake.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_is_resized() {
    let world = World::new();
    let _agent = world.agent();
    let resources = |cpu: &str| json!({ "requests": { "cpu": cpu }, "limits": { "cpu": cpu } });
    let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
    world.api.put(json!({ "containers": [
        { "name": "a", "image": "i", "resizePolicy": policy, "resources": resources("100m") },
    ] }));
    let status = world.api.until("Ready", ready).await;
    assert_eq!(status["containerStatuses"][0]["resources"], resources("100m"));
    let asks = |resources: Value, generation: i64| {
        world.api.change(|pod| {
            pod["metadata"]["generation"] = generation.into();
            pod["spec"]["containers"][0]["resources"] = resources.clone();
        });
    };
    asks(resources("200m"), 2);
    let status = world.api.until("more", |s| s["containerStatuses"][0]["resources"] == resources("200m")).await;
    assert_eq!(status["containerStatuses"][0]["allocatedResources"], json!({ "cpu": "200m" }));
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(world.fake.limits("a")[0].cpu_quota_us, Some(20_000));
    let has = |status: &Value, kind: &str, reason: &str| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == kind && c["reason"] == reason)
    };
    let gone = |s: &Value| !s["conditions"].to_string().contains("PodResizeInProgress\",");
    world.api.until("the end of the change", gone).await;

    let memory = json!({ "requests": { "cpu": "200m" }, "limits": { "cpu": "200m", "memory": "1Gi" } });
    asks(memory.clone(), 3);
    let status = world.api.until("the restart", |s| s["containerStatuses"][0]["restartCount"] == 1 && ready(s)).await;
    assert_eq!(status["containerStatuses"][0]["resources"], memory);
    assert_eq!(world.fake.limits("a")[0].memory_bytes, Some(1 << 30));

    let huge = json!({ "requests": { "cpu": "9000000000000000" }, "limits": { "memory": "1Gi" } });
    asks(huge, 4);
    let status = world.api.until("no", |s| has(s, "PodResizePending", "Infeasible")).await;
    assert_eq!(status["containerStatuses"][0]["resources"], memory);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = world.api.events();
    for expected in [
        "ResizeStarted Pod resize started: {\"containers\":[{\"name\":\"a\",\"resources\":",
        "ResizeCompleted Pod resize completed: {\"containers\":",
        "Killing Container a resize requires restart",
        "ResizeInfeasible Pod resize Infeasible: {",
    ] {
        assert!(events.iter().any(|e| e.starts_with(expected)), "{expected}: {events:#?}");
    }
}
