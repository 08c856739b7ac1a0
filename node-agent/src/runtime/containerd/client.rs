//! The connection to containerd, and its services.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::{Channel, Endpoint};
use containerd_client::tonic::{Code, Request, Status};
use hyper_util::rt::TokioIo;

use crate::runtime::RuntimeError;

/// The namespace of Kubernetes' containers and images.
pub const NAMESPACE: &str = "k8s.io";

/// A connection that is made when it is needed, and again when it broke.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// To the containerd that listens at `socket`. Makes no connection yet.
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
        });
        // The address is for show: the connector knows where to go.
        Self { channel: Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector) }
    }

    /// Containers: what is known of them.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    /// Tasks: their processes.
    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// Root file systems.
    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// Blobs.
    pub fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    /// Names of images.
    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    /// What keeps new blobs from being collected.
    pub fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    /// Unpacks layers.
    pub fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    /// What happens.
    pub fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    /// What it is made of.
    pub fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    /// Who it is.
    pub fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// A request in the namespace.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// A request under a lease: what it makes is kept while the lease is.
pub fn leased<T>(message: T, lease: &str) -> Result<Request<T>, RuntimeError> {
    let mut request = request(message);
    let value = MetadataValue::try_from(lease).map_err(|_| RuntimeError::Invalid(format!("lease {lease}")))?;
    request.metadata_mut().insert("containerd-lease", value);
    Ok(request)
}

impl From<Status> for RuntimeError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => Self::NotFound(status.message().to_owned()),
            Code::Unavailable => Self::Down(cause(&status)),
            Code::InvalidArgument => Self::Invalid(status.message().to_owned()),
            _ => Self::Failed(status.message().to_owned()),
        }
    }
}

/// The innermost reason: `No such file or directory`, not `transport error`.
fn cause(status: &Status) -> String {
    let mut message = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        message = error.to_string();
        source = error.source();
    }
    message
}

/// containerd's time as ours.
pub fn timestamp(time: Option<&prost_types::Timestamp>) -> Option<jiff::Timestamp> {
    let time = time?;
    jiff::Timestamp::new(time.seconds, time.nanos).ok()
}
