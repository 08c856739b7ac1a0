//! From what the metrics say to what is done and told (upstream `reconcileAutoscaler`).

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::behavior::{History, normalize};
use super::metrics::{Found, show_selector};
use super::replicas::{Pod, Proposal, Resource, Target, Tolerances, by_average, by_pods, by_value, milli};
use crate::runtime::kind;
use crate::runtime::meta::{Condition, Meta, condition, null_default, seconds};
use crate::runtime::plan::{Note, Plan, Write};
use crate::views::HorizontalPodAutoscaler;

/// `autoscaling/v1 Scale`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scale {
    /// The target's metadata.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "null_default")]
    pub spec: ScaleSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: ScaleStatus,
}

/// `autoscaling/v1 ScaleSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ScaleSpec {
    /// How many.
    pub replicas: i32,
}

/// `autoscaling/v1 ScaleStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ScaleStatus {
    /// How many.
    pub replicas: i32,
    /// Which pods.
    #[serde(deserialize_with = "null_default")]
    pub selector: String,
}

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The autoscaler.
    pub autoscaler: &'a HorizontalPodAutoscaler,
    /// The target's scale.
    pub scale: &'a Scale,
    /// Its pods.
    pub pods: &'a [Pod],
    /// What each metric of the spec says.
    pub found: &'a [Result<Found, String>],
    /// Other autoscalers whose targets have some of the pods.
    pub rivals: &'a [String],
    /// The time.
    pub now: Timestamp,
}

/// What is to be done and told.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The new number of replicas, and why.
    pub rescale: Option<(i32, String)>,
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// What the metrics say; `None` leaves what was said.
    pub metrics: Option<Vec<Value>>,
    /// Events.
    pub notes: Vec<Note>,
}

impl Decision {
    /// What is told so far.
    pub fn new(autoscaler: &HorizontalPodAutoscaler) -> Self {
        let conditions = autoscaler.status.conditions.clone();
        Self { rescale: None, conditions, metrics: None, notes: Vec::new() }
    }

    /// Sets a condition.
    pub fn set(&mut self, kind: &str, is: bool, reason: &str, message: impl Into<String>, now: Timestamp) {
        let status = if is { "True" } else { "False" };
        let since =
            condition(&self.conditions, kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        let new = Condition {
            kind: kind.into(),
            status: status.into(),
            last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..Condition::default()
        };
        match self.conditions.iter_mut().find(|c| c.kind == kind) {
            Some(old) => *old = new,
            None => self.conditions.push(new),
        }
    }

    fn warn(&mut self, autoscaler: &HorizontalPodAutoscaler, reason: &str, message: impl Into<String>) {
        let regarding = autoscaler.metadata.reference(&kind::HORIZONTAL_POD_AUTOSCALER);
        self.notes.push(Note::warning(regarding, reason, message));
    }
}

/// The target's scale cannot be read.
pub fn no_scale(autoscaler: &HorizontalPodAutoscaler, why: &str, now: Timestamp) -> Decision {
    let mut decision = Decision::new(autoscaler);
    decision.warn(autoscaler, "FailedGetScale", why);
    let message = format!("the HPA controller was unable to get the target's current scale: {why}");
    decision.set("AbleToScale", false, "FailedGetScale", message, now);
    decision
}

/// Decides, and takes the recommendation into the history.
pub fn decide(view: &View<'_>, history: &mut History) -> Decision {
    let View { autoscaler, scale, now, .. } = *view;
    let mut decision = Decision::new(autoscaler);
    let current = scale.spec.replicas;
    let min = autoscaler.spec.min_replicas.unwrap_or(1);
    let got = "the HPA controller was able to get the target's current scale";
    decision.set("AbleToScale", true, "SucceededGetScale", got, now);
    history.begin(current, now);
    decision.metrics = Some(Vec::new());
    if current == 0 && min != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        decision.set("ScalingActive", false, "ScalingDisabled", message, now);
    } else if current > autoscaler.spec.max_replicas {
        let reason = "Current number of replicas above Spec.MaxReplicas".to_owned();
        decision.rescale = Some((autoscaler.spec.max_replicas, reason));
    } else if current < min {
        decision.rescale = Some((min, "Current number of replicas below Spec.MinReplicas".to_owned()));
    } else {
        by_metrics(view, history, &mut decision);
    }
    decision
}

fn by_metrics(view: &View<'_>, history: &mut History, decision: &mut Decision) {
    let View { autoscaler, scale, now, .. } = *view;
    let current = scale.spec.replicas;
    let (wanted, metric) = match propose(view, decision) {
        Ok(best) => best,
        Err(why) => {
            decision.metrics = None;
            decision.warn(autoscaler, "FailedComputeMetricsReplicas", why);
            return;
        }
    };
    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
    decision.set("ScalingActive", true, "ValidMetricFound", message, now);
    let normal = normalize(&autoscaler.spec, history, current, wanted, now);
    decision.set("AbleToScale", true, normal.able.0, normal.able.1, now);
    decision.set("ScalingLimited", normal.limited.0, normal.limited.1, normal.limited.2, now);
    if normal.replicas != current {
        let reason = match wanted {
            wanted if wanted > current => format!("{metric} above target"),
            wanted if wanted < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        decision.rescale = Some((normal.replicas, reason));
    }
}

/// The highest number that a metric asks for, and which one it is.
fn propose(view: &View<'_>, decision: &mut Decision) -> Result<(i32, String), String> {
    let View { autoscaler, scale, now, .. } = *view;
    if scale.status.selector.is_empty() {
        let message = "the HPA target's scale is missing a selector";
        decision.set("ScalingActive", false, "InvalidSelector", message, now);
        decision.warn(autoscaler, "SelectorRequired", "selector is required");
        return Err("selector is required".into());
    }
    if !view.rivals.is_empty() {
        let all: Vec<String> =
            view.rivals.iter().map(|rival| format!("{}/{rival}", autoscaler.metadata.namespace)).collect();
        let message =
            format!("pods by selector {} are controlled by multiple HPAs: [{}]", scale.status.selector, all.join(" "));
        decision.set("ScalingActive", false, "AmbiguousSelector", message.clone(), now);
        decision.warn(autoscaler, "AmbiguousSelector", message.clone());
        return Err(message);
    }
    let mut best: Option<(i32, String)> = None;
    let mut first: Option<(&'static str, String, String)> = None;
    let mut invalid = 0;
    let metrics = &autoscaler.spec.metrics;
    for (metric, found) in metrics.iter().zip(view.found) {
        match one(view, metric, found) {
            Ok((proposal, name, status)) => {
                decision.metrics.get_or_insert_default().push(status);
                if best.as_ref().is_none_or(|(most, _)| *most == 0 || proposal.replicas > *most) {
                    best = Some((proposal.replicas, name));
                }
            }
            Err(failure) => {
                decision.warn(autoscaler, failure.reason, failure.why.clone());
                invalid += 1;
                first.get_or_insert((failure.reason, failure.why, failure.prefix));
            }
        }
    }
    // With some metrics missing it may grow, but not shrink.
    let shrinks = best.as_ref().is_none_or(|(replicas, _)| *replicas < scale.spec.replicas);
    match (best, first) {
        (Some(best), None) => Ok(best),
        (Some(best), Some(_)) if !shrinks => Ok(best),
        (_, Some((reason, why, prefix))) => {
            let message = format!("the HPA was unable to compute the replica count: {why}");
            decision.set("ScalingActive", false, reason, message, now);
            Err(format!("invalid metrics ({invalid} invalid out of {}), first error is: {prefix}{why}", metrics.len()))
        }
        (None, None) => Err("there are no metrics".into()),
    }
}

/// Why a metric asks for nothing.
struct Failure {
    reason: &'static str,
    why: String,
    /// What stands before it where it is told among others.
    prefix: String,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn quantity(milli: i64) -> String {
    let quantity = xebec_schema::quantity::Quantity::from_milli(milli, xebec_schema::quantity::Format::DecimalSi);
    quantity.to_string()
}

/// One metric: how many replicas, what it is called, and its status.
fn one(view: &View<'_>, metric: &Value, found: &Result<Found, String>) -> Result<(Proposal, String, Value), Failure> {
    match text(metric, "/type") {
        "Resource" => resource(view, metric, found, "resource"),
        "ContainerResource" => resource(view, metric, found, "containerResource"),
        "Pods" => {
            let failed = |why: String| Failure {
                reason: "FailedGetPodsMetric",
                why,
                prefix: "failed to get pods metric value: ".into(),
            };
            let name = text(metric, "/pods/metric/name");
            let target = Target::AverageValue(milli(&metric["pods"]["target"]["averageValue"]));
            let proposal = of_pods(view, found, Resource { name: "", container: "" }, target).map_err(failed)?;
            let current = json!({"averageValue": quantity(proposal.value_milli)});
            let status = json!({"type": "Pods", "pods": {"metric": metric["pods"]["metric"], "current": current}});
            Ok((proposal, format!("pods metric {name}"), status))
        }
        "Object" => object(view, metric, found),
        "External" => external(view, metric, found),
        other => Err(Failure {
            reason: "InvalidMetricSourceType",
            why: format!("unknown metric source type {other:?}"),
            prefix: String::new(),
        }),
    }
}

fn of_pods(
    view: &View<'_>,
    found: &Result<Found, String>,
    resource: Resource<'_>,
    target: Target,
) -> Result<Proposal, String> {
    match found {
        Ok(Found::Pods(samples)) => {
            let current = view.scale.spec.replicas;
            by_pods(current, view.pods, samples, resource, target, tolerances(view), view.now)
        }
        Ok(Found::Value(_)) => Err("one value was found where there should be one for each pod".into()),
        Err(why) => Err(why.clone()),
    }
}

fn value(found: &Result<Found, String>) -> Result<i64, String> {
    match found {
        Ok(Found::Value(value)) => Ok(*value),
        Ok(Found::Pods(_)) => Err("values of pods were found where there should be one".into()),
        Err(why) => Err(why.clone()),
    }
}

fn tolerances(view: &View<'_>) -> Tolerances {
    let default = Tolerances::default();
    #[expect(clippy::cast_precision_loss, reason = "a tolerance is a small number")]
    let of = |tolerance: Option<&Value>, default: f64| tolerance.map_or(default, |t| milli(t) as f64 / 1000.0);
    let behavior = view.autoscaler.spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|b| b.scale_up.tolerance.as_ref()), default.up),
        down: of(behavior.and_then(|b| b.scale_down.tolerance.as_ref()), default.down),
    }
}

fn resource(
    view: &View<'_>,
    metric: &Value,
    found: &Result<Found, String>,
    field: &str,
) -> Result<(Proposal, String, Value), Failure> {
    let source = &metric[field];
    let (name, container) = (text(source, "/name"), text(source, "/container"));
    let is_container = field == "containerResource";
    let failed = |why: String| Failure {
        reason: if is_container { "FailedGetContainerResourceMetric" } else { "FailedGetResourceMetric" },
        why: format!("failed to get {name} utilization: {why}"),
        prefix: match is_container {
            true => format!("failed to get {container} container metric value: "),
            false => format!("failed to get {name} resource metric value: "),
        },
    };
    let percent = source["target"]["averageUtilization"].as_i64().and_then(|percent| i32::try_from(percent).ok());
    let target = match (&source["target"]["averageValue"], percent) {
        (Value::Null, Some(percent)) => Target::Utilization(percent),
        (Value::Null, None) => {
            let why = "invalid resource metric source: neither an average utilization target nor an average value \
                       (usage) target was set";
            return Err(failed(why.into()));
        }
        (value, _) => Target::AverageValue(milli(value)),
    };
    let proposal = of_pods(view, found, Resource { name, container }, target).map_err(failed)?;
    let mut current = json!({"averageValue": quantity(proposal.value_milli)});
    if let Some(percent) = proposal.utilization {
        current["averageUtilization"] = percent.into();
    }
    let mut status = json!({"name": name, "current": current});
    let what = if is_container { "container resource" } else { "resource" };
    if is_container {
        status["container"] = container.into();
    }
    let called = match target {
        Target::Utilization(_) => format!("{name} {what} utilization (percentage of request)"),
        Target::AverageValue(_) => format!("{name} {what}"),
    };
    Ok((proposal, called, json!({"type": metric["type"], field: status})))
}

fn object(
    view: &View<'_>,
    metric: &Value,
    found: &Result<Found, String>,
) -> Result<(Proposal, String, Value), Failure> {
    let source = &metric["object"];
    let failed = |why: String| Failure {
        reason: "FailedGetObjectMetric",
        why,
        prefix: "failed to get object metric value: ".into(),
    };
    let value_milli = value(found).map_err(failed)?;
    let (target, tolerances) = (&source["target"], tolerances(view));
    let name = text(source, "/metric/name");
    let (proposal, current, called) = if text(target, "/type") == "AverageValue" {
        let replicas = view.scale.status.replicas;
        let proposal = by_average(replicas, value_milli, milli(&target["averageValue"]), tolerances);
        let shown = show_selector(&source["metric"]["selector"]);
        (proposal, json!({"averageValue": quantity(proposal.value_milli)}), format!("external metric {name}({shown})"))
    } else {
        let current = view.scale.spec.replicas;
        let proposal =
            by_value(current, view.pods, value_milli, milli(&target["value"]), tolerances).map_err(failed)?;
        let kind = text(source, "/describedObject/kind");
        (proposal, json!({"value": quantity(proposal.value_milli)}), format!("{kind} metric {name}"))
    };
    let status = json!({"metric": source["metric"], "describedObject": source["describedObject"], "current": current});
    Ok((proposal, called, json!({"type": "Object", "object": status})))
}

fn external(
    view: &View<'_>,
    metric: &Value,
    found: &Result<Found, String>,
) -> Result<(Proposal, String, Value), Failure> {
    let source = &metric["external"];
    let name = text(source, "/metric/name");
    let (target, tolerances) = (&source["target"], tolerances(view));
    let average = !target["averageValue"].is_null();
    let failed = |why: String| Failure {
        reason: "FailedGetExternalMetric",
        why: match average {
            true => format!("failed to get {name} external metric: {why}"),
            false => format!("failed to get external metric {name}: {why}"),
        },
        prefix: format!("failed to get {name} external metric value: "),
    };
    let value_milli = value(found).map_err(failed)?;
    let (proposal, current) = if average {
        let replicas = view.scale.status.replicas;
        let proposal = by_average(replicas, value_milli, milli(&target["averageValue"]), tolerances);
        (proposal, json!({"averageValue": quantity(proposal.value_milli)}))
    } else {
        let current = view.scale.spec.replicas;
        let proposal =
            by_value(current, view.pods, value_milli, milli(&target["value"]), tolerances).map_err(failed)?;
        (proposal, json!({"value": quantity(proposal.value_milli)}))
    };
    let status = json!({"metric": source["metric"], "current": current});
    let called = format!("external metric {name}({})", show_selector(&source["metric"]["selector"]));
    Ok((proposal, called, json!({"type": "External", "external": status})))
}

/// Tells what has been decided, and what came of it.
pub fn tell(
    autoscaler: &HorizontalPodAutoscaler,
    decision: &Decision,
    replicas: Option<(i32, i32)>,
    rescaled: bool,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::nothing();
    plan.step(decision.notes.iter().cloned().map(Into::into).collect());
    let old = &autoscaler.status;
    let (current, desired) = replicas.unwrap_or((old.current_replicas, old.desired_replicas));
    let generation = Some(autoscaler.metadata.generation);
    let metrics = decision.metrics.as_ref().unwrap_or(&old.current_metrics);
    let same = old.observed_generation == generation
        && (old.current_replicas, old.desired_replicas) == (current, desired)
        && old.current_metrics == *metrics
        && old.conditions == decision.conditions
        && !rescaled;
    if same {
        return plan;
    }
    let mut status = json!({
        "observedGeneration": generation, "currentReplicas": current, "desiredReplicas": desired,
        "currentMetrics": if metrics.is_empty() { Value::Null } else { json!(metrics) },
        "conditions": decision.conditions,
    });
    if rescaled {
        status["lastScaleTime"] = json!(seconds(now));
    }
    let patch = json!({"status": status});
    let meta = &autoscaler.metadata;
    plan.act(Write::merge(&kind::HORIZONTAL_POD_AUTOSCALER, meta, "status", patch).into());
    plan
}
