//! DELETE of a collection: every object that the selectors name, one by one.

use http::Response;
use xebec_schema::status::Status;

use super::delete::{self, Options};
use super::list::{self, Page};
use super::select::Filter;
use crate::body::{self, Body, RequestBody};
use crate::chain::Call;

/// Serves it. Objects that are gone meanwhile, or are others now, are left alone.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let body = body::read(body).await?;
    let options = Options::read(call, &body)?;
    let filter = Filter::of(call)?;
    let cache = call.cache()?;
    let listing = cache.list(&filter.prefix, "", usize::MAX, |entry| filter.matches(entry));
    for entry in &listing.items {
        call.path.name = entry.name.to_string();
        let options = Options { uid: Some(entry.uid.to_string()), ..options.clone() };
        match delete::delete(call, &options).await {
            Ok(_) => {}
            Err(status) if status.code == 404 || (status.code == 409 && status.reason == "Conflict") => {}
            Err(status) => return Err(status),
        }
    }
    call.path.name.clear();
    let revision = listing.revision;
    list::render(call, Page { items: listing.items, revision, token: None, remaining: None })
}
