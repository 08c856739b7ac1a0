//! GET of one object: the bytes that the cache holds.

use http::Response;
use xebec_schema::status::Status;

use crate::body::Body;
use crate::chain::Call;
use crate::{respond, versions};

/// Serves it. What this server acknowledged is in the cache, so it is what the store would answer.
///
/// # Errors
///
/// 404.
pub async fn serve(call: &Call) -> Result<Response<Body>, Status> {
    let entry = call.cache()?.get(&call.key()).ok_or_else(|| call.not_found())?;
    let shown = versions::shown(&call.server, &call.resource, vec![entry]).await?;
    let entry = shown.first().ok_or_else(|| call.not_found())?;
    let bytes = versions::serve(&call.resource, entry).map_err(Status::internal)?;
    Ok(respond::object(200, &call.resource, bytes, call.wanted, call.server.clock.now()))
}
