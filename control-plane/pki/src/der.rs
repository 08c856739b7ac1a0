//! The little DER that a certificate needs (X.690, RFC 5280): enough to sign a request with its subject, key and
//! names copied byte for byte, which a decoded form would not survive.

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `BOOLEAN TRUE`.
pub(crate) const TRUE: &[u8] = &[0x01, 0x01, 0xff];
/// ecdsa-with-SHA256 (1.2.840.10045.4.3.2), as an `AlgorithmIdentifier`.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// commonName (2.5.4.3).
pub(crate) const OID_COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// organizationName (2.5.4.10).
pub(crate) const OID_ORGANIZATION: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x0a];
/// keyUsage (2.5.29.15).
pub(crate) const OID_KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0f];
/// subjectAltName (2.5.29.17).
pub(crate) const OID_SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
/// basicConstraints (2.5.29.19).
pub(crate) const OID_BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
/// authorityKeyIdentifier (2.5.29.35).
pub(crate) const OID_AUTHORITY_KEY: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
/// extKeyUsage (2.5.29.37).
pub(crate) const OID_EXTENDED_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];
/// id-kp-serverAuth (1.3.6.1.5.5.7.3.1).
pub(crate) const OID_SERVER_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
/// id-kp-clientAuth (1.3.6.1.5.5.7.3.2).
pub(crate) const OID_CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// A tag, the length and the content, which is given in parts.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
        out.push(0x80 | significant.len() as u8);
        out.extend_from_slice(significant);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A positive INTEGER from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().take_while(|b| **b == 0).count().min(bytes.len().saturating_sub(1));
    let bytes = &bytes[start..];
    if bytes.first().is_some_and(|b| b & 0x80 != 0) { tlv(INTEGER, &[&[0], bytes]) } else { tlv(INTEGER, &[bytes]) }
}

/// A BIT STRING of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// A point in time: UTCTime until 2049, GeneralizedTime after it (RFC 5280 section 4.1.2.5).
pub(crate) fn time(at: Timestamp) -> Vec<u8> {
    let t = at.to_zoned(TimeZone::UTC);
    let rest = format!("{:02}{:02}{:02}{:02}{:02}Z", t.month(), t.day(), t.hour(), t.minute(), t.second());
    if (1950..2050).contains(&t.year()) {
        tlv(UTC_TIME, &[format!("{:02}", t.year() % 100).as_bytes(), rest.as_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[format!("{:04}", t.year()).as_bytes(), rest.as_bytes()])
    }
}

/// A distinguished name: the organisations, then the common name, each in a set of its own as Go's `pkix` writes it.
pub(crate) fn name(common_name: &str, organizations: &[&str]) -> Vec<u8> {
    let attribute = |oid: &[u8], text: &str| {
        let value = tlv(UTF8_STRING, &[text.as_bytes()]);
        tlv(SET, &[&tlv(SEQUENCE, &[oid, &value])])
    };
    let mut parts: Vec<Vec<u8>> = organizations.iter().map(|o| attribute(OID_ORGANIZATION, o)).collect();
    parts.push(attribute(OID_COMMON_NAME, common_name));
    tlv(SEQUENCE, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// A certificate extension.
pub(crate) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let value = tlv(OCTET_STRING, &[value]);
    tlv(SEQUENCE, &[oid, if critical { TRUE } else { &[] }, &value])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_short_or_the_long_form() {
        assert_eq!(tlv(OCTET_STRING, &[b"ab", b"c"]), b"\x04\x03abc");
        assert_eq!(tlv(OCTET_STRING, &[&[7; 200]])[..3], [0x04, 0x81, 200]);
        assert_eq!(tlv(OCTET_STRING, &[&[7; 300]])[..4], [0x04, 0x82, 1, 44]);
    }

    #[test]
    fn integers_stay_positive_and_minimal() {
        assert_eq!(unsigned(&[0, 0, 0x7f]), [0x02, 1, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [0x02, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0, 0]), [0x02, 1, 0]);
    }

    #[test]
    fn times_change_form_in_2050() {
        assert_eq!(time("2049-12-31T23:59:59Z".parse().unwrap()), b"\x17\x0d491231235959Z");
        assert_eq!(time("2050-01-01T00:00:00Z".parse().unwrap()), b"\x18\x0f20500101000000Z");
    }
}
