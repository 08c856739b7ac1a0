//! The long way of a question: the zone, aliases, searches, and names outside.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use xebec_clock::Random;

use super::Names;
use super::autopath::Clients;
use super::forward::Forwarder;
use super::wire::{UDP_PAYLOAD_BYTES, limit};
use super::zone::{Found, TTL_S};
use crate::policy::Ear;

/// What is sent back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The response code.
    pub code: ResponseCode,
    /// Whether we are the authority.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section.
    pub additionals: Vec<Record>,
}

impl Answer {
    /// Without records.
    pub fn of(code: ResponseCode, authoritative: bool) -> Self {
        Self { code, authoritative, answers: Vec::new(), authority: Vec::new(), additionals: Vec::new() }
    }
}

/// Answers everything. Clones share what they know.
#[derive(Clone)]
pub struct Answerer {
    /// The cluster's own names.
    pub names: Names,
    /// All others.
    pub forwarder: Forwarder,
    /// Who asks, and where they search.
    pub clients: Clients,
    /// For the order of addresses.
    pub random: Random,
    /// Who lets clients reach the addresses that they are told.
    pub ear: Ear,
}

impl Answerer {
    /// The answer to a question of `client`.
    pub async fn answer(&self, client: IpAddr, name: &Name, kind: RecordType) -> Answer {
        let first = self.resolve(name, kind).await;
        if first.code != ResponseCode::NXDomain {
            return first;
        }
        let mut last = None;
        for next in self.clients.next(client, name) {
            let found = self.resolve(&next, kind).await;
            if found.code == ResponseCode::NoError {
                let alias = Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(next)));
                let mut answers = vec![alias];
                answers.extend(found.answers);
                return Answer { answers, ..found };
            }
            last = Some(found);
        }
        // Whether the name as it was meant exists may not be known: that must not look as if it did not.
        match last {
            Some(last) if last.code != ResponseCode::NXDomain => Answer { authority: Vec::new(), ..last },
            _ => first,
        }
    }

    async fn resolve(&self, name: &Name, kind: RecordType) -> Answer {
        let answer = self.find(name, kind).await;
        self.ear.hear(name, &answer.answers).await;
        answer
    }

    async fn find(&self, name: &Name, kind: RecordType) -> Answer {
        match self.names.lookup(&LowerName::from(name), kind, self.random.next_u64()) {
            Found::Records { answers, additionals } => {
                Answer { answers, additionals, ..Answer::of(ResponseCode::NoError, true) }
            }
            Found::NoData => self.negative(ResponseCode::NoError),
            Found::NotFound => self.negative(ResponseCode::NXDomain),
            Found::Elsewhere => self.forwarder.ask(name.clone(), kind).await,
            Found::Alias(record, _) if kind == RecordType::CNAME => {
                Answer { answers: vec![*record], ..Answer::of(ResponseCode::NoError, true) }
            }
            Found::Alias(record, target) => {
                let mut answer = self.find_alias(&target, kind).await;
                // Whoever may reach the target may do so by another name for it.
                self.ear.hear(&target, &answer.answers).await;
                answer.answers.insert(0, *record);
                answer
            }
        }
    }

    /// An alias may point back into the cluster: one step is followed here, the client follows further ones.
    async fn find_alias(&self, target: &Name, kind: RecordType) -> Answer {
        match self.names.lookup(&LowerName::from(target.clone()), kind, self.random.next_u64()) {
            Found::Elsewhere => self.forwarder.ask(target.clone(), kind).await,
            Found::Records { answers, .. } => Answer { answers, ..Answer::of(ResponseCode::NoError, true) },
            Found::Alias(record, _) => Answer { answers: vec![*record], ..Answer::of(ResponseCode::NoError, true) },
            Found::NoData | Found::NotFound => Answer::of(ResponseCode::NoError, true),
        }
    }

    fn negative(&self, code: ResponseCode) -> Answer {
        Answer { authority: vec![self.names.soa()], ..Answer::of(code, true) }
    }

    /// The answer to a datagram; none if it is not worth one.
    pub async fn datagram(&self, packet: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        let request = match Message::from_vec(packet) {
            Ok(request) => request,
            // With a head, what is wrong can be said.
            Err(_) => return form_error(packet),
        };
        let [query] = &request.queries[..] else { return form_error(packet) };
        let answer = if request.metadata.op_code != OpCode::Query {
            Answer::of(ResponseCode::NotImp, false)
        } else if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            Answer::of(ResponseCode::BADVERS, false)
        } else {
            self.answer(from.ip(), query.name(), query.query_type()).await
        };
        let mut bytes = self.message(&request, query.clone(), answer).to_vec().ok()?;
        limit(&mut bytes, packet);
        Some(bytes)
    }

    fn message(&self, request: &Message, query: Query, answer: Answer) -> Message {
        let mut message = Message::response(request.metadata.id, request.metadata.op_code);
        message.metadata = Metadata::response_from_request(&request.metadata);
        message.metadata.authoritative = answer.authoritative;
        message.metadata.response_code = answer.code;
        message.metadata.recursion_available = self.forwarder.recursion();
        message.add_query(query);
        message.add_answers(answer.answers).add_authorities(answer.authority).add_additionals(answer.additionals);
        if request.edns.is_some() {
            message.set_edns(edns());
        }
        message
    }
}

/// What we say of ourselves.
pub fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_BYTES).set_version(0);
    edns
}

/// FORMERR to a question that has a head; an answer gets none, or two servers would talk for ever.
fn form_error(packet: &[u8]) -> Option<Vec<u8>> {
    let mut head = packet.get(..super::wire::HEADER_BYTES)?.to_vec();
    if head[2] & 0x80 != 0 {
        return None;
    }
    head[2] |= 0x80;
    head[3] = 1;
    head[4..].fill(0);
    Some(head)
}
