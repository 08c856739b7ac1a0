//! The plugin's socket: gRPC (`k8s.io/kms/apis/v2`).

use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::sealed::{EncryptedObject, SEED_TYPE};

/// The longest answer, in bytes: annotations may be 32 kB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// How the plugin is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: std::collections::BTreeMap<String, Vec<u8>>,
}

/// A plugin that listens at a socket.
pub struct Plugin {
    socket: PathBuf,
    timeout: Duration,
    /// Made for the first call; it connects again by itself.
    channel: Mutex<Option<Channel>>,
}

impl Plugin {
    pub(super) fn new(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout, channel: Mutex::default() }
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, String> {
        self.call("/v2.KeyManagementService/Status", StatusRequest {}).await
    }

    /// The seed that `head` has encrypted.
    pub(super) async fn decrypt(&self, uid: &str, head: &EncryptedObject) -> Result<Vec<u8>, String> {
        let request = DecryptRequest {
            ciphertext: head.encrypted_source.clone(),
            uid: uid.to_owned(),
            key_id: head.key_id.clone(),
            annotations: head.annotations.clone(),
        };
        let answer: DecryptResponse = self.call("/v2.KeyManagementService/Decrypt", request).await?;
        Ok(answer.plaintext)
    }

    /// What is stored with everything that is sealed with `seed`.
    pub(super) async fn encrypt(&self, uid: &str, seed: &[u8]) -> Result<EncryptedObject, String> {
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uid.to_owned() };
        let answer: EncryptResponse = self.call("/v2.KeyManagementService/Encrypt", request).await?;
        Ok(EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_source: answer.ciphertext,
            annotations: answer.annotations,
            source_type: SEED_TYPE,
        })
    }

    fn channel(&self) -> Channel {
        let connect = || {
            let socket = self.socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
        };
        self.channel.lock().get_or_insert_with(connect).clone()
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, String>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let asking = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(request), PathAndQuery::from_static(method), codec).await
        };
        let late = || Err(Status::deadline_exceeded("context deadline exceeded"));
        let answer = tokio::time::timeout(self.timeout, asking).await.unwrap_or_else(|_| late());
        answer.map(tonic::Response::into_inner).map_err(|status| words(&status))
    }
}

/// As Go's client says it.
fn words(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
