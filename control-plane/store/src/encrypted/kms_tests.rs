//! With a plugin, which is a server at a socket.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use prost::Message;
use tokio::net::UnixListener;

use super::kms::wire::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, EncryptedObject, StatusResponse,
};
use super::*;
use crate::memory::MemoryStore;
use crate::{Operation, Txn};

const SECRET: &str = "/registry/core/secrets/ns/a";

/// What the plugin does.
struct Behaviour {
    key_id: String,
    /// The key that it encrypts with, if it is another than it says.
    encrypts_with: Option<String>,
    healthz: String,
    /// Keys that it has lost.
    lost: BTreeSet<String>,
    decrypted: usize,
    encrypted: usize,
}

struct FakePlugin {
    behaviour: Arc<Mutex<Behaviour>>,
    directory: tempfile::TempDir,
    _serving: tokio::task::JoinHandle<()>,
}

/// What the plugin calls encryption.
fn mask(bytes: &[u8], key_id: &str) -> Vec<u8> {
    let key = key_id.bytes().fold(0x5a_u8, u8::wrapping_add);
    bytes.iter().map(|byte| byte ^ key).collect()
}

fn answer(path: &str, message: &[u8], behaviour: &mut Behaviour) -> Result<Vec<u8>, String> {
    match path {
        "/v2.KeyManagementService/Status" => Ok(StatusResponse {
            version: "v2".into(),
            healthz: behaviour.healthz.clone(),
            key_id: behaviour.key_id.clone(),
        }
        .encode_to_vec()),
        "/v2.KeyManagementService/Encrypt" => {
            behaviour.encrypted += 1;
            let request = EncryptRequest::decode(message).unwrap();
            assert!(!request.uid.is_empty());
            let key_id = behaviour.encrypts_with.clone().unwrap_or_else(|| behaviour.key_id.clone());
            let annotations = BTreeMap::from([("local.kms.example".to_owned(), key_id.clone().into_bytes())]);
            Ok(EncryptResponse { ciphertext: mask(&request.plaintext, &key_id), key_id, annotations }.encode_to_vec())
        }
        "/v2.KeyManagementService/Decrypt" => {
            behaviour.decrypted += 1;
            let request = DecryptRequest::decode(message).unwrap();
            if behaviour.lost.contains(&request.key_id) {
                return Err(format!("key {} is lost", request.key_id));
            }
            assert_eq!(request.annotations["local.kms.example"], request.key_id.as_bytes());
            Ok(DecryptResponse { plaintext: mask(&request.ciphertext, &request.key_id) }.encode_to_vec())
        }
        other => panic!("{other}"),
    }
}

async fn serve(
    request: http::Request<Incoming>,
    behaviour: Arc<Mutex<Behaviour>>,
) -> Result<http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    // A message's frame: whether it is compressed, and its length.
    let answered = answer(&path, &body[5..], &mut behaviour.lock());
    let response = http::Response::builder().header("content-type", "application/grpc");
    let (status, framed) = match answered {
        Ok(message) => {
            let mut framed = vec![0];
            framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            framed.extend_from_slice(&message);
            ("0", framed)
        }
        Err(why) => {
            let response = response.header("grpc-status", "5").header("grpc-message", why.replace(' ', "%20"));
            return Ok(response.body(Full::new(Bytes::new()).boxed()).unwrap());
        }
    };
    let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    let body = Full::new(Bytes::from(framed)).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(response.body(body.boxed()).unwrap())
}

impl FakePlugin {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let behaviour = Arc::new(Mutex::new(Behaviour {
            key_id: "1".into(),
            encrypts_with: None,
            healthz: "ok".into(),
            lost: BTreeSet::new(),
            decrypted: 0,
            encrypted: 0,
        }));
        let listener = UnixListener::bind(directory.path().join("kms.sock")).unwrap();
        let seen = behaviour.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let behaviour = seen.clone();
                let service = service_fn(move |request| serve(request, behaviour.clone()));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { behaviour, directory, _serving: serving }
    }

    fn configuration(&self, others: &str) -> EncryptionConfiguration {
        configuration(&self.directory.path().join("kms.sock"), others)
    }
}

fn configuration(socket: &Path, others: &str) -> EncryptionConfiguration {
    let socket = socket.display();
    let text = format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], \
         providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{socket}', timeout: 2s}}}}{others}]}}]}}"
    );
    EncryptionConfiguration::parse(&text).unwrap()
}

struct World {
    inner: Arc<MemoryStore>,
    clock: Clock,
    plugin: FakePlugin,
}

impl World {
    fn new() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        Self { inner: Arc::new(MemoryStore::new()), clock, plugin: FakePlugin::start() }
    }

    /// A server's store, as after a start; each begins with randomness of its own.
    async fn server(&self, seed: u64) -> EncryptedStore {
        let configuration = self.plugin.configuration(", {identity: {}}");
        let sources = (self.clock.clone(), Random::seeded(seed));
        let store = EncryptedStore::new(self.inner.clone(), &configuration, sources).unwrap();
        store.prepare().await.unwrap();
        store
    }

    fn stored(&self, bytes: &[u8]) -> EncryptedObject {
        EncryptedObject::decode(bytes.strip_prefix(b"k8s:enc:kms:v2:vault:").expect("the prefix")).unwrap()
    }

    async fn raw(&self) -> Bytes {
        self.inner.get(SECRET).await.unwrap().unwrap().value
    }
}

async fn put(store: &dyn Store, value: &str) -> Result<(), StoreError> {
    let operations = vec![Operation::Put(SECRET.into(), Bytes::from(value.to_owned()))];
    store.txn(Txn { conditions: Vec::new(), operations }).await.map(drop)
}

async fn value(store: &dyn Store) -> Result<String, StoreError> {
    Ok(String::from_utf8_lossy(&store.get(SECRET).await?.unwrap().value).into_owned())
}

#[tokio::test]
async fn the_plugin_keeps_the_key() {
    let world = World::new();
    let store = world.server(1).await;
    put(&store, "swordfish").await.unwrap();
    let object = world.stored(&world.raw().await);
    assert_eq!((object.key_id.as_str(), object.source_type), ("1", 1));
    assert_eq!(object.annotations["local.kms.example"], b"1");
    assert!(!world.raw().await.windows(9).any(|bytes| bytes == b"swordfish"));
    assert_eq!(value(&store).await.unwrap(), "swordfish");
    assert!(!store.is_stale(SECRET));
    assert_eq!(world.plugin.behaviour.lock().decrypted, 0, "its own seed it knows");
    // Another server has another seed, and asks once for that of the first.
    let other = world.server(2).await;
    for _ in 0..3 {
        assert_eq!(value(&other).await.unwrap(), "swordfish");
    }
    assert_eq!(world.plugin.behaviour.lock().decrypted, 1);
    assert!(!other.is_stale(SECRET), "it is the same key");
    // In a watch, too.
    let mut watch = other.watch("/registry/", 0).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].value.as_deref(), Some(&b"swordfish"[..]));
}

#[tokio::test]
async fn when_the_key_changes_values_are_written_anew() {
    let world = World::new();
    let store = world.server(1).await;
    put(&store, "x").await.unwrap();
    world.plugin.behaviour.lock().key_id = "2".into();
    assert!(!store.is_stale(SECRET));
    store.poll(&store.coder.rules().plugins()[0]).await;
    assert!(store.is_stale(SECRET));
    assert_eq!(value(&store).await.unwrap(), "x", "the old one is good for reading");
    put(&store, "x").await.unwrap();
    assert!(!store.is_stale(SECRET));
    assert_eq!(world.stored(&world.raw().await).key_id, "2");
    // The plugin may forget the old one now.
    world.plugin.behaviour.lock().lost.insert("1".into());
    assert_eq!(value(&world.server(3).await).await.unwrap(), "x");
}

#[tokio::test]
async fn a_plugin_that_is_not_well_is_told_of() {
    let world = World::new();
    let store = world.server(1).await;
    put(&store, "x").await.unwrap();
    assert_eq!(store.plugins(), [Ok(())]);
    world.plugin.behaviour.lock().healthz = "so so".into();
    let kms = store.coder.rules().plugins().remove(0);
    assert!(!kms.poll().await);
    assert_eq!(
        store.plugins(),
        [Err("kmsv2 Provider vault is not healthy, error: got unexpected healthz status: so so".to_owned())]
    );
    // For three minutes its key is good.
    world.clock.step(SignedDuration::from_secs(170));
    put(&store, "y").await.unwrap();
    world.clock.step(SignedDuration::from_secs(20));
    let error = put(&store, "z").await.unwrap_err().to_string();
    assert!(error.contains("encryptedDEKSource with keyID hash \"sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b\" expired at 2026-01-01T00:03:"), "{error}");
    assert_eq!(value(&store).await.unwrap(), "y", "reading goes on");
    // It encrypts with another key than it says.
    world.plugin.behaviour.lock().healthz = "ok".into();
    world.plugin.behaviour.lock().key_id = "3".into();
    world.plugin.behaviour.lock().encrypts_with = Some("1".into());
    kms.poll().await;
    let error = store.plugins().remove(0).unwrap_err();
    assert!(error.starts_with("failed to rotate DEK uid="), "{error}");
    world.plugin.behaviour.lock().encrypts_with = None;
    assert!(kms.poll().await);
    put(&store, "z").await.unwrap();
}

#[tokio::test]
async fn what_the_plugin_does_not_give_is_an_error() {
    let world = World::new();
    put(&world.server(1).await, "x").await.unwrap();
    world.plugin.behaviour.lock().lost.insert("1".into());
    let other = world.server(2).await;
    let error = value(&other).await.unwrap_err().to_string();
    assert!(
        error.ends_with("failed to decrypt DEK, error: rpc error: code = NotFound desc = key 1 is lost"),
        "{error}"
    );
    // There is none.
    let nowhere = configuration(&world.plugin.directory.path().join("none"), "");
    let sources = (world.clock.clone(), Random::seeded(1));
    let store = EncryptedStore::new(world.inner.clone(), &nowhere, sources).unwrap();
    let error = store.prepare().await.unwrap_err();
    assert!(
        error.starts_with("failed to perform status section of the healthz check for KMS Provider vault"),
        "{error}"
    );
    let error = put(&store, "x").await.unwrap_err().to_string();
    assert!(error.contains("got unexpected nil transformer"), "{error}");
    // Nor is it taken up while another is in use.
    assert!(other.reload(&nowhere).await.is_err());
    put(&other, "y").await.unwrap();
}

#[tokio::test]
async fn values_move_to_a_plugin_and_back() {
    let world = World::new();
    put(&*world.inner, "plain").await.unwrap();
    let store = world.server(1).await;
    assert_eq!(value(&store).await.unwrap(), "plain");
    assert!(store.is_stale(SECRET));
    put(&store, "plain").await.unwrap();
    let socket = world.plugin.directory.path().join("kms.sock");
    let socket = socket.display();
    let back = format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], \
         providers: [{{identity: {{}}}}, {{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{socket}', timeout: 2s}}}}]}}]}}"
    );
    store.reload(&EncryptionConfiguration::parse(&back).unwrap()).await.unwrap();
    assert_eq!(value(&store).await.unwrap(), "plain");
    assert!(store.is_stale(SECRET));
    put(&store, "plain").await.unwrap();
    assert_eq!(world.raw().await, "plain");
    assert_eq!(world.plugin.behaviour.lock().encrypted, 1, "the plugin is the same as before");
}
