//! The file that says what is encrypted, and how (`apiserver.config.k8s.io/v1 EncryptionConfiguration`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::provider::{Cipher, Provider, Providers};

/// See the module.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EncryptionConfiguration {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<ProviderConfiguration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProviderConfiguration {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<serde::de::IgnoredAny>,
    kms: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Key {
    name: String,
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("the encryption configuration cannot be read: {0}")]
    Syntax(String),
    /// A field makes no sense.
    #[error("the encryption configuration's {field}: {why}")]
    Field {
        /// Where.
        field: String,
        /// What is wrong.
        why: String,
    },
}

fn wrong(field: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: field.into(), why: why.into() }
}

impl EncryptionConfiguration {
    /// Reads a file of YAML or JSON.
    ///
    /// # Errors
    ///
    /// It is no configuration, or one that makes no sense.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let configuration: Self = serde_saphyr::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        if configuration.api_version != "apiserver.config.k8s.io/v1" {
            return Err(wrong("apiVersion", "must be apiserver.config.k8s.io/v1"));
        }
        if configuration.kind != "EncryptionConfiguration" {
            return Err(wrong("kind", "must be EncryptionConfiguration"));
        }
        configuration.rules()?;
        Ok(configuration)
    }

    pub(super) fn rules(&self) -> Result<Rules, ConfigError> {
        if self.resources.is_empty() {
            return Err(wrong("resources", "at least one is required"));
        }
        let mut rules = Rules::default();
        for (index, part) in self.resources.iter().enumerate() {
            let at = format!("resources[{index}]");
            if part.resources.is_empty() {
                return Err(wrong(format!("{at}.resources"), "at least one is required"));
            }
            let providers = part.providers(&at)?;
            for name in &part.resources {
                let pattern = Pattern::parse(name).map_err(|why| wrong(format!("{at}.resources"), why))?;
                if rules.0.insert(pattern, providers.clone()).is_some() {
                    return Err(wrong(format!("{at}.resources"), format!("{name:?} is there twice")));
                }
            }
        }
        Ok(rules)
    }
}

impl Resources {
    fn providers(&self, at: &str) -> Result<Providers, ConfigError> {
        let mut out = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            let at = format!("{at}.providers[{index}]");
            if provider.kms.is_some() {
                return Err(wrong(at, "kms is not supported; use aesgcm, aescbc or secretbox"));
            }
            let choices = [
                (&provider.aesgcm, Cipher::AesGcm),
                (&provider.aescbc, Cipher::AesCbc),
                (&provider.secretbox, Cipher::SecretBox),
            ];
            let mut chosen: Vec<Provider> = Vec::new();
            for (keys, cipher) in choices {
                if let Some(keys) = keys {
                    chosen.push(keys.provider(cipher, &at)?);
                }
            }
            if provider.identity.is_some() {
                chosen.push(Provider::Identity);
            }
            match chosen.len() {
                1 => out.extend(chosen),
                0 => return Err(wrong(at, "one of aesgcm, aescbc, secretbox and identity is required")),
                _ => return Err(wrong(at, "more than one provider; each is an item of its own")),
            }
        }
        if out.is_empty() {
            return Err(wrong(format!("{at}.providers"), "at least one is required"));
        }
        Ok(Providers(out.into()))
    }
}

impl Keys {
    fn provider(&self, cipher: Cipher, at: &str) -> Result<Provider, ConfigError> {
        let at = format!("{at}.{}.keys", cipher.name());
        if self.keys.is_empty() {
            return Err(wrong(at, "at least one is required"));
        }
        let mut keys: Vec<(String, Vec<u8>)> = Vec::new();
        for (index, key) in self.keys.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if key.name.is_empty() || key.name.contains(':') {
                return Err(wrong(format!("{at}.name"), "a name without colons is required"));
            }
            if keys.iter().any(|(name, _)| *name == key.name) {
                return Err(wrong(format!("{at}.name"), format!("{:?} is there twice", key.name)));
            }
            let secret = STANDARD
                .decode(key.secret.trim())
                .map_err(|_| wrong(format!("{at}.secret"), "the secret must be base64 encoded"))?;
            if !cipher.lengths().contains(&secret.len()) {
                let (is, expected) = (secret.len(), cipher.lengths());
                let why = format!("secret is not of the expected length, got {is}, expected one of {expected:?}");
                return Err(wrong(format!("{at}.secret"), why));
            }
            keys.push((key.name.clone(), secret));
        }
        Ok(Provider::Keyed { cipher, keys })
    }
}

/// Which kinds a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    /// One: plural and group.
    Kind(String, String),
    /// All of a group: `*.apps`; `*.` is the core group.
    Group(String),
    /// `*.*`
    All,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some(("*", "*")) => Ok(Self::All),
            Some(("*", group)) if !group.contains('*') => Ok(Self::Group(group.to_owned())),
            _ if text.contains('*') => Err(format!("{text:?}: use \"*.<group>\", \"*.\" or \"*.*\" for many kinds")),
            _ if text.is_empty() || text.contains('/') => Err(format!("{text:?} is no resource")),
            Some((plural, group)) => Ok(Self::Kind(plural.to_owned(), group.to_owned())),
            None => Ok(Self::Kind(text.to_owned(), String::new())),
        }
    }
}

/// Providers by kind.
#[derive(Clone, Default)]
pub(super) struct Rules(BTreeMap<Pattern, Providers>);

impl Rules {
    /// The providers for a key, `/registry/<group>/<plural>/...`: the most particular rule counts.
    pub(super) fn of(&self, key: &str) -> Option<&Providers> {
        let mut parts = key.trim_start_matches('/').split('/').skip(1);
        let (group, plural) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let group = if group == "core" { "" } else { group };
        self.0
            .get(&Pattern::Kind(plural.to_owned(), group.to_owned()))
            .or_else(|| self.0.get(&Pattern::Group(group.to_owned())))
            .or_else(|| self.0.get(&Pattern::All))
    }
}
