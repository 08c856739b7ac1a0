//! `ResourceQuota`: what a namespace may use (upstream `apiserver/pkg/admission/plugin/resourcequota`).
//!
//! What an object uses is added to the quota's status in the very transaction that stores the object ([`Rider`]): both
//! happen or neither, whoever else writes at the same time and wherever it fails. The quota's revision is a condition
//! of the transaction, so two writers can never both take the last of something; a lock for each namespace keeps the
//! writers of this server from having to find that out by trying.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use xebec_clock::Clock;
use xebec_schema::quota::{self, Kind, Request};
use xebec_schema::status::Status;
use xebec_store::{Condition, Operation as StoreOperation};

use super::support::forbidden;
use super::{Operation, Plugin, Review, Rider};
use crate::cache::{self, entry};
use crate::json::decode;
use crate::reader::{Entry, Reader};

/// Locks that nobody holds are dropped when there are more than this many.
const IDLE_LOCKS: usize = 1024;

/// The plugin.
pub struct ResourceQuota {
    reader: Arc<dyn Reader>,
    clock: Clock,
    locks: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl ResourceQuota {
    /// Quotas are read from `reader`; `clock` says which pods are overdue.
    pub fn new(reader: Arc<dyn Reader>, clock: &Clock) -> Self {
        Self { reader, clock: clock.clone(), locks: Mutex::default() }
    }

    fn lock_of(&self, namespace: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(namespace).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() > IDLE_LOCKS {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(namespace.to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn quotas(&self, namespace: &str) -> Vec<(Arc<Entry>, Value)> {
        let entries = self.reader.list("", "resourcequotas", namespace);
        entries.into_iter().map(|entry| (entry.clone(), decode(&entry.bytes))).collect()
    }

    /// What is to be written with the object.
    fn charge(&self, review: &Review<'_>, kind: Kind<'_>) -> Result<Rider, Status> {
        let Some(new) = &review.object else { return Ok(Rider::default()) };
        let (entries, quotas): (Vec<_>, Vec<_>) = self.quotas(review.namespace).into_iter().unzip();
        let request = Request { kind, subresource: review.subresource, new, old: review.old, now: self.clock.now() };
        let charges = quota::charge(&quotas, &request).map_err(|why| forbidden(review, &why))?;
        let mut rider = Rider::default();
        for (index, used) in charges {
            let (entry, mut changed) = (&entries[index], quotas[index].clone());
            changed["status"]["used"] = quota::to_value(&used);
            let key = format!("{}core/resourcequotas/{}", cache::ROOT, cache::key(&entry.namespace, &entry.name));
            rider.conditions.push(Condition::Unchanged(key.clone(), entry.revision));
            rider.operations.push(StoreOperation::Put(key, entry::encode(&changed)));
        }
        Ok(rider)
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn rides(&self) -> bool {
        true
    }

    async fn ride(&self, review: &mut Review<'_>) -> Result<Rider, Status> {
        let kind = Kind { group: &review.resource.group, plural: &review.resource.plural };
        let create = match review.operation {
            Operation::Create => true,
            Operation::Update => false,
            Operation::Delete | Operation::Connect => return Ok(Rider::default()),
        };
        let concerns = review.resource.namespaced && kind.is_charged(review.subresource, create);
        let limits = |entry: &Arc<Entry>| {
            let quota = decode(&entry.bytes);
            let hard = quota.pointer("/status/hard").and_then(Value::as_object);
            hard.is_some_and(|hard| hard.keys().any(|name| kind.uses(name)))
        };
        if !concerns || !self.reader.list("", "resourcequotas", review.namespace).iter().any(limits) {
            return Ok(Rider::default());
        }
        if review.dry_run {
            return self.charge(review, kind);
        }
        let guard = self.lock_of(review.namespace).lock_owned().await;
        let mut rider = self.charge(review, kind)?;
        if !rider.operations.is_empty() {
            rider.guard = Some(guard);
        }
        Ok(rider)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xebec_schema::registry::Registry;

    use super::*;
    use crate::authn::UserInfo;
    use crate::json::text;
    use crate::test_reader::FakeReader;

    async fn ride(reader: &Arc<FakeReader>, dry_run: bool) -> Result<Rider, Status> {
        let registry = Registry::builtin();
        let mut review = Review {
            user: &UserInfo::system("x"),
            resource: registry.get("", "v1", "pods").unwrap(),
            requested: registry.get("", "v1", "pods").unwrap(),
            registry: Arc::default(),
            subresource: "",
            operation: Operation::Create,
            namespace: "ns",
            name: "p",
            object: Some(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})),
            old: None,
            call: None,
            dry_run,
            reinvocation: Default::default(),
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        ResourceQuota::new(reader.clone(), &Clock::system()).ride(&mut review).await
    }

    fn quota(used: &str) -> Value {
        json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": {"hard": {"pods": "2"}},
            "status": {"hard": {"pods": "2"}, "used": {"pods": used}}})
    }

    #[tokio::test]
    async fn the_charge_rides_with_the_object() {
        let reader = FakeReader::new();
        assert!(ride(&reader, false).await.unwrap().operations.is_empty());
        reader.put("", "resourcequotas", quota("1"));
        let rider = ride(&reader, false).await.unwrap();
        let key = "/registry/core/resourcequotas/ns/q".to_owned();
        assert_eq!(rider.conditions, [Condition::Unchanged(key.clone(), 1)]);
        let [StoreOperation::Put(put, bytes)] = rider.operations.as_slice() else { panic!("one quota, one write") };
        assert_eq!((put, text(&decode(bytes), "/status/used/pods")), (&key, "2"));
        reader.put("", "resourcequotas", quota("2"));
        for dry_run in [false, true] {
            assert_eq!(
                ride(&reader, dry_run).await.err().unwrap().message,
                "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
            );
        }
    }
}
