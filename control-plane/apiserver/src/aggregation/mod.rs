//! API aggregation (kube-aggregator): versions of groups that other servers serve.
//!
//! An APIService says who serves a version of a group. One task keeps the APIServices of what this server serves itself,
//! finds out which of the others can be reached, and says so in their status. Requests for their groups go to them
//! ([`proxy`]), with the user in headers that our certificate makes trustworthy; what they serve is found in discovery and OpenAPI
//! documents as if it were ours ([`merge`]).

mod local;
pub(crate) mod merge;
pub(crate) mod proxy;
mod remote;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::authn::UserInfo;
use crate::cache::resource::ResourceCache;
use crate::computed::ComputedApi;
use crate::server::ApiServer;

pub(crate) use remote::Remote;
pub use tls::Identity;

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";

/// Those that can be reached are looked at again after this time; those that cannot, after the shorter one.
const RESYNC: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);

/// The versions of groups that other servers serve, by group and version.
pub(crate) type Remotes = BTreeMap<(String, String), Arc<Remote>>;

/// Which groups' versions other servers serve.
#[derive(Default)]
pub(crate) struct Aggregated {
    remotes: ArcSwap<Remotes>,
    /// What is served by this process without being stored: in documents, it is as if others served it.
    built_in: Vec<Arc<Remote>>,
    /// Told when this server serves other kinds than before.
    pub(crate) registry_changed: Notify,
}

impl Aggregated {
    /// With what this process serves without storing it.
    pub(crate) fn new(apis: &[Arc<dyn ComputedApi>]) -> Self {
        let built_in = apis.iter().map(|api| Arc::new(Remote::built_in(&**api))).collect();
        Self { built_in, ..Self::default() }
    }

    /// A version of a group that this process serves, unless another server does.
    pub(crate) fn built_in(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        let found = self.built_in.iter().find(|own| own.group == group && own.version == version)?;
        self.remote(group, version).is_none().then_some(found)
    }

    /// Who serves a version of a group, if it is another server.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        remotes.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// Who serves what is asked for by a path, if it is another server.
    pub(crate) fn of_path(&self, path: &str) -> Option<Arc<Remote>> {
        if self.remotes.load().is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        match (parts.next()?, parts.next()?, parts.next()) {
            ("apis", group, Some(version)) => self.remote(group, version),
            _ => None,
        }
    }

    /// Who serves what now: another allocation whenever it may have changed.
    pub(crate) fn remotes(&self) -> Arc<Remotes> {
        self.remotes.load_full()
    }

    /// All other servers of `remotes` that can be reached, and what this process serves as if it were another.
    pub(crate) fn available(&self, remotes: &Remotes) -> Vec<Arc<Remote>> {
        let own = self.built_in.iter().filter(|own| !remotes.contains_key(&(own.group.clone(), own.version.clone())));
        remotes.values().filter(|remote| remote.available).chain(own).cloned().collect()
    }

    fn set(&self, remotes: Remotes) {
        self.remotes.store(Arc::new(remotes));
    }
}

/// Keeps the APIServices.
pub(crate) struct Aggregator {
    server: ApiServer,
    cache: Arc<ResourceCache>,
    identity: Arc<dyn Identity>,
}

impl Aggregator {
    /// One that looks at the stored APIServices; `None` where there are none.
    pub(crate) fn new(server: ApiServer, identity: Arc<dyn Identity>) -> Option<Self> {
        let cache = server.shared().cache.resource(GROUP, PLURAL)?;
        Some(Self { server, cache, identity })
    }

    /// Follows the APIServices, and what they depend on, until the server stops.
    pub(crate) async fn follow(self) {
        let shared = self.server.shared().clone();
        let caches = [("", "services"), ("discovery.k8s.io", "endpointslices")];
        let caches = caches.map(|(group, plural)| shared.cache.resource(group, plural));
        let [Some(services), Some(slices)] = caches else { return };
        let (mut changed, mut of_services, mut of_slices) =
            (self.cache.subscribe(), services.subscribe(), slices.subscribe());
        loop {
            changed.mark_unchanged();
            of_services.mark_unchanged();
            of_slices.mark_unchanged();
            let (some, all_fine) = self.look().await;
            let wait = if all_fine { RESYNC } else { RETRY };
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                () = changed.changed() => {}
                () = shared.aggregated.registry_changed.notified() => {}
                () = of_services.changed(), if some => {}
                () = of_slices.changed(), if some => {}
                () = tokio::time::sleep(wait), if some => {}
            }
        }
    }

    /// Whether there are other servers, and whether all of them can be reached.
    async fn look(&self) -> (bool, bool) {
        let mut services = Vec::new();
        for entry in self.cache.list("", "", usize::MAX, |_| true).items {
            match serde_json::from_slice::<Value>(&entry.bytes) {
                Ok(object) => services.push(object),
                Err(error) => tracing::error!(name = &*entry.name, %error, "an APIService cannot be read"),
            }
        }
        self.keep_local(&services).await;
        let foreign: Vec<&Value> = services.iter().filter(|s| s["spec"]["service"].is_object()).collect();
        let aggregated = &self.server.shared().aggregated;
        let mut remotes = still_served(&aggregated.remotes(), &foreign);
        let mut all_fine = true;
        for service in &foreign {
            let key = served_by(service);
            let old = remotes.get(&key).cloned();
            let (remote, condition) = remote::check(self.server.shared(), &*self.identity, service, old).await;
            all_fine &= remote.available;
            remotes.insert(key, Arc::new(remote));
            // Served from the moment that it says so.
            if condition.is_available() {
                aggregated.set(remotes.clone());
            }
            self.say(service, &condition).await;
        }
        if !foreign.is_empty() || !aggregated.remotes().is_empty() {
            aggregated.set(remotes);
        }
        (!foreign.is_empty(), all_fine)
    }

    /// Makes the APIServices of what this server serves, and removes those of what it does not serve any more.
    async fn keep_local(&self, services: &[Value]) {
        let registry = self.server.shared().registry.load_full();
        let computed = &self.server.shared().extensions.apis;
        let computed: Vec<_> = computed.iter().map(|api| (api.group(), api.version())).collect();
        for (method, path, body) in local::plan(&registry, &computed, services) {
            let (code, answer) = self.request(method, &path, body).await;
            if code >= 300 && !matches!(code, 404 | 409) {
                let why = String::from_utf8_lossy(&answer).into_owned();
                tracing::warn!(path, code, why, "an APIService cannot be written");
            }
        }
    }

    /// Writes the condition of another server's APIService, if it has changed.
    async fn say(&self, service: &Value, condition: &remote::Condition) {
        let old = service["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
        let now = self.server.shared().clock.now_seconds().to_string();
        let since = old.filter(|old| old["status"] == condition.status).map(|old| old["lastTransitionTime"].clone());
        let new = json!({
            "type": "Available", "status": condition.status, "reason": condition.reason,
            "message": condition.message, "lastTransitionTime": since.unwrap_or_else(|| now.into()),
        });
        if old == Some(&new) {
            return;
        }
        let mut object = service.clone();
        object["status"] = json!({ "conditions": [new] });
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
        let (code, answer) = self.request(Method::PUT, &path, Some(object)).await;
        if code >= 300 && !matches!(code, 404 | 409) {
            let why = String::from_utf8_lossy(&answer).into_owned();
            tracing::warn!(name, code, why, "the status of an APIService cannot be written");
        }
    }

    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Bytes) {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.server.request(UserInfo::system("system:kube-aggregator"), method, path, body).await
    }
}

/// What is left of what others serve once the APIServices that are gone are taken away: while one server is asked, which
/// may take long, the others' groups are served as before.
fn still_served(remotes: &Remotes, foreign: &[&Value]) -> Remotes {
    let kept = foreign.iter().map(|service| served_by(service));
    kept.filter_map(|key| Some((key.clone(), remotes.get(&key)?.clone()))).collect()
}

/// The group and version that an APIService stands for.
fn served_by(service: &Value) -> (String, String) {
    (text(service, "group").to_owned(), text(service, "version").to_owned())
}

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_serve_stays_while_they_are_looked_at() {
        let service = |group: &str| json!({ "spec": { "group": group, "version": "v1" } });
        let (a, b, new) = (service("a.example.com"), service("b.example.com"), service("c.example.com"));
        let entry = |service: &Value| (served_by(service), Arc::new(Remote::unreachable(service)));
        let served = Remotes::from([entry(&a), entry(&b)]);
        let groups = |foreign: &[&Value]| -> Vec<String> {
            still_served(&served, foreign).into_keys().map(|(group, _)| group).collect()
        };
        assert_eq!(groups(&[&b, &a, &new]), ["a.example.com", "b.example.com"]);
        assert_eq!(groups(&[&b]), ["b.example.com"]);
        assert!(groups(&[]).is_empty());
    }
}
