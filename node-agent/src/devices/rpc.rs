//! What is said to drivers: `pluginregistration` version 1, and the `DRAPlugin` services of versions 1 and 1beta1, which
//! have the same messages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// How long a driver may take (upstream's `defaultClientCallTimeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(45);

/// `InfoRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {}

/// `PluginInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    /// `DRAPlugin`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where it is to be called, if not where it made itself known.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// The services that it has: `v1.DRAPlugin`.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// `RegistrationStatus`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    /// Whether the plugin will be called.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// `RegistrationStatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatusResponse {}

/// `Claim`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claim {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `NodePrepareResourcesRequest` and `NodeUnprepareResourcesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClaimsRequest {
    /// The claims.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<Claim>,
}

/// `NodePrepareResourcesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareResponse {
    /// What became of each, by uid.
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, PreparedClaim>,
}

/// `NodePrepareResourceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedClaim {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
    /// Why they were not prepared.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// `Device`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// For which requests; all, if there are none.
    #[prost(string, repeated, tag = "1")]
    pub request_names: Vec<String>,
    /// The pool.
    #[prost(string, tag = "2")]
    pub pool_name: String,
    /// Its name in the pool.
    #[prost(string, tag = "3")]
    pub device_name: String,
    /// How CDI calls it.
    #[prost(string, repeated, tag = "4")]
    pub cdi_device_ids: Vec<String>,
    /// Which share of it.
    #[prost(string, optional, tag = "5")]
    pub share_id: Option<String>,
}

/// `NodeUnprepareResourcesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnprepareResponse {
    /// What became of each, by uid.
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, UnpreparedClaim>,
}

/// `NodeUnprepareResourceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnpreparedClaim {
    /// Why that was not undone.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// A driver's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `v1.DRAPlugin`.
    V1,
    /// `v1beta1.DRAPlugin`.
    V1Beta1,
}

impl Service {
    /// The newest of those that a driver has.
    pub fn choose(supported: &[String]) -> Option<Self> {
        let has = |name: &str| supported.iter().any(|known| known == name);
        match () {
            () if has("v1.DRAPlugin") => Some(Self::V1),
            () if has("v1beta1.DRAPlugin") => Some(Self::V1Beta1),
            () => None,
        }
    }

    fn prepare(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            Self::V1Beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        })
    }

    fn unprepare(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            Self::V1Beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
        })
    }
}

/// A connection to a plugin, made when it is needed.
#[derive(Clone, Debug)]
pub struct Connection(Channel);

impl Connection {
    /// To the plugin that listens at `socket`.
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
        });
        Self(Endpoint::from_static("http://plugin").connect_with_connector_lazy(connector))
    }

    /// What it is.
    pub async fn info(&self) -> Result<PluginInfo, String> {
        self.call(PathAndQuery::from_static("/pluginregistration.Registration/GetInfo"), InfoRequest {}).await
    }

    /// Tells it what has come of that.
    pub async fn notify(&self, outcome: &Result<(), String>) -> Result<(), String> {
        let path = PathAndQuery::from_static("/pluginregistration.Registration/NotifyRegistrationStatus");
        let error = outcome.as_ref().err().cloned().unwrap_or_default();
        let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error };
        self.call::<_, RegistrationStatusResponse>(path, status).await.map(drop)
    }

    /// Has claims prepared.
    pub async fn prepare(&self, service: Service, claims: Vec<Claim>) -> Result<PrepareResponse, String> {
        self.call(service.prepare(), ClaimsRequest { claims }).await
    }

    /// Has that undone.
    pub async fn unprepare(&self, service: Service, claims: Vec<Claim>) -> Result<UnprepareResponse, String> {
        self.call(service.unprepare(), ClaimsRequest { claims }).await
    }

    async fn call<Q, A>(&self, path: PathAndQuery, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        let call = async {
            client.ready().await.map_err(|e| format!("rpc error: code = Unavailable desc = {e}"))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            let answer = answer.map_err(|e| format!("rpc error: code = {:?} desc = {}", e.code(), e.message()))?;
            Ok(answer.into_inner())
        };
        let late = || "rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned();
        tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| late())?
    }
}
