//! What an agent answers to another: how far its maps are.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;

/// Where, at the agent's port: below it, the revision that is waited for, and for how many milliseconds.
pub const PATH: &str = "/network/applied/";
/// How long an answer is held back at most, while the maps are not so far.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The revision of EndpointSlices that the maps hold; none until they hold what the API says.
    pub revision: Option<u64>,
}

/// The path that other agents ask at.
pub fn router(ledger: Ledger) -> Router {
    Router::new().route("/network/applied/{revision}/{wait_ms}", get(applied)).with_state(ledger)
}

async fn applied(State(ledger): State<Ledger>, Path((wanted, wait_ms)): Path<(u64, u64)>) -> Response {
    let mut applied = ledger.applied();
    let wait = Duration::from_millis(wait_ms).min(WAIT_MAX);
    let reached = applied.wait_for(|now| now.is_some_and(|now| now >= wanted));
    // Too late or not, the answer says how far they are.
    drop(tokio::time::timeout(wait, reached).await);
    let revision = *ledger.applied().borrow();
    let answer = serde_json::json!(Applied { revision });
    ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}
