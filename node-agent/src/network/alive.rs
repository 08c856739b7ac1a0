//! Which nodes are dead.
//!
//! The API takes most of a minute to call a node dead; a load balancer address cannot wait that long for another node to
//! answer for it. So where there are such addresses, the nodes that may answer ask each other whether they live. It is the
//! datapath that is asked and that answers: while a node's agent is away its packets are carried all the same, and its
//! addresses have no reason to move. A node that answered and does not any more counts as silent; one that never did is left
//! to the API's judgement.
//!
//! An answer is taken for its sender's by its source address, no more: who can forge that on the nodes' link can answer ARP
//! in their place anyhow.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use xebec_ebpf_loader::layout::{ALIVE_PORT, ALIVE_QUESTION};

/// How often a node asks, at best.
const INTERVAL: Duration = Duration::from_millis(400);
/// Questions a second that a node may send: with more nodes, each is asked less often.
const QUESTIONS_PER_SECOND: u32 = 250;
/// So many answers may be missed.
const MISSED: u32 = 3;

/// How often to ask so many nodes.
fn pace(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    INTERVAL.max(Duration::from_secs(1).saturating_mul(nodes) / QUESTIONS_PER_SECOND)
}

/// Asks `others` for ever; tells which of them are silent. With nobody to ask it rests.
pub async fn watch_over(
    own: IpAddr,
    mut others: watch::Receiver<BTreeSet<IpAddr>>,
    silent: watch::Sender<BTreeSet<IpAddr>>,
) {
    let socket = match UdpSocket::bind((own, 0)).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "cannot ask other nodes whether they live: load balancer addresses move only when the API calls a node dead");
            return std::future::pending().await;
        }
    };
    let mut heard = Heard::default();
    loop {
        let nodes = others.borrow_and_update().clone();
        heard.keep(&nodes);
        if nodes.is_empty() {
            silent.send_if_modified(|known| !std::mem::take(known).is_empty());
            if others.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        let gone = tokio::select! {
            biased;
            changed = others.changed() => changed.is_err(),
            never = ask_and_listen(&socket, &nodes, &mut heard, &silent) => match never {},
        };
        if gone {
            return std::future::pending().await;
        }
    }
}

async fn ask_and_listen(
    socket: &UdpSocket,
    nodes: &BTreeSet<IpAddr>,
    heard: &mut Heard,
    silent: &watch::Sender<BTreeSet<IpAddr>>,
) -> std::convert::Infallible {
    let pace = pace(nodes.len());
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heard.last_look = Some(Instant::now());
    let mut buffer = [0; 64];
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => Some(received),
            _ = ticks.tick() => None,
        };
        let now = Instant::now();
        heard.forgive_own_absence(now, pace);
        match received {
            Some(received) => heard.take(received, &buffer, nodes, now),
            None => {
                for node in nodes {
                    // A node that cannot be reached is what this is about.
                    let _ = socket.try_send_to(&ALIVE_QUESTION, SocketAddr::from((*node, ALIVE_PORT)));
                }
            }
        }
        let now_silent = heard.silent(now, pace * MISSED);
        silent.send_if_modified(|known| {
            let changed = *known != now_silent;
            for node in now_silent.difference(known) {
                tracing::warn!(%node, "a node has fallen silent: another answers for its load balancer addresses");
            }
            *known = now_silent;
            changed
        });
    }
}

/// When each node was heard last.
#[derive(Debug, Default)]
struct Heard {
    at: BTreeMap<IpAddr, Instant>,
    /// When answers were last looked for.
    last_look: Option<Instant>,
}

impl Heard {
    fn keep(&mut self, nodes: &BTreeSet<IpAddr>) {
        self.at.retain(|node, _| nodes.contains(node));
    }

    fn take(
        &mut self,
        received: io::Result<(usize, SocketAddr)>,
        buffer: &[u8],
        nodes: &BTreeSet<IpAddr>,
        now: Instant,
    ) {
        // An error here is a node's kernel that refuses our question: its datapath is not loaded.
        let Ok((length, from)) = received else { return };
        let ip = from.ip();
        if nodes.contains(&ip) && from.port() == ALIVE_PORT && buffer.get(..length) == Some(&ALIVE_QUESTION[..]) {
            self.at.insert(ip, now);
        }
    }

    /// If it was this agent that was held up, nobody has been silent until now: nobody was asked, and of the answers to
    /// the last questions only some may have been read yet.
    fn forgive_own_absence(&mut self, now: Instant, pace: Duration) {
        let last_look = self.last_look.replace(now);
        if last_look.is_some_and(|last| now.duration_since(last) > pace * 2) {
            self.at.values_mut().for_each(|last| *last = now);
        }
    }

    fn silent(&self, now: Instant, patience: Duration) -> BTreeSet<IpAddr> {
        self.at.iter().filter(|(_, last)| now.duration_since(**last) > patience).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_cluster_is_spoken_to_less_often() {
        assert_eq!(pace(1), INTERVAL);
        assert_eq!(pace(100), INTERVAL);
        assert_eq!(pace(1_000), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_heard_and_is_not_any_more_is_silent_until_it_is_heard_again() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let nodes = BTreeSet::from([a, b]);
        let answer = |from: IpAddr| Ok((ALIVE_QUESTION.len(), SocketAddr::from((from, ALIVE_PORT))));
        let mut heard = Heard::default();
        let begin = Instant::now();
        heard.take(answer(a), &ALIVE_QUESTION, &nodes, begin);
        heard.take(answer([10, 0, 0, 9].into()), &ALIVE_QUESTION, &nodes, begin);
        heard.take(answer(b), b"something else", &nodes, begin);
        let patience = INTERVAL * MISSED;
        assert!(heard.silent(begin + patience, patience).is_empty());
        let later = begin + patience + Duration::from_millis(1);
        assert_eq!(heard.silent(later, patience), BTreeSet::from([a]), "who was never heard is not silent");
        heard.take(answer(a), &ALIVE_QUESTION, &nodes, later);
        assert!(heard.silent(later, patience).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_away_itself_takes_nobody_for_silent() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let nodes = BTreeSet::from([a, b]);
        let answer = |from: IpAddr| Ok((ALIVE_QUESTION.len(), SocketAddr::from((from, ALIVE_PORT))));
        let patience = INTERVAL * MISSED;
        let begin = Instant::now();
        let mut heard = Heard { last_look: Some(begin), ..Heard::default() };
        let mut look = |from: Option<IpAddr>, at: Duration| {
            heard.forgive_own_absence(begin + at, INTERVAL);
            if let Some(from) = from {
                heard.take(answer(from), &ALIVE_QUESTION, &nodes, begin + at);
            }
            heard.silent(begin + at, patience)
        };
        look(Some(a), Duration::ZERO);
        look(Some(b), Duration::ZERO);
        // Of two answers that came meanwhile, one is read before the other.
        let away = patience * 2;
        assert!(look(Some(a), away).is_empty(), "it was this agent that was away");
        assert!(look(Some(b), away).is_empty());
        for pace in 1..=MISSED {
            assert!(look(Some(a), away + INTERVAL * pace).is_empty());
        }
        assert_eq!(look(Some(a), away + INTERVAL * (MISSED + 1)), BTreeSet::from([b]), "and this time it was not");
    }
}
