//! A priority level: its seats, who sits on them, and who waits.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queues::Queues;
use crate::json::text;

/// What a PriorityLevelConfiguration says.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) exempt: bool,
    pub(super) shares: u32,
    pub(super) lendable_percent: u32,
    pub(super) borrowing_percent: Option<u32>,
    /// Queues, hand size, queue length; `None`: nobody waits.
    pub(super) queuing: Option<(u64, u64, usize)>,
}

impl Limits {
    pub(super) fn read(object: &Value) -> Self {
        let exempt = text(object, "/spec/type") == "Exempt";
        let part = object.pointer(if exempt { "/spec/exempt" } else { "/spec/limited" }).unwrap_or(&Value::Null);
        let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
        let small =
            |key: &str, default: u32| number(part, key).map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let queues = part.pointer("/limitResponse/queuing").unwrap_or(&Value::Null);
        let queuing = (text(part, "/limitResponse/type") == "Queue").then(|| {
            let length = number(queues, "queueLengthLimit").unwrap_or(50);
            let count = number(queues, "queues").unwrap_or(64).max(1);
            (count, number(queues, "handSize").unwrap_or(8).max(1), usize::try_from(length).unwrap_or(usize::MAX))
        });
        Self {
            name: text(object, "/metadata/name").to_owned(),
            uid: text(object, "/metadata/uid").to_owned(),
            exempt,
            shares: small("nominalConcurrencyShares", if exempt { 0 } else { 30 }),
            lendable_percent: small("lendablePercent", 0).min(100),
            borrowing_percent: part.get("borrowingLimitPercent").and(Some(small("borrowingLimitPercent", 0))),
            queuing,
        }
    }
}

/// A level's seats when nobody lends or borrows.
pub(super) fn nominal(seats: u32, shares: u32, of: u64) -> u32 {
    let product = u64::from(seats) * u64::from(shares);
    u32::try_from(product.div_ceil(of.max(1))).unwrap_or(u32::MAX)
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// All seats are taken, and the level has no queues.
    #[error("concurrency-limit")]
    NoSeats,
    /// All seats are taken, and the queue is full.
    #[error("queue-full")]
    QueueFull,
    /// The request waited, and no seat came free in time.
    #[error("time-out")]
    TimedOut,
}

/// A priority level.
pub(super) struct Level {
    state: Mutex<State>,
    dispatched: AtomicU64,
    rejected: [AtomicU64; 3],
}

pub(super) struct State {
    uid: Arc<str>,
    pub(super) exempt: bool,
    pub(super) nominal: u32,
    pub(super) least: u32,
    pub(super) most: u32,
    /// How many seats there are now, with what is lent and borrowed.
    pub(super) limit: u32,
    queuing: bool,
    queues: Queues,
    waiters: BTreeMap<u64, oneshot::Sender<Ticket>>,
    next_id: u64,
    executing: u32,
    /// Most seats that were taken or asked for at once since it was last looked at.
    pub(super) peak: u32,
    /// The same, smoothed.
    pub(super) demand: f64,
}

impl Level {
    pub(super) fn new(limits: &Limits) -> Self {
        let state = State {
            uid: limits.uid.as_str().into(),
            exempt: limits.exempt,
            nominal: 0,
            least: 0,
            most: 0,
            limit: 0,
            queuing: false,
            queues: Queues::default(),
            waiters: BTreeMap::new(),
            next_id: 0,
            executing: 0,
            peak: 0,
            demand: 0.0,
        };
        Self { state: Mutex::new(state), dispatched: AtomicU64::new(0), rejected: Default::default() }
    }

    /// Takes over what is configured; `seats` are the whole server's.
    pub(super) fn configure(self: &Arc<Self>, limits: &Limits, nominal: u32, seats: u32) {
        let mut state = self.state.lock();
        let percent = |percent: u32| (u64::from(nominal) * u64::from(percent) + 50) / 100;
        let lendable = u32::try_from(percent(limits.lendable_percent)).unwrap_or(nominal);
        let borrowed = limits.borrowing_percent.map(|p| u32::try_from(percent(p)).unwrap_or(u32::MAX));
        let changed = state.nominal != nominal;
        state.uid = limits.uid.as_str().into();
        state.exempt = limits.exempt;
        state.nominal = nominal;
        state.least = nominal.saturating_sub(lendable);
        state.most = borrowed.map_or(seats.max(nominal), |b| nominal.saturating_add(b));
        state.limit = if changed { nominal } else { state.limit.clamp(state.least, state.most) };
        state.queuing = limits.queuing.is_some();
        if let Some((count, hand, length)) = limits.queuing {
            state.queues.configure(count, hand, length);
        }
        self.dispatch(&mut state);
    }

    pub(super) fn uid(&self) -> Arc<str> {
        self.state.lock().uid.clone()
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.state.lock().exempt
    }

    /// Reads and changes the level's seats; those who can go on then do.
    pub(super) fn adjust<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.dispatch(&mut state);
        result
    }

    /// Lets a request through without asking.
    pub(super) fn pass(self: &Arc<Self>, width: u32) -> Ticket {
        let mut state = self.state.lock();
        self.seat(&mut state, width);
        drop(state);
        self.ticket(width, None)
    }

    fn seat(&self, state: &mut State, width: u32) {
        state.executing = state.executing.saturating_add(width);
        let waiting = u32::try_from(state.queues.seats()).unwrap_or(u32::MAX);
        state.peak = state.peak.max(state.executing.saturating_add(waiting));
        self.dispatched.fetch_add(1, Ordering::Relaxed);
    }

    fn ticket(self: &Arc<Self>, width: u32, queue: Option<u64>) -> Ticket {
        Ticket { level: self.clone(), width, queue, since: Instant::now(), void: false }
    }

    fn reject(&self, why: Rejected) -> Rejected {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
        why
    }

    /// Takes seats, at once or after a while.
    pub(super) async fn enter(self: &Arc<Self>, flow: u64, width: u32, until: Instant) -> Result<Ticket, Rejected> {
        let (id, wait) = {
            let mut state = self.state.lock();
            // Something that is wider than the level gets the level to itself.
            let fits = state.executing.saturating_add(width.min(state.limit.max(1))) <= state.limit.max(1);
            if fits && state.queues.len() == 0 {
                self.seat(&mut state, width);
                drop(state);
                return Ok(self.ticket(width, None));
            }
            if !state.queuing {
                return Err(self.reject(Rejected::NoSeats));
            }
            let id = state.next_id;
            state.next_id += 1;
            if !state.queues.push(flow, id, width) {
                return Err(self.reject(Rejected::QueueFull));
            }
            let demand = state.executing.saturating_add(u32::try_from(state.queues.seats()).unwrap_or(u32::MAX));
            state.peak = state.peak.max(demand);
            let (go, wait) = oneshot::channel();
            state.waiters.insert(id, go);
            self.dispatch(&mut state);
            (id, wait)
        };
        // Whoever stops waiting leaves the queue; seats that they are given just then come back with the ticket.
        let _waiting = Waiting { level: self, id };
        match tokio::time::timeout_at(until, wait).await {
            Ok(Ok(ticket)) => Ok(ticket),
            _ => Err(self.reject(Rejected::TimedOut)),
        }
    }

    /// Lets those who wait go on, as far as there are seats.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        let all = state.limit.max(1);
        while let Some(next) = state.queues.pop(all.saturating_sub(state.executing), all) {
            let Some(waiter) = state.waiters.remove(&next.id) else { continue };
            self.seat(state, next.width);
            if let Err(mut ticket) = waiter.send(self.ticket(next.width, Some(next.queue))) {
                // It has gone just now. The ticket can't give its seats back itself: we hold the lock.
                ticket.void = true;
                state.executing = state.executing.saturating_sub(next.width);
                state.queues.finished(next.queue, next.width, 0.0);
            }
        }
    }

    fn leave(self: &Arc<Self>, width: u32, queue: Option<u64>, seconds: f64) {
        let mut state = self.state.lock();
        state.executing = state.executing.saturating_sub(width);
        if let Some(queue) = queue {
            state.queues.finished(queue, width, seconds);
        }
        self.dispatch(&mut state);
    }
}

/// A request that waits; when it is given up, nobody waits for it.
struct Waiting<'a> {
    level: &'a Arc<Level>,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.level.state.lock();
        state.waiters.remove(&self.id);
        state.queues.remove(self.id);
    }
}

/// Seats; given back when it is dropped.
pub struct Ticket {
    level: Arc<Level>,
    width: u32,
    queue: Option<u64>,
    since: Instant,
    /// Its seats have been given back.
    void: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.void {
            return;
        }
        self.level.leave(self.width, self.queue, self.since.elapsed().as_secs_f64());
    }
}

/// Counters of levels, in Prometheus' text form.
pub(super) fn render<'a>(levels: impl Iterator<Item = (&'a str, &'a Level)>, out: &mut String) {
    const REASONS: [&str; 3] = ["concurrency-limit", "queue-full", "time-out"];
    for (name, level) in levels {
        let state = level.state.lock();
        let label = format!("{{priority_level=\"{name}\"}}");
        for (metric, value) in [
            ("nominal_limit_seats", u64::from(state.nominal)),
            ("current_limit_seats", u64::from(state.limit)),
            ("current_executing_seats", u64::from(state.executing)),
            ("current_inqueue_requests", state.queues.len() as u64),
            ("dispatched_requests_total", level.dispatched.load(Ordering::Relaxed)),
        ] {
            let _ = writeln!(out, "apiserver_flowcontrol_{metric}{label} {value}");
        }
        for (reason, count) in REASONS.iter().zip(&level.rejected) {
            let count = count.load(Ordering::Relaxed);
            let label = format!("{{priority_level=\"{name}\",reason=\"{reason}\"}}");
            let _ = writeln!(out, "apiserver_flowcontrol_rejected_requests_total{label} {count}");
        }
    }
}
