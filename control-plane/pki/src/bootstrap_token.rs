//! Bootstrap tokens `[a-z0-9]{6}.[a-z0-9]{16}`: what a new node joins with.
//!
//! Upstream keeps the secret half in clear in a Secret of `kube-system`; here only its SHA-256 is kept, so that
//! reading the Secret does not give the token away.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xebec_clock::Random;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// A bootstrap token. It prints as the token; its debug form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

/// The text is not a bootstrap token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a bootstrap token: it must have the form [a-z0-9]{{6}}.[a-z0-9]{{16}}")]
pub struct NotAToken;

impl BootstrapToken {
    /// A new token.
    pub fn generate(random: &Random) -> Self {
        // A byte below 252 is uniform over the 36 letters; others are drawn again.
        let draw = || loop {
            let mut byte = [0];
            random.fill(&mut byte);
            if byte[0] < 252 {
                return char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]);
            }
        };
        let id = (0..ID_LENGTH).map(|_| draw()).collect();
        let secret = (0..SECRET_LENGTH).map(|_| draw()).collect();
        Self { id, secret }
    }

    /// The public half, which names the Secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret half.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What is kept of the secret half: see [`hash_secret`].
    pub fn hash(&self) -> String {
        hash_secret(&self.secret)
    }

    /// The `Secret` that makes the API server accept this token until `expiration` (`None`: for ever), as a member of
    /// `groups` beside `system:bootstrappers`; each begins with `system:bootstrappers:`.
    pub fn to_secret(&self, expiration: Option<Timestamp>, groups: &[&str], description: &str) -> Value {
        let mut data = json!({
            "token-id": STANDARD.encode(&self.id),
            "token-secret-hash": STANDARD.encode(self.hash()),
            "usage-bootstrap-authentication": STANDARD.encode("true"),
        });
        if let Some(at) = expiration {
            data["expiration"] = STANDARD.encode(at.to_string()).into();
        }
        if !groups.is_empty() {
            data["auth-extra-groups"] = STANDARD.encode(groups.join(",")).into();
        }
        if !description.is_empty() {
            data["description"] = STANDARD.encode(description).into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": format!("bootstrap-token-{}", self.id), "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "data": data,
        })
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.…)", self.id)
    }
}

impl FromStr for BootstrapToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let fits = |part: &str, length| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
        match text.split_once('.') {
            Some((id, secret)) if fits(id, ID_LENGTH) && fits(secret, SECRET_LENGTH) => {
                Ok(Self { id: id.into(), secret: secret.into() })
            }
            _ => Err(NotAToken),
        }
    }
}

/// The SHA-256 of a token's secret half, in hexadecimal: the value of the data key `token-secret-hash`. The secret
/// has 82 random bits, so a plain hash is enough.
pub fn hash_secret(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `secret` is the one that `hash` was made of, in a time that does not depend on where they differ.
pub fn verify_secret(hash: &str, secret: &str) -> bool {
    let expected = hash_secret(secret);
    let difference = expected.bytes().zip(hash.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    hash.len() == expected.len() && std::hint::black_box(difference) == 0
}
