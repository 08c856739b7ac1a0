//! `metav1.Status`: what the API answers when it is not an object (apimachinery `api/errors`).

use serde_json::{Value, json};

use crate::field;

/// An error answer of the API. Its `Display` is the message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`; empty for the codes that have none.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about, and why.
    pub details: Option<Box<Details>>,
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The plural resource name, or the kind for validation errors.
    pub kind: String,
    /// The object's UID.
    pub uid: String,
    /// Each cause.
    pub causes: Vec<Cause>,
    /// When to try again; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// A machine-readable reason.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field's path; may be empty.
    pub field: String,
}

/// `pods "web"`, `deployments.apps "web"`: how messages name an object.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> Option<Box<Details>> {
    Some(Box::new(Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() }))
}

impl Status {
    /// An answer with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// 404 for an object that does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self { code: 404, reason: "NotFound", message, details: details(group, resource, name) }
    }

    /// 404 for a path that names no resource.
    pub fn no_such_path() -> Self {
        // With details, though they are empty: kubectl looks into them.
        let details = Some(Box::default());
        Self { details, ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }

    /// 409 for a create of what exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Self { code: 409, reason: "AlreadyExists", message, details: details(group, resource, name) }
    }

    /// 409 for an update of something else than what is stored.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
        Self { code: 409, reason: "Conflict", message, details: details(group, resource, name) }
    }

    /// The usual conflict: the object was changed since it was read.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 403 with the reason after the object.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource))
        };
        Self { code: 403, reason: "Forbidden", message, details: details(group, resource, name) }
    }

    /// 422 for an object that does not validate. `kind` is the Go-style kind, `Deployment`.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Self {
        let mut seen = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        let what = qualified(group, kind);
        let message = match seen.as_slice() {
            [] => format!("{what} \"{name}\" is invalid"),
            [one] => format!("{what} \"{name}\" is invalid: {one}"),
            many => format!("{what} \"{name}\" is invalid: [{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.path.as_str().into() })
            .collect();
        let details =
            Details { name: name.into(), group: group.into(), kind: kind.into(), causes, ..Details::default() };
        Self { code: 422, reason: "Invalid", message, details: Some(Box::new(details)) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 410 for a revision that is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        let cause = Cause { reason: String::new(), message: message.clone(), field: String::new() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self { code: 500, reason: "InternalError", message, details: Some(Box::new(details)) }
    }

    /// 429, to be tried again.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self { details: Some(Box::new(details)), ..Self::new(429, "TooManyRequests", message) }
    }

    /// The JSON form.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": self.reason, "code": self.code,
        });
        if self.reason.is_empty() {
            status.as_object_mut().map(|o| o.remove("reason"));
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = json!({});
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                out[key] = text.as_str().into();
            }
        }
        if !self.causes.is_empty() {
            out["causes"] = self.causes.iter().map(Cause::to_value).collect();
        }
        if self.retry_after_seconds > 0 {
            out["retryAfterSeconds"] = self.retry_after_seconds.into();
        }
        out
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = json!({});
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                out[key] = text.as_str().into();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn words_are_upstreams() {
        assert_eq!(Status::not_found("apps", "deployments", "web").message, "deployments.apps \"web\" not found");
        let one = [Error::required(Path::new("spec.selector"), "")];
        let status = Status::invalid("apps", "Deployment", "web", &one);
        assert_eq!(status.message, "Deployment.apps \"web\" is invalid: spec.selector: Required value");
        let value = status.to_value();
        assert_eq!(value["details"]["causes"][0]["reason"], "FieldValueRequired");
        assert_eq!(value["details"]["causes"][0]["message"], "Required value");
        assert_eq!(value["code"], 422);
        assert_eq!(Status::no_such_path().to_value()["details"], json!({}));
    }
}
