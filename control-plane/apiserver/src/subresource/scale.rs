//! `scale`: the number of replicas, as `autoscaling/v1 Scale`, whatever the kind.

use http::Response;
use serde_json::{Value, json};
use xebec_schema::apply::element::Element;
use xebec_schema::apply::scale::ScalePath;
use xebec_schema::field::{Error, Path};
use xebec_schema::resource::Resource;
use xebec_schema::selector::LabelSelector;
use xebec_schema::status::Status;

use super::posted;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::respond;
use crate::verbs::apply::{self, Configuration};
use crate::verbs::decode::{self, Expected};
use crate::verbs::modify::{self, Modify, Next, Rules};
use crate::verbs::origin::Origin;
use crate::verbs::patch::Patch;
use crate::verbs::track::{self, ScaleManager};

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    if call.path.verb == "get" {
        let object = super::parent(call).await?;
        if let Some(scale) = call.resource.custom.as_ref().and_then(|custom| custom.scale())
            && scale.wanted(&object).is_none()
        {
            let why = format!("the spec replicas field {:?} does not exist", scale.wanted_path());
            return Err(Status::internal(why));
        }
        let scale = of(&call.resource, &object);
        return Ok(respond::encoded(200, &scale, call.wanted));
    }
    let patches = call.path.verb == "patch";
    let applies = patches && apply::is_apply(call);
    track::check_options(call, if patches { "PatchOptions" } else { "UpdateOptions" }, patches.then_some(applies))?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let expected = Expected {
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        definition: decode::definition("autoscaling.v1.Scale"),
    };
    let how = Modify { rules: Rules::Object, admission: true, dry_run };
    let definition = expected.definition.ok_or_else(Status::no_such_path)?;
    let modified = if applies {
        let configuration = Configuration::read(call, &body)?;
        let compute = |call: &mut Call, old: &Value| {
            let before = managed_scale(call, old);
            let fields = ScaleManager { call, definition };
            let scale = fields.apply(&before, &configuration.value, configuration.force)?;
            let scale = decode::typed(call, &expected, scale, &Origin::default())?;
            scaled(call, &scale, old).map(Next::Tracked)
        };
        modify::modify(call, how, compute).await?
    } else if patches {
        let patch = Patch::read(call, &body)?;
        let compute = |call: &mut Call, old: &Value| {
            let mut before = managed_scale(call, old);
            // What the patch does not say, it does not insist upon.
            before["metadata"].as_object_mut().map(|m| m.remove("resourceVersion"));
            let scale = patch.apply(expected.definition, &before)?;
            let mut scale = decode::typed(call, &expected, scale, &Origin::patch(&patch))?;
            ScaleManager { call, definition }.update(&mut scale, &before);
            scaled(call, &scale, old).map(Next::Tracked)
        };
        modify::modify(call, how, compute).await?
    } else {
        let scale = posted(call, &expected, &body)?;
        let compute = |call: &mut Call, old: &Value| {
            let mut scale = scale.clone();
            ScaleManager { call, definition }.update(&mut scale, &managed_scale(call, old));
            scaled(call, &scale, old).map(Next::Tracked)
        };
        modify::modify(call, how, compute).await?
    };
    let mut object = modified.object;
    object["metadata"]["resourceVersion"] = modified.revision.to_string().into();
    Ok(respond::encoded(200, &of(&call.resource, &object), call.wanted))
}

/// The object's scale.
pub(crate) fn of(resource: &Resource, object: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    let replicas = |value: &Value| value.as_i64().unwrap_or(0);
    let custom = resource.custom.as_ref().and_then(|custom| custom.scale());
    let (wanted, present) = match custom {
        Some(scale) => (scale.wanted(object).unwrap_or(0), scale.present(object)),
        None => (replicas(&object["spec"]["replicas"]), replicas(&object["status"]["replicas"])),
    };
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": wanted},
        "status": {"replicas": present},
    });
    if let Some(selector) = selector(resource, object) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// Where the replicas are.
fn replicas_path(resource: &Resource) -> Vec<Element> {
    let custom = resource.custom.as_ref().and_then(|custom| custom.scale());
    let path = custom.map_or(".spec.replicas", |scale| scale.wanted_path());
    path.split('.').filter(|name| !name.is_empty()).map(Element::field).collect()
}

/// The object's scale, with those who manage its replicas.
fn managed_scale(call: &Call, object: &Value) -> Value {
    let mut scale = of(&call.resource, object);
    let (version, replicas_path) = (call.resource.api_version(), replicas_path(&call.resource));
    let path = ScalePath { version: &version, path: &replicas_path };
    if let Some(managed) = path.to_scale(&object["metadata"]["managedFields"]) {
        scale["metadata"]["managedFields"] = managed;
    }
    scale
}

/// The selector in text form: what an autoscaler finds the pods by.
fn selector(resource: &Resource, object: &Value) -> Option<String> {
    if let Some(custom) = &resource.custom {
        return custom.scale().map(|scale| scale.selector(object).to_owned()).filter(|text| !text.is_empty());
    }
    let selector = object["spec"].get("selector")?;
    // A ReplicationController's is a plain map.
    let parsed = if resource.group.is_empty() {
        LabelSelector::from_map(selector)
    } else {
        LabelSelector::from_json(selector).ok()?
    };
    Some(parsed.to_string())
}

/// The object with the replicas that the scale asks for.
fn scaled(call: &Call, scale: &Value, old: &Value) -> Result<Value, Status> {
    let name = scale["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != call.path.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.path.name
        )));
    }
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error = Error::invalid(Path::new("spec.replicas"), replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", &call.path.name, &[error]));
    }
    let mut new = old.clone();
    match call.resource.custom.as_ref().and_then(|custom| custom.scale()) {
        Some(scale) => scale.want(&mut new, replicas),
        None => new["spec"]["replicas"] = replicas.into(),
    }
    let (version, replicas_path) = (call.resource.api_version(), replicas_path(&call.resource));
    let path = ScalePath { version: &version, path: &replicas_path };
    let before = &old["metadata"]["managedFields"];
    match path.to_parent(before, &scale["metadata"]["managedFields"]) {
        Some(managed) => new["metadata"]["managedFields"] = managed,
        None => {
            new["metadata"].as_object_mut().map(|m| m.remove("managedFields"));
        }
    }
    for key in ["resourceVersion", "uid"] {
        match scale["metadata"][key].as_str().filter(|text| !text.is_empty()) {
            Some(text) => new["metadata"][key] = text.into(),
            None => {
                new["metadata"].as_object_mut().map(|m| m.remove(key));
            }
        }
    }
    Ok(new)
}
