//! How fast, and with what memory: stabilisation windows and policies (KEP-853; upstream `horizontal.go`).

use jiff::{SignedDuration, Timestamp};

use crate::views::{Behavior, HorizontalPodAutoscalerSpec, ScalingPolicy, ScalingRules};

/// For how long higher recommendations hold scaling down back, by default.
const DOWN_WINDOW_SECONDS: i32 = 300;
/// Without policies, the target may double, or grow to four.
const UP_FACTOR: i32 = 2;
const UP_MINIMUM: i32 = 4;
/// Recommendations and changes that are kept at most.
const MEMORY_LIMIT: usize = 1024;

/// What has been recommended and done lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    recommendations: Vec<(i32, Timestamp)>,
    up: Vec<(i32, Timestamp)>,
    down: Vec<(i32, Timestamp)>,
}

impl History {
    /// Begins with what there is.
    pub fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((replicas, now));
        }
    }

    /// The target was scaled.
    pub fn scaled(&mut self, spec: &HorizontalPodAutoscalerSpec, from: i32, to: i32, now: Timestamp) {
        let Some(behavior) = &spec.behavior else { return };
        let (changes, rules) =
            if to > from { (&mut self.up, &behavior.scale_up) } else { (&mut self.down, &behavior.scale_down) };
        let longest = rules.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or_default();
        changes.retain(|(_, at)| is_within(*at, longest, now));
        changes.push(((to - from).abs(), now));
        trim(changes);
    }

    fn recommend(&mut self, replicas: i32, window_seconds: i32, now: Timestamp) {
        self.recommendations.retain(|(_, at)| is_within(*at, window_seconds, now));
        self.recommendations.push((replicas, now));
        trim(&mut self.recommendations);
    }
}

fn trim(list: &mut Vec<(i32, Timestamp)>) {
    let excess = list.len().saturating_sub(MEMORY_LIMIT);
    list.drain(..excess);
}

fn is_within(at: Timestamp, seconds: i32, now: Timestamp) -> bool {
    now.duration_since(at) < SignedDuration::from_secs(i64::from(seconds))
}

/// How many replicas there are to be, and the conditions that tell why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalized {
    /// So many.
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Whether the number was limited, and reason and message of `ScalingLimited`.
    pub limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// Brings a recommendation into the bounds of the spec and of its history, which takes it in.
pub fn normalize(
    spec: &HorizontalPodAutoscalerSpec,
    history: &mut History,
    current: i32,
    recommended: i32,
    now: Timestamp,
) -> Normalized {
    let min = spec.min_replicas.unwrap_or(1);
    let (stable, stabilized, (replicas, limit)) = match &spec.behavior {
        None => {
            let recent = history.recommendations.iter().filter(|(_, at)| is_within(*at, DOWN_WINDOW_SECONDS, now));
            let stable = recent.map(|(replicas, _)| *replicas).max().map_or(recommended, |most| most.max(recommended));
            history.recommend(recommended, DOWN_WINDOW_SECONDS, now);
            (stable, DOWN_STABILIZED, by_default(current, stable, min, spec.max_replicas))
        }
        Some(behavior) => {
            let (stable, stabilized) = stabilize(behavior, history, current, recommended, now);
            (stable, stabilized, by_policies(behavior, history, (current, stable), (min, spec.max_replicas), now))
        }
    };
    Normalized {
        replicas,
        able: if stable == recommended { READY } else { stabilized },
        limited: (replicas != stable, limit.0, limit.1),
    }
}

fn by_default(current: i32, desired: i32, min: i32, max: i32) -> (i32, (&'static str, &'static str)) {
    let up = current.saturating_mul(UP_FACTOR).max(UP_MINIMUM);
    let (most, why) = if max > up { (up, TOO_FAST_UP) } else { (max, TOO_MANY) };
    match desired {
        desired if desired < min => (min, TOO_FEW),
        desired if desired > most => (most, why),
        desired => (desired, WITHIN),
    }
}

fn stabilize(
    behavior: &Behavior,
    history: &mut History,
    current: i32,
    recommended: i32,
    now: Timestamp,
) -> (i32, (&'static str, &'static str)) {
    let up_window = behavior.scale_up.stabilization_window_seconds.unwrap_or(0);
    let down_window = behavior.scale_down.stabilization_window_seconds.unwrap_or(DOWN_WINDOW_SECONDS);
    let recent = |seconds: i32| {
        let recent = history.recommendations.iter().filter(move |(_, at)| is_within(*at, seconds, now));
        recent.map(|(replicas, _)| *replicas)
    };
    let least = recent(up_window).fold(recommended, i32::min);
    let most = recent(down_window).fold(recommended, i32::max);
    let stable = current.max(least).min(most);
    history.recommend(recommended, up_window.max(down_window), now);
    (stable, if recommended >= current { UP_STABILIZED } else { DOWN_STABILIZED })
}

fn by_policies(
    behavior: &Behavior,
    history: &History,
    (current, desired): (i32, i32),
    (min, max): (i32, i32),
    now: Timestamp,
) -> (i32, (&'static str, &'static str)) {
    if desired > current {
        let limit = up_limit(&behavior.scale_up, history, current, now).max(current);
        let (most, why) = if max > limit { (limit, TOO_FAST_UP) } else { (max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < current {
        let limit = down_limit(&behavior.scale_down, history, current, now).min(current);
        let (least, why) = if min < limit { (limit, TOO_FAST_DOWN) } else { (min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// How many replicas there were when the policy's period began.
fn at_start(policy: &ScalingPolicy, history: &History, current: i32, now: Timestamp) -> i32 {
    let sum = |changes: &[(i32, Timestamp)]| {
        changes
            .iter()
            .filter(|(_, at)| is_within(*at, policy.period_seconds, now))
            .map(|(change, _)| *change)
            .sum::<i32>()
    };
    current - sum(&history.up) + sum(&history.down)
}

fn up_limit(rules: &ScalingRules, history: &History, current: i32, now: Timestamp) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = at_start(policy, history, current, now);
        match policy.kind.as_str() {
            "Percent" => {
                // Rounded up, or a small number would never grow.
                let grown = i64::from(start) * i64::from(100 + policy.value);
                i32::try_from(grown.div_euclid(100) + i64::from(grown.rem_euclid(100) > 0)).unwrap_or(i32::MAX)
            }
            _ => start.saturating_add(policy.value),
        }
    });
    match rules.select_policy.as_str() {
        "Disabled" => current,
        "Min" => limits.min().unwrap_or(current),
        _ => limits.max().unwrap_or(current),
    }
}

fn down_limit(rules: &ScalingRules, history: &History, current: i32, now: Timestamp) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = at_start(policy, history, current, now);
        match policy.kind.as_str() {
            "Percent" => {
                i32::try_from(i64::from(start) * i64::from((100 - policy.value).max(0)) / 100).unwrap_or(current)
            }
            _ => start.saturating_sub(policy.value),
        }
    });
    match rules.select_policy.as_str() {
        "Disabled" => current,
        "Min" => limits.max().unwrap_or(current),
        _ => limits.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn spec(min: i32, max: i32, behavior: Value) -> HorizontalPodAutoscalerSpec {
        serde_json::from_value(json!({"minReplicas": min, "maxReplicas": max, "behavior": behavior})).unwrap()
    }

    #[test]
    fn without_behavior_it_grows_by_doubling_and_shrinks_after_five_minutes() {
        let spec = spec(2, 100, Value::Null);
        let mut history = History::default();
        history.begin(3, at(0));
        let up = normalize(&spec, &mut history, 3, 50, at(1));
        assert_eq!((up.replicas, up.limited.1, up.able.0), (6, "ScaleUpLimit", "ReadyForNewScale"));
        assert_eq!(normalize(&spec, &mut history, 1, 50, at(2)).replicas, 4);
        let held = normalize(&spec, &mut history, 50, 5, at(100));
        assert_eq!((held.replicas, held.able.0), (50, "ScaleDownStabilized"));
        let down = normalize(&spec, &mut history, 50, 1, at(500));
        assert_eq!((down.replicas, down.limited), (2, (true, TOO_FEW.0, TOO_FEW.1)));
        let over = normalize(&spec, &mut history, 90, 150, at(501));
        assert_eq!((over.replicas, over.limited.1), (100, "TooManyReplicas"));
    }

    #[test]
    fn policies_limit_the_rate() {
        let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]});
        let down = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]});
        let spec = spec(1, 100, json!({"scaleUp": up, "scaleDown": down}));
        let mut history = History::default();
        let first = normalize(&spec, &mut history, 3, 80, at(0));
        assert_eq!(
            (first.replicas, first.limited.1),
            (7, "ScaleUpLimit"),
            "four more, which is more than half as many"
        );
        history.scaled(&spec, 3, 7, at(0));
        assert_eq!(normalize(&spec, &mut history, 7, 80, at(30)).replicas, 7, "that was all for this minute");
        assert_eq!(normalize(&spec, &mut history, 7, 80, at(61)).replicas, 11);
        history.scaled(&spec, 7, 11, at(61));
        let slow = normalize(&spec, &mut history, 11, 2, at(200));
        assert_eq!((slow.replicas, slow.limited.1), (10, "ScaleDownLimit"), "the slower of the two");
    }

    #[test]
    fn scaling_can_be_disabled() {
        let policies = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        let down = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled", "policies": policies});
        let spec = spec(1, 10, json!({"scaleDown": down}));
        assert_eq!(normalize(&spec, &mut History::default(), 5, 1, at(0)).replicas, 5);
    }

    proptest! {
        /// Wherever it comes from, the number is within the bounds, or on its way there.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0_i64..400, 0_i32..60), 1..30), with_behavior: bool) {
            let policies = json!([{"type": "Pods", "value": 3, "periodSeconds": 30}]);
            let rules = json!({"stabilizationWindowSeconds": 60, "policies": policies});
            let behavior = if with_behavior { json!({"scaleUp": rules, "scaleDown": rules}) } else { Value::Null };
            let spec = spec(2, 20, behavior);
            let (mut history, mut current, mut now) = (History::default(), 5, 0);
            for (wait, recommended) in steps {
                now += wait;
                let replicas = normalize(&spec, &mut history, current, recommended, at(now)).replicas;
                prop_assert!((2..=20).contains(&replicas), "{replicas}");
                prop_assert!(replicas <= (current * 2).max(current + 4), "{current} to {replicas}");
                history.scaled(&spec, current, replicas, at(now));
                current = replicas;
            }
        }
    }
}
