//! Service-account tokens for pods (TokenRequest, KEP-1205), renewed before they expire.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::VolumeError;
use crate::api::pod::TokenProjection;
use crate::api::{Pod, Rest};

/// A token is renewed after this share of its life, or a day.
const LIFE_PERCENT: i64 = 80;
const RENEW_AT_LATEST: SignedDuration = SignedDuration::from_hours(24);

/// A pod's token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub text: String,
    /// When to ask for the next one.
    pub renew_at: Timestamp,
}

#[derive(Deserialize)]
struct Answer {
    status: AnswerStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

/// Asks for a token for the pod.
pub(super) async fn request(
    rest: &Rest,
    pod: &Pod,
    projection: &TokenProjection,
    now: Timestamp,
) -> Result<Token, VolumeError> {
    let account = match pod.spec.service_account_name.as_str() {
        "" => "default",
        name => name,
    };
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.metadata.namespace);
    let mut spec = json!({
        "expirationSeconds": projection.expiration_seconds.unwrap_or(3600),
        "boundObjectRef": {
            "kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid,
        },
        "audiences": [],
    });
    if !projection.audience.is_empty() {
        spec["audiences"] = json!([projection.audience]);
    }
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let answer: Answer =
        rest.post(&path, &body).await.map_err(|e| VolumeError(format!("failed to fetch token: {e}")))?;
    let life = answer.status.expiration_timestamp.duration_since(now);
    let wait = SignedDuration::from_secs(life.as_secs() * LIFE_PERCENT / 100).min(RENEW_AT_LATEST);
    Ok(Token { text: answer.status.token, renew_at: now.checked_add(wait).unwrap_or(Timestamp::MAX) })
}
