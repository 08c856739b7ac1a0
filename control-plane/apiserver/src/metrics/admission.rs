//! What admission makes of requests (apiserver `admission/metrics`).

use std::time::Duration;

use xebec_metrics::{Counters, Histograms, Labels, WithCode, label};

/// The ends of the buckets of latencies, in seconds.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Codes above this are counted as this.
const LARGEST_CODE: u16 = 600;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Admissions {
    steps: Histograms<Step>,
    plugins: Histograms<Named<&'static str>>,
    webhooks: Histograms<Named<String>>,
    calls: Counters<WithCode<Named<String>>>,
    rejections: Counters<Rejection>,
    failed_open: Counters<FailedOpen>,
}

impl Default for Admissions {
    fn default() -> Self {
        Self {
            steps: Histograms::new("apiserver_admission_step_admission_duration_seconds", &BOUNDS),
            plugins: Histograms::new("apiserver_admission_controller_admission_duration_seconds", &BOUNDS),
            webhooks: Histograms::new("apiserver_admission_webhook_admission_duration_seconds", &BOUNDS),
            calls: Counters::new("apiserver_admission_webhook_request_total"),
            rejections: Counters::new("apiserver_admission_webhook_rejection_count"),
            failed_open: Counters::new("apiserver_admission_webhook_fail_open_count"),
        }
    }
}

/// What happened to a request at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// `admit`, `validate`; of webhooks `admit`, `validating`.
    pub(crate) kind: &'static str,
    /// What is asked for.
    pub(crate) operation: &'static str,
    /// It went no further.
    pub(crate) rejected: bool,
}

/// At a plugin or webhook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named<N> {
    step: Step,
    name: N,
}

/// A webhook that failed, and may.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FailedOpen {
    name: String,
    kind: &'static str,
}

/// Why a webhook's request went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// It could not be called, or its answer made no sense.
    Calling,
    /// It said no.
    Said,
    /// It could not be put to it.
    Internal,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rejection {
    step: Step,
    name: String,
    why: Why,
    code: u16,
}

fn write_step(out: &mut String, name: Option<&str>, step: Step) {
    if let Some(name) = name {
        label(out, "name", name);
    }
    label(out, "operation", step.operation);
    label(out, "rejected", if step.rejected { "true" } else { "false" });
    label(out, "type", step.kind);
}

impl Labels for Step {
    fn write(&self, out: &mut String) {
        write_step(out, None, *self);
    }
}

impl<N: AsRef<str> + Ord> Labels for Named<N> {
    fn write(&self, out: &mut String) {
        write_step(out, Some(self.name.as_ref()), self.step);
    }
}

impl Labels for Rejection {
    fn write(&self, out: &mut String) {
        let why = match self.why {
            Why::Calling => "calling_webhook_error",
            Why::Said => "no_error",
            Why::Internal => "apiserver_internal_error",
        };
        label(out, "error_type", why);
        label(out, "name", &self.name);
        label(out, "operation", self.step.operation);
        label(out, "rejection_code", &self.code.to_string());
        label(out, "type", self.step.kind);
    }
}

impl Labels for FailedOpen {
    fn write(&self, out: &mut String) {
        label(out, "name", &self.name);
        label(out, "type", self.kind);
    }
}

impl Admissions {
    /// All plugins, and each of them, took so long; the last of them is the one that refused, if `step` says so.
    pub(crate) fn stepped(&self, step: Step, took: Duration, plugins: &[(&'static str, Duration)]) {
        self.steps.observe(step, took);
        let last = plugins.len();
        let of_plugin = |(at, (name, took)): (usize, &(&'static str, Duration))| {
            let rejected = step.rejected && at + 1 == last;
            (Named { step: Step { rejected, ..step }, name: *name }, *took)
        };
        self.plugins.observe_all(plugins.iter().enumerate().map(of_plugin));
    }

    /// A webhook was called; `code` is its answer's.
    pub(crate) fn called(&self, step: Step, name: &str, took: Duration, code: u16) {
        let webhook = Named { step, name: name.to_owned() };
        self.webhooks.observe(webhook.clone(), took);
        self.calls.add(WithCode(code.min(LARGEST_CODE), webhook), 1);
    }

    /// A webhook's request goes no further.
    pub(crate) fn rejected(&self, step: Step, name: &str, why: Why, code: u16) {
        self.rejections.add(Rejection { step, name: name.to_owned(), why, code: code.min(LARGEST_CODE) }, 1);
    }

    /// A webhook failed, and may.
    pub(crate) fn failed_open(&self, kind: &'static str, name: &str) {
        self.failed_open.add(FailedOpen { name: name.to_owned(), kind }, 1);
    }

    pub(super) fn render(&self, out: &mut String) {
        self.steps.render(out);
        self.plugins.render(out);
        self.webhooks.render(out);
        self.calls.render(out);
        self.rejections.render(out);
        self.failed_open.render(out);
    }
}
