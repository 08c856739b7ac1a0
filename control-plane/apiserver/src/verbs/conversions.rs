//! Conversions that are needed to know who owns what, of custom resources whose versions a webhook converts.
//!
//! The bookkeeping does not wait for anybody. What it lacks it notes here, and fails; what was noted is asked for
//! ([`fetch`]), and the bookkeeping begins again.

use std::sync::Arc;

use serde_json::Value;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;

use crate::chain::Call;
use crate::conversion;

/// How many conversions one write may need: of two states of the object, for each version.
const MAX_CONVERSIONS: usize = 64;

/// What is converted, and what is to be.
#[derive(Default)]
pub struct Conversions {
    /// The object, and what it is in the version of a row.
    known: Vec<(Value, Arc<Resource>, Value)>,
    missing: Option<(Value, Arc<Resource>)>,
}

impl Conversions {
    /// The object in the version of a row, if it is known; else it is noted.
    pub fn get(&mut self, object: &Value, row: &Arc<Resource>) -> Option<Value> {
        let is = |(from, to, _): &&(Value, Arc<Resource>, Value)| to.version == row.version && from == object;
        if let Some((_, _, converted)) = self.known.iter().find(is) {
            return Some(converted.clone());
        }
        self.missing = Some((object.clone(), row.clone()));
        None
    }

    /// Begins anew, with another state of the object.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Asks for what was found missing. Whether there was anything.
///
/// # Errors
///
/// The webhook's failure.
pub async fn fetch(call: &mut Call) -> Result<bool, Status> {
    let Some((object, row)) = call.conversions.missing.take() else { return Ok(false) };
    if call.conversions.known.len() >= MAX_CONVERSIONS {
        let version = row.api_version();
        let why = format!("more than {MAX_CONVERSIONS} conversions, the last to {version}, to know who owns what");
        return Err(Status::internal(why));
    }
    let converted = conversion::convert(&call.server, &row, vec![object.clone()]).await?.pop();
    let converted = converted.ok_or_else(|| Status::internal("a conversion without a result"))?;
    call.conversions.known.push((object, row, converted));
    Ok(true)
}
