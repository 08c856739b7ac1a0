//! The tables and every statement on them.
//!
//! `log` has a row for each change: `(revision, position)` orders them, `value` is NULL for a deletion, and `previous`
//! is the revision of the key's row before (NULL if the key did not exist). A key's current state is its newest row.
//! `meta` holds what must survive compaction: the highest revision and the oldest readable one.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use crate::{Batch, Event, KeyValue, Operation, Revision};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS log (
        revision INTEGER NOT NULL,
        position INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB,
        created INTEGER NOT NULL,
        previous INTEGER,
        PRIMARY KEY (revision, position)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS log_key ON log (key, revision);
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO meta VALUES ('layout', 1), ('revision', 0), ('compacted', 0);
";

/// The layout this code reads and writes; another one is refused.
const LAYOUT: i64 = 1;

pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    // One thread uses it: no mutex of SQLite's own is needed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The log is truncated at a checkpoint rather than kept at its largest.
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    configure(&connection)?;
    connection.execute_batch(SCHEMA)?;
    let layout: i64 = connection.query_row("SELECT number FROM meta WHERE name = 'layout'", [], |r| r.get(0))?;
    if layout != LAYOUT {
        let message =
            format!("the database has layout {layout}, this version knows {LAYOUT}; use the version that wrote it");
        return Err(rusqlite::Error::ToSqlConversionFailure(message.into()));
    }
    Ok(connection)
}

pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    // The API server caches what is hot: 2 MiB of pages a connection is enough for the index's upper levels.
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.set_prepared_statement_cache_capacity(32);
    // A prepared statement stays as it is whatever is bound to it. Otherwise (the library is built with STAT4) each one that
    // looks for a key is parsed and planned anew for each key: a third of what a small write took in here.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// The highest revision, and the oldest that can be read.
pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let number = |name| connection.query_row("SELECT number FROM meta WHERE name = ?", [name], |r| r.get::<_, u64>(0));
    let logged: Option<u64> = connection.query_row("SELECT MAX(revision) FROM log", [], |r| r.get(0))?;
    Ok((number("revision")?.max(logged.unwrap_or(0)), number("compacted")?))
}

/// Records the compaction, before any row is removed. The revision goes with it: the newest row may be a deletion.
pub(super) fn set_compacted(connection: &Connection, compacted: Revision, current: Revision) -> rusqlite::Result<()> {
    let mut set = connection.prepare_cached("UPDATE meta SET number = ?2 WHERE name = ?1")?;
    set.execute(params!["revision", current])?;
    set.execute(params!["compacted", compacted])?;
    Ok(())
}

fn key_value(row: &Row<'_>) -> rusqlite::Result<Option<KeyValue>> {
    let Some(value) = row.get::<_, Option<Vec<u8>>>("value")? else { return Ok(None) };
    Ok(Some(KeyValue {
        key: row.get("key")?,
        value: value.into(),
        create_revision: row.get("created")?,
        mod_revision: row.get("revision")?,
    }))
}

/// The key's value now.
pub(super) fn current(connection: &Connection, key: &str) -> rusqlite::Result<Option<KeyValue>> {
    let mut find = connection.prepare_cached("SELECT * FROM log WHERE key = ? ORDER BY revision DESC LIMIT 1")?;
    Ok(find.query_row([key], key_value).optional()?.flatten())
}

/// Carries out one operation; the event, if it changed something. `seen` is what its transaction has read so far.
pub(super) fn apply(
    connection: &Connection,
    operation: Operation,
    seen: &mut Seen,
    revision: Revision,
    position: usize,
) -> rusqlite::Result<Option<Event>> {
    let (key, value) = match operation {
        Operation::Put(key, value) => (key, Some(value)),
        Operation::Delete(key) => (key, None),
    };
    let previous = seen.take(connection, &key)?;
    if value.is_none() && previous.is_none() {
        return Ok(None);
    }
    let created = previous.as_ref().map_or(revision, |kv| kv.create_revision);
    let mut insert = connection.prepare_cached("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)")?;
    insert.execute(params![
        revision,
        position,
        key,
        value.as_deref(),
        created,
        previous.as_ref().map(|kv| kv.mod_revision)
    ])?;
    Ok(Some(Event { revision, key, value, previous }))
}

/// The first key after every key that starts with `prefix`, as a bound for the index. Keys are text, and no key holds
/// U+10FFFF.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// A page of the keys under `prefix` as of `revision`, and how many come after it.
pub(super) fn list(
    connection: &Connection,
    prefix: &str,
    revision: Revision,
    after: Option<&str>,
    limit: Option<usize>,
) -> rusqlite::Result<(Vec<KeyValue>, usize)> {
    let newest = "SELECT key, MAX(revision) AS revision FROM log
                  WHERE key >= ?1 AND key < ?2 AND key > ?3 AND revision <= ?4 GROUP BY key";
    let end = end_of(prefix);
    let after = after.unwrap_or("");
    let page = format!(
        "SELECT log.* FROM ({newest}) AS newest JOIN log USING (key, revision)
         WHERE log.value IS NOT NULL ORDER BY log.key LIMIT ?5"
    );
    let limit_rows = limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut select = connection.prepare_cached(&page)?;
    let mut items = Vec::new();
    for row in select.query_map(params![prefix, end, after, revision, limit_rows], key_value)? {
        items.extend(row?);
    }
    let full = limit.is_some_and(|n| items.len() >= n);
    let Some(last) = items.last().filter(|_| full) else { return Ok((items, 0)) };
    let count =
        format!("SELECT COUNT(*) FROM ({newest}) AS newest JOIN log USING (key, revision) WHERE log.value IS NOT NULL");
    let remaining =
        connection.prepare_cached(&count)?.query_row(params![prefix, end, last.key, revision], |row| row.get(0))?;
    Ok((items, remaining))
}

/// What happened under `prefix` after revision `after`, up to `until`.
pub(super) fn history(
    connection: &Connection,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> rusqlite::Result<Vec<Batch>> {
    let mut select = connection.prepare_cached(
        "SELECT log.revision, log.key, log.value, before.value AS old, before.created AS created, log.previous
         FROM log LEFT JOIN log AS before ON before.key = log.key AND before.revision = log.previous
         WHERE log.revision > ?1 AND log.revision <= ?2 AND substr(log.key, 1, ?4) = ?3
         ORDER BY log.revision, log.position",
    )?;
    let rows = select.query_map(params![after, until, prefix, prefix.chars().count()], |row| {
        let key: String = row.get("key")?;
        let previous = match (row.get::<_, Option<Vec<u8>>>("old")?, row.get::<_, Option<u64>>("previous")?) {
            (Some(value), Some(mod_revision)) => Some(KeyValue {
                key: key.clone(),
                value: value.into(),
                create_revision: row.get("created")?,
                mod_revision,
            }),
            _ => None,
        };
        let value = row.get::<_, Option<Vec<u8>>>("value")?.map(Bytes::from);
        Ok(Event { revision: row.get("revision")?, key, value, previous })
    })?;
    let mut batches: Vec<Batch> = Vec::new();
    for event in rows {
        let event = event?;
        match batches.last_mut() {
            Some(batch) if batch.revision == event.revision => batch.events.push(event),
            _ => batches.push(Batch { revision: event.revision, events: vec![event] }),
        }
    }
    Ok(batches)
}

/// Removes what compaction at `compacted` lets go of, looking at the rows of at most `revisions` revisions from
/// `from` on. Returns where to go on, or `None` when done.
///
/// A row goes if a newer row of its key is no newer than `compacted`; a deletion also goes when it is the newest.
pub(super) fn compact_step(
    connection: &Connection,
    from: Revision,
    compacted: Revision,
    revisions: u64,
) -> rusqlite::Result<Option<Revision>> {
    let until = compacted.min(from.saturating_add(revisions));
    let mut select = connection.prepare_cached(
        "SELECT revision, position, value IS NULL OR EXISTS (
             SELECT 1 FROM log AS newer
             WHERE newer.key = log.key AND newer.revision > log.revision AND newer.revision <= ?3)
         FROM log WHERE revision >= ?1 AND revision <= ?2",
    )?;
    let doomed = select
        .query_map(params![from, until, compacted], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?, row.get::<_, bool>(2)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut delete = connection.prepare_cached("DELETE FROM log WHERE revision = ? AND position = ?")?;
    for (revision, position, _) in doomed.into_iter().filter(|(_, _, gone)| *gone) {
        delete.execute(params![revision, position])?;
    }
    Ok((until < compacted).then_some(until + 1))
}

/// The keys' values before a transaction, as far as it has asked.
#[derive(Default)]
pub(super) struct Seen(HashMap<String, Option<KeyValue>>);

impl Seen {
    /// The key's value, read once.
    pub fn current(&mut self, connection: &Connection, key: &str) -> rusqlite::Result<Option<&KeyValue>> {
        if !self.0.contains_key(key) {
            self.0.insert(key.to_owned(), current(connection, key)?);
        }
        Ok(self.0.get(key).and_then(Option::as_ref))
    }

    /// The same for the operation on the key, of which a transaction has one.
    fn take(&mut self, connection: &Connection, key: &str) -> rusqlite::Result<Option<KeyValue>> {
        match self.0.remove(key) {
            Some(known) => Ok(known),
            None => current(connection, key),
        }
    }
}
