//! Carries writes out on the maps in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use xebec_ebpf_loader::layout::{Addr, Connection, Direction, FlowKey, RuleKey};
use xebec_ebpf_loader::{Counter, Error, Prefix, Prefixes, Table};

use super::rules::Id;
use super::world::{Sets, Tables, Write};

/// The maps that policy writes.
#[expect(missing_docs, reason = "the maps by their names, documented in the layout crate")]
pub struct PolicyMaps {
    pub identities: Table<Addr, [u32; 2]>,
    pub blocks: Prefixes<[u32; 2]>,
    pub rules: Prefixes<u32, RuleKey>,
    pub revision: Counter,
    pub connections: Table<FlowKey, Connection>,
}

/// Puts pods of this node under rule sets.
pub trait Subjects: Send + Sync + 'static {
    /// From now on these sets judge the pod. One that is not connected is no error: it will ask.
    ///
    /// # Errors
    /// If that cannot be written.
    fn put(&self, uid: &str, sets: Sets) -> Result<(), String>;

    /// The uids of connected pods that are under any.
    ///
    /// # Errors
    /// If that cannot be read.
    fn isolated(&self) -> Result<BTreeSet<String>, String>;
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A map.
    #[error(transparent)]
    Map(#[from] Error),
    /// A pod.
    #[error("pod {uid}: {message}")]
    Pod {
        /// Which.
        uid: String,
        /// What happened.
        message: String,
    },
    /// Pods.
    #[error("cannot read which pods are isolated: {0}")]
    Pods(String),
}

impl PolicyMaps {
    /// The writes that make the maps hold what `wanted` says, whatever an earlier agent left there.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn differences(&self, wanted: &Tables, pods: &dyn Subjects) -> Result<Vec<Write>, WriteError> {
        let mut out = Vec::new();
        let rules: BTreeMap<Prefix<RuleKey>, u32> = self.rules.entries()?.into_iter().collect();
        let identities: BTreeMap<Addr, [u32; 2]> = self.identities.entries()?.into_iter().collect();
        let blocks: BTreeMap<Prefix, [u32; 2]> = self.blocks.entries()?.into_iter().collect();
        for ((key, length), verdict) in &wanted.rules {
            if rules.get(&(*key, *length)) != Some(verdict) {
                out.push(Write::PutRule(*key, *length, *verdict));
            }
        }
        for (addr, id) in &wanted.identities {
            if identities.get(addr) != Some(&id.0) {
                out.push(Write::PutIdentity(*addr, *id));
            }
        }
        for ((addr, length), id) in &wanted.blocks {
            if blocks.get(&(*addr, *length)) != Some(&id.0) {
                out.push(Write::PutBlock(*addr, *length, *id));
            }
        }
        out.extend(wanted.subjects.iter().map(|(uid, sets)| Write::PutSubject(uid.clone(), *sets)));
        // Those whose last policy went while no agent was there.
        let free = pods.isolated().map_err(WriteError::Pods)?.into_iter().filter(|u| !wanted.subjects.contains_key(u));
        out.extend(free.map(|uid| Write::PutSubject(uid, Sets::default())));
        let gone = identities.keys().filter(|addr| !wanted.identities.contains_key(addr));
        out.extend(gone.map(|addr| Write::RemoveIdentity(*addr)));
        let gone = blocks.keys().filter(|key| !wanted.blocks.contains_key(key));
        out.extend(gone.map(|(addr, length)| Write::RemoveBlock(*addr, *length)));
        let gone = rules.keys().filter(|key| !wanted.rules.contains_key(key));
        out.extend(gone.map(|(key, length)| Write::RemoveRule(*key, *length)));
        out.push(Write::RaiseRevision);
        Ok(out)
    }

    /// Those of `peers` that pods of this node have connections to, that they have begun and that stand.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn in_use(&self, peers: &BTreeSet<Addr>, now_s: u32) -> Result<BTreeSet<Addr>, WriteError> {
        Ok(peers_in_use(&self.connections.entries()?, peers, now_s))
    }

    /// Carries out one write.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn write(&mut self, write: &Write, pods: &dyn Subjects) -> Result<(), WriteError> {
        match write {
            Write::PutRule(key, length, verdict) => self.rules.insert(*key, *length, verdict)?,
            Write::PutIdentity(addr, Id(id)) => self.identities.insert(addr, id)?,
            Write::PutBlock(addr, length, Id(id)) => self.blocks.insert(*addr, *length, id)?,
            Write::PutSubject(uid, sets) => {
                pods.put(uid, *sets).map_err(|message| WriteError::Pod { uid: uid.clone(), message })?;
            }
            Write::RemoveIdentity(addr) => self.identities.remove(addr)?,
            Write::RemoveBlock(addr, length) => self.blocks.remove(*addr, *length)?,
            Write::RemoveRule(key, length) => self.rules.remove(*key, *length)?,
            Write::RaiseRevision => self.revision.set(self.revision.get()?.wrapping_add(1))?,
        }
        Ok(())
    }
}

fn peers_in_use(all: &[(FlowKey, Connection)], peers: &BTreeSet<Addr>, now_s: u32) -> BTreeSet<Addr> {
    let stands = |key: &FlowKey, entry: &Connection| {
        entry.direction == Direction::Egress as u8
            && now_s.wrapping_sub(entry.last_seen_s) <= entry.idle_limit_s(key.proto)
    };
    // Keys are as the pod sends.
    let used = all.iter().filter(|(key, entry)| peers.contains(&key.dst) && stands(key, entry));
    used.map(|(key, _)| key.dst).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use xebec_ebpf_loader::layout::{Port, flow_flags, proto};

    use super::*;

    /// Only what a pod has begun, and what is not long over.
    #[test]
    fn a_peer_is_in_use_while_a_connection_to_it_stands() {
        let peer = |last: u8| Addr::from(Ipv4Addr::new(192, 0, 2, last));
        let entry = |last: u8, direction: Direction, last_seen_s: u32, flags: u8| {
            let (src, dst) = (Addr::from(Ipv4Addr::new(10, 244, 1, 5)), peer(last));
            let (src_port, dst_port) = (Port::new(40_000), Port::new(443));
            let key = FlowKey { src, dst, src_port, dst_port, proto: proto::TCP, padding: [0; 3] };
            (key, Connection { revision: 7, last_seen_s, direction: direction as u8, flags, padding: 0 })
        };
        let now_s = 100_000;
        let open = flow_flags::REPLIED;
        let all = [
            entry(1, Direction::Egress, now_s - 600, open),
            entry(2, Direction::Ingress, now_s, open),
            entry(3, Direction::Egress, now_s - 600, open | flow_flags::CLOSING),
            entry(4, Direction::Egress, now_s - 90_000, open),
            entry(5, Direction::Egress, now_s, open),
        ];
        let asked: BTreeSet<Addr> = (1..=4).map(peer).collect();
        assert_eq!(peers_in_use(&all, &asked, now_s), BTreeSet::from([peer(1)]));
    }
}
