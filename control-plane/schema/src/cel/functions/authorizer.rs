//! Kubernetes' authorizer library: what is asked is put together here, and answered by the evaluator.

use std::sync::Arc;

use super::{Called, Val};
use crate::cel::AuthorizationRequest;

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    let with = |request: &Arc<AuthorizationRequest>, change: &dyn Fn(&mut AuthorizationRequest)| {
        let mut request = (**request).clone();
        change(&mut request);
        Ok(Val::Authorizer(Arc::new(request)))
    };
    Some(match (function, args) {
        ("path", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.path = Some(s.to_string())),
        ("group", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.group = s.to_string()),
        ("resource", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.resource = s.to_string()),
        ("subresource", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.subresource = s.to_string()),
        ("namespace", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.namespace = s.to_string()),
        ("name", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.name = s.to_string()),
        ("fieldSelector", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.field_selector = s.to_string()),
        ("labelSelector", [Val::Authorizer(r), Val::Str(s)]) => with(r, &|r| r.label_selector = s.to_string()),
        ("serviceAccount", [Val::Authorizer(r), Val::Str(namespace), Val::Str(name)]) => {
            with(r, &|r| r.service_account = Some((namespace.to_string(), name.to_string())))
        }
        ("allowed", [Val::Decision(allowed, _, error)]) => Ok(Val::Bool(*allowed && error.is_none())),
        ("reason", [Val::Decision(_, reason, _)]) => Ok(Val::string(reason.as_ref())),
        ("errored", [Val::Decision(_, _, error)]) => Ok(Val::Bool(error.is_some())),
        ("error", [Val::Decision(_, _, error)]) => Ok(Val::string(error.as_deref().unwrap_or_default())),
        _ => return None,
    })
}
