//! An etcd v3 cluster as the store: several servers, each of which may be lost.
//!
//! Our keys are etcd's keys, our transactions its transactions. etcd's first revision is 1, that of an etcd in which
//! nothing has been written; ours is 0, so that ours are etcd's less one. A watch is one of all keys: its events tell, for
//! every revision, what happened to the keys asked for, and that nothing did. It survives the connection, and the server,
//! that it began on.

mod watch;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KvClient, TlsOptions, TxnOp,
    TxnOpResponse, WatchClient,
};

use crate::{
    Condition, KeyValue, ListOptions, ListResult, Operation, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes is asked after this time whether it lives, and has as long for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How many values are fetched at a time: etcd takes values of up to 1.5 MB.
const PAGE: usize = 500;
/// No message of etcd's is longer.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Where etcd is, and who it is and we are.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// URLs of its members, of one or of all.
    pub servers: Vec<String>,
    /// The authority of its certificates, PEM; none is those of the system.
    pub ca_pem: Option<String>,
    /// Our certificate and its key, PEM.
    pub certificate_pem: Option<(String, String)>,
}

/// See the module's documentation.
#[derive(Clone)]
pub struct EtcdStore {
    kv: KvClient,
    watch: WatchClient,
}

/// Our revision of one of etcd's.
fn ours(revision: i64) -> Revision {
    Revision::try_from(revision - 1).unwrap_or_default()
}

/// etcd's revision of one of ours.
fn theirs(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX - 1) + 1
}

fn engine(error: &Error) -> StoreError {
    StoreError::Engine(format!("etcd: {error}"))
}

/// Whether etcd says that a revision has been compacted away.
fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("revision has been compacted"))
}

fn is_future(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("is a future revision"))
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: ours(kv.create_revision()),
        mod_revision: ours(kv.mod_revision()),
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Err(Error::Internal(format!("no answer within {} s", TIMEOUT.as_secs())));
    tokio::time::timeout(TIMEOUT, call).await.unwrap_or_else(|_| late())
}

impl EtcdStore {
    /// Connects to a cluster.
    ///
    /// # Errors
    ///
    /// None of its members can be reached, or they are not who they have to be.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true);
        if config.servers.iter().any(|url| url.starts_with("https://")) {
            let mut tls = TlsOptions::new();
            tls = match &config.ca_pem {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some((certificate, key)) = &config.certificate_pem {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        let client = within(Client::connect(&config.servers, Some(options))).await.map_err(|e| engine(&e))?;
        let store = Self {
            kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES),
            watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES),
        };
        store.revision().await?;
        Ok(store)
    }

    async fn fetch(&self, key: &str, options: GetOptions) -> Result<etcd_client::GetResponse, Error> {
        within(self.kv.clone().get(key, Some(options))).await
    }

    /// Whether what was at a revision can still be read.
    async fn check(&self, requested: Revision) -> Result<(), StoreError> {
        let options = GetOptions::new().with_revision(theirs(requested)).with_count_only();
        match self.fetch("\0", options).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused(&error, requested).await),
        }
    }

    /// What an error about a revision says.
    async fn refused(&self, error: &Error, requested: Revision) -> StoreError {
        if is_compacted(error) {
            return match watch::compacted(&self.watch).await {
                Ok(compacted) => StoreError::Compacted { requested, compacted },
                Err(error) => engine(&error),
            };
        }
        match self.revision().await {
            Ok(current) if is_future(error) => StoreError::Future { requested, current },
            _ => engine(error),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let found = self.fetch(key, GetOptions::new()).await.map_err(|e| engine(&e))?;
        Ok(found.kvs().first().map(key_value))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        let end = end_of(prefix);
        let mut revision = options.revision;
        let mut from = options.after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
        // What is after a key that is before all of them.
        if from.as_str() < prefix {
            prefix.clone_into(&mut from);
        }
        let mut items = Vec::new();
        loop {
            let wanted = options.limit.map_or(PAGE, |limit| (limit - items.len()).min(PAGE));
            // No limit is what etcd takes 0 for.
            let mut page = GetOptions::new().with_range(end.clone()).with_limit(wanted.max(1) as i64);
            if let Some(revision) = revision {
                page = page.with_revision(theirs(revision));
            }
            let found = match self.fetch(&from, page).await {
                Ok(found) => found,
                Err(error) => return Err(self.refused(&error, revision.unwrap_or_default()).await),
            };
            // All pages are of one snapshot.
            let at = *revision.get_or_insert(ours(found.header().map_or(1, etcd_client::ResponseHeader::revision)));
            let count = usize::try_from(found.count()).unwrap_or_default();
            let taken = found.kvs().len().min(wanted);
            items.extend(found.kvs().iter().take(wanted).map(key_value));
            let full = options.limit.is_some_and(|limit| items.len() >= limit);
            match items.last() {
                Some(last) if !full && count > taken => from = format!("{}\0", last.key),
                _ => return Ok(ListResult { items, revision: at, remaining: count - taken }),
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let compare = |condition: &Condition| match condition {
            Condition::Absent(key) => Compare::version(key.as_str(), CompareOp::Equal, 0),
            Condition::Unchanged(key, at) => Compare::mod_revision(key.as_str(), CompareOp::Equal, theirs(*at)),
        };
        let read = |condition: &Condition| TxnOp::get(key_of(condition), None);
        let write = |operation: &Operation| match operation {
            Operation::Put(key, value) => TxnOp::put(key.as_str(), value.as_ref(), None),
            Operation::Delete(key) => TxnOp::delete(key.as_str(), None),
        };
        let request = etcd_client::Txn::new()
            .when(txn.conditions.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.operations.iter().map(write).collect::<Vec<_>>())
            .or_else(txn.conditions.iter().map(read).collect::<Vec<_>>());
        let answer = within(self.kv.clone().txn(request)).await.map_err(|e| engine(&e))?;
        if answer.succeeded() {
            return Ok(TxnOutcome::Committed(ours(answer.header().map_or(1, etcd_client::ResponseHeader::revision))));
        }
        let states = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(found) => found.kvs().first().map(key_value),
            _ => None,
        });
        let mut failed = txn.conditions.iter().zip(states).enumerate().filter(|(_, (condition, state))| {
            let at = state.as_ref().map(|kv| kv.mod_revision);
            match condition {
                Condition::Absent(_) => at.is_some(),
                Condition::Unchanged(_, wanted) => at != Some(*wanted),
            }
        });
        match failed.next() {
            Some((condition, (_, current))) => Ok(TxnOutcome::Conflict { condition, current }),
            None => Err(StoreError::Engine("etcd: a transaction was refused whose conditions hold".into())),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.check(after).await?;
        Ok(watch::follow(self.watch.clone(), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match within(self.kv.clone().compact(theirs(revision), None)).await {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(error) if is_compacted(&error) => Ok(()),
            Err(error) => Err(self.refused(&error, revision).await),
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let found = self.fetch("\0", GetOptions::new().with_limit(1)).await.map_err(|e| engine(&e))?;
        Ok(ours(found.header().map_or(1, etcd_client::ResponseHeader::revision)))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

fn key_of(condition: &Condition) -> &str {
    match condition {
        Condition::Absent(key) | Condition::Unchanged(key, _) => key,
    }
}

/// The first key after all that start with `prefix`; etcd's word for the end of all keys if there is none.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests;
