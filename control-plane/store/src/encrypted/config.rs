//! The file that says what is encrypted, and how (`apiserver.config.k8s.io/v1 EncryptionConfiguration`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde::Deserialize;

use super::kms::{Kms, KmsConfig};
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
    kms: Option<KmsProvider>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct KmsProvider {
    api_version: String,
    name: String,
    cachesize: Option<i64>,
    endpoint: String,
    timeout: Option<SignedDuration>,
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

/// Which kinds, and how: the providers in their order.
type PlannedRule = (Vec<Pattern>, Vec<Planned>);

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
        configuration.plan()?;
        Ok(configuration)
    }

    /// The providers of each kind; `kms` makes those that somebody else has the keys of.
    pub(super) fn rules(&self, kms: impl Fn(KmsConfig) -> Arc<Kms>) -> Result<Rules, ConfigError> {
        let made = |provider| match provider {
            Planned::Identity => Provider::Identity,
            Planned::Keyed(cipher, keys) => Provider::Keyed { cipher, keys },
            Planned::Kms(config) => Provider::Kms(kms(config)),
        };
        let mut rules = Rules::default();
        for (patterns, providers) in self.plan()? {
            let providers = Providers(providers.into_iter().map(made).collect());
            rules.0.extend(patterns.into_iter().map(|pattern| (pattern, providers.clone())));
        }
        Ok(rules)
    }

    fn plan(&self) -> Result<Vec<PlannedRule>, ConfigError> {
        if self.resources.is_empty() {
            return Err(wrong("resources", "at least one is required"));
        }
        let (mut out, mut seen, mut names) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (index, part) in self.resources.iter().enumerate() {
            let at = format!("resources[{index}]");
            if part.resources.is_empty() {
                return Err(wrong(format!("{at}.resources"), "at least one is required"));
            }
            let providers = part.providers(&at, &mut names)?;
            let mut patterns = Vec::new();
            for name in &part.resources {
                let pattern = Pattern::parse(name).map_err(|why| wrong(format!("{at}.resources"), why))?;
                if !seen.insert(pattern.clone()) {
                    return Err(wrong(format!("{at}.resources"), format!("{name:?} is there twice")));
                }
                patterns.push(pattern);
            }
            out.push((patterns, providers));
        }
        Ok(out)
    }
}

/// A provider that is yet to be made.
enum Planned {
    Identity,
    Keyed(Cipher, Vec<(String, Vec<u8>)>),
    Kms(KmsConfig),
}

impl Resources {
    /// `names` are those of the providers so far that somebody else has the keys of.
    fn providers(&self, at: &str, names: &mut BTreeSet<String>) -> Result<Vec<Planned>, ConfigError> {
        let mut out = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            let at = format!("{at}.providers[{index}]");
            let choices = [
                (&provider.aesgcm, Cipher::AesGcm),
                (&provider.aescbc, Cipher::AesCbc),
                (&provider.secretbox, Cipher::SecretBox),
            ];
            let mut chosen: Vec<Planned> = Vec::new();
            for (keys, cipher) in choices {
                if let Some(keys) = keys {
                    chosen.push(keys.provider(cipher, &at)?);
                }
            }
            if let Some(kms) = &provider.kms {
                chosen.push(Planned::Kms(kms.config(&at, names)?));
            }
            if provider.identity.is_some() {
                chosen.push(Planned::Identity);
            }
            match chosen.len() {
                1 => out.extend(chosen),
                0 => return Err(wrong(at, "one of aesgcm, aescbc, secretbox, kms and identity is required")),
                _ => {
                    let why = "more than one provider specified in a single element, should split into different list \
                               elements";
                    return Err(wrong(at, why));
                }
            }
        }
        if out.is_empty() {
            return Err(wrong(format!("{at}.providers"), "at least one is required"));
        }
        Ok(out)
    }
}

impl KmsProvider {
    fn config(&self, at: &str, names: &mut BTreeSet<String>) -> Result<KmsConfig, ConfigError> {
        let at = |field: &str| format!("{at}.kms.{field}");
        let mandatory = |field: &str| wrong(at(field), format!("{field} is a mandatory field for a kms"));
        match self.api_version.as_str() {
            "v2" => {}
            // The default, and off unless asked for: its plugins are asked for every single value.
            "" | "v1" => {
                let why = "KMSv1 is deprecated and is not supported; use a plugin of KMSv2 (apiVersion: v2)";
                return Err(wrong(at("apiVersion"), why));
            }
            other => {
                let why = format!("unsupported apiVersion {other} for KMS provider, only v2 is supported");
                return Err(wrong(at("apiVersion"), why));
            }
        }
        if self.name.is_empty() {
            return Err(mandatory("name"));
        }
        if self.name.contains(':') {
            let why = format!("invalid KMS provider name {}, must not contain ':'", self.name);
            return Err(wrong(at("name"), why));
        }
        if !names.insert(self.name.clone()) {
            let why = format!("duplicate KMS provider name {}, names must be unique", self.name);
            return Err(wrong(at("name"), why));
        }
        if self.cachesize.is_some() {
            return Err(wrong(at("cachesize"), "cachesize is not supported in v2"));
        }
        let timeout = self.timeout.unwrap_or(SignedDuration::from_secs(3));
        let timeout = Duration::try_from(timeout).ok().filter(|timeout| !timeout.is_zero());
        let timeout = timeout.ok_or_else(|| wrong(at("timeout"), "timeout should be a positive value"))?;
        if self.endpoint.is_empty() {
            return Err(mandatory("endpoint"));
        }
        let (scheme, rest) = self.endpoint.split_once(':').unwrap_or(("", ""));
        if scheme != "unix" {
            let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            return Err(wrong(at("endpoint"), why));
        }
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') || path.starts_with("/@") {
            let why = "invalid endpoint for kms provider: it must be unix:///PATH, the path of a socket";
            return Err(wrong(at("endpoint"), why));
        }
        Ok(KmsConfig { name: self.name.clone(), socket: path.into(), timeout })
    }
}

impl Keys {
    fn provider(&self, cipher: Cipher, at: &str) -> Result<Planned, ConfigError> {
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
        Ok(Planned::Keyed(cipher, keys))
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

    /// The plugins of all of them, each once.
    pub(super) fn plugins(&self) -> Vec<Arc<Kms>> {
        let mut out: Vec<Arc<Kms>> = Vec::new();
        for provider in self.0.values().flat_map(|providers| providers.0.iter()) {
            if let Provider::Kms(kms) = provider
                && !out.iter().any(|known| Arc::ptr_eq(known, kms))
            {
                out.push(kms.clone());
            }
        }
        out
    }
}
