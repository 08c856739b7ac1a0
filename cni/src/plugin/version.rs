//! The versions of the specification that the plugin speaks.

use serde_json::Value;

use super::failure::{Failure, code};

/// The newest, which answers in doubt.
pub const NEWEST: &str = "1.1.0";
/// All of them, the oldest first.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST];

/// One of [`SUPPORTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// 0.4.0: CHECK.
    pub const CHECK: Self = Self(2);
    /// 1.0.0: addresses no longer say of which family they are.
    pub const NO_FAMILY: Self = Self(3);
    /// 1.1.0: GC and STATUS, and interfaces tell their MTU.
    pub const GC: Self = Self(4);

    /// The version that a configuration is in; one that says nothing is in 0.1.0.
    pub fn of(config: &Value) -> Result<Self, Failure> {
        let text = config.get("cniVersion").and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or("0.1.0");
        SUPPORTED.iter().position(|known| *known == text).map(Self).ok_or_else(|| {
            Failure::new(
                code::INCOMPATIBLE_VERSION,
                format!("cniVersion {text:?} is not supported: use one of {}", SUPPORTED.join(", ")),
            )
        })
    }

    /// As in a configuration.
    pub fn text(self) -> &'static str {
        SUPPORTED[self.0]
    }

    /// Fails if the command came later than this version.
    pub fn allows(self, command: &str, since: Self) -> Result<(), Failure> {
        if self >= since {
            return Ok(());
        }
        let message = format!("cniVersion {} has no {command}: it needs {}", self.text(), since.text());
        Err(Failure::new(code::INCOMPATIBLE_VERSION, message))
    }
}
