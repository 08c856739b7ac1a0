//! Who owns which fields: every write of a client is noted in `metadata.managedFields`.

use std::cell::RefCell;
use std::sync::Arc;

use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::Value;
use xebec_schema::apply::managed::Managed;
use xebec_schema::apply::manager::FieldManager;
use xebec_schema::apply::set::Set;
use xebec_schema::apply::typed::Type;
use xebec_schema::apply::updater::{Converter, Filter};
use xebec_schema::convert;
use xebec_schema::custom::Conversion;
use xebec_schema::field::{Error, ErrorList, Path};
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use super::conversions::{self, Conversions};
use crate::chain::Call;

/// How long a manager's name may be, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Checks the options of a write that are about its manager. `applies` is whether it is a patch, and one that applies.
///
/// # Errors
///
/// 422 in upstream's words.
pub fn check_options(call: &Call, kind: &str, applies: Option<bool>) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let name = call.query.get("fieldManager");
    if applies == Some(false) && call.query.has("force") {
        errors.push(Error::forbidden(Path::new("force"), "may not be specified for non-apply patch"));
    }
    let path = || Path::new("fieldManager");
    if applies == Some(true) && name.is_empty() {
        errors.push(Error::required(path(), "is required for apply patch"));
    }
    if name.len() > MAX_NAME_BYTES {
        errors.push(Error::too_long(path(), MAX_NAME_BYTES));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| !is_print(*c)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(Error::invalid(path(), name, &why));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", &errors)) }
}

/// Go's `unicode.IsPrint`: of the spaces, only the usual one.
fn is_print(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

/// The name of who writes: what the client says, or how its user agent begins.
fn manager(call: &Call) -> String {
    match call.query.get("fieldManager") {
        "" => agent(&call.parts.headers),
        said => said.to_owned(),
    }
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    let mut name = String::new();
    for c in agent.iter().flat_map(|agent| agent.split('/').next().unwrap_or_default().chars()) {
        if is_print(c) {
            if name.len() + c.len_utf8() > MAX_NAME_BYTES {
                break;
            }
            name.push(c);
        }
    }
    name
}

/// The versions of the kind that a call is about.
struct Versions {
    registry: Arc<Registry>,
    served: Arc<Resource>,
    /// `apps/v1`.
    served_version: String,
    conversions: RefCell<Conversions>,
}

impl Versions {
    fn of(call: &mut Call) -> Self {
        let served = call.resource.clone();
        let served_version = served.api_version();
        let conversions = RefCell::new(std::mem::take(&mut call.conversions));
        Self { registry: call.server.registry.load_full(), served, served_version, conversions }
    }

    fn row(&self, version: &str) -> Option<&Arc<Resource>> {
        if version == self.served_version {
            return Some(&self.served);
        }
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        self.registry.by_kind(group, version, &self.served.kind)
    }
}

impl Converter for Versions {
    fn type_of(&self, version: &str) -> Option<Type<'_>> {
        Some(self.row(version)?.definition().map_or(Type::Deduced, Type::Struct))
    }

    fn convert(&self, object: &Value, version: &str) -> Result<Value, String> {
        let unknown = |version: &str| format!("no kind {:?} is registered for version {version:?}", self.served.kind);
        let from = object["apiVersion"].as_str().unwrap_or_default();
        let (source, target) = (self.row(from), self.row(version));
        let mut object = object.clone();
        if let Some(row) = target
            && let Some(custom) = &row.custom
        {
            return match custom.conversion() {
                Conversion::None => {
                    custom.adopt(&mut object);
                    Ok(object)
                }
                Conversion::Webhook(_) if from.is_empty() => Err(format!("what has no version is not in {version}")),
                Conversion::Webhook(_) => {
                    let converted = self.conversions.borrow_mut().get(&object, row);
                    converted.ok_or_else(|| format!("not yet converted from {from} to {version}"))
                }
            };
        }
        convert::to_stored(source.ok_or_else(|| unknown(from))?, &mut object);
        convert::from_stored(target.ok_or_else(|| unknown(version))?, &mut object);
        Ok(object)
    }
}

/// What a write to a part of an object cannot change, and so does not own.
fn filter(resource: &Resource, subresource: &str) -> Filter {
    let status = resource.subresource("status").is_some();
    let deployment = resource.kind == "Deployment";
    match subresource {
        "" if status => Filter::Exclude(Set::of([&["status"]])),
        "status" if deployment => Filter::Exclude(Set::of([&["spec"], &["metadata", "labels"]])),
        "status" | "approval" => Filter::Exclude(Set::of([&["spec"]])),
        "finalize" => Filter::Include(Set::of([&["spec", "finalizers"]])),
        "resize" => Filter::Matching(&[
            &[Some("spec"), Some("containers"), None, Some("resources")],
            &[Some("spec"), Some("containers"), None, Some("resizePolicy")],
            &[Some("spec"), Some("initContainers"), None, Some("resources")],
            &[Some("spec"), Some("initContainers"), None, Some("resizePolicy")],
            &[Some("spec"), Some("resources")],
        ]),
        "ephemeralcontainers" => Filter::Include(Set::of([&["spec", "ephemeralContainers"]])),
        _ => Filter::None,
    }
}

fn with<T>(call: &mut Call, act: impl FnOnce(FieldManager<'_, Versions>) -> T) -> T {
    let versions = Versions::of(call);
    let filter = filter(&call.resource, &call.path.subresource);
    let now = call.server.clock.now_seconds().to_string();
    let done = act(FieldManager {
        converter: &versions,
        kind: &call.resource.kind,
        version: &versions.served_version,
        subresource: &call.path.subresource,
        filter: &filter,
        now: &now,
    });
    call.conversions = versions.conversions.into_inner();
    done
}

/// Notes in a new state of an object (of the stored version) what the call changed. `old` is `None` for one that is
/// created.
pub async fn update(call: &mut Call, new: &mut Value, old: Option<&Value>) {
    let custom = call.resource.custom.as_ref();
    let webhook = custom.is_some_and(|custom| matches!(custom.conversion(), Conversion::Webhook(_)));
    let before = webhook.then(|| new.clone());
    loop {
        note(call, new, old);
        match (conversions::fetch(call).await, &before) {
            (Ok(true), Some(before)) => new.clone_from(before),
            (Ok(_), _) => return,
            // Then it is left as it was known before.
            (Err(status), _) => {
                tracing::warn!(kind = %call.resource.kind, why = status.message, "managed fields are not up to date");
                return;
            }
        }
    }
}

/// The same with what is known; see [`conversions`].
pub fn note(call: &mut Call, new: &mut Value, old: Option<&Value>) {
    let manager = manager(call);
    with(call, |fields| fields.update(old, new, &manager));
}

/// What a configuration that is applied makes of an object, both of the served version, with what is known; see
/// [`conversions`].
///
/// # Errors
///
/// 409 for conflicts, 400 and 500 for configurations that are not of the kind.
pub fn apply(call: &mut Call, live: Option<&Value>, configuration: &Value, force: bool) -> Result<Value, Status> {
    let manager = manager(call);
    with(call, |fields| fields.apply(live, configuration, &manager, force)).map_err(|error| error.status())
}

/// The same for the object's scale, which is of a kind of its own.
pub struct ScaleManager<'a> {
    /// The call.
    pub call: &'a Call,
    /// How a Scale looks.
    pub definition: &'a xebec_schema::types::Definition,
}

impl Converter for ScaleManager<'_> {
    fn type_of(&self, version: &str) -> Option<Type<'_>> {
        (version == xebec_schema::apply::scale::SCALE_VERSION).then_some(Type::Struct(self.definition))
    }

    fn convert(&self, _: &Value, version: &str) -> Result<Value, String> {
        Err(format!("no kind \"Scale\" is registered for version {version:?}"))
    }
}

impl ScaleManager<'_> {
    fn with<T>(&self, act: impl FnOnce(FieldManager<'_, Self>) -> T) -> T {
        let now = self.call.server.clock.now_seconds().to_string();
        let version = xebec_schema::apply::scale::SCALE_VERSION;
        act(FieldManager {
            converter: self,
            kind: "Scale",
            version,
            subresource: "scale",
            filter: &Filter::None,
            now: &now,
        })
    }

    /// As [`update`].
    pub fn update(&self, new: &mut Value, old: &Value) {
        self.with(|fields| fields.update(Some(old), new, &manager(self.call)));
    }

    /// As [`apply`].
    ///
    /// # Errors
    ///
    /// As [`apply`].
    pub fn apply(&self, live: &Value, configuration: &Value, force: bool) -> Result<Value, Status> {
        let applied = self.with(|fields| fields.apply(Some(live), configuration, &manager(self.call), force));
        applied.map_err(|error| error.status())
    }
}

/// Puts back what admission made unreadable. `before` is what the list was.
pub fn restore(call: &mut Call, object: &mut Value, before: &Value) {
    let after = &object["metadata"]["managedFields"];
    if after == before {
        return;
    }
    let Err(why) = Managed::read(after) else { return };
    call.warnings.push(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
         admission controller; please fix your requests: {why}"
    ));
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    match before {
        Value::Null => metadata.remove("managedFields"),
        list => metadata.insert("managedFields".into(), list.clone()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_called_as_their_user_agent_begins() {
        let name = |agent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, http::HeaderValue::from_bytes(agent.as_bytes()).unwrap());
            super::agent(&headers)
        };
        assert_eq!(name("kubectl/v1.37.1 (linux/amd64) kubernetes/abc"), "kubectl");
        assert_eq!(name("Mozilla"), "Mozilla");
        assert_eq!(name(&"x".repeat(200)).len(), 128);
        assert_eq!(super::agent(&HeaderMap::new()), "");
    }
}
