//! PATCH with `application/apply-patch+yaml`: server-side apply.

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use xebec_schema::convert;
use xebec_schema::status::Status;

use super::decode::{self, FieldValidation};
use super::modify::{self, Modify, Next, Rules};
use super::origin::Origin;
use super::{create, track, update};
use crate::body::Body;
use crate::chain::Call;
use crate::{respond, versions};

/// How often an object may come and go while it is applied to.
const ATTEMPTS: usize = 8;

/// What is applied.
pub struct Configuration {
    /// What the object is to be, as far as the applier cares.
    pub value: Value,
    /// Whether fields are taken from others.
    pub force: bool,
}

/// Whether the request applies.
pub fn is_apply(call: &Call) -> bool {
    let header = call.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim() == "application/apply-patch+yaml"
}

impl Configuration {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// 400 for what is not YAML, or has keys twice and the client wants to be told.
    pub fn read(call: &mut Call, body: &Bytes) -> Result<Self, Status> {
        let validation = FieldValidation::of(&call.query)?;
        let value =
            decode::yaml_lenient(body).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        if !value.is_object() {
            let why = "json: cannot unmarshal into Go value of type map[string]interface {}";
            return Err(Status::bad_request(format!("error decoding YAML: {why}")));
        }
        if validation != FieldValidation::Ignore
            && let Err(why) = decode::yaml_strict(body)
        {
            if validation == FieldValidation::Strict {
                return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
            }
            call.warnings.push(why);
        }
        Ok(Self { value, force: call.query.flag("force") })
    }

    /// What the configuration makes of an object of the stored version.
    ///
    /// # Errors
    ///
    /// Conflicts, and what is no object of the kind.
    pub fn applied(&self, call: &mut Call, live: Option<&Value>) -> Result<Value, Status> {
        let served = live.map(|live| {
            let mut served = live.clone();
            convert::from_stored(&call.resource, &mut served);
            served
        });
        let object = track::apply(call, served.as_ref(), &self.value, self.force)?;
        let object = decode::checked(call, object, &Origin::default())?;
        update::addressed(call, object)
    }
}

/// Applies to the object that the path names, or creates it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: &Bytes, dry_run: bool) -> Result<Response<Body>, Status> {
    let configuration = Configuration::read(call, body)?;
    for _ in 0..ATTEMPTS {
        if call.cache()?.get(&call.key()).is_none() {
            match created(call, &configuration, dry_run).await {
                Err(status) if status.reason == "AlreadyExists" => continue,
                other => return other,
            }
        }
        let how = Modify { rules: Rules::Object, admission: true, dry_run };
        let compute = |call: &mut Call, old: &Value| configuration.applied(call, Some(old)).map(Next::Tracked);
        match modify::modify(call, how, compute).await {
            Err(status) if status.reason == "NotFound" && status.code == 404 => {}
            Err(status) => return Err(status),
            Ok(modified) => {
                let bytes = versions::convert_bytes(&call.resource, modified.bytes, modified.revision);
                let bytes = bytes.map_err(Status::internal)?;
                return Ok(respond::object(200, &call.resource, bytes, call.wanted, call.server.clock.now()));
            }
        }
    }
    Err(Status::modified(&call.resource.group, &call.resource.plural, &call.path.name))
}

async fn created(call: &mut Call, configuration: &Configuration, dry_run: bool) -> Result<Response<Body>, Status> {
    let metadata = &configuration.value["metadata"];
    let (group, plural, name) = (&call.resource.group, &call.resource.plural, &call.path.name);
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| !uid.is_empty()) {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(group, plural, name, &why));
    }
    if metadata["resourceVersion"].as_str().is_some_and(|version| !matches!(version, "" | "0")) {
        return Err(Status::modified(group, plural, name));
    }
    let object = configuration.applied(call, None)?;
    update::authorize_create(call).await?;
    let bytes = create::create_tracked(call, object, dry_run).await?;
    Ok(respond::object(201, &call.resource, bytes, call.wanted, call.server.clock.now()))
}
