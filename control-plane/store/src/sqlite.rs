//! The embedded store: SQLite in WAL mode with `synchronous=FULL`.
//!
//! One thread writes. It drains its queue into one SQLite transaction, so that writers under load share the cost of
//! making it durable; only after the commit are watchers and writers told. Reads go to a small pool of connections,
//! each of which sees the last commit. History is the table itself: every change is a row, and compaction removes the
//! superseded ones in small steps between writes.

mod rows;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::fanout::Fanout;
use crate::{KeyValue, ListOptions, ListResult, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream};
use writer::{Request, Writer};

/// How many requests wait for the writer before further writers wait to hand theirs in.
const WRITE_QUEUE: usize = 4096;
/// Read connections kept open when idle.
const IDLE_READERS: usize = 4;

/// See the module's documentation.
pub struct SqliteStore {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Request>,
}

struct Shared {
    path: PathBuf,
    fanout: Fanout,
    readers: Mutex<Vec<Connection>>,
    /// The oldest revision that can be read.
    compacted: Mutex<Revision>,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error.to_string())
    }
}

impl SqliteStore {
    /// Opens the database file at `path`, or makes it. The file is readable by its owner only: it holds secrets.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        restrict(&path)?;
        let connection = rows::open_writer(&path)?;
        let (revision, compacted) = rows::bounds(&connection)?;
        let shared = Arc::new(Shared {
            path,
            fanout: Fanout::new(revision),
            readers: Mutex::default(),
            compacted: Mutex::new(compacted),
        });
        let (writes, requests) = mpsc::channel(WRITE_QUEUE);
        let writer = Writer::new(connection, revision, shared.clone());
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(requests))
            .map_err(|e| StoreError::Engine(format!("cannot start the writer thread: {e}")))?;
        Ok(Self { shared, writes })
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes.send(make(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)
    }

    /// Runs `read` on a pooled connection, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let pooled = shared.readers.lock().pop();
            let connection = match pooled {
                Some(connection) => connection,
                None => rows::open_reader(&shared.path)?,
            };
            let result = read(&connection, &shared);
            let mut idle = shared.readers.lock();
            if idle.len() < IDLE_READERS {
                idle.push(connection);
            }
            result
        })
        .await
        .map_err(|e| StoreError::Engine(format!("a read ended early: {e}")))?
    }
}

impl Shared {
    fn check(&self, requested: Revision) -> Result<(), StoreError> {
        let (compacted, current) = (*self.compacted.lock(), self.fanout.published());
        if requested < compacted {
            Err(StoreError::Compacted { requested, compacted })
        } else if requested > current {
            Err(StoreError::Future { requested, current })
        } else {
            Ok(())
        }
    }
}

/// Creates the file for its owner only; SQLite gives its journal files the same mode.
fn restrict(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let failed = |e: std::io::Error| StoreError::Engine(format!("{}: {e}", path.display()));
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection, _| Ok(rows::current(connection, &key)?)).await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<ListResult, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection, shared| {
            let revision = options.revision.unwrap_or_else(|| shared.fanout.published());
            shared.check(revision)?;
            let (items, remaining) =
                rows::list(connection, &prefix, revision, options.after.as_deref(), options.limit)?;
            // A compaction that began meanwhile may have taken rows that this snapshot needed.
            shared.check(revision)?;
            Ok(ListResult { items, revision, remaining })
        })
        .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.request(|reply| Request::Txn(txn, reply)).await?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.shared.check(after)?;
        let subscription = self.shared.fanout.subscribe(prefix);
        let (prefix, since) = (prefix.to_owned(), subscription.since);
        let replay = self
            .read(move |connection, shared| {
                let replay = rows::history(connection, &prefix, after, since)?;
                shared.check(after)?;
                Ok(replay)
            })
            .await?;
        Ok(subscription.after(replay))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.request(|reply| Request::Compact(revision, reply)).await?
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.fanout.published())
    }
}

#[cfg(test)]
mod tests;
