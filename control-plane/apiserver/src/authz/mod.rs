//! May they? A file per method.

mod answers;
pub mod config;
mod forbidden;
pub mod node;
pub mod rbac;
mod union;
pub mod webhook;

pub use answers::Answers;
pub use forbidden::forbidden;
pub use union::Union;

use futures::future::BoxFuture;

use crate::authn::UserInfo;

/// What is to be decided (`authorization.k8s.io` attributes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Somebody who had to be asked could not be, and why: no.
    Failed {
        /// What went wrong.
        why: String,
        /// Nobody else is asked.
        denied: bool,
    },
}

/// How an authorizer comes to its decision.
pub enum Verdict<'a> {
    /// By what is in memory.
    Now(Decision),
    /// Somebody has to be asked first.
    Ask(BoxFuture<'a, Decision>),
}

/// A method of authorization. Most read only what is in memory, and decide without waiting.
pub trait Authorizer: Send + Sync + 'static {
    /// Decides, or says who has to be asked for that.
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a>;
}

impl dyn Authorizer {
    /// Decides, and waits only if somebody has to be asked.
    pub async fn authorize(&self, attributes: &Attributes) -> Decision {
        match self.decide(attributes) {
            Verdict::Now(decision) => decision,
            Verdict::Ask(asking) => asking.await,
        }
    }
}
