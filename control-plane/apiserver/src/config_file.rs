//! What the readers of configuration files share.

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct ConfigError {
    /// Where.
    pub path: String,
    /// What.
    pub why: String,
}

/// Says what is wrong with a field.
pub(crate) fn wrong(path: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError { path: path.into(), why: why.into() }
}
