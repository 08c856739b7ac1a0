//! Where a document comes from: how what is wrong with it is told.

use bytes::Bytes;
use serde_json::Value;
use xebec_schema::field::{self, Path};
use xebec_schema::status::Status;
use xebec_schema::types::Definition;
use xebec_schema::{decode, walk};

use super::patch::Patch;

/// Where a document comes from.
#[derive(Debug, Default)]
pub struct Origin<'a> {
    /// What a strict decoder objects to without knowing the kind: keys that are there twice.
    pub repeated: Vec<String>,
    /// The text, if it is JSON.
    json: Option<Bytes>,
    /// The patch that made it.
    patch: Option<&'a Patch>,
}

impl<'a> Origin<'a> {
    /// A body of JSON.
    pub fn json(body: Bytes, repeated: Vec<String>) -> Self {
        Self { repeated, json: Some(body), patch: None }
    }

    /// A body of YAML.
    pub fn yaml(repeated: Vec<String>) -> Self {
        Self { repeated, ..Self::default() }
    }

    /// What a patch makes.
    pub fn patch(patch: &'a Patch) -> Self {
        Self { repeated: patch.repeated.clone(), json: None, patch: Some(patch) }
    }

    /// All that a strict decoder objects to, in the order in which it comes upon it.
    pub fn strict(&self, unknown: Vec<String>) -> Vec<String> {
        let mut all = self.repeated.clone();
        all.extend(unknown);
        match &self.json {
            Some(text) if all.len() > 1 => decode::in_order(text, all),
            _ => all,
        }
    }

    /// Whether the values are of the right types.
    ///
    /// # Errors
    /// The first that is not, in the words of the decoder that upstream uses for such a document.
    pub fn check(&self, definition: &Definition, value: &Value) -> Result<(), String> {
        if self.patch.is_some_and(Patch::is_strategic) {
            walk::check_restored(definition, value)
        } else {
            walk::check(definition, value)
        }
    }

    /// The answer if `value` is not an object of the kind.
    pub fn refused(&self, kind: &str, version: &str, value: &Value, why: impl Into<String>) -> Status {
        let why = why.into();
        match self.patch {
            Some(patch) => {
                Status::invalid("", "", "", &[field::Error::invalid(Path::new("patch"), patch.shown(value), why)])
            }
            None => {
                Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
            }
        }
    }
}
