//! A failure as the specification has it.

use serde_json::{Value, json};

use crate::{connect, ipam, sysctl};

/// Error codes of the specification, section "Error"; from 100 on they are the plugin's own.
pub mod code {
    /// The version of the configuration is not supported, or lacks the command.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// The kernel or a file.
    pub const IO: u32 = 5;
    /// The configuration is no JSON.
    pub const DECODE: u32 = 6;
    /// The configuration is wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// It may work later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// CHECK: the container's network is not as it was made.
    pub const DAMAGED: u32 = 100;
}

/// A code and what to read.
#[derive(Debug)]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// For people.
    pub message: String,
}

impl Failure {
    /// With this code.
    pub fn new(code: u32, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    /// As printed to the runtime that speaks `version`.
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.message })
    }
}

impl From<ipam::Error> for Failure {
    fn from(error: ipam::Error) -> Self {
        let code = match &error {
            ipam::Error::Exhausted { .. } => code::TRY_AGAIN,
            ipam::Error::Io { .. } => code::IO,
            ipam::Error::Owner(_) => code::INVALID_ENVIRONMENT,
        };
        Self::new(code, error)
    }
}

impl From<connect::Error> for Failure {
    fn from(error: connect::Error) -> Self {
        let code = match &error {
            connect::Error::Netns { .. } => code::INVALID_ENVIRONMENT,
            connect::Error::Damaged(_) => code::DAMAGED,
            _ => code::IO,
        };
        Self::new(code, error)
    }
}

impl From<crate::netlink::Error> for Failure {
    fn from(error: crate::netlink::Error) -> Self {
        Self::new(code::IO, error)
    }
}

impl From<sysctl::Error> for Failure {
    fn from(error: sysctl::Error) -> Self {
        Self::new(code::IO, error)
    }
}
