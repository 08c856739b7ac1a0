//! What is noted of one request (`audit.k8s.io/v1 Event`).

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::USER_AGENT;
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Value, json};
use xebec_clock::Clock;

use super::Sink;
use super::policy::{Applied, Level, Stage};
use crate::authn::{Peer, UserInfo};
use crate::authz::Attributes;
use crate::reviews::user_value;

/// The longest user agent that is noted, in bytes.
const LONGEST_AGENT: usize = 1024;

/// A request, as far as it is known.
pub struct Record {
    rule: Applied,
    event: Value,
    sink: Arc<dyn Sink>,
    clock: Clock,
}

fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// Where a request comes from, the first hop first (apimachinery `net.SourceIPs`).
fn sources(parts: &Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let listed = header("x-forwarded-for").split(',').map(str::trim);
    let mut out: Vec<String> = listed.filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect();
    let real = header("x-real-ip");
    if real.parse::<std::net::IpAddr>().is_ok() && !out.iter().any(|ip| ip == real) {
        out.push(real.to_owned());
    }
    if let Some(address) = parts.extensions.get::<Peer>().and_then(|peer| peer.address) {
        let ip = address.ip().to_canonical().to_string();
        if out.last() != Some(&ip) {
            out.push(ip);
        }
    }
    out
}

fn object_ref(request: &Attributes) -> Value {
    let mut out = json!({});
    for (key, text) in [
        ("resource", &request.resource),
        ("namespace", &request.namespace),
        ("name", &request.name),
        ("apiGroup", &request.group),
        ("apiVersion", &request.version),
        ("subresource", &request.subresource),
    ] {
        if !text.is_empty() {
            out[key] = text.as_str().into();
        }
    }
    out
}

impl Record {
    pub(super) fn new(
        rule: Applied,
        request: &Attributes,
        parts: &Parts,
        audit_id: &str,
        sink: Arc<dyn Sink>,
        clock: Clock,
    ) -> Self {
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": rule.level.name(),
            "auditID": audit_id,
            "stage": "",
            "requestURI": parts.uri.path_and_query().map_or("/", |p| p.as_str()),
            "verb": request.verb,
            "user": user_value(&request.user),
            "sourceIPs": sources(parts),
        });
        let agent = parts.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !agent.is_empty() {
            event["userAgent"] = match agent.get(..LONGEST_AGENT) {
                Some(start) if agent.len() > LONGEST_AGENT => format!("{start}...TRUNCATED").into(),
                _ => agent.into(),
            };
        }
        if request.is_resource {
            event["objectRef"] = object_ref(request);
        }
        event["requestReceivedTimestamp"] = micros(clock.now()).into();
        Self { rule, event, sink, clock }
    }

    /// Whether what is sent is to be noted.
    pub fn wants_request(&self) -> bool {
        self.rule.level >= Level::Request
    }

    /// Whether what is answered is to be noted.
    pub fn wants_response(&self) -> bool {
        self.rule.level >= Level::RequestResponse
    }

    /// As whom the request is served, if as somebody else.
    pub fn impersonated(&mut self, user: &UserInfo) {
        self.event["impersonatedUser"] = user_value(user);
    }

    /// What was sent.
    pub fn request(&mut self, mut object: Value) {
        self.name_after(&object);
        self.strip(&mut object);
        self.event["requestObject"] = object;
    }

    /// Notes something under a key.
    pub fn annotate(&mut self, key: &str, value: impl Into<String>) {
        self.event["annotations"][key] = value.into().into();
    }

    /// Notes several things.
    pub fn annotate_all(&mut self, annotations: &BTreeMap<String, String>) {
        for (key, value) in annotations {
            self.annotate(key, value.as_str());
        }
    }

    /// What was answered: a code, and the Status if it is one.
    pub fn response(&mut self, code: u16, status: Option<&Value>) {
        let mut noted = json!({"metadata": {}, "code": code});
        for key in ["status", "message", "reason", "details"] {
            if let Some(value) = status.and_then(|s| s.get(key)) {
                noted[key] = value.clone();
            }
        }
        self.event["responseStatus"] = noted;
    }

    /// The object that was answered. A name that the server has made is known only now.
    pub fn response_object(&mut self, mut object: Value) {
        self.name_after(&object);
        self.strip(&mut object);
        self.event["responseObject"] = object;
    }

    /// A new object's name is not in the path.
    fn name_after(&mut self, object: &Value) {
        let unnamed = self.event["objectRef"].is_object() && self.event["objectRef"].get("name").is_none();
        if let Some(name) = object["metadata"]["name"].as_str().filter(|name| unnamed && !name.is_empty()) {
            self.event["objectRef"]["name"] = name.into();
        }
    }

    fn strip(&self, object: &mut Value) {
        if !self.rule.omit_managed_fields {
            return;
        }
        let without = |object: &mut Value| {
            object.get_mut("metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("managedFields"));
        };
        without(object);
        for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            without(item);
        }
    }

    /// Sends an event off.
    pub fn emit(&self, stage: Stage) {
        if self.rule.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.event.clone();
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = match stage {
            Stage::RequestReceived => event["requestReceivedTimestamp"].clone(),
            _ => micros(self.clock.now()).into(),
        };
        self.sink.put(event.to_string().into_bytes());
    }
}

/// Notes the end of a long answer when it is dropped.
pub(crate) struct UntilDropped(pub(crate) Record);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.emit(Stage::ResponseComplete);
    }
}

/// What was sent, for the log: JSON as it is, YAML and protobuf as JSON, and of anything else nothing.
pub(crate) fn readable(
    headers: &HeaderMap,
    body: &bytes::Bytes,
    definition: Option<&xebec_schema::types::Definition>,
) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    if let Ok(value) = serde_json::from_slice(body) {
        return Some(value);
    }
    crate::verbs::decode::document(headers, body, definition)
        .map(|(value, _)| value)
        .ok()
        .or_else(|| crate::verbs::decode::yaml_lenient(body).ok())
}
