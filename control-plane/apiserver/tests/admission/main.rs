//! Admission, fairness and what else stands between a request and the store, over a whole server with its usual
//! extensions.

mod access;
mod audit;
mod concurrency;
mod conversion;
mod fairness;
mod harness;
mod hook;
mod oidc;
mod pod_security;
mod policies;
mod servers;
mod subresources;
mod webhooks;
