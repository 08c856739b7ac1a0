//! The queues of a priority level: fair among flows, whatever each of them sends (upstream
//! `flowcontrol/fairqueuing/queueset`). Pure: time is passed in.
//!
//! Each queue has a virtual time at which its next request would begin if all queues were served a little at a time; the
//! queue whose time is the earliest goes first. Serving a request moves its queue's time on by what the request takes:
//! seats times how long.

use std::collections::{BTreeMap, VecDeque};

/// How long a request is taken to last before it is known, in seconds.
const ESTIMATE_SECONDS: f64 = 0.003;

/// Waiting requests, by queue.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// How many queues there are.
    count: u64,
    /// How many of them each flow may use.
    hand: u64,
    /// How many requests a queue holds at most.
    length: usize,
    /// Those that have something in them, or had lately.
    queues: BTreeMap<u64, Queue>,
    waiting: usize,
    waiting_seats: u64,
    /// The virtual time of the request that was served last.
    now: f64,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    seats: u64,
    next: f64,
    executing: usize,
}

#[derive(Debug)]
struct Request {
    id: u64,
    width: u32,
}

/// A request that may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) id: u64,
    pub(super) width: u32,
    pub(super) queue: u64,
}

impl Queues {
    pub(super) fn configure(&mut self, count: u64, hand: u64, length: usize) {
        (self.count, self.hand, self.length) = (count, hand.min(count), length);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// The seats that all who wait ask for.
    pub(super) fn seats(&self) -> u64 {
        self.waiting_seats
    }

    /// The flow's hand: different queues, the same every time. As dealing cards, one after the other from those that
    /// are left.
    fn hand(&self, mut flow: u64) -> Vec<u64> {
        let mut hand: Vec<u64> = Vec::with_capacity(usize::try_from(self.hand).unwrap_or(0));
        for dealt in 0..self.hand {
            let left = self.count - dealt;
            let mut card = flow % left;
            flow /= left;
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            for taken in sorted {
                if card >= taken {
                    card += 1;
                }
            }
            hand.push(card);
        }
        hand
    }

    /// Puts a request into the shortest queue of the flow's hand; `false` if that is full.
    pub(super) fn push(&mut self, flow: u64, id: u64, width: u32) -> bool {
        let load = |queue: &u64| self.queues.get(queue).map_or(0, |q| q.seats + q.executing as u64);
        let Some(chosen) = self.hand(flow).into_iter().min_by_key(load) else { return false };
        let now = self.now;
        let queue = self.queues.entry(chosen).or_default();
        if queue.requests.len() >= self.length {
            return false;
        }
        if queue.requests.is_empty() && queue.executing == 0 {
            queue.next = queue.next.max(now);
        }
        queue.requests.push_back(Request { id, width });
        queue.seats += u64::from(width);
        self.waiting += 1;
        self.waiting_seats += u64::from(width);
        true
    }

    /// The request that goes next, if it asks for at most `free` seats. One that asks for more than there are at all
    /// waits for all of them.
    pub(super) fn pop(&mut self, free: u32, all: u32) -> Option<Next> {
        let candidates = self.queues.iter().filter(|(_, q)| !q.requests.is_empty());
        let (index, _) = candidates.min_by(|(_, a), (_, b)| a.next.total_cmp(&b.next))?;
        let index = *index;
        let queue = self.queues.get_mut(&index)?;
        let width = queue.requests.front()?.width;
        if width.min(all) > free {
            return None;
        }
        let request = queue.requests.pop_front()?;
        self.now = self.now.max(queue.next);
        queue.next += f64::from(request.width) * ESTIMATE_SECONDS;
        queue.seats -= u64::from(request.width);
        queue.executing += 1;
        self.waiting -= 1;
        self.waiting_seats -= u64::from(request.width);
        Some(Next { id: request.id, width: request.width, queue: index })
    }

    /// A request that came from a queue is done; it took so long.
    pub(super) fn finished(&mut self, queue: u64, width: u32, seconds: f64) {
        let Some(own) = self.queues.get_mut(&queue) else { return };
        own.executing = own.executing.saturating_sub(1);
        own.next += f64::from(width) * (seconds - ESTIMATE_SECONDS);
        if own.executing == 0 && own.requests.is_empty() && own.next <= self.now {
            self.queues.remove(&queue);
        }
    }

    /// Takes a request out that will not wait any longer; `false` if it is not there any more.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        for queue in self.queues.values_mut() {
            if let Some(at) = queue.requests.iter().position(|request| request.id == id)
                && let Some(request) = queue.requests.remove(at)
            {
                queue.seats -= u64::from(request.width);
                self.waiting -= 1;
                self.waiting_seats -= u64::from(request.width);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queues(count: u64, hand: u64, length: usize) -> Queues {
        let mut queues = Queues::default();
        queues.configure(count, hand, length);
        queues
    }

    #[test]
    fn a_loud_flow_does_not_starve_a_quiet_one() {
        let mut queues = queues(64, 6, 50);
        for id in 0..100 {
            queues.push(12345, id, 1);
        }
        assert!(queues.push(99, 1000, 1));
        let mut order = Vec::new();
        while let Some(next) = queues.pop(1, 10) {
            order.push(next.id);
        }
        let place = order.iter().position(|id| *id == 1000).unwrap();
        assert!(place <= 6, "behind at most one request of each of the loud flow's queues, but it is at {place}");
        assert_eq!(queues.len(), 0);
    }

    #[test]
    fn what_takes_long_moves_its_queue_back() {
        let mut queues = queues(2, 1, 10);
        let (a, b) = (0, 1);
        for id in 0..3 {
            assert!(queues.push(a, id, 1) && queues.push(b, 10 + id, 1));
        }
        assert_eq!(queues.pop(1, 1).unwrap().id, 0);
        queues.finished(0, 1, 10.0);
        let rest: Vec<u64> = std::iter::from_fn(|| queues.pop(1, 1)).map(|n| n.id).collect();
        assert_eq!(rest, [10, 11, 12, 1, 2]);
    }

    #[test]
    fn full_queues_take_no_more() {
        let mut queues = queues(4, 2, 3);
        assert_eq!((0..10).filter(|id| queues.push(7, *id, 1)).count(), 6);
        assert!(queues.remove(0) && !queues.remove(0));
        assert!(queues.push(7, 20, 1));
    }

    #[test]
    fn wide_requests_wait_for_room() {
        let mut queues = queues(1, 1, 3);
        queues.push(0, 1, 5);
        assert_eq!(queues.pop(4, 10), None);
        assert_eq!(queues.pop(5, 10).unwrap().width, 5);
        queues.push(0, 2, 50);
        assert!(queues.pop(9, 10).is_none() && queues.pop(10, 10).is_some());
    }

    proptest! {
        #[test]
        fn a_hand_has_no_card_twice(flow: u64, count in 1_u64..200, hand in 1_u64..12) {
            let queues = queues(count, hand, 1);
            let dealt = queues.hand(flow);
            let different: std::collections::BTreeSet<_> = dealt.iter().collect();
            prop_assert_eq!(different.len() as u64, hand.min(count));
            prop_assert!(dealt.iter().all(|card| *card < count));
        }

        #[test]
        fn nothing_is_lost(widths in proptest::collection::vec((0_u64..5, 1_u32..4), 0..60)) {
            let mut queues = queues(8, 2, 100);
            for (id, (flow, width)) in widths.iter().enumerate() {
                prop_assert!(queues.push(*flow * 31, id as u64, *width));
            }
            let mut seen: Vec<u64> = std::iter::from_fn(|| queues.pop(3, 3)).map(|n| n.id).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..widths.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!(queues.seats(), 0);
        }
    }
}
