//! The servers of a cluster, to each other and to their clients.
//!
//! Each says in the store every ten seconds that it lives, and writes down all that live as what the service `kubernetes`
//! leads to (upstream's lease reconciler of endpoints, `pkg/controlplane/reconcilers`). Who has been silent for fifteen
//! seconds is left out; that is measured by whoever looks, so that no clocks need to agree. And each has a Lease by which
//! others know that it is there (KEP-1965).

mod identity;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xebec_store::{Condition, KeyValue, ListOptions, Operation, Revision, Store, StoreError, Txn};

use crate::authn::UserInfo;
use crate::bootstrap;
use crate::cache::{ROOT, entry};
use crate::server::ApiServer;

/// How often a server says that it lives, and looks who else does.
const PERIOD: Duration = Duration::from_secs(10);
/// Who has been silent for so long does not.
const SILENCE: Duration = Duration::from_secs(15);

/// A server of the cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where others reach it.
    pub address: IpAddr,
    /// By which port; that of all servers.
    pub port: u16,
    /// Its machine's name.
    pub hostname: String,
}

/// Why the servers could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not say, or cannot be told.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API does not take it.
    #[error(transparent)]
    Api(#[from] bootstrap::Error),
}

/// A server among the others.
pub struct Members {
    server: ApiServer,
    own: Member,
    others: Silence,
}

impl Members {
    /// `own` is this server.
    pub fn new(server: ApiServer, own: Member) -> Self {
        Self { server, own, others: Silence::default() }
    }

    /// Says that this server lives, and writes down all that do.
    ///
    /// # Errors
    ///
    /// The store or the API does not take it.
    pub async fn join(&mut self) -> Result<(), Error> {
        let store = self.server.shared().store.clone();
        let mut living = vec![self.own.address];
        if store.is_shared() {
            let alive = Operation::Put(key(self.own.address), sign(self.own.address));
            store.txn(Txn { conditions: Vec::new(), operations: vec![alive] }).await?;
            living.extend(self.others(&*store).await?);
        }
        self.write_down(living).await
    }

    /// Does so again and again, until `stop`; then takes this server out, if there are others.
    pub async fn follow(mut self, stop: CancellationToken) {
        let identity = identity::Identity::new(&self.server, &self.own.hostname);
        let renewing = tokio::spawn(stop.clone().run_until_cancelled_owned(identity.follow()));
        while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
            if let Err(error) = self.join().await {
                tracing::warn!(%error, "the servers cannot be written down as the service kubernetes; trying again");
            }
        }
        // It ends with `stop`, or has panicked, and the panic has been told of.
        drop(renewing.await);
        if let Err(error) = self.leave().await {
            tracing::debug!(%error, "this server could not be taken out; the others will when it has been silent");
        }
    }

    /// Takes this server out. The last one stays: clients find it where it was when it is there again.
    ///
    /// # Errors
    ///
    /// The store or the API does not take it.
    pub async fn leave(&mut self) -> Result<(), Error> {
        let store = self.server.shared().store.clone();
        if !store.is_shared() {
            return Ok(());
        }
        let gone = Operation::Delete(key(self.own.address));
        store.txn(Txn { conditions: Vec::new(), operations: vec![gone] }).await?;
        let living = self.others(&*store).await?;
        if living.is_empty() { Ok(()) } else { self.write_down(living).await }
    }

    /// The other servers that live; those that do not are forgotten.
    async fn others(&mut self, store: &dyn Store) -> Result<Vec<IpAddr>, StoreError> {
        let mut signs = store.list(&prefix(), ListOptions::default()).await?.items;
        signs.retain(|sign| sign.key != key(self.own.address));
        let (living, silent) = self.others.sort(&signs, Instant::now());
        for (key, revision) in silent {
            let conditions = vec![Condition::Unchanged(key.clone(), revision)];
            // If it has just spoken, it stays.
            store.txn(Txn { conditions, operations: vec![Operation::Delete(key)] }).await?;
        }
        Ok(living)
    }

    async fn write_down(&self, mut living: Vec<IpAddr>) -> Result<(), Error> {
        if self.own.address.is_loopback() {
            // Endpoints can't be loopback addresses, and nobody elsewhere could use them.
            return Ok(());
        }
        living.retain(|address| address.is_ipv4() == self.own.address.is_ipv4() && !address.is_loopback());
        living.sort();
        living.dedup();
        let client = self.server.client(UserInfo::system("system:apiserver"));
        Ok(bootstrap::reconcile(&client, bootstrap::endpoints(&living, self.own.port)).await?)
    }
}

/// Where servers say that they live, as upstream's do.
fn prefix() -> String {
    format!("{ROOT}masterleases/")
}

fn key(address: IpAddr) -> String {
    format!("{}{address}", prefix())
}

/// What they say.
fn sign(address: IpAddr) -> bytes::Bytes {
    entry::encode(&json!({
        "metadata": {},
        "kind": "Endpoints",
        "apiVersion": "v1",
        "subsets": [{"addresses": [{"ip": address.to_string()}]}],
    }))
}

/// When others gave a sign of life.
#[derive(Debug, Default)]
struct Silence(BTreeMap<String, (Revision, Instant)>);

impl Silence {
    /// Who lives, and who has been silent for too long, by these signs.
    fn sort(&mut self, signs: &[KeyValue], now: Instant) -> (Vec<IpAddr>, Vec<(String, Revision)>) {
        self.0.retain(|key, _| signs.iter().any(|sign| sign.key == *key));
        let (mut living, mut silent) = (Vec::new(), Vec::new());
        for sign in signs {
            let known = self.0.entry(sign.key.clone()).or_insert((sign.mod_revision, now));
            if known.0 != sign.mod_revision {
                *known = (sign.mod_revision, now);
            }
            let address = sign.key.strip_prefix(&prefix()).and_then(|text| text.parse().ok());
            match address {
                Some(address) if now.duration_since(known.1) < SILENCE => living.push(address),
                _ => silent.push((sign.key.clone(), sign.mod_revision)),
            }
        }
        (living, silent)
    }
}
