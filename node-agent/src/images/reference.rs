//! Image names as people write them, and as registries know them (the `distribution/reference` grammar).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::api::Secret;
use crate::runtime::Credentials;

/// A normalised name: `docker.io/library/nginx:1.27`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// `docker.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// `1.27`.
    pub tag: Option<String>,
    /// `sha256:...`.
    pub digest: Option<String>,
}

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Repositories have no capital letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
}

impl ImageName {
    /// Parses and normalises `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = match registry {
            "docker.io" if !repository.contains('/') => format!("library/{repository}"),
            _ => repository,
        };
        check(registry, &repository, tag.as_deref(), digest.as_deref())?;
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether it is pulled anew each time unless the pod says otherwise.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }
}

fn check(registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> Result<(), NameError> {
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(NameError::Uppercase(repository.to_owned()));
    }
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let component = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        alphanumeric(part.chars().next()) && alphanumeric(part.chars().last()) && part.chars().all(inner)
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tag_ok = tag
        .is_none_or(|t| t.len() <= 128 && t.starts_with(word) && t.chars().all(|c| word(c) || matches!(c, '.' | '-')));
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    });
    let ok = !registry.is_empty()
        && registry.chars().all(host)
        && repository.len() <= 255
        && repository.split('/').all(component)
        && tag_ok
        && digest_ok;
    if ok { Ok(()) } else { Err(NameError::Format) }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
}

/// The credentials in `secrets` that fit `image`, the most specific first.
pub fn credentials(secrets: &[Secret], image: &str) -> Vec<Credentials> {
    let mut found: Vec<(usize, Credentials)> = Vec::new();
    for secret in secrets {
        let auths = if let Some(bytes) = secret.data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths).unwrap_or_default()
        } else if let Some(bytes) = secret.data.get(".dockercfg") {
            serde_json::from_slice::<BTreeMap<String, DockerAuth>>(bytes).unwrap_or_default()
        } else {
            continue;
        };
        for (server, auth) in auths {
            let server = server.trim_start_matches("https://").trim_start_matches("http://");
            let server = server.trim_end_matches("/v1/").trim_end_matches("/v2/").trim_end_matches('/');
            let server = if server == "index.docker.io" { "docker.io" } else { server };
            let below = image.strip_prefix(server).is_some_and(|rest| rest.starts_with(['/', ':', '@']));
            if !below {
                continue;
            }
            if let Some(credentials) = auth.credentials() {
                found.push((server.len(), credentials));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

impl DockerAuth {
    fn credentials(self) -> Option<Credentials> {
        if !self.username.is_empty() {
            return Some(Credentials { username: self.username, password: self.password });
        }
        let text = String::from_utf8(BASE64_STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Credentials { username: username.to_owned(), password: password.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_are_completed() {
        let full = |text: &str| ImageName::parse(text).map(|n| n.to_string());
        assert_eq!(full("nginx").unwrap(), "docker.io/library/nginx:latest");
        assert_eq!(full("me/app:1").unwrap(), "docker.io/me/app:1");
        assert_eq!(full("localhost/app").unwrap(), "localhost/app:latest");
        assert_eq!(full("127.0.0.1:5000/a/b:x").unwrap(), "127.0.0.1:5000/a/b:x");
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        assert_eq!(full(&digest).unwrap(), format!("docker.io/library/{digest}"));
        assert_eq!(full("Nginx").unwrap_err(), NameError::Uppercase("library/Nginx".to_owned()));
        for wrong in ["", ":x", "a//b", "a:-", "a@sha256:xx", "a b", "-a"] {
            assert!(full(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let json = r#"{"auths":{"https://reg.example/":{"auth":"dTpw"},"reg.example/team":{"username":"t","password":"q"},"reg.exampleX":{"auth":"eDp5"}}}"#;
        let mut secret = Secret::default();
        secret.data.insert(".dockerconfigjson".to_owned(), json.into());
        let found = credentials(&[secret], "reg.example/team/app:1");
        let names: Vec<_> = found.iter().map(|c| c.username.as_str()).collect();
        assert_eq!(names, ["t", "u"]);
    }

    proptest! {
        #[test]
        fn a_normalised_name_is_its_own_normal_form(text in "[a-z0-9.:/@_-]{0,40}") {
            if let Ok(name) = ImageName::parse(&text) {
                prop_assert_eq!(ImageName::parse(&name.to_string()).unwrap(), name);
            }
        }
    }
}
