//! Service-account tokens: JWTs with the claims of upstream's `pkg/serviceaccount` (KEP-1205, bound tokens), ES256.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, files};

/// The issuer of a cluster whose domain is `cluster.local`, and the audience of its API server.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and checks service-account tokens. One key signs; keys that signed before are still good for checking, so that
/// tokens outlive the change of the key.
pub struct ServiceAccountKeys {
    issuer: String,
    encoding: EncodingKey,
    /// The first is that of `encoding`.
    public: Vec<PublicKey>,
}

/// A key that tokens are checked with.
struct PublicKey {
    id: String,
    decoding: DecodingKey,
    x: String,
    y: String,
}

impl std::fmt::Debug for ServiceAccountKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKeys").field("issuer", &self.issuer).field("key_id", &self.public[0].id).finish()
    }
}

/// What a token is to say.
#[derive(Clone, Debug)]
pub struct TokenRequest<'a> {
    /// The service account's namespace.
    pub namespace: &'a str,
    /// The service account.
    pub service_account: BoundObject,
    /// The pod it is bound to.
    pub pod: Option<BoundObject>,
    /// The Secret it is bound to.
    pub secret: Option<BoundObject>,
    /// The node that the pod runs on, or that the token is bound to.
    pub node: Option<BoundObject>,
    /// Who is to accept it; not empty.
    pub audiences: &'a [String],
    /// When it is made.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// When its bearer should have asked for a new one, if that is before it ends.
    pub warn_after: Option<Timestamp>,
    /// The unique id, `jti`.
    pub id: &'a str,
}

/// An object a token names: while it exists, with this UID, the token is good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims of a token, in the order that upstream writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who is to accept it.
    #[serde(default)]
    pub aud: Audience,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    #[serde(default)]
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its unique id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: PrivateClaims,
    /// From when it is good.
    #[serde(default)]
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

/// The audiences of a token: one, or a list (RFC 7519 section 4.1.3). Written as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Audience(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Audience {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(one) => Self(vec![one]),
            OneOrMany::Many(many) => Self(many),
        }
    }
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateClaims {
    /// The service account's namespace, and that of the pod or Secret.
    #[serde(default)]
    pub namespace: String,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: BoundObject,
    /// When a new token should have been asked for, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Who issues tokens that are kept in Secrets: they are told from others by it.
pub const SECRET_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token that is kept in a Secret (upstream's legacy tokens); it ends with the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretClaims {
    /// [`SECRET_ISSUER`].
    pub iss: String,
    /// The service account's namespace, and the Secret's.
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret.
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The service account.
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// Its uid.
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

impl SecretClaims {
    /// Those of a service account, for a Secret in its namespace.
    pub fn new(namespace: &str, account: &BoundObject, secret: &str) -> Self {
        Self {
            iss: SECRET_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.name.clone(),
            account_uid: account.uid.clone(),
            sub: format!("system:serviceaccount:{namespace}:{}", account.name),
        }
    }
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token of ours: somebody else's, perhaps.
    #[error("the token was not issued by this cluster")]
    Foreign,
    /// It says it is ours, but its signature is wrong or its claims are not ours.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// It is over.
    #[error("service account token has expired")]
    Expired,
    /// It is not good yet.
    #[error("service account token is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
}

impl ServiceAccountKeys {
    /// The key kept in `dir` as `service-account.key`, made if it is not there. Keys that were used before, kept there
    /// as `service-account-<anything>.key`, go on checking tokens: renaming the key and starting again rotates it.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or written, or holds no P-256 key.
    pub fn load_or_create(dir: &Path, issuer: &str) -> Result<Self, Error> {
        let path = dir.join("service-account.key");
        let parse = |path: &Path, pem: &str| {
            KeyPair::from_pem(pem).map_err(|e| Error::malformed(path.display().to_string(), e))
        };
        let key = match files::read(&path)? {
            Some(pem) => parse(&path, &pem)?,
            None => {
                let key = KeyPair::generate()?;
                files::write_private(&path, key.serialize_pem().as_bytes())?;
                key
            }
        };
        let mut keys = Self::from_key(&key, issuer)?;
        for path in files::named(dir, "service-account-", ".key")? {
            if let Some(pem) = files::read(&path)? {
                keys.public.push(PublicKey::of(&parse(&path, &pem)?)?);
            }
        }
        Ok(keys)
    }

    /// A key that is kept nowhere: for tests and simulations.
    ///
    /// # Errors
    ///
    /// If the key generator fails.
    pub fn ephemeral(issuer: &str) -> Result<Self, Error> {
        Self::from_key(&KeyPair::generate()?, issuer)
    }

    fn from_key(key: &KeyPair, issuer: &str) -> Result<Self, Error> {
        Ok(Self {
            issuer: issuer.to_owned(),
            encoding: EncodingKey::from_ec_pem(key.serialize_pem().as_bytes())?,
            public: vec![PublicKey::of(key)?],
        })
    }

    /// The issuer, `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// If the signer fails.
    pub fn sign(&self, request: &TokenRequest<'_>) -> Result<String, Error> {
        let claims = Claims {
            aud: Audience(request.audiences.to_vec()),
            exp: request.expires.as_second(),
            iat: request.issued.as_second(),
            iss: self.issuer.clone(),
            jti: request.id.to_owned(),
            kubernetes: PrivateClaims {
                namespace: request.namespace.to_owned(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                serviceaccount: request.service_account.clone(),
                warnafter: request.warn_after.map(Timestamp::as_second),
            },
            nbf: request.issued.as_second(),
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account.name),
        };
        self.encode(&claims)
    }

    /// Makes a token that is kept in a Secret.
    ///
    /// # Errors
    ///
    /// If the signer fails.
    pub fn sign_for_secret(&self, claims: &SecretClaims) -> Result<String, Error> {
        self.encode(claims)
    }

    fn encode(&self, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header { typ: None, kid: Some(self.public[0].id.clone()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, claims, &self.encoding)?)
    }

    /// Checks a token's signature, issuer, time and audience: one of `audiences` must be among its own. Whether what
    /// it is bound to still exists is for the caller to look up.
    ///
    /// # Errors
    ///
    /// [`TokenError::Foreign`] if it is no JWT or is of another issuer; the others if it claims to be ours.
    pub fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Claims, TokenError> {
        if issuer_of(token).as_deref() != Some(self.issuer.as_str()) {
            return Err(TokenError::Foreign);
        }
        let claims: Claims = self.decode(token)?;
        if now.as_second() >= claims.exp {
            return Err(TokenError::Expired);
        }
        if now.as_second() < claims.nbf {
            return Err(TokenError::NotYet);
        }
        if !claims.aud.0.iter().any(|a| audiences.contains(a)) {
            return Err(TokenError::Audience(claims.aud.0, audiences.to_vec()));
        }
        Ok(claims)
    }

    /// Checks the signature and the issuer of a token that is kept in a Secret. Whether the Secret still has it is for
    /// the caller to look up.
    ///
    /// # Errors
    ///
    /// [`TokenError::Foreign`] if it is no such token; [`TokenError::Invalid`] if it claims to be one.
    pub fn verify_for_secret(&self, token: &str) -> Result<SecretClaims, TokenError> {
        if issuer_of(token).as_deref() != Some(SECRET_ISSUER) {
            return Err(TokenError::Foreign);
        }
        self.decode(token)
    }

    fn decode<C: serde::de::DeserializeOwned>(&self, token: &str) -> Result<C, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Time is checked by the caller's clock, and the audience with upstream's words.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let invalid = |error: jsonwebtoken::errors::Error| TokenError::Invalid(error.to_string());
        let header = jsonwebtoken::decode_header(token).map_err(invalid)?;
        let key = self.public.iter().find(|key| header.kid.as_deref().is_none_or(|id| id == key.id));
        let key = key.ok_or_else(|| TokenError::Invalid("it is signed by a key that is not (any more) ours".into()))?;
        Ok(jsonwebtoken::decode::<C>(token, &key.decoding, &validation).map_err(invalid)?.claims)
    }

    /// The public keys, for those who check tokens themselves: `/openid/v1/jwks` (RFC 7517).
    pub fn jwks(&self) -> Value {
        let key = |key: &PublicKey| json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256", "x": key.x, "y": key.y});
        json!({"keys": self.public.iter().map(key).collect::<Vec<_>>()})
    }

    /// `/.well-known/openid-configuration`; `jwks_uri` is where [`Self::jwks`] is served.
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl PublicKey {
    fn of(key: &KeyPair) -> Result<Self, Error> {
        // An uncompressed point: 4, then x and y of 32 bytes each (SEC 1 section 2.3.3).
        let (x, y) = match key.der_bytes() {
            [4, point @ ..] if point.len() == 64 => point.split_at(32),
            _ => return Err(Error::malformed("the service-account key", "it is not an ECDSA P-256 key")),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        Ok(Self { id, decoding: DecodingKey::from_ec_components(&x, &y)?, x, y })
    }
}

/// The issuer that an unchecked token names.
fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issuer>(&payload).ok().map(|i| i.iss)
}
