//! Acting as somebody else: `kubectl --as` (upstream `apiserver/pkg/endpoints/filters/impersonation`).

use std::collections::BTreeMap;

use http::HeaderMap;
use xebec_schema::status::Status;

use super::UserInfo;
use super::service_account::service_account_user;
use crate::authz::{Attributes, Authorizer, Decision, forbidden};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Whom the headers ask for.
#[derive(Default)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// The user that a request by `user` is to be served as: `user` if no header asks for another.
///
/// # Errors
///
/// 403 if `user` may not impersonate what is asked for; 500, as upstream, if the headers ask for groups, a UID or extra
/// fields but not for a user.
pub async fn impersonate(
    user: &UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, Status> {
    let wanted = read(headers);
    if wanted.user.is_empty() {
        if wanted.groups.is_empty() && wanted.uid.is_empty() && wanted.extra.is_empty() {
            return Ok(user.clone());
        }
        return Err(Status::internal("requested impersonation of groups, uid or extra without impersonating a user"));
    }
    for attributes in requests(&wanted) {
        let attributes = Attributes {
            user: user.clone(),
            verb: "impersonate".into(),
            version: "v1".into(),
            is_resource: true,
            ..attributes
        };
        match authorizer.authorize(&attributes).await {
            Decision::Allow(_) => {}
            Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => {
                return Err(forbidden(&attributes, &why));
            }
        }
    }
    Ok(assume(wanted))
}

fn read(headers: &HeaderMap) -> Wanted {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut wanted = Wanted { user: one("impersonate-user"), uid: one("impersonate-uid"), ..Wanted::default() };
    let groups = headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok());
    wanted.groups = groups.map(str::to_owned).collect();
    for (name, value) in headers {
        // Header names are lower case here already; keys that need other letters are percent-encoded.
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            wanted.extra.entry(percent_decode(key)).or_default().push(value.to_owned());
        }
    }
    wanted
}

/// The `namespace` and `name` of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .filter(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains(':'))
}

/// What the impersonator must be permitted: each with verb `impersonate`.
fn requests(wanted: &Wanted) -> Vec<Attributes> {
    let resource = |resource: &str, name: &str| Attributes {
        resource: resource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let authentication =
        |plural: &str, name: &str| Attributes { group: "authentication.k8s.io".into(), ..resource(plural, name) };
    let mut out = vec![match service_account(&wanted.user) {
        Some((namespace, name)) => Attributes { namespace: namespace.into(), ..resource("serviceaccounts", name) },
        None => resource("users", &wanted.user),
    }];
    out.extend(wanted.groups.iter().map(|group| resource("groups", group)));
    for (key, values) in &wanted.extra {
        out.extend(
            values.iter().map(|value| Attributes { subresource: key.clone(), ..authentication("userextras", value) }),
        );
    }
    if !wanted.uid.is_empty() {
        out.push(authentication("uids", &wanted.uid));
    }
    out
}

fn assume(wanted: Wanted) -> UserInfo {
    let mut groups = wanted.groups;
    if groups.is_empty()
        && let Some((namespace, name)) = service_account(&wanted.user)
    {
        groups = service_account_user(namespace, name).groups;
    }
    let anonymous = wanted.user == "system:anonymous";
    let implied = if anonymous { "system:unauthenticated" } else { "system:authenticated" };
    let known = |g: &String| g == "system:authenticated" || g == "system:unauthenticated";
    if !groups.iter().any(known) {
        groups.push(implied.to_owned());
    }
    UserInfo { name: wanted.user, uid: wanted.uid, groups, extra: wanted.extra }
}

/// `%XX` decoded; the text as it is if it is not well-formed, as upstream.
pub(super) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 16).ok()) else { return text.to_owned() };
        out.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::authz::Verdict;

    /// Permits what its list has, as `resource[/subresource]:[namespace/]name`.
    struct Permits(&'static [&'static str]);

    impl Authorizer for Permits {
        fn decide<'a>(&'a self, a: &Attributes) -> Verdict<'a> {
            assert_eq!(a.verb, "impersonate");
            let resource =
                if a.subresource.is_empty() { a.resource.clone() } else { format!("{}/{}", a.resource, a.subresource) };
            let name = if a.namespace.is_empty() { a.name.clone() } else { format!("{}/{}", a.namespace, a.name) };
            let listed = self.0.contains(&format!("{resource}:{name}").as_str());
            Verdict::Now(if listed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) })
        }
    }

    fn act(permits: &'static [&'static str], headers: &[(&'static str, &str)]) -> Result<UserInfo, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let bob = UserInfo { name: "bob".into(), ..UserInfo::default() };
        impersonate(&bob, &map, &Permits(permits)).now_or_never().expect("nobody is asked")
    }

    #[test]
    fn impersonation_needs_each_permission() {
        assert_eq!(act(&[], &[]).unwrap().name, "bob");
        let error = act(&[], &[("impersonate-user", "jane")]).unwrap_err();
        assert_eq!(
            error.message,
            "users \"jane\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope"
        );
        let jane = act(&["users:jane"], &[("impersonate-user", "jane")]).unwrap();
        assert_eq!((jane.name.as_str(), jane.groups), ("jane", vec!["system:authenticated".to_owned()]));
        let both = [("impersonate-user", "jane"), ("impersonate-group", "dev")];
        assert_eq!(act(&["users:jane"], &both).unwrap_err().code, 403);
        assert_eq!(act(&["users:jane", "groups:dev"], &both).unwrap().groups, ["dev", "system:authenticated"]);
        assert_eq!(act(&["groups:dev"], &[("impersonate-group", "dev")]).unwrap_err().code, 500);
    }

    #[test]
    fn service_accounts_and_extra_fields() {
        let user = act(
            &["serviceaccounts:ns/sa", "userextras/a/b:x", "uids:u1"],
            &[
                ("impersonate-user", "system:serviceaccount:ns:sa"),
                ("impersonate-extra-a%2fb", "x"),
                ("impersonate-uid", "u1"),
            ],
        )
        .unwrap();
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!(user.extra["a/b"], ["x"]);
        assert_eq!(user.uid, "u1");
        let anonymous = act(&["users:system:anonymous"], &[("impersonate-user", "system:anonymous")]).unwrap();
        assert_eq!(anonymous.groups, ["system:unauthenticated"]);
    }
}
