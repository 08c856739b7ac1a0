//! Probes: whether a container has started, lives, and is ready.

pub mod check;
pub mod counter;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::api::pod::{Container, Handler, Probe};

pub use counter::Counter;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Until it succeeds, the others wait.
    Startup,
    /// When it fails, the container is restarted.
    Liveness,
    /// While it fails, the pod gets no traffic.
    Readiness,
}

impl Kind {
    /// As an event names it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Success,
    /// As it should be, with something to tell.
    Warned(String),
    /// Not so: what the event says.
    Failure(String),
    /// The probe could not be made; counts for nothing.
    Unknown(String),
}

/// Makes probes.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Makes one probe of the container with runtime id `id`, whose pod has `address`.
    async fn probe(
        &self,
        handler: &Handler,
        container: &Container,
        id: &str,
        address: Option<IpAddr>,
        timeout: Duration,
    ) -> Outcome;

    /// Does what a hook of the container says. Of an HTTP server, any answer will do.
    async fn hook(
        &self,
        handler: &Handler,
        container: &Container,
        id: &str,
        address: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<(), String> {
        match self.probe(handler, container, id, address, timeout).await {
            Outcome::Success | Outcome::Warned(_) => Ok(()),
            Outcome::Failure(message) if message.starts_with(BAD_STATUS) => Ok(()),
            Outcome::Failure(message) | Outcome::Unknown(message) => Err(message),
        }
    }
}

/// How the failure of an HTTP probe begins that was answered.
const BAD_STATUS: &str = "HTTP probe failed with statuscode: ";
