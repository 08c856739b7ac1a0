//! What is stored: the value, encrypted, and how its key is had.

use std::collections::BTreeMap;

use prost::Message;
use ring::hkdf::{HKDF_SHA256, Prk};
use xebec_clock::Random;

use super::super::provider::Cipher;

/// How many bytes a seed has, and what is random of each value's key.
pub(super) const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;

/// The value is encrypted with the key that is kept: how it was done until 1.28.
const KEY_TYPE: i32 = 0;
/// It is encrypted with a key that is derived from the seed that is kept (`HKDF_SHA256_XNONCE_AES_GCM_SEED`).
pub(super) const SEED_TYPE: i32 = 1;

const MAX_SOURCE_BYTES: usize = 1024;
const MAX_KEY_ID_BYTES: usize = 1024;
const MAX_ANNOTATIONS_BYTES: usize = 32 * 1024;

/// What is stored, after the provider's prefix (`k8s.io/kms/apis/v2`, `EncryptedObject`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub source_type: i32,
}

/// What is wrong with the name of a key.
pub(super) fn check_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".into()),
        length if length > MAX_KEY_ID_BYTES => {
            Err(format!("keyID is {length} bytes, which exceeds the max size of {MAX_KEY_ID_BYTES}"))
        }
        _ => Ok(()),
    }
}

impl EncryptedObject {
    pub(super) fn read(stored: &[u8]) -> Result<Self, String> {
        let object = Self::decode(stored).map_err(|error| error.to_string())?;
        if object.encrypted_data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        object.check()?;
        Ok(object)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        self.encode(out).map_err(|error| error.to_string())
    }

    /// What is wrong with it, its data left aside.
    pub(super) fn check(&self) -> Result<(), String> {
        if !matches!(self.source_type, KEY_TYPE | SEED_TYPE) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        let source = match self.encrypted_source.len() {
            0 => Err("encrypted DEK source is empty".to_owned()),
            length if length > MAX_SOURCE_BYTES => {
                Err(format!("encrypted DEK source is {length} bytes, which exceeds the max size of {MAX_SOURCE_BYTES}"))
            }
            _ => Ok(()),
        };
        source.map_err(|why| format!("failed to validate encrypted DEK source: {why}"))?;
        check_key_id(&self.key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        self.check_annotations().map_err(|why| format!("failed to validate annotations: {why}"))
    }

    fn check_annotations(&self) -> Result<(), String> {
        for key in self.annotations.keys() {
            check_domain(key)?;
        }
        let total: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if total > MAX_ANNOTATIONS_BYTES {
            return Err(format!(
                "total size of annotations is {total}, which exceeds the max size of {MAX_ANNOTATIONS_BYTES}"
            ));
        }
        Ok(())
    }
}

/// Whether a key is a domain name of at least two labels.
fn check_domain(name: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| plain(b) || b == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
    };
    let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    if !labels.iter().all(|label| is_label(label)) {
        return Err(format!(
            "annotations: Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character"
        ));
    }
    if labels.len() < 2 {
        return Err(format!(
            "annotations: Invalid value: {name:?}: should be a domain with at least two segments separated by dots"
        ));
    }
    Ok(())
}

/// What values are encrypted with.
pub(super) enum Dek {
    /// A key of AES-GCM.
    Key(Vec<u8>),
    /// What such keys are derived from, each with random bytes of its own.
    Seed(Prk),
}

impl Dek {
    pub(super) fn new(source_type: i32, source: Vec<u8>) -> Result<Self, String> {
        if source_type != SEED_TYPE {
            if !Cipher::AesGcm.lengths().contains(&source.len()) {
                return Err(format!("crypto/aes: invalid key size {}", source.len()));
            }
            return Ok(Self::Key(source));
        }
        if source.len() < SEED_BYTES {
            return Err(format!("invalid seed length {} used for key generation", source.len()));
        }
        Ok(Self::Seed(Prk::new_less_safe(HKDF_SHA256, &source)))
    }

    pub(super) fn seal(&self, context: &str, plain: &[u8], random: &Random) -> Result<Vec<u8>, String> {
        let why = || "the value cannot be encrypted".to_owned();
        match self {
            Self::Key(key) => Cipher::AesGcm.seal(key, context, plain, random).ok_or_else(why),
            Self::Seed(seed) => {
                let mut out = vec![0; INFO_BYTES];
                random.fill(&mut out);
                let key = derive(seed, &out)?;
                out.extend(Cipher::AesGcm.seal(&key, context, plain, random).ok_or_else(why)?);
                Ok(out)
            }
        }
    }

    pub(super) fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let why = || "the value is damaged, or its key is not the one it was written with".to_owned();
        match self {
            Self::Key(key) => Cipher::AesGcm.open(key, context, sealed).ok_or_else(why),
            Self::Seed(seed) => {
                if sealed.len() < INFO_BYTES {
                    return Err("the stored data was shorter than the required size".into());
                }
                let (info, sealed) = sealed.split_at(INFO_BYTES);
                Cipher::AesGcm.open(&derive(seed, info)?, context, sealed).ok_or_else(why)
            }
        }
    }
}

fn derive(seed: &Prk, info: &[u8]) -> Result<[u8; 32], String> {
    let mut key = [0; 32];
    let info = [info];
    let expanded = seed.expand(&info, HKDF_SHA256).and_then(|expanded| expanded.fill(&mut key));
    expanded.map(|()| key).map_err(|_| "failed to derive a key".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_as_the_standard_says() {
        // RFC 5869, A.1: the first 32 bytes.
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let prk = bytes("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let info = bytes("f0f1f2f3f4f5f6f7f8f9");
        let expected = bytes("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
        assert_eq!(derive(&Prk::new_less_safe(HKDF_SHA256, &prk), &info).unwrap().to_vec(), expected);
    }

    #[test]
    fn what_a_plugin_may_not_say_is_named() {
        let good = EncryptedObject {
            encrypted_data: vec![0],
            key_id: "1".into(),
            encrypted_source: vec![1],
            annotations: BTreeMap::from([("kms.example.com".into(), vec![1])]),
            source_type: SEED_TYPE,
        };
        good.check().unwrap();
        let annotated = |key: &str, bytes: usize| BTreeMap::from([(key.to_owned(), vec![0; bytes])]);
        for (bad, says) in [
            (EncryptedObject { source_type: 2, ..good.clone() }, "unknown encryptedDEKSourceType: 2"),
            (
                EncryptedObject { encrypted_source: Vec::new(), ..good.clone() },
                "failed to validate encrypted DEK source: encrypted DEK source is empty",
            ),
            (
                EncryptedObject { encrypted_source: vec![0; 1025], ..good.clone() },
                "failed to validate encrypted DEK source: encrypted DEK source is 1025 bytes, which exceeds the max size of 1024",
            ),
            (EncryptedObject { key_id: String::new(), ..good.clone() }, "failed to validate key id: keyID is empty"),
            (EncryptedObject { annotations: annotated("x", 1), ..good.clone() }, "at least two segments"),
            (EncryptedObject { annotations: annotated("A.b", 1), ..good.clone() }, "RFC 1123"),
            (
                EncryptedObject { annotations: annotated("a.b", 32 * 1024), ..good.clone() },
                "total size of annotations is 32771, which exceeds the max size of 32768",
            ),
        ] {
            let why = bad.check().unwrap_err();
            assert!(why.contains(says), "{why:?} does not say {says:?}");
        }
    }
}
