//! CustomResourceDefinitions at work: what they say is served from the moment that they say so.
//!
//! One task looks at all definitions whenever one of them changes. It decides who gets which names, puts the rows of
//! those who got them into the resource table, and only then says in their status that they are established: who reads
//! that finds the kind served. A definition that is being deleted goes when its objects have gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use xebec_schema::custom::{self, Rows, conditions};
use xebec_schema::resource::Resource;
use xebec_store::{ListOptions, Store, StoreError};

use crate::authn::UserInfo;
use crate::cache::ROOT;
use crate::cache::resource::ResourceCache;
use crate::server::ApiServer;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Looking again while the objects of a definition that is being deleted take their time, and after failures.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A definition, as far as it is known.
struct Known {
    revision: u64,
    object: Value,
    /// What it puts into the table; `None` if it is not served.
    rows: Option<Rows>,
    /// What the rows were made from.
    made_from: Value,
}

impl Known {
    fn new(object: Value) -> Self {
        Self { revision: 0, object, rows: None, made_from: Value::Null }
    }

    /// Makes the rows anew, if what they are made from has changed.
    fn make_rows(&mut self) {
        let object = &self.object;
        let is_served = conditions::is_true(object, "Established");
        let made_from = serde_json::json!([
            is_served,
            object["spec"],
            object["status"]["acceptedNames"],
            !object["metadata"]["deletionTimestamp"].is_null(),
            object["metadata"]["uid"],
        ]);
        if made_from != self.made_from {
            self.rows = is_served.then(|| custom::rows(object)).flatten();
            self.made_from = made_from;
        }
    }
}

/// The definitions that a server finds when it starts: their kinds are loaded like the built-in ones, so that watches of
/// their objects go on, too.
pub(crate) struct Found(BTreeMap<String, Known>);

impl Found {
    /// Reads the definitions in the store.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let prefix = format!("{ROOT}{GROUP}/{PLURAL}/");
        let mut known = BTreeMap::new();
        for item in store.list(&prefix, ListOptions::default()).await?.items {
            // What cannot be read is told of when it is to be served.
            if let (Some(name), Ok(object)) = (item.key.strip_prefix(&prefix), serde_json::from_slice(&item.value)) {
                let mut definition = Known::new(object);
                definition.make_rows();
                known.insert(name.to_owned(), definition);
            }
        }
        Ok(Self(known))
    }

    /// The rows under which their objects are stored.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.values().filter_map(|known| known.rows.as_ref()).map(|rows| &rows.stored)
    }
}

/// What is served.
pub(crate) struct Definitions {
    server: ApiServer,
    cache: Arc<ResourceCache>,
    known: BTreeMap<String, Known>,
    served: Vec<Arc<Resource>>,
}

impl Definitions {
    /// Serves what the definitions in the store say, by the rows of those that were found there if they still say the
    /// same. `None` where there are no definitions.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub(crate) async fn load(server: ApiServer, found: Found) -> Result<Option<Self>, StoreError> {
        let Some(cache) = server.shared().cache.resource(GROUP, PLURAL) else { return Ok(None) };
        let mut definitions = Self { server, cache, known: found.0, served: Vec::new() };
        definitions.read();
        definitions.serve().await?;
        Ok(Some(definitions))
    }

    /// Follows the definitions until the server stops.
    pub(crate) async fn follow(mut self) {
        let stop = self.server.shared().stop.clone();
        let mut changed = self.cache.subscribe();
        loop {
            changed.mark_unchanged();
            let unfinished = self.look().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changed.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if unfinished => {}
            }
        }
    }

    /// Brings everything to what the definitions say. Whether there is something left to do.
    async fn look(&mut self) -> bool {
        self.read();
        let wanted = self.statuses();
        if let Err(error) = self.serve().await {
            tracing::warn!(%error, "custom resources cannot be loaded; trying again");
            return true;
        }
        let mut unfinished = false;
        for (name, status) in wanted {
            let Some(known) = self.known.get(&name) else { continue };
            let mut object = known.object.clone();
            object["status"] = status;
            unfinished |= !self.write(&name, &object).await;
        }
        for name in self.terminating() {
            unfinished |= !self.finish(&name).await;
        }
        unfinished
    }

    /// Takes in what has changed.
    fn read(&mut self) {
        let entries = self.cache.list("", "", usize::MAX, |_| true).items;
        let names: BTreeSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
        self.known.retain(|name, _| names.contains(name.as_str()));
        for entry in entries {
            let known = self.known.get_mut(&*entry.name);
            if known.as_ref().is_some_and(|known| known.revision == entry.revision) {
                continue;
            }
            let object: Value = match serde_json::from_slice(&entry.bytes) {
                Ok(object) => object,
                Err(error) => {
                    tracing::error!(name = &*entry.name, %error, "a CustomResourceDefinition cannot be read");
                    continue;
                }
            };
            match known {
                Some(known) => {
                    known.revision = entry.revision;
                    known.object = object;
                }
                None => {
                    let known = Known { revision: entry.revision, ..Known::new(object) };
                    self.known.insert(entry.name.to_string(), known);
                }
            }
        }
    }

    /// The statuses that differ from what they should be; they are already taken for granted here.
    fn statuses(&mut self) -> Vec<(String, Value)> {
        let now = self.server.shared().clock.now();
        let mut taken: BTreeMap<String, conditions::Taken> = BTreeMap::new();
        for known in self.known.values() {
            taken.entry(group_of(&known.object)).or_default().add(&known.object);
        }
        let mut changed = Vec::new();
        for (name, known) in &mut self.known {
            let taken = taken.entry(group_of(&known.object)).or_default();
            let status = conditions::status(&known.object, taken, now);
            if status != known.object["status"] {
                known.object["status"] = status.clone();
                // The next one sees whose the names are now.
                taken.add(&known.object);
                changed.push((name.clone(), status));
            }
        }
        changed
    }

    /// Puts the rows of the established definitions into the table.
    async fn serve(&mut self) -> Result<(), StoreError> {
        for known in self.known.values_mut() {
            known.make_rows();
        }
        let rows = || self.known.values().filter_map(|known| known.rows.as_ref());
        let served: Vec<Arc<Resource>> = rows().flat_map(|rows| rows.served.iter().cloned()).collect();
        let same = served.len() == self.served.len() && served.iter().zip(&self.served).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            let stored: Vec<Arc<Resource>> = rows().map(|rows| rows.stored.clone()).collect();
            self.server.shared().serve_custom(served.clone(), &stored).await?;
            self.served = served;
        }
        Ok(())
    }

    /// Those that are being deleted, and wait for their objects.
    fn terminating(&self) -> Vec<String> {
        let waits = |object: &Value| {
            let finalizers = object["metadata"]["finalizers"].as_array();
            !object["metadata"]["deletionTimestamp"].is_null()
                && finalizers.is_some_and(|list| list.iter().any(|f| f == conditions::FINALIZER))
        };
        self.known.iter().filter(|(_, known)| waits(&known.object)).map(|(name, _)| name.clone()).collect()
    }

    /// Deletes a definition's objects, and then lets it go. Whether that is done.
    async fn finish(&mut self, name: &str) -> bool {
        let now = self.server.shared().clock.now();
        let Some(known) = self.known.get(name) else { return true };
        let mut object = known.object.clone();
        let set = |object: &mut Value, status: &str, reason: &str, message: &str| {
            conditions::set(object, "Terminating", status, reason, message, now);
        };
        match &known.rows {
            None => set(&mut object, "False", "NeverEstablished", "resource was never established"),
            Some(rows) => {
                let row = rows.served.first().unwrap_or(&rows.stored).clone();
                match self.delete_objects(&row).await {
                    Ok(0) => set(&mut object, "False", "InstanceDeletionCompleted", "removed all instances"),
                    Ok(_) => {
                        set(
                            &mut object,
                            "True",
                            "InstanceDeletionInProgress",
                            "CustomResource deletion is in progress",
                        );
                    }
                    Err(why) => {
                        let message = format!("could not issue all deletes: {why}");
                        set(&mut object, "True", "InstanceDeletionFailed", &message);
                    }
                }
            }
        }
        let over = object["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Terminating" && c["status"] == "False"));
        if over {
            if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|f| f != conditions::FINALIZER);
            }
        } else if object == known.object {
            return false;
        }
        self.write(name, &object).await && over
    }

    /// Asks for the deletion of all objects of a kind. How many are left.
    async fn delete_objects(&self, row: &Resource) -> Result<usize, String> {
        let Some(cache) = self.server.shared().cache.resource(&row.group, &row.plural) else { return Ok(0) };
        let namespaces: BTreeSet<String> =
            cache.list("", "", usize::MAX, |_| true).items.iter().map(|entry| entry.namespace.to_string()).collect();
        for namespace in namespaces {
            let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
            let path = format!("/apis/{}/{}{place}/{}", row.group, row.version, row.plural);
            let (code, body) = self.request(Method::DELETE, &path, Vec::new()).await;
            if code >= 300 {
                let status: Value = serde_json::from_slice(&body).unwrap_or_default();
                return Err(status["message"].as_str().unwrap_or("no answer").to_owned());
            }
        }
        Ok(cache.len())
    }

    /// Writes a definition's status, and its finalizers. Whether it has been written: if somebody else was faster, it is
    /// looked at again.
    async fn write(&mut self, name: &str, object: &Value) -> bool {
        let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
        let (code, body) = self.request(Method::PUT, &path, object.to_string().into_bytes()).await;
        match code {
            200 => true,
            // It is gone, or has changed; both are news.
            404 | 409 => true,
            _ => {
                let why = String::from_utf8_lossy(&body).into_owned();
                tracing::warn!(name, code, why, "the status of a CustomResourceDefinition cannot be written");
                // What was taken for granted is not so: it is read again.
                if let Some(known) = self.known.get_mut(name) {
                    known.revision = 0;
                }
                false
            }
        }
    }

    async fn request(&self, method: Method, path: &str, body: Vec<u8>) -> (u16, Bytes) {
        self.server.request(UserInfo::system("system:apiserver"), method, path, body).await
    }
}

fn group_of(definition: &Value) -> String {
    definition["spec"]["group"].as_str().unwrap_or_default().to_owned()
}
