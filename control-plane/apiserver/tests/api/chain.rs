//! What surrounds the verbs: admission, warnings, panics, slow clients, old events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tower::Service;
use xebec_apiserver::Extensions;
use xebec_apiserver::admission::{Operation, Plugin, Review};
use xebec_schema::status::Status;

use crate::harness::{Api, MAPS, config_map};

/// Labels what is created, warns, and refuses names that begin with `bad`; panics at `panic`.
struct Labels;

#[async_trait]
impl Plugin for Labels {
    fn name(&self) -> &'static str {
        "Labels"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        assert_ne!(review.name, "panic");
        if review.operation == Operation::Create
            && let Some(object) = &mut review.object
        {
            object["metadata"]["labels"] = json!({"seen": "yes"});
            review.warnings.push("it has been labelled".into());
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.name.starts_with("bad") {
            return Err(Status::forbidden("", "configmaps", review.name, "a bad name"));
        }
        Ok(())
    }
}

async fn with_plugin() -> Api {
    Api::with(Extensions { plugins: vec![Arc::new(Labels)], ..Extensions::default() }).await
}

#[tokio::test]
async fn admission_changes_and_refuses() {
    let api = with_plugin().await;
    let made = api.post(MAPS, &config_map("good")).await;
    assert_eq!(made.headers["warning"], "299 - \"it has been labelled\"");
    assert_eq!(made.expect(201)["metadata"]["labels"]["seen"], "yes");
    let refused = api.post(MAPS, &config_map("bad")).await;
    assert_eq!(refused.message(), "configmaps \"bad\" is forbidden: a bad name");
    assert_eq!(refused.code, 403);
    assert_eq!(api.get(&format!("{MAPS}/bad")).await.code, 404);
    assert_eq!(api.delete(&format!("{MAPS}/bad")).await.code, 404);
}

#[tokio::test]
async fn a_panic_is_one_failed_request() {
    let api = with_plugin().await;
    let failed = api.post(MAPS, &config_map("panic")).await;
    assert_eq!(failed.expect(500)["reason"], "InternalError");
    api.post(MAPS, &config_map("fine")).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_given_up() {
    let api = Api::start().await;
    let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{\"kind\"")))]);
    let body = StreamBody::new(first.chain(futures::stream::pending()));
    let request = Request::post(MAPS).header("content-type", "application/json").body(body).unwrap();
    let response = api.server.in_process(api.user.clone()).call(request).await.unwrap();
    assert_eq!(response.status(), 504);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("did not arrive within 30 seconds"));
}

#[tokio::test]
async fn every_answer_has_an_audit_id() {
    let api = Api::start().await;
    let own = api.send("GET", MAPS, &[("audit-id", "mine")], "").await;
    assert_eq!(own.headers["audit-id"], "mine");
    let given = api.get("/nonsense").await;
    assert_eq!((given.headers["audit-id"].len(), given.code), (36, 404));
    assert_eq!(given.headers["cache-control"], "no-cache, private");
}

#[tokio::test(start_paused = true)]
async fn events_are_gone_after_an_hour() {
    let api = Api::start().await;
    let event = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Normal", "reason": "R",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}})
    };
    let events = "/api/v1/namespaces/default/events";
    api.post(events, &event("old")).await.expect(201);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    api.post(events, &event("new")).await.expect(201);
    tokio::time::sleep(Duration::from_secs(1900)).await;
    assert_eq!(api.get(&format!("{events}/old")).await.code, 404);
    api.get(&format!("{events}/new")).await.expect(200);
}
