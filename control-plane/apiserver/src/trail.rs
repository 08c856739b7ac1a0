//! What is learnt of a request on its way: for its answer's headers, the counters and the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::time::Instant;
use xebec_schema::status::Status;

use crate::audit::record::{UntilDropped, readable};
use crate::audit::{Record, Stage};
use crate::authn::UserInfo;
use crate::authz::{Attributes, Decision};
use crate::body::{self, Body, RequestBody};
use crate::fairness::{Ticket, width};
use crate::metrics::requests::{Asked, UnderWay};
use crate::query::Query;
use crate::request::Target;
use crate::respond;
use crate::server::Shared;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// How long a request may wait for its turn: a quarter of what it may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module.
pub(crate) struct Trail {
    /// The request's verb.
    verb: &'static str,
    /// What is asked for, for the counters.
    asked: Asked,
    begun: Instant,
    under_way: Option<UnderWay>,
    /// The answer goes on for as long as the client wants.
    long: bool,
    /// UIDs of flow schema and priority level.
    flow: Option<(Arc<str>, Arc<str>)>,
    record: Option<Record>,
}

impl Trail {
    pub(crate) fn new() -> Self {
        let (asked, begun) = (Asked::unknown(), Instant::now());
        Self { verb: "other", asked, begun, under_way: None, long: false, flow: None, record: None }
    }

    /// Begins to note the request, if the policy says so. `caller` makes it; nobody, if their credentials are bad.
    pub(crate) fn begin(
        &mut self,
        server: &Arc<Shared>,
        target: &Target,
        caller: Option<&UserInfo>,
        (parts, query): (&Parts, &Query),
        audit_id: Option<&HeaderValue>,
    ) {
        self.asked = Asked::of(target, parts, query);
        if let Target::Resource(path) = target {
            self.verb = path.verb;
            self.long = path.verb == "watch"
                || matches!(path.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        }
        self.under_way = Some(UnderWay::new(server, &self.asked, self.long));
        let Some(auditor) = &server.extensions.audit else { return };
        let nobody = UserInfo::default();
        let attributes = target.attributes(caller.unwrap_or(&nobody), &parts.method, parts.uri.path());
        let id = audit_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.record = auditor.begin(&attributes, parts, id);
    }

    /// Notes as whom the request is served.
    pub(crate) fn served_as(&mut self, user: &UserInfo, caller: &UserInfo) {
        if let Some(record) = self.record.as_mut().filter(|_| user != caller) {
            record.impersonated(user);
        }
    }

    /// Notes what was decided.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        let Some(record) = &mut self.record else { return };
        let (word, reason) = match decision {
            Decision::Failed { .. } => {
                record.annotate("authorization.k8s.io/reason", "internal error");
                return;
            }
            Decision::Allow(reason) => ("allow", reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason),
        };
        record.annotate("authorization.k8s.io/decision", word);
        record.annotate("authorization.k8s.io/reason", reason.as_str());
    }

    /// Waits until it is the request's turn.
    ///
    /// # Errors
    ///
    /// The answer for a request that there is no room for: 429.
    pub(crate) async fn enter(
        &mut self,
        server: &Shared,
        attributes: &Attributes,
        query: &Query,
    ) -> Result<Option<Ticket>, Response<Body>> {
        // What goes on for long must not keep others out; a watch counts until it has begun.
        if self.long && self.verb != "watch" {
            return Ok(None);
        }
        let Some(fairness) = &server.extensions.fairness else { return Ok(None) };
        let Some(flow) = fairness.flow(attributes) else { return Ok(None) };
        self.flow = Some((flow.schema_uid.clone(), flow.level_uid.clone()));
        match flow.enter(width::of(server, attributes, query), PATIENCE).await {
            Ok(ticket) => Ok(Some(ticket)),
            Err(why) => {
                tracing::debug!(schema = &*flow.schema, %why, user = attributes.user.name, "a request is sent away");
                let words = "Too many requests, please try again later.\n";
                let mut response = respond::raw(429, "text/plain; charset=utf-8", words.as_bytes().to_vec());
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                Err(response)
            }
        }
    }

    /// Notes what was sent, if that is wanted; the body can be read again.
    ///
    /// # Errors
    ///
    /// The body cannot be read.
    pub(crate) async fn sent(
        &mut self,
        parts: &Parts,
        definition: Option<&xebec_schema::types::Definition>,
        body: RequestBody,
    ) -> Result<RequestBody, Status> {
        let writes = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
        let wanted = |record: &&mut Record| record.wants_request() && writes && !self.long;
        let Some(record) = self.record.as_mut().filter(wanted) else { return Ok(body) };
        let bytes = body::read(body).await?;
        if let Some(object) = readable(&parts.headers, &bytes, definition) {
            record.request(object);
        }
        Ok(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
    }

    /// Notes what plugins have to say.
    pub(crate) fn annotate(&mut self, annotations: &BTreeMap<String, String>) {
        if let Some(record) = &mut self.record {
            record.annotate_all(annotations);
        }
    }

    /// The end: counts and notes the answer, and says in it how it was treated. `panicked`: the server failed.
    pub(crate) fn finish(mut self, server: &Shared, response: Response<Body>, panicked: bool) -> Response<Body> {
        let took = (!self.long).then(|| self.begun.elapsed());
        let asked = std::mem::replace(&mut self.asked, Asked::unknown());
        server.metrics.requests.answered(asked, response.status().as_u16(), took);
        let under_way = self.under_way.take();
        let response = self.note(response, panicked);
        if !self.long {
            return response;
        }
        response.map(|body| body.with(under_way))
    }

    fn note(&mut self, mut response: Response<Body>, panicked: bool) -> Response<Body> {
        if let Some((schema, level)) = &self.flow {
            for (name, uid) in [(SCHEMA_UID, schema), (LEVEL_UID, level)] {
                if let Ok(value) = HeaderValue::from_str(uid) {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        let Some(mut record) = self.record.take() else { return response };
        let code = response.status().as_u16();
        let failed = code >= 400;
        let answered: Option<Value> = match response.body() {
            Body::Full(bytes) if failed || record.wants_response() => serde_json::from_slice(bytes).ok(),
            _ => None,
        };
        let status = answered.as_ref().filter(|value| value["kind"] == "Status");
        record.response(code, status);
        if let Some(object) = answered.filter(|_| record.wants_response()) {
            record.response_object(object);
        }
        if panicked {
            record.emit(Stage::Panic);
            return response;
        }
        if self.long {
            record.emit(Stage::ResponseStarted);
        }
        response.map(|body| match body {
            Body::Stream(..) => body.with(UntilDropped(record)),
            whole => {
                record.emit(Stage::ResponseComplete);
                whole
            }
        })
    }
}
