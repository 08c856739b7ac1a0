//! ConfigMaps and Secrets that pods of this node refer to: each is watched by itself, once, for as long as a pod needs
//! it. The node may read no others.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use xebec_clock::Random;

use crate::api::watch::{Change, follow};
use crate::api::{ConfigMap, Object, Rest, Secret};

/// The state of a watched object.
#[derive(Clone, Debug)]
pub enum Watched<T> {
    /// Not known yet.
    Unknown,
    /// It does not exist.
    Absent,
    /// It is this.
    Present(Arc<T>),
}

/// Keeps an object watched.
pub struct Handle<T> {
    /// Its state.
    pub state: watch::Receiver<Watched<T>>,
    task: AbortHandle,
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Kept<T> = Mutex<BTreeMap<(String, String), Weak<Handle<T>>>>;

/// The watched objects.
pub struct Objects {
    rest: Rest,
    random: Random,
    config_maps: Kept<ConfigMap>,
    secrets: Kept<Secret>,
}

impl Objects {
    /// Watches none yet.
    pub fn new(rest: Rest, random: Random) -> Self {
        Self { rest, random, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Watches a ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str) -> Arc<Handle<ConfigMap>> {
        self.handle(&self.config_maps, "configmaps", namespace, name)
    }

    /// Watches a Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Arc<Handle<Secret>> {
        self.handle(&self.secrets, "secrets", namespace, name)
    }

    fn handle<T>(&self, kept: &Kept<T>, plural: &str, namespace: &str, name: &str) -> Arc<Handle<T>>
    where
        T: Object + Clone + DeserializeOwned + Send + Sync + 'static,
    {
        let mut kept = kept.lock();
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(handle) = kept.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        kept.retain(|_, handle| handle.strong_count() > 0);
        let (state_tx, state) = watch::channel(Watched::Unknown);
        let path = format!("/api/v1/namespaces/{namespace}/{plural}");
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let (tx, mut changes) = mpsc::channel(4);
        let follow = follow::<T>(self.rest.clone(), path, query, self.random.clone(), tx);
        let task = tokio::spawn(async move {
            let apply = async {
                while let Some(change) = changes.recv().await {
                    state_tx.send_replace(match change {
                        Change::All(all) => all.into_iter().next().map_or(Watched::Absent, Watched::Present),
                        Change::Put(object) => Watched::Present(object),
                        Change::Gone(_) => Watched::Absent,
                    });
                }
            };
            tokio::join!(follow, apply);
        });
        let handle = Arc::new(Handle { state, task: task.abort_handle() });
        kept.insert(key, Arc::downgrade(&handle));
        handle
    }
}

impl<T> Handle<T> {
    /// The object, once it is known. None: it does not exist.
    pub async fn get(&self) -> Option<Arc<T>> {
        let mut state = self.state.clone();
        match state.wait_for(|s| !matches!(s, Watched::Unknown)).await {
            Ok(found) => match &*found {
                Watched::Present(object) => Some(Arc::clone(object)),
                Watched::Absent | Watched::Unknown => None,
            },
            Err(_) => None,
        }
    }
}
