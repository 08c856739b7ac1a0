//! Priority and fairness: how many requests are served at once, whose come first, and who waits or is sent away
//! (upstream `apiserver/pkg/util/flowcontrol`, KEP-1040).
//!
//! A request is put into a flow by the first FlowSchema that it matches ([`classify`]), and takes seats of that schema's
//! priority level ([`level`]). With seats free it goes on at once; otherwise it waits in a queue, or is answered with
//! 429. Every few seconds levels lend each other what they do not need ([`borrow`]).

pub mod bootstrap;
mod borrow;
pub mod classify;
mod level;
mod queues;
#[cfg(test)]
mod tests;
pub(crate) mod width;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::authz::Attributes;
use crate::json::decode;
use crate::reader::Reader;
use classify::Schema;
use level::{Level, Limits};
pub use level::{Rejected, Ticket};

pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Seats of the whole server: upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
pub const SEATS: u32 = 600;
/// How often levels lend each other seats anew.
pub const ADJUSTMENT_PERIOD: Duration = Duration::from_secs(10);

/// Puts requests into flows, and lets them through.
pub struct Fairness {
    reader: Arc<dyn Reader>,
    seats: u32,
    config: ArcSwap<Config>,
    /// Held while the configuration is read anew.
    reading: Mutex<()>,
}

/// What is stored, ready for use.
struct Config {
    /// Generations of schemas and levels that this was made from.
    made_from: (u64, u64),
    /// In the order in which they are tried.
    schemas: Vec<Schema>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// Where a request belongs.
#[derive(Clone)]
pub struct Flow {
    /// The schema's UID, for the answer's header.
    pub schema_uid: Arc<str>,
    /// The level's UID, likewise.
    pub level_uid: Arc<str>,
    /// The schema's name.
    pub schema: Arc<str>,
    /// Which of the schema's flows: the user or the namespace.
    distinguisher: String,
    level: Arc<Level>,
}

impl Fairness {
    /// Schemas and levels are read from `reader`; `seats` are shared out among the levels.
    pub fn new(reader: Arc<dyn Reader>, seats: u32) -> Self {
        let config = Config { made_from: (u64::MAX, u64::MAX), schemas: Vec::new(), levels: BTreeMap::new() };
        Self { reader, seats, config: ArcSwap::from_pointee(config), reading: Mutex::default() }
    }

    /// The flow of a request; `None` as long as nothing is configured at all.
    pub fn flow(&self, attributes: &Attributes) -> Option<Flow> {
        let config = self.current();
        let schema = config.schemas.iter().find(|schema| schema.matches(attributes))?;
        let level = config.levels.get(&schema.level)?.clone();
        Some(Flow {
            schema_uid: schema.uid.clone(),
            level_uid: level.uid(),
            schema: schema.name.clone(),
            distinguisher: schema.distinguisher(attributes),
            level,
        })
    }

    fn current(&self) -> Arc<Config> {
        let generations = (self.reader.generation(GROUP, SCHEMAS), self.reader.generation(GROUP, LEVELS));
        let config = self.config.load_full();
        if config.made_from == generations {
            return config;
        }
        let _reading = self.reading.lock();
        let config = self.config.load_full();
        if config.made_from == generations {
            return config;
        }
        let fresh = Arc::new(self.read(generations, &config.levels));
        self.config.store(fresh.clone());
        fresh
    }

    /// Reads what is stored. Levels that were there go on with the requests that they have.
    fn read(&self, made_from: (u64, u64), before: &BTreeMap<String, Arc<Level>>) -> Config {
        let objects = |plural| self.reader.list(GROUP, plural, "").into_iter().map(|e| decode(&e.bytes));
        let limits: Vec<Limits> = objects(LEVELS).map(|object| Limits::read(&object)).collect();
        let shares: u64 = limits.iter().map(|l| u64::from(l.shares)).sum();
        let mut levels = BTreeMap::new();
        for limits in limits {
            let nominal = level::nominal(self.seats, limits.shares, shares);
            let level = match before.get(&limits.name) {
                Some(level) => level.clone(),
                None => Arc::new(Level::new(&limits)),
            };
            level.configure(&limits, nominal, self.seats);
            levels.insert(limits.name.clone(), level);
        }
        let mut schemas: Vec<Schema> = objects(SCHEMAS).map(|object| Schema::read(&object)).collect();
        schemas.retain(|schema| levels.contains_key(&schema.level));
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Config { made_from, schemas, levels }
    }

    /// Has the levels lend each other what they did not need lately.
    pub fn adjust(&self) {
        let config = self.current();
        let levels: Vec<&Arc<Level>> = config.levels.values().collect();
        borrow::adjust(&levels, self.seats);
    }

    /// Counters, in Prometheus' text form.
    pub fn render(&self, out: &mut String) {
        let config = self.config.load_full();
        level::render(config.levels.iter().map(|(name, level)| (name.as_str(), &**level)), out);
    }
}

impl Flow {
    /// Waits for `width` seats, as long as that may take.
    ///
    /// # Errors
    ///
    /// There are none, and no room to wait, or none came in time.
    pub async fn enter(&self, width: u32, patience: Duration) -> Result<Ticket, Rejected> {
        if self.level.is_exempt() {
            return Ok(self.level.pass(width));
        }
        let flow = classify::flow_hash(&self.schema, &self.distinguisher);
        self.level.enter(flow, width, Instant::now() + patience).await
    }
}
