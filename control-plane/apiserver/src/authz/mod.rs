//! May they? A file per method.

mod forbidden;
pub mod node;
pub mod rbac;
mod union;

pub use forbidden::forbidden;
pub use union::Union;

use crate::authn::UserInfo;

/// What is to be decided (`authorization.k8s.io` attributes).
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who.
    pub user: UserInfo,
    /// `get`, `list`, `create`..., or the lower-case HTTP method for paths that are no resource.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name; empty for paths that are no resource.
    pub resource: String,
    /// `status`, `log`...; may be empty.
    pub subresource: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// Empty where the request names no object.
    pub name: String,
    /// The URL path, for paths that are no resource.
    pub path: String,
    /// Whether the request is for a resource.
    pub is_resource: bool,
    /// The query's `fieldSelector`, as sent; empty if there is none (KEP-4601). The node authorizer looks at it.
    pub field_selector: String,
}

/// What an authorizer says. The first that does not abstain decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Somebody else may know; the reason, which may be empty, ends up in the message if nobody does.
    NoOpinion(String),
}

/// A method of authorization. Synchronous: it reads only from the watch cache.
pub trait Authorizer: Send + Sync + 'static {
    /// Decides.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}
