//! What is plugged into the server: authentication, authorization, admission, kinds that are answered without being
//! stored, and the way to the nodes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use crate::admission::Plugin;
use crate::aggregation::Identity;
use crate::audit::Auditor;
use crate::authn::{Authenticator, UserInfo};
use crate::authz::Authorizer;
use crate::computed::ComputedApi;
use crate::fairness::Fairness;

/// Everything that is plugged in. The empty one lets nobody in but the components of this process, and permits nothing
/// but to the group `system:masters`.
#[derive(Default)]
pub struct Extensions {
    /// Asked in order; the first that knows the request says who it is. Whom the user wants to act as is the server's
    /// business.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Whether requests without credentials are let in as `system:anonymous`.
    pub anonymous: bool,
    /// If there are any, only requests for these paths are.
    pub anonymous_paths: Vec<String>,
    /// Asked in order; the first that has an opinion decides.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// In upstream's order.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// By group and plural: `("authorization.k8s.io", "subjectaccessreviews")`.
    pub virtual_kinds: BTreeMap<(String, String), Arc<dyn Answer>>,
    /// Subresources that are POSTed to and answered without being stored, by group, plural and subresource:
    /// `("", "serviceaccounts", "token")`.
    pub subresources: BTreeMap<(String, String, String), Arc<dyn Answer>>,
    /// Versions of groups that are served without being stored.
    pub apis: Vec<Arc<dyn ComputedApi>>,
    /// Documents that are served as they are, with their media types, by path: `/openid/v1/jwks`.
    pub documents: BTreeMap<String, (&'static str, Value)>,
    /// How the nodes' agents are reached, for logs, exec and the like; `None` where there are none.
    pub nodes: Option<Arc<dyn NodeConnector>>,
    /// Who this server is to the API servers behind APIServices; without, there is no aggregation.
    pub identity: Option<Arc<dyn Identity>>,
    /// Says when a request may go on; without it, at once.
    pub fairness: Option<Arc<Fairness>>,
    /// Notes what is asked and answered; without it, nothing is noted.
    pub audit: Option<Arc<Auditor>>,
    /// Whether what every cluster has is there: until then, who is not known or may do nothing is told to come back.
    /// Without it, the server is ready from the start.
    pub started: Option<Check>,
    /// Parts of health beyond the server's own, by name.
    pub health: BTreeMap<String, Check>,
    /// The parts of the control plane besides this server, by name: what component statuses tell of.
    pub components: BTreeMap<String, Check>,
    /// What those parts count, for `/metrics`.
    pub metrics: Vec<Count>,
}

/// Writes what is counted, in Prometheus' text form.
pub type Count = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Says what is wrong with something, if anything is.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A POST that is answered without anything being stored.
pub struct Question<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The row of the kind; of the parent, for a subresource.
    pub resource: &'a Resource,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name of the parent, for a subresource; else empty.
    pub name: &'a str,
    /// The parent as it is stored, for a subresource.
    pub parent: Option<&'a Value>,
    /// What was posted; its types and defaults are in order.
    pub object: Value,
    /// Nothing may be changed, anywhere.
    pub dry_run: bool,
}

/// Answers a [`Question`].
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// The object that is sent back, with code 201.
    async fn answer(&self, question: Question<'_>) -> Result<Value, Status>;
}

/// A connection to a node's agent.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// Reaches the nodes' agents.
#[async_trait]
pub trait NodeConnector: Send + Sync + 'static {
    /// A connection to the agent at an address (of the Node's status) and port, over which HTTP/1.1 is spoken: TLS is
    /// done, both ends have proved who they are.
    async fn connect(&self, node: &str, address: &str, port: u16) -> io::Result<Box<dyn NodeStream>>;
}
