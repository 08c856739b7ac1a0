//! Ways to encrypt, in upstream's formats. The key of the value in the store is authenticated with it where the cipher
//! can do that, so that values cannot be exchanged for each other.

use std::sync::Arc;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use xebec_clock::Random;

use super::PREFIX;
use super::kms::Kms;

/// A cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    /// AES-GCM with random nonces.
    AesGcm,
    /// AES-CBC with PKCS#7 padding: not authenticated.
    AesCbc,
    /// XSalsa20 and Poly1305.
    SecretBox,
}

const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;

impl Cipher {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::SecretBox => "secretbox",
        }
    }

    /// The lengths that a key can have, in bytes.
    pub(super) fn lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::SecretBox => &[32],
        }
    }

    fn nonce_length(self) -> usize {
        match self {
            Self::AesGcm => GCM_NONCE,
            Self::AesCbc => CBC_IV,
            Self::SecretBox => BOX_NONCE,
        }
    }

    fn prefix(self) -> Vec<u8> {
        let mut prefix = PREFIX.to_vec();
        prefix.extend_from_slice(self.name().as_bytes());
        prefix.extend_from_slice(b":v1:");
        prefix
    }

    /// `nonce | ciphertext`.
    pub(super) fn seal(self, secret: &[u8], context: &str, plain: &[u8], random: &Random) -> Option<Vec<u8>> {
        let mut nonce = vec![0; self.nonce_length()];
        random.fill(&mut nonce);
        let sealed = match self {
            Self::AesGcm => gcm(secret, &nonce, context, plain, true)?,
            Self::AesCbc => match secret.len() {
                16 => cbc::Encryptor::<Aes128>::new_from_slices(secret, &nonce)
                    .ok()?
                    .encrypt_padded_vec_mut::<Pkcs7>(plain),
                24 => cbc::Encryptor::<Aes192>::new_from_slices(secret, &nonce)
                    .ok()?
                    .encrypt_padded_vec_mut::<Pkcs7>(plain),
                _ => cbc::Encryptor::<Aes256>::new_from_slices(secret, &nonce)
                    .ok()?
                    .encrypt_padded_vec_mut::<Pkcs7>(plain),
            },
            Self::SecretBox => {
                let cipher = XSalsa20Poly1305::new_from_slice(secret).ok()?;
                cipher.encrypt(nonce.as_slice().into(), plain).ok()?
            }
        };
        nonce.extend_from_slice(&sealed);
        Some(nonce)
    }

    pub(super) fn open(self, secret: &[u8], context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        if sealed.len() < self.nonce_length() {
            return None;
        }
        let (nonce, sealed) = sealed.split_at(self.nonce_length());
        match self {
            Self::AesGcm => gcm(secret, nonce, context, sealed, false),
            Self::AesCbc => match secret.len() {
                16 => cbc::Decryptor::<Aes128>::new_from_slices(secret, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(sealed)
                    .ok(),
                24 => cbc::Decryptor::<Aes192>::new_from_slices(secret, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(sealed)
                    .ok(),
                _ => cbc::Decryptor::<Aes256>::new_from_slices(secret, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(sealed)
                    .ok(),
            },
            Self::SecretBox => {
                let cipher = XSalsa20Poly1305::new_from_slice(secret).ok()?;
                cipher.decrypt(nonce.into(), sealed).ok()
            }
        }
    }
}

fn gcm(secret: &[u8], nonce: &[u8], context: &str, text: &[u8], seal: bool) -> Option<Vec<u8>> {
    fn apply(
        cipher: &impl Aead<NonceSize = U12>,
        nonce: &[u8],
        payload: Payload<'_, '_>,
        seal: bool,
    ) -> Option<Vec<u8>> {
        if seal { cipher.encrypt(nonce.into(), payload).ok() } else { cipher.decrypt(nonce.into(), payload).ok() }
    }
    let payload = Payload { msg: text, aad: context.as_bytes() };
    match secret.len() {
        16 => apply(&Aes128Gcm::new_from_slice(secret).ok()?, nonce, payload, seal),
        24 => apply(&AesGcm::<Aes192, U12>::new_from_slice(secret).ok()?, nonce, payload, seal),
        _ => apply(&Aes256Gcm::new_from_slice(secret).ok()?, nonce, payload, seal),
    }
}

/// A provider of a configuration.
#[derive(Clone)]
pub(super) enum Provider {
    /// Values are as they are.
    Identity,
    /// A cipher with named keys.
    Keyed { cipher: Cipher, keys: Vec<(String, Vec<u8>)> },
    /// Somebody else has the keys.
    Kms(Arc<Kms>),
}

/// The first writes, all read.
#[derive(Clone)]
pub(super) struct Providers(pub(super) Arc<[Provider]>);

impl Providers {
    pub(super) fn seal(&self, context: &str, plain: Bytes, random: &Random) -> Result<Bytes, String> {
        let (cipher, keys) = match self.0.first() {
            None | Some(Provider::Identity) => return Ok(plain),
            Some(Provider::Kms(kms)) => return kms.seal(context, &plain),
            Some(Provider::Keyed { cipher, keys }) => (cipher, keys),
        };
        let Some((name, secret)) = keys.first() else { return Err("there is no key to encrypt with".into()) };
        let sealed = cipher.seal(secret, context, &plain, random).ok_or("the value cannot be encrypted")?;
        let mut out = cipher.prefix();
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(&sealed);
        Ok(out.into())
    }

    /// The plain value, `None` if it is the stored one, and whether it should be encrypted anew.
    pub(super) async fn open(&self, context: &str, stored: &[u8]) -> Result<(Option<Bytes>, bool), String> {
        for (index, provider) in self.0.iter().enumerate() {
            match provider {
                Provider::Identity if !stored.starts_with(PREFIX) => return Ok((None, index > 0)),
                Provider::Identity => {}
                Provider::Keyed { cipher, keys } => {
                    let Some(rest) = stored.strip_prefix(cipher.prefix().as_slice()) else { continue };
                    let (plain, at) = open_keyed(*cipher, keys, context, rest)?;
                    return Ok((Some(plain), index + at > 0));
                }
                Provider::Kms(kms) => {
                    let Some(rest) = kms.strip(stored) else { continue };
                    let (plain, stale) = kms.open(context, rest).await?;
                    return Ok((Some(plain), stale || index > 0));
                }
            }
        }
        Err("no matching prefix found; the provider that wrote it must stay in the configuration".into())
    }
}

/// The plain value, and the number of its key.
fn open_keyed(
    cipher: Cipher,
    keys: &[(String, Vec<u8>)],
    context: &str,
    rest: &[u8],
) -> Result<(Bytes, usize), String> {
    let found = keys.iter().enumerate().find_map(|(at, (name, secret))| {
        let sealed = rest.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        Some((at, cipher.open(secret, context, sealed)))
    });
    match found {
        Some((at, Some(plain))) => Ok((plain.into(), at)),
        Some((_, None)) => Err("the value is damaged, or its key is not the one it was written with".into()),
        None => Err(format!("no matching key was found for the provided {} transformer", cipher.name())),
    }
}
