//! How many replicas a metric asks for (upstream `replica_calculator.go`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use xebec_schema::quantity::Quantity;

use crate::runtime::meta::{Condition, Meta, condition, null_default};

/// For how long after its start a pod's processor time may be that of its start.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// How soon after its start a pod's first readiness is known.
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// How far from the target is near enough.
const TOLERANCE: f64 = 0.1;

/// A pod of the target, as far as scaling depends on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    #[serde(deserialize_with = "null_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    restart_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "null_default")]
    requests: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    #[serde(deserialize_with = "null_default")]
    phase: String,
    start_time: Option<Timestamp>,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
}

/// What a metric says of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The value, in thousandths.
    pub value_milli: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// Over how long.
    pub window: SignedDuration,
}

/// By pod.
pub type Samples = BTreeMap<String, Sample>;

/// How near to the target is near enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Above it.
    pub up: f64,
    /// Below it.
    pub down: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self { up: TOLERANCE, down: TOLERANCE }
    }
}

impl Tolerances {
    fn are_met(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// So many replicas.
    pub replicas: i32,
    /// The part of the request that is used, in percent.
    pub utilization: Option<i32>,
    /// What is used of it by a pod, or as a whole, in thousandths.
    pub value_milli: i64,
}

/// What a resource's use is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A part of what the pods request, in percent.
    Utilization(i32),
    /// A value of each pod, in thousandths.
    AverageValue(i64),
}

/// Which resource, and of which container.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// `cpu`, `memory`; empty for what is no resource.
    pub name: &'a str,
    /// Empty for all containers together.
    pub container: &'a str,
}

#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// By what each pod uses.
///
/// # Errors
///
/// It cannot be told, in upstream's words.
pub fn by_pods(
    current: i32,
    pods: &[Pod],
    samples: &Samples,
    resource: Resource<'_>,
    target: Target,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, samples, resource.name, now);
    let mut values: BTreeMap<String, i64> = samples
        .iter()
        .filter(|(name, _)| !groups.ignored.contains(*name) && !groups.unready.contains(*name))
        .map(|(name, sample)| (name.clone(), sample.value_milli))
        .collect();
    let requests = match target {
        Target::Utilization(_) => requests(pods, resource)?,
        Target::AverageValue(_) => BTreeMap::new(),
    };
    if values.is_empty() {
        return Err("did not receive metrics for any ready pods".into());
    }
    let measured = measure(&values, &requests, target)?;
    let propose =
        |replicas| Proposal { replicas, utilization: measured.utilization, value_milli: measured.value_milli };
    let ratio = measured.ratio;
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        if tolerances.are_met(ratio) {
            return Ok(propose(current));
        }
        return Ok(propose(ceil(ratio * float(groups.ready))));
    }
    // Whoever says nothing is taken for idle when there are to be more, and for fully busy when there are to be fewer.
    for name in &groups.missing {
        let value = match target {
            _ if ratio >= 1.0 => 0,
            Target::Utilization(percent) => {
                requests.get(name).copied().unwrap_or_default() * i64::from(percent.max(100)) / 100
            }
            Target::AverageValue(value) => value,
        };
        values.insert(name.clone(), value);
    }
    if with_unready {
        values.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
    }
    let again = measure(&values, &requests, target)?.ratio;
    let turns = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerances.are_met(again) || turns {
        return Ok(propose(current));
    }
    let replicas = ceil(again * float(values.len()));
    if (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current) {
        return Ok(propose(current));
    }
    Ok(propose(replicas))
}

/// By one value for the whole target.
///
/// # Errors
///
/// There are no pods.
pub fn by_value(
    current: i32,
    pods: &[Pod],
    value_milli: i64,
    target_milli: i64,
    tolerances: Tolerances,
) -> Result<Proposal, String> {
    let ratio = exact(value_milli) / exact(target_milli);
    let propose = |replicas| Proposal { replicas, utilization: None, value_milli };
    if current == 0 {
        return Ok(propose(ceil(ratio)));
    }
    if tolerances.are_met(ratio) {
        return Ok(propose(current));
    }
    if pods.is_empty() {
        let why = "no pods returned by selector while calculating replica count";
        return Err(format!("unable to calculate ready pods: {why}"));
    }
    let is_ready = |pod: &&Pod| {
        pod.status.phase == "Running" && condition(&pod.status.conditions, "Ready").is_some_and(Condition::is_true)
    };
    Ok(propose(ceil(ratio * float(pods.iter().filter(is_ready).count()))))
}

/// By one value that is divided among the replicas.
pub fn by_average(replicas: i32, value_milli: i64, target_milli: i64, tolerances: Tolerances) -> Proposal {
    let ratio = exact(value_milli) / (exact(target_milli) * f64::from(replicas));
    let wanted = if tolerances.are_met(ratio) { replicas } else { ceil(exact(value_milli) / exact(target_milli)) };
    let each = if replicas > 0 { exact(value_milli) / f64::from(replicas) } else { exact(value_milli) };
    Proposal { replicas: wanted, utilization: None, value_milli: i64::from(ceil(each)) }
}

struct Measured {
    ratio: f64,
    utilization: Option<i32>,
    value_milli: i64,
}

fn measure(
    values: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
    target: Target,
) -> Result<Measured, String> {
    match target {
        Target::AverageValue(target) => {
            let average = values.values().sum::<i64>() / i64::try_from(values.len().max(1)).unwrap_or(1);
            Ok(Measured { ratio: exact(average) / exact(target), utilization: None, value_milli: average })
        }
        Target::Utilization(target) => {
            let known = values.iter().filter_map(|(name, value)| Some((*value, *requests.get(name)?)));
            let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
            for (value, request) in known {
                (used, requested, count) = (used + value, requested + request, count + 1);
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let percent = i32::try_from(i128::from(used) * 100 / i128::from(requested)).unwrap_or(i32::MAX);
            Ok(Measured {
                ratio: f64::from(percent) / f64::from(target),
                utilization: Some(percent),
                value_milli: used / count,
            })
        }
    }
}

fn group(pods: &[Pod], samples: &Samples, resource: &str, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone();
        if pod.metadata.is_terminating() || pod.status.phase == "Failed" {
            groups.ignored.insert(name);
        } else if pod.status.phase == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if resource == "cpu" && is_unready(pod, sample, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether a pod's processor time says nothing of its load: it is not ready, or was just being started.
fn is_unready(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let ready = condition(&pod.status.conditions, "Ready");
    let (Some(ready), Some(started)) = (ready, pod.status.start_time) else { return true };
    let not_ready = ready.status == "False";
    let since = ready.last_transition_time.unwrap_or(started);
    let later = |at: Timestamp, by: SignedDuration| at.checked_add(by).unwrap_or(Timestamp::MAX);
    if later(started, CPU_INITIALIZATION) > now {
        not_ready || sample.at < later(since, sample.window)
    } else {
        not_ready && later(started, INITIAL_READINESS_DELAY) > since
    }
}

/// What each pod requests of a resource, in thousandths.
fn requests(pods: &[Pod], resource: Resource<'_>) -> Result<BTreeMap<String, i64>, String> {
    let mut out = BTreeMap::new();
    for pod in pods {
        let name = &pod.metadata.name;
        if resource.container.is_empty()
            && let Some(whole) = pod.spec.resources.requests.get(resource.name)
        {
            out.insert(name.clone(), milli(whole));
            continue;
        }
        let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0;
        for container in pod.spec.containers.iter().chain(sidecars) {
            if !resource.container.is_empty() && container.name != resource.container {
                continue;
            }
            let Some(request) = container.resources.requests.get(resource.name) else {
                let (resource, container) = (resource.name, &container.name);
                return Err(format!("missing request for {resource} in container {container} of Pod {name}"));
            };
            sum += milli(request);
        }
        out.insert(name.clone(), sum);
    }
    Ok(out)
}

/// A quantity in thousandths; 0 if it is none.
pub fn milli(value: &Value) -> i64 {
    Quantity::of_json(value).map(|quantity| quantity.milli_value()).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "ratios of what is used need no more than 52 bits")]
fn exact(value: i64) -> f64 {
    value as f64
}

fn float(count: usize) -> f64 {
    exact(i64::try_from(count).unwrap_or(i64::MAX))
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and takes what is no number for nothing")]
fn ceil(number: f64) -> i32 {
    number.ceil() as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}))
        .unwrap()
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let sample = |value_milli| Sample { value_milli, at: now(), window: SignedDuration::from_secs(10) };
        values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
    }

    const CPU: Resource<'_> = Resource { name: "cpu", container: "" };

    fn replicas(pods: &[Pod], values: &[(&str, i64)], target: Target) -> Result<Proposal, String> {
        let current = i32::try_from(pods.len()).unwrap();
        by_pods(current, pods, &samples(values), CPU, target, Tolerances::default(), now())
    }

    #[test]
    fn by_utilization() {
        let pods = ["a", "b", "c"].map(|name| pod(name, "Running", "True"));
        let up = replicas(&pods, &[("a", 900), ("b", 700), ("c", 800)], Target::Utilization(50)).unwrap();
        assert_eq!(up, Proposal { replicas: 5, utilization: Some(80), value_milli: 800 });
        let near = replicas(&pods, &[("a", 540), ("b", 540), ("c", 540)], Target::Utilization(50)).unwrap();
        assert_eq!(near.replicas, 3, "within the tolerance");
        let down = replicas(&pods, &[("a", 100), ("b", 100), ("c", 100)], Target::Utilization(50)).unwrap();
        assert_eq!(down.replicas, 1);
    }

    #[test]
    fn who_says_nothing_holds_back() {
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True"), pod("c", "Pending", "False")];
        // c is not ready, and taken for idle: 1000 + 1000 of three pods.
        let up = replicas(&pods, &[("a", 1000), ("b", 1000)], Target::Utilization(50)).unwrap();
        assert_eq!(up.replicas, 4);
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        // b is missing, and taken for busy.
        let down = replicas(&pods, &[("a", 100)], Target::Utilization(50)).unwrap();
        assert_eq!(down.replicas, 2, "what is missing does not turn the direction");
    }

    #[test]
    fn what_cannot_be_told() {
        let without: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": [
            {"name": "c"}]}, "status": {"phase": "Running"}}))
        .unwrap();
        let error = |pods: &[Pod], values: &[(&str, i64)]| replicas(pods, values, Target::Utilization(50)).unwrap_err();
        assert_eq!(error(&[without], &[("a", 1)]), "missing request for cpu in container c of Pod a");
        assert_eq!(error(&[], &[]), "no pods returned by selector while calculating replica count");
        let pending = [pod("a", "Pending", "False")];
        assert_eq!(error(&pending, &[]), "did not receive metrics for any ready pods");
    }

    #[test]
    fn by_values_of_objects() {
        let pods = ["a", "b"].map(|name| pod(name, "Running", "True"));
        let tolerances = Tolerances::default();
        assert_eq!(by_value(2, &pods, 3000, 1000, tolerances).unwrap().replicas, 6);
        assert_eq!(by_value(2, &pods, 1050, 1000, tolerances).unwrap().replicas, 2);
        assert_eq!(by_value(0, &[], 1500, 1000, tolerances).unwrap().replicas, 2);
        assert_eq!(
            by_average(2, 9000, 1000, tolerances),
            Proposal { replicas: 9, utilization: None, value_milli: 4500 }
        );
    }

    #[test]
    fn a_pod_that_starts_is_not_believed() {
        let mut fresh = pod("a", "Running", "True");
        fresh.status.start_time = Some("2026-01-01T00:59:00Z".parse().unwrap());
        fresh.status.conditions[0].last_transition_time = Some("2026-01-01T00:59:55Z".parse().unwrap());
        let error = replicas(&[fresh], &[("a", 5000)], Target::Utilization(50)).unwrap_err();
        assert_eq!(error, "did not receive metrics for any ready pods");
    }

    proptest! {
        /// More use never asks for fewer replicas.
        #[test]
        fn more_use_more_replicas(values in proptest::collection::vec(0_i64..4000, 1..8), more in 0_i64..4000) {
            let names: Vec<String> = (0..values.len()).map(|i| format!("p{i}")).collect();
            let pods: Vec<Pod> = names.iter().map(|name| pod(name, "Running", "True")).collect();
            let of = |values: &[i64]| {
                let values: Vec<(&str, i64)> = names.iter().map(String::as_str).zip(values.iter().copied()).collect();
                replicas(&pods, &values, Target::Utilization(50)).unwrap().replicas
            };
            let mut busier = values.clone();
            busier[0] += more;
            prop_assert!(of(&busier) >= of(&values));
        }
    }
}
