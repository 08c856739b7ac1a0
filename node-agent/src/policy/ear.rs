//! What the node's DNS server hears, told to those who enforce policies: an answer that a rule is about goes to its client
//! when the kernel lets the client reach what is in it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::rr::{Name, RData, Record};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use super::domains::{Found, Patterns, plain};

/// How long an answer waits for the kernel; clients ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Messages that may wait at once.
const WAITING_MAX: usize = 1_024;

/// Who is told of names. Clones are the same.
#[derive(Clone, Debug)]
pub struct Ear {
    wanted: Wanted,
    sender: mpsc::Sender<Message>,
}

/// The names that rules are about.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// None while policies are not known.
    patterns: Arc<RwLock<Option<Patterns>>>,
    /// Whether there are any: to ask costs nothing where there are none.
    some: Arc<AtomicBool>,
}

/// What is told and asked.
#[derive(Debug)]
pub(super) enum Message {
    /// A lookup, and who waits for the kernel to know.
    Heard(Found, oneshot::Sender<()>),
    /// What is known: of all, and of an address.
    Asked(Option<IpAddr>, oneshot::Sender<Known>),
}

/// What is known of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Those that led to the address that was asked about.
    pub names: Vec<String>,
    /// Pairs of a name and an address.
    pub pairs: usize,
    /// Pairs that were refused because there were too many.
    pub refused: u64,
}

/// What [`super::run`] hears by, and the file that it remembers it in.
#[derive(Debug)]
pub struct Lookups {
    pub(super) receiver: mpsc::Receiver<Message>,
    pub(super) journal: PathBuf,
    wanted: Wanted,
}

impl Lookups {
    /// From now on these names are told.
    pub(super) fn want(&self, patterns: Patterns) {
        let is_some = !patterns.is_empty();
        *self.wanted.patterns.write() = Some(patterns);
        self.wanted.some.store(is_some, Ordering::Release);
    }
}

impl Ear {
    /// An ear, and who hears by it.
    pub fn new(journal: PathBuf) -> (Self, Lookups) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let wanted = Wanted::default();
        (Self { wanted: wanted.clone(), sender }, Lookups { receiver, journal, wanted })
    }

    /// One that nobody hears by, for a DNS server without policies.
    pub fn deaf() -> Self {
        let (ear, lookups) = Self::new(PathBuf::new());
        lookups.want(Patterns::default());
        ear
    }

    /// Whether a rule is about a name, on the wire.
    pub fn wants(&self, name: &[u8]) -> bool {
        self.wanted.some.load(Ordering::Acquire)
            && plain(labels(name)).is_some_and(|name| {
                self.wanted.patterns.read().as_ref().is_some_and(|patterns| patterns.matches(&name))
            })
    }

    /// Tells of the addresses that were found for a name. Returns when clients may reach them, or when that takes too long.
    pub async fn hear(&self, name: &Name, records: &[Record]) {
        let address = |record: &Record| match &record.data {
            RData::A(a) => Some((IpAddr::V4(a.0), record.ttl)),
            RData::AAAA(aaaa) => Some((IpAddr::V6(aaaa.0), record.ttl)),
            _ => None,
        };
        let addresses: Vec<(IpAddr, u32)> = records.iter().filter_map(address).collect();
        if addresses.is_empty() {
            return;
        }
        let Some(name) = plain(name.iter()) else { return };
        let waits = match &*self.wanted.patterns.read() {
            // Nobody knows yet whether it matters: kept until then.
            None => false,
            Some(patterns) if patterns.matches(&name) => true,
            Some(_) => return,
        };
        let (done, known) = oneshot::channel();
        let message = Message::Heard(Found { name, addresses }, done);
        if !waits {
            // Too many lookups before policies are known: those are made again.
            drop(self.sender.try_send(message));
            return;
        }
        let tell = async {
            self.sender.send(message).await.ok()?;
            known.await.ok()
        };
        if tokio::time::timeout(PATIENCE, tell).await.is_err() {
            tracing::warn!("an answer goes to its client before the kernel lets it reach what is in it");
        }
    }

    /// What is known; nothing where nobody answers.
    pub async fn known(&self, of: Option<IpAddr>) -> Known {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.sender.send(Message::Asked(of, answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, ask).await.ok().flatten().unwrap_or_default()
    }
}

/// The labels of a name on the wire, without its root.
fn labels(mut name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = name.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length)).filter(|(label, _)| !label.is_empty())?;
        name = rest;
        Some(label)
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::super::domains::Pattern;
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        let read: Vec<Pattern> = texts.iter().map(|text| Pattern::read(text).unwrap()).collect();
        read.iter().collect()
    }

    #[test]
    fn names_on_the_wire_are_told_apart() {
        let (ear, lookups) = Ear::new(PathBuf::new());
        let wire = b"\x03www\x07example\x03com\0";
        assert!(!ear.wants(wire), "nothing is known");
        lookups.want(patterns(&["*.example.com"]));
        assert!(ear.wants(wire));
        assert!(!ear.wants(b"\x07example\x03com\0"));
        assert!(!ear.wants(b"\x0bwww.example\x03com\0"), "one label");
        assert!(!ear.wants(b"\x09www") && !ear.wants(b""));
        lookups.want(Patterns::default());
        assert!(!ear.wants(wire));
    }

    /// The name that was asked for counts, whatever aliases it has; who asks waits until it is taken in.
    #[tokio::test]
    async fn an_answer_waits_until_its_addresses_are_known() {
        let (ear, mut lookups) = Ear::new(PathBuf::new());
        let name = Name::from_utf8("WWW.example.com.").unwrap();
        let target = Name::from_utf8("cdn.example.net.").unwrap();
        let records = [
            Record::from_rdata(name.clone(), 300, RData::CNAME(CNAME(target.clone()))),
            Record::from_rdata(target.clone(), 30, RData::A(A("192.0.2.7".parse().unwrap()))),
        ];
        let expected = Found { name: "www.example.com".into(), addresses: vec![("192.0.2.7".parse().unwrap(), 30)] };

        // While policies are not known, nobody waits and nothing is lost.
        ear.hear(&name, &records).await;
        let Some(Message::Heard(found, _)) = lookups.receiver.recv().await else { panic!("nothing was heard") };
        assert_eq!(found, expected);

        lookups.want(patterns(&["www.example.com"]));
        ear.hear(&target, &records).await;
        ear.hear(&name, &records[..1]).await;
        assert!(lookups.receiver.try_recv().is_err(), "no rule is about it, and an alias alone is no address");
        let (other, own) = (ear.clone(), records.clone());
        let waiting = tokio::spawn(async move { other.hear(&name, &own).await });
        let Some(Message::Heard(found, done)) = lookups.receiver.recv().await else { panic!("nothing was heard") };
        assert_eq!(found, expected);
        assert!(!waiting.is_finished());
        done.send(()).unwrap();
        waiting.await.unwrap();
    }
}
