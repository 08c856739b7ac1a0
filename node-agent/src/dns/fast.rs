//! The short way of a UDP question: an answer from the zone that was given before, or is made and kept now. Each thread
//! has its own, so that nothing is locked.

use std::collections::HashMap;
use std::net::SocketAddr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::Names;
use super::autopath::Clients;
use super::wire::{HEADER_BYTES, Prepared, parse};
use super::zone::Found;
use crate::policy::Ear;

/// Answers that a thread keeps at most; then it begins anew.
const KEPT_MAX: usize = 4_096;

/// One thread's answers.
pub struct Fast {
    names: Names,
    clients: Clients,
    ear: Ear,
    recursion: bool,
    kept: HashMap<Box<[u8]>, Prepared>,
    /// Of which state of the zone they are.
    generation: u64,
    turn: usize,
}

impl Fast {
    /// None kept yet. `recursion`: whether names outside can be asked for.
    pub fn new(names: Names, clients: Clients, ear: Ear, recursion: bool) -> Self {
        Self { names, clients, ear, recursion, kept: HashMap::new(), generation: 0, turn: 0 }
    }

    /// Writes the answer, if it can be given here.
    pub fn answer(&mut self, packet: &[u8], from: SocketAddr, out: &mut Vec<u8>) -> bool {
        let Some(question) = parse(packet) else { return false };
        if self.ear.wants(question.key.name()) {
            return false;
        }
        let generation = self.names.generation();
        if generation != self.generation || self.kept.len() >= KEPT_MAX {
            self.kept.clear();
            self.generation = generation;
        }
        self.turn = self.turn.wrapping_add(1);
        let key = question.key.as_bytes();
        if !self.kept.contains_key(key) {
            let Some(prepared) = self.prepare(question.key.name(), question.kind) else { return false };
            self.kept.insert(key.into(), prepared);
        }
        let Some(prepared) = self.kept.get(key) else { return false };
        // It may be a name that the client is searching for.
        if prepared.is_not_found() && self.recursion && self.clients.searches(from.ip(), question.key.name()) {
            return false;
        }
        prepared.write(&question, self.turn, out);
        true
    }

    /// The zone's answer; none if it is not the zone's alone to give.
    fn prepare(&self, name: &[u8], kind: u16) -> Option<Prepared> {
        let name = Name::read(&mut BinDecoder::new(name)).ok()?;
        let kind = RecordType::from(kind);
        let (code, answers, authority, additionals) = match self.names.lookup(&LowerName::from(&name), kind, 0) {
            Found::Records { answers, additionals } => (ResponseCode::NoError, answers, Vec::new(), additionals),
            Found::NoData => (ResponseCode::NoError, Vec::new(), vec![self.names.soa()], Vec::new()),
            Found::NotFound => (ResponseCode::NXDomain, Vec::new(), vec![self.names.soa()], Vec::new()),
            Found::Alias(..) | Found::Elsewhere => return None,
        };
        let counts = [answers.len(), authority.len(), additionals.len()].map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        let stride = stride(&answers);
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(Query::query(name.clone(), kind));
        message.add_answers(answers).add_authorities(authority).add_additionals(additionals);
        let bytes = message.to_vec().ok()?;
        let records = bytes.get(HEADER_BYTES + question_bytes(&name)..)?.to_vec();
        // The encoder gave up compressing, or cut: then their order stays.
        let stride = if records.len() >= stride * usize::from(counts[0]) { stride } else { 0 };
        Some(Prepared {
            code: u8::try_from(u16::from(code)).ok()?,
            authoritative: true,
            recursion: self.recursion,
            counts,
            records,
            stride,
        })
    }
}

fn question_bytes(name: &Name) -> usize {
    name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4
}

/// The size on the wire of each of these, if they are addresses of one name: a pointer to the question's name, type,
/// class, TTL, length, address.
fn stride(answers: &[Record]) -> usize {
    const FIXED: usize = 2 + 2 + 2 + 4 + 2;
    if answers.len() > 1 && answers.iter().all(|r| matches!(r.data, RData::A(_))) {
        FIXED + 4
    } else if answers.len() > 1 && answers.iter().all(|r| matches!(r.data, RData::AAAA(_))) {
        FIXED + 16
    } else {
        0
    }
}
