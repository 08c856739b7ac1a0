//! The words of a 403 (upstream `apiserver/pkg/endpoints/handlers/responsewriters`).

use xebec_schema::status::Status;

use super::Attributes;

/// The answer to a request that nobody permits; `reason` is what the authorizers said, and may be empty.
pub fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let user = &attributes.user.name;
    let verb = &attributes.verb;
    if !attributes.is_resource {
        let mut message = format!("forbidden: User {user:?} cannot {verb} path {:?}", attributes.path);
        if !reason.is_empty() {
            message = format!("{message}: {reason}");
        }
        return Status { details: Some(Box::default()), ..Status::new(403, "Forbidden", message) };
    }
    let resource = match attributes.subresource.as_str() {
        "" => attributes.resource.clone(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let scope = match attributes.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let mut why =
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {:?} {scope}", attributes.group);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;

    #[test]
    fn words_are_upstreams() {
        let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
        let attributes = Attributes {
            user: user.clone(),
            verb: "list".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            namespace: "default".into(),
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&attributes, "").message,
            "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments\" in API group \"apps\" in \
             the namespace \"default\""
        );
        let path = Attributes { user, verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(forbidden(&path, "").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}
