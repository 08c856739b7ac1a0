use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use xebec_apiserver::Extensions;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::authz::{Attributes, Authorizer, Decision, Verdict};
use xebec_apiserver::extension::Check;

use crate::harness::{Api, MAPS};

struct ReadOnly;

impl Authorizer for ReadOnly {
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        let reads = attributes.verb == "get" && attributes.user.name == "reader";
        Verdict::Now(if reads { Decision::Allow("they only read".into()) } else { Decision::NoOpinion(String::new()) })
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
    let paths = [
        "/healthz",
        "/livez",
        "/readyz",
        "/livez/etcd",
        "/readyz/etcd-readiness",
        "/readyz/poststarthook/rbac/bootstrap-roles",
    ];
    for path in paths {
        assert_eq!(api.get(path).await.bytes, "ok", "{path}");
    }
    assert_eq!(api.get("/livez/shutdown").await.code, 404, "it is a matter of readiness");
    let verbose = api.get("/readyz?verbose").await.text();
    for check in
        ["ping", "log", "etcd", "informer-sync", "poststarthook/crd-informer-synced", "autoregister-completion"]
    {
        assert!(verbose.contains(&format!("[+]{check} ok\n")), "{check}: {verbose}");
    }
    assert!(verbose.ends_with("[+]shutdown ok\nreadyz check passed\n"), "{verbose}");
    let index = api.get("/").await.expect(200);
    assert!(index["paths"].as_array().unwrap().iter().any(|path| path == "/livez/etcd"), "{index}");
    api.config_map("a").await;
    let map = "group=\"\",resource=\"configmaps\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"";
    let _watch = api.watch(&format!("{MAPS}?watch=1")).await;
    let metrics = api.get("/metrics").await.text();
    for line in [
        &format!("apiserver_request_total{{code=\"201\",component=\"apiserver\",dry_run=\"\",{map}}} 1\n"),
        &format!("apiserver_request_duration_seconds_count{{component=\"apiserver\",dry_run=\"\",{map}}} 1\n"),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n",
        "resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1\n",
        "subresource=\"/version\",verb=\"GET\",version=\"\"} 1\n",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 1\n",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
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

#[tokio::test]
async fn what_is_not_well_is_named_and_can_be_excluded() {
    let ready = Arc::new(AtomicBool::new(false));
    let check = {
        let ready = ready.clone();
        move || if ready.load(Ordering::Acquire) { Ok(()) } else { Err("the first objects are being made".to_owned()) }
    };
    let extensions = Extensions {
        started: Some(Arc::new(check)),
        health: BTreeMap::from([("kms-providers".to_owned(), Arc::new(|| Err("a secret".to_owned())) as Check)]),
        ..Extensions::default()
    };
    let mut api = Api::with(extensions).await;
    let answer = api.get("/livez?exclude=ping&exclude=nonsense&exclude=other").await;
    assert_eq!((answer.code, &answer.headers["x-content-type-options"]), (500, &"nosniff".parse().unwrap()));
    let text = answer.text();
    for line in [
        "[+]ping excluded: ok\n",
        "[-]kms-providers failed: reason withheld\n",
        "[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n",
        "[+]etcd ok\n",
        "warn: some health checks cannot be excluded: no matches for \"nonsense\",\"other\"\nlivez check failed\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("secret"));
    let one = api.get("/livez/kms-providers").await;
    assert_eq!((one.code, one.text().as_str()), (500, "internal server error: a secret\n"));
    // Whom the server does not know yet it does not send away for good.
    let user = std::mem::replace(&mut api.user, UserInfo::anonymous());
    let refused = api.get(MAPS).await;
    assert_eq!(
        (refused.code, refused.headers["retry-after"].to_str().unwrap(), refused.message().as_str()),
        (503, "1", "the server is starting: the first objects are being made")
    );
    let stranger = || {
        let request = http::Request::get("/version").header("authorization", "Bearer abcdef.0123456789abcdef");
        request.body(xebec_apiserver::body::RequestBody::default()).unwrap()
    };
    assert_eq!(api.server.handle(stranger()).await.status(), 503);
    ready.store(true, Ordering::Release);
    assert_eq!(api.get(MAPS).await.code, 403);
    assert_eq!(api.server.handle(stranger()).await.status(), 401);
    api.user = user;
    assert_eq!(api.get("/livez?exclude=kms-providers").await.text(), "ok");
}
