//! Who is it? A file per method.

pub mod bootstrap_token;
pub mod chain;
pub mod front_proxy;
pub mod impersonation;
pub mod oidc;
pub mod secret_token;
pub mod service_account;
pub mod token;
pub mod webhook;
pub mod x509;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use xebec_schema::status::Status;

/// An authenticated user (`authentication.k8s.io/v1 UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:serviceaccount:default:builder`.
    pub name: String,
    /// A stable identity, where the method has one.
    pub uid: String,
    /// `system:authenticated` and others.
    pub groups: Vec<String>,
    /// More, by method.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user who may do everything: the control plane's own components.
    pub fn system(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..Self::default()
        }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What the connection says of its peer; a request extension.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Where it comes from; `None` in process.
    pub address: Option<SocketAddr>,
    /// The client certificate, already verified against the cluster's client CA.
    pub certificate: Option<Arc<x509::PeerCertificate>>,
}

/// A method of authentication.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user, `None` if the request carries nothing that this method knows, or an error (401) if what it carries
    /// is not valid.
    async fn authenticate(&self, request: &http::request::Parts) -> Result<Option<UserInfo>, Status>;
}
