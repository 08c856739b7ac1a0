//! Component statuses: how the parts of the control plane are (`pkg/registry/core/componentstatus`). Deprecated, and
//! still asked for.

use std::time::Duration;

use http::Response;
use serde_json::{Value, json};
use xebec_schema::status::Status;
use xebec_schema::table;

use crate::body::Body;
use crate::chain::Call;
use crate::respond::{self, Form};
use crate::server::Shared;

/// How long a component is given to say how it is.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One of them.
///
/// # Errors
///
/// 404 for a component that there is not.
pub async fn get(call: &mut Call) -> Result<Response<Body>, Status> {
    deprecated(call);
    let found = all(&call.server).await.into_iter().find(|c| c["metadata"]["name"] == call.path.name.as_str());
    let found = found.ok_or_else(|| call.not_found())?;
    Ok(respond::object(200, &call.resource, found.to_string().into(), call.wanted, call.server.clock.now()))
}

/// All of them.
///
/// # Errors
///
/// None.
pub async fn list(call: &mut Call) -> Result<Response<Body>, Status> {
    deprecated(call);
    let mut items = all(&call.server).await;
    if !call.path.name.is_empty() {
        items.retain(|c| c["metadata"]["name"] == call.path.name.as_str());
    }
    let metadata = json!({"resourceVersion": ""});
    let answer = match call.wanted.form {
        Form::Table(include) => table::render(&call.resource, items.iter(), call.server.clock.now(), include, metadata),
        Form::Object | Form::Partial => {
            json!({"kind": call.resource.list_kind, "apiVersion": "v1", "metadata": metadata, "items": items})
        }
    };
    Ok(respond::encoded(200, &answer, call.wanted))
}

fn deprecated(call: &mut Call) {
    call.warnings.push("v1 ComponentStatus is deprecated in v1.19+".to_owned());
}

async fn all(server: &Shared) -> Vec<Value> {
    let mut components: Vec<Value> =
        server.extensions.components.iter().map(|(name, check)| component(name, check())).collect();
    let store = match tokio::time::timeout(TIMEOUT, server.store.revision()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    };
    components.push(component("etcd-0", store));
    components
}

fn component(name: &str, health: Result<(), String>) -> Value {
    let condition = match health {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}
