//! Kinds that are answered and not stored: reviews, bindings, component statuses.

use http::Response;
use xebec_schema::status::Status;
use xebec_schema::validate;

use crate::body::{self, Body, RequestBody};
use crate::chain::Call;
use crate::extension::Question;
use crate::verbs::{create, decode};
use crate::{component_status, respond, subresource};

/// Serves it.
///
/// # Errors
///
/// 405 for what the kind does not do; what the kind's own logic says.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let named = !call.path.name.is_empty();
    if !call.resource.allows(call.path.verb) || !call.path.subresource.is_empty() || call.path.verb == "create" && named
    {
        return Err(Status::method_not_allowed());
    }
    match (call.resource.kind.as_ref(), call.path.verb) {
        ("Binding", _) => subresource::serve_bindings(call, body).await,
        ("ComponentStatus", "get") => component_status::get(call).await,
        ("ComponentStatus", _) => component_status::list(call).await,
        _ => create(call, body).await,
    }
}

async fn create(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let server = call.server.clone();
    let key = (call.resource.group.to_string(), call.resource.plural.to_string());
    let handler = server.extensions.virtual_kinds.get(&key).ok_or_else(Status::no_such_path)?;
    let wanted = call.wanted.without_tables()?;
    let dry_run = decode::dry_run(&call.query)?;
    let body = body::read(body).await?;
    let mut object = decode::object(call, &body)?;
    create::place(&call.resource, call.namespace(), &mut object)?;
    let errors = (call.resource.strategy.validate)(&object);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource.group, &call.resource.kind, "", &errors));
    }
    call.warnings.extend(validate::warnings(&call.resource, &object));
    let question = Question {
        user: &call.user,
        resource: &call.resource,
        namespace: call.namespace(),
        name: "",
        parent: None,
        object,
        dry_run,
    };
    let answer = handler.answer(question).await?;
    Ok(respond::encoded(201, &answer, wanted))
}
