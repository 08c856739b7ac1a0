//! The server as a whole: what it is made of, how it starts, and how it is called.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio_util::sync::CancellationToken;
use tower::Service;
use xebec_clock::{Clock, Random};
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_store::{Store, StoreError};

use crate::aggregation::{Aggregated, Aggregator};
use crate::authn::UserInfo;
use crate::authn::chain::Chain;
use crate::authz::{Attributes, Authorizer, Decision, Union, Verdict};
use crate::body::{Body, BoxError, RequestBody};
use crate::cache::WatchCache;
use crate::compaction::Forgotten;
use crate::definitions::{Definitions, Found};
use crate::extension::Extensions;
use crate::fairness::ADJUSTMENT_PERIOD;
use crate::metrics::Metrics;
use crate::reader::{Entry, Reader};
use crate::webhook::WebhookClient;
use crate::{allocate, chain, compaction, discovery, event_ttl, versions};

/// Makes the extensions, once there is something to read from.
pub type Extend = Box<dyn FnOnce(Arc<dyn Reader>) -> Extensions + Send>;

/// What a server is made of.
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Which kinds are served.
    pub registry: Registry,
    /// The time.
    pub clock: Clock,
    /// For UIDs, generated names and the lengths of watches.
    pub random: Random,
    /// Ends the server: watches end, and nothing more is followed.
    pub stop: CancellationToken,
    /// Makes what is plugged in.
    pub extend: Extend,
}

/// What every request sees.
pub struct Shared {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Which kinds are served.
    pub registry: ArcSwap<Registry>,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Everything that is stored.
    pub cache: Arc<WatchCache>,
    /// What else is plugged in.
    pub extensions: Extensions,
    /// What other servers serve.
    pub(crate) aggregated: Aggregated,
    /// Calls webhooks that convert custom resources.
    pub webhooks: WebhookClient,
    /// Who is it?
    pub authentication: Chain,
    /// May they?
    pub authorization: Arc<dyn Authorizer>,
    /// Counters.
    pub metrics: Metrics,
    /// Discovery and OpenAPI documents.
    pub documents: discovery::Documents,
    /// How much of the history is gone.
    pub(crate) forgotten: Arc<Forgotten>,
    /// Ends watches.
    pub stop: CancellationToken,
}

impl Shared {
    /// Serves these kinds that CustomResourceDefinitions make, and of those no others: from the moment that this
    /// returns. `stored` has, of each kind, the row in whose version objects are kept; what is in the table already is
    /// left alone, with the watches on it.
    ///
    /// # Errors
    ///
    /// The store cannot be read; some of the kinds may be served then.
    pub async fn serve_custom(&self, rows: Vec<Arc<Resource>>, stored: &[Arc<Resource>]) -> Result<(), StoreError> {
        for row in stored {
            let known = self.cache.resource(&row.group, &row.plural);
            if known.is_none_or(|cache| !Arc::ptr_eq(&cache.resource, row)) {
                self.cache.open(row.clone()).await?;
            }
        }
        let old = self.registry.load_full();
        self.registry.store(Arc::new(old.with_custom(rows)));
        self.aggregated.registry_changed.notify_one();
        for gone in old.iter().filter(|row| row.custom.is_some()) {
            if !stored.iter().any(|row| row.group == gone.group && row.plural == gone.plural) {
                self.cache.close(&gone.group, &gone.plural);
            }
        }
        Ok(())
    }
}

/// The API server. Clones are handles to the same one.
#[derive(Clone)]
pub struct ApiServer(Arc<Shared>);

impl ApiServer {
    /// Loads what is stored, and is ready for requests.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn start(config: Config) -> Result<Self, StoreError> {
        let found = Found::read(&*config.store).await?;
        let rows = versions::all_stored(&config.registry).chain(found.stored().cloned());
        let rows = rows.chain([allocate::records_row()]);
        let cache = WatchCache::load(config.store.clone(), rows, config.stop.clone()).await?;
        let mut extensions = (config.extend)(cache.clone());
        let mut authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Administrators)];
        authorizers.append(&mut extensions.authorizers);
        let authorization: Arc<dyn Authorizer> = Arc::new(Union::new(authorizers));
        let methods = std::mem::take(&mut extensions.authenticators);
        let identity = extensions.identity.take();
        let authentication = Chain::new(methods, extensions.anonymous, authorization.clone())
            .only_for(std::mem::take(&mut extensions.anonymous_paths));
        let forgotten = Arc::<Forgotten>::default();
        tokio::spawn(compaction::run(config.store.clone(), forgotten.clone(), config.stop.clone()));
        let (store, clock) = (config.store.clone(), config.clock.clone());
        tokio::spawn(event_ttl::run(cache.clone(), store, clock, config.stop.clone()));
        if let Some(fairness) = extensions.fairness.clone() {
            let adjusting = async move {
                loop {
                    tokio::time::sleep(ADJUSTMENT_PERIOD).await;
                    fairness.adjust();
                }
            };
            tokio::spawn(config.stop.clone().run_until_cancelled_owned(adjusting));
        }
        let webhooks = WebhookClient::new(cache.clone());
        let server = Self(Arc::new(Shared {
            webhooks,
            aggregated: Aggregated::new(&extensions.apis),
            store: config.store,
            registry: ArcSwap::from_pointee(config.registry),
            clock: config.clock,
            random: config.random,
            cache,
            extensions,
            authentication,
            authorization,
            metrics: Metrics::default(),
            documents: discovery::Documents::default(),
            forgotten,
            stop: config.stop,
        }));
        if let Some(definitions) = Definitions::load(server.clone(), found).await? {
            tokio::spawn(definitions.follow());
        }
        if let Some(aggregator) = identity.and_then(|identity| Aggregator::new(server.clone(), identity)) {
            tokio::spawn(aggregator.follow());
        }
        Ok(server)
    }

    /// Reading what is stored, without a request.
    pub fn reader(&self) -> Arc<dyn Reader> {
        self.0.cache.clone()
    }

    /// What every request sees.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// A client in the same process, without a socket, that acts as `user`. Its default namespace is `default`.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(self.in_process(user), "default")
    }

    /// The service behind [`ApiServer::client`]: every request is made by `user`.
    pub fn in_process(&self, user: UserInfo) -> InProcess {
        let agent = agent(&user.name);
        InProcess { server: self.0.clone(), user: Arc::new(user), agent }
    }

    /// A request with a JSON body, or none, made by `user` in process: the status and the body of its answer.
    pub(crate) async fn request(&self, user: UserInfo, method: Method, path: &str, body: Vec<u8>) -> (u16, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)));
        let Ok(request) = request else { return (500, Bytes::new()) };
        let Ok(response) = self.in_process(user).call(request).await;
        let code = response.status().as_u16();
        (code, response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default())
    }

    /// Answers one request. Who asks is found out by the authenticators, from the request's headers and its
    /// [`crate::authn::Peer`] extension.
    pub async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        chain::handle(self.0.clone(), request).await
    }
}

/// The group `system:masters` may do everything, whatever else is plugged in (upstream's `PrivilegedGroups`).
struct Administrators;

impl Authorizer for Administrators {
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        let may = attributes.user.in_group("system:masters");
        Verdict::Now(if may { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) })
    }
}

impl Reader for ApiServer {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.0.cache.get(group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        self.0.cache.list(group, plural, namespace)
    }

    fn generation(&self, group: &str, plural: &str) -> u64 {
        self.0.cache.generation(group, plural)
    }
}

/// Marks a request as made by a component of this process, which needs no further proof.
#[derive(Clone, Debug)]
pub struct InProcessUser(pub Arc<UserInfo>);

/// The server as a tower service for callers in the same process.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<Shared>,
    user: Arc<UserInfo>,
    /// Under which name its changes are noted.
    agent: Option<HeaderValue>,
}

/// How upstream's component calls itself that a user of ours is.
fn agent(user: &str) -> Option<HeaderValue> {
    let name = match user {
        "system:apiserver" => "kube-apiserver",
        node if node.starts_with("system:node:") => "kubelet",
        other => other.strip_prefix("system:").unwrap_or(other),
    };
    HeaderValue::from_str(name).ok()
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.server.clone();
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        if let (false, Some(agent)) = (request.headers().contains_key(USER_AGENT), self.agent.clone()) {
            request.headers_mut().insert(USER_AGENT, agent);
        }
        request.extensions_mut().insert(InProcessUser(self.user.clone()));
        Box::pin(async move { Ok(chain::handle(server, request).await) })
    }
}
