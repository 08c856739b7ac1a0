use std::sync::Arc;

use xebec_apiserver::Extensions;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::authz::{Attributes, Authorizer, Decision};

use crate::harness::{Api, MAPS};

struct ReadOnly;

impl Authorizer for ReadOnly {
    fn decide(&self, attributes: &Attributes) -> Option<Decision> {
        let reads = attributes.verb == "get" && attributes.user.name == "reader";
        Some(if reads { Decision::Allow("they only read".into()) } else { Decision::NoOpinion(String::new()) })
    }
}

#[tokio::test]
async fn who_may_not_is_told_what() {
    let extensions = Extensions { authorizers: vec![Arc::new(ReadOnly)], ..Extensions::default() };
    let mut api = Api::with(extensions).await;
    api.user = UserInfo { name: "reader".into(), groups: vec!["people".into()], ..UserInfo::default() };
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
    let list = api.get(MAPS).await;
    assert_eq!(
        list.message(),
        "configmaps is forbidden: User \"reader\" cannot list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    assert_eq!(list.expect(403)["details"]["kind"], "configmaps");
    let delete = api.delete("/api/v1/nodes/n").await;
    assert_eq!(
        delete.message(),
        "nodes \"n\" is forbidden: User \"reader\" cannot delete resource \"nodes\" in API group \"\" at the cluster \
         scope"
    );
    let scale = api.put("/apis/apps/v1/namespaces/x/deployments/d/scale", &serde_json::json!({})).await;
    assert!(scale.message().contains("cannot update resource \"deployments/scale\" in API group \"apps\""));
    api.user = UserInfo::anonymous();
    let path = api.get("/version").await;
    assert_eq!(path.message(), "forbidden: User \"system:anonymous\" cannot get path \"/version\"");
}

#[tokio::test]
async fn the_server_tells_its_version_and_health() {
    let api = Api::start().await;
    let version = api.get("/version").await.expect(200);
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("37")));
    for path in ["/healthz", "/livez", "/readyz", "/readyz/store"] {
        assert_eq!(api.get(path).await.bytes, "ok");
    }
    let verbose = api.get("/readyz?verbose").await;
    let verbose = String::from_utf8_lossy(&verbose.bytes).into_owned();
    assert!(verbose.contains("[+]store ok\n") && verbose.ends_with("readyz check passed\n"));
    api.config_map("a").await;
    let metrics = api.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(metrics.contains("apiserver_request_total{verb=\"CREATE\",code=\"201\"} 1"), "{metrics}");
    assert!(metrics.contains("apiserver_resource_objects{resource=\"configmaps\"} 1"));
}

#[tokio::test]
async fn discovery_names_what_is_served() {
    let api = Api::start().await;
    let core = api.get("/api/v1").await.expect(200);
    assert_eq!(core["kind"], "APIResourceList");
    assert!(core["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/log"));
    assert_eq!(api.get("/api").await.expect(200)["versions"][0], "v1");
    let groups = api.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    assert_eq!(api.get("/apis/apps").await.expect(200)["kind"], "APIGroup");
    assert_eq!(api.get("/apis/none").await.code, 404);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = api.send("GET", "/apis", &[("accept", accept)], "").await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let tag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(aggregated.value()["kind"], "APIGroupDiscoveryList");
    let known = api.send("GET", "/apis", &[("accept", accept), ("if-none-match", &tag)], "").await;
    assert_eq!((known.code, known.bytes.len()), (304, 0));
    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(api.get(&url).await.expect(200)["components"]["schemas"].is_object());
    assert_eq!(api.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
}
