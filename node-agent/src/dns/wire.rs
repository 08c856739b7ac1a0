//! Questions and answers as bytes, without a parser's costs: what a plain question asks, and an answer that was made
//! once and is copied for each who asks the same.
//!
//! What is not plain (RFC 1035 4.1, with at most an OPT record of RFC 6891) is the slow path's.

/// Of a message's head.
pub const HEADER_BYTES: usize = 12;
/// The largest UDP answer that we send (DNS Flag Day 2020: it fits one packet on any link).
pub const UDP_PAYLOAD_BYTES: u16 = 1232;
/// What a client takes that does not say (RFC 1035 4.2.1).
const UDP_PAYLOAD_DEFAULT: u16 = 512;
/// The longest name, with its root label.
const NAME_BYTES_MAX: usize = 255;
/// An OPT record without options.
const OPT: [u8; 11] = {
    let size = UDP_PAYLOAD_BYTES.to_be_bytes();
    [0, 0, 41, size[0], size[1], 0, 0, 0, 0, 0, 0]
};
/// NXDOMAIN.
const NOT_FOUND: u8 = 3;

/// A name in lower case as on the wire, and the type asked for: what answers are known by.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; NAME_BYTES_MAX + 2],
    length: usize,
}

impl Key {
    /// As bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The name, as on the wire.
    pub fn name(&self) -> &[u8] {
        &self.bytes[..self.length - 2]
    }
}

/// A plain question.
pub struct Question<'a> {
    packet: &'a [u8],
    /// What is asked.
    pub key: Key,
    /// The type asked for.
    pub kind: u16,
    /// Where the question ends in the packet.
    end: usize,
    /// What an answer may have, in bytes, by UDP; none: the client speaks no EDNS.
    payload: Option<u16>,
}

/// Reads a packet; none if it is anything but one plain question.
pub fn parse(packet: &[u8]) -> Option<Question<'_>> {
    let head = packet.get(..HEADER_BYTES)?;
    // A question, opcode QUERY, not truncated; one question, nothing else but perhaps an OPT record.
    let plain = head[2] & 0xfa == 0 && head[4..11] == [0, 1, 0, 0, 0, 0, 0] && head[11] <= 1;
    if !plain {
        return None;
    }
    let (mut bytes, mut length) = ([0; NAME_BYTES_MAX + 2], 0);
    loop {
        let label = usize::from(*packet.get(HEADER_BYTES + length)?);
        if label > 63 || length + label + 1 > NAME_BYTES_MAX {
            return None;
        }
        let from = packet.get(HEADER_BYTES + length..=HEADER_BYTES + length + label)?;
        let to = &mut bytes[length..=length + label];
        to.copy_from_slice(from);
        to[1..].make_ascii_lowercase();
        length += label + 1;
        if label == 0 {
            break;
        }
    }
    let rest = &packet[HEADER_BYTES + length..];
    let (&kind, rest) = rest.split_first_chunk::<2>()?;
    let (class, rest) = rest.split_first_chunk::<2>()?;
    if *class != [0, 1] {
        return None;
    }
    bytes[length..length + 2].copy_from_slice(&kind);
    let payload = if head[11] == 0 { if rest.is_empty() { None } else { return None } } else { Some(opt(rest)?) };
    let key = Key { bytes, length: length + 2 };
    Some(Question { packet, key, kind: u16::from_be_bytes(kind), end: HEADER_BYTES + length + 4, payload })
}

/// The payload size of an OPT record of version 0, which must be all that is left.
fn opt(rest: &[u8]) -> Option<u16> {
    let (record, options) = rest.split_first_chunk::<11>()?;
    let [0, 0, 41, size_high, size_low, 0, 0, _, _, length_high, length_low] = *record else { return None };
    if options.len() != usize::from(u16::from_be_bytes([length_high, length_low])) {
        return None;
    }
    Some(u16::from_be_bytes([size_high, size_low]))
}

/// An answer without its head and question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The response code.
    pub code: u8,
    /// Whether we are the authority.
    pub authoritative: bool,
    /// Whether names outside can be asked for.
    pub recursion: bool,
    /// How many records each section has: answer, authority, additional.
    pub counts: [u16; 3],
    /// All records. Their pointers count from the head of the message.
    pub records: Vec<u8>,
    /// The size of each answer if all have the same and their order says nothing; else 0.
    pub stride: usize,
}

impl Prepared {
    /// Whether the name does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == NOT_FOUND
    }

    /// Writes the answer to `question`. Of several addresses, that number `turn` comes first.
    pub fn write(&self, question: &Question<'_>, turn: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&question.packet[..question.end]);
        let asked = question.packet;
        let limit = question.payload.unwrap_or(0).clamp(UDP_PAYLOAD_DEFAULT, UDP_PAYLOAD_BYTES);
        let room = usize::from(limit) - question.end - question.payload.map_or(0, |_| OPT.len());
        let (mut counts, truncated) = (self.counts, self.records.len() > room);
        if truncated {
            // As many answers as fit, if they are alike.
            counts = [room.checked_div(self.stride).map_or(0, |fit| fit.min(self.counts[0].into())) as u16, 0, 0];
        }
        let answers = usize::from(self.counts[0]);
        if self.stride > 0 && answers > 0 {
            let split = (turn % answers) * self.stride;
            let (first, last) = self.records[..answers * self.stride].split_at(split);
            out.extend_from_slice(last);
            out.extend_from_slice(first);
            if truncated {
                out.truncate(question.end + usize::from(counts[0]) * self.stride);
            } else {
                out.extend_from_slice(&self.records[answers * self.stride..]);
            }
        } else if !truncated {
            out.extend_from_slice(&self.records);
        }
        if question.payload.is_some() {
            out.extend_from_slice(&OPT);
            counts[2] += 1;
        }
        // QR, AA, TC, RD as asked; RA, CD as asked, the code.
        out[2] = 0x80 | u8::from(self.authoritative) << 2 | u8::from(truncated) << 1 | asked[2] & 1;
        out[3] = u8::from(self.recursion) << 7 | asked[3] & 0x10 | self.code;
        for (section, count) in counts.iter().enumerate() {
            out[6 + 2 * section..8 + 2 * section].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Cuts an answer that is too large for UDP down to its question (RFC 2181 section 9), keeping a last OPT record.
pub fn limit(answer: &mut Vec<u8>, question: &[u8]) {
    let Some(question) = parse(question) else { return };
    let limit = question.payload.unwrap_or(0).clamp(UDP_PAYLOAD_DEFAULT, UDP_PAYLOAD_BYTES);
    if answer.len() <= usize::from(limit) {
        return;
    }
    answer.truncate(question.end);
    answer[2] |= 2;
    answer[6..HEADER_BYTES].fill(0);
    if question.payload.is_some() {
        answer.extend_from_slice(&OPT);
        answer[11] = 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
        let mut out = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())];
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        if let Some(payload) = payload {
            out.extend([0, 0, 41]);
            out.extend(payload.to_be_bytes());
            out.extend([0; 6]);
        }
        out
    }

    fn addresses(count: u8) -> Prepared {
        let one = |i| [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, i];
        Prepared {
            authoritative: true,
            counts: [count.into(), 0, 0],
            records: (0..count).flat_map(one).collect(),
            stride: 16,
            ..Prepared::default()
        }
    }

    #[test]
    fn case_is_kept_in_the_answer_and_ignored_in_the_key() {
        let packet = question("WeB.Shop.svc", 1, None);
        let question = parse(&packet).unwrap();
        assert_eq!(question.key.name(), b"\x03web\x04shop\x03svc\0");
        let mut out = Vec::new();
        addresses(2).write(&question, 1, &mut out);
        assert_eq!(out[..HEADER_BYTES], [7, 9, 0x85, 0, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(out[HEADER_BYTES..question.end], packet[HEADER_BYTES..]);
        assert_eq!((out[question.end + 15], out[question.end + 31]), (1, 0), "the other one first");
    }

    #[test]
    fn what_is_too_large_is_cut() {
        let (mut out, many) = (Vec::new(), addresses(100));
        for (payload, size, most) in [(None, 512, 30), (Some(0), 512, 29), (Some(4096), 1232, 74)] {
            let packet = question("peers.shop.svc", 1, payload);
            many.write(&parse(&packet).unwrap(), 99, &mut out);
            assert!(out.len() <= size, "{}", out.len());
            assert_eq!(out[2] & 2, 2, "truncated");
            assert_eq!((out[7], out[11]), (most, u8::from(payload.is_some())));
        }
        let packet = question("peers.shop.svc", 1, Some(4096));
        let mut large = packet.clone();
        large.resize(3000, 1);
        limit(&mut large, &packet);
        assert_eq!((large.len(), large[2] & 2, large[11]), (packet.len(), 2, 1));
    }

    #[test]
    fn odd_packets_are_not_plain() {
        let good = question("web.shop.svc", 28, Some(1232));
        assert_eq!(parse(&good).unwrap().kind, 28);
        for at in [2, 5, 7, 9, 11] {
            let mut odd = good.clone();
            odd[at] |= 0x82;
            assert!(parse(&odd).is_none(), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_none(), "{length} bytes");
        }
        let pointer = [&good[..HEADER_BYTES], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert!(parse(&pointer).is_none());
    }

    proptest! {
        #[test]
        fn anything_can_be_read(packet in prop::collection::vec(any::<u8>(), 0..600), count in 0..200_u8, turn in 0..300_usize) {
            let mut plain = question("a.b", 1, None);
            plain.truncate(HEADER_BYTES);
            plain.extend(&packet);
            for packet in [packet, plain] {
                if let Some(question) = parse(&packet) {
                    let mut out = Vec::new();
                    addresses(count).write(&question, turn, &mut out);
                    prop_assert!(out.len() <= 1232);
                }
            }
        }
    }
}
