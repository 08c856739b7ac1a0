//! Metrics, from the APIs that serve them: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::replicas::{Sample, Samples, milli};
use crate::runtime::api::{Api, ApiError, with_query};
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Meta, null_default};

/// What a metric source says.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Of each pod.
    Pods(Samples),
    /// Of one thing, or of several together, in thousandths.
    Value(i64),
}

/// Where a metric is asked for.
#[derive(Debug)]
pub struct Source<'a> {
    /// The API server.
    pub api: &'a Api,
    /// The autoscaler's namespace.
    pub namespace: &'a str,
    /// The target's selector of pods.
    pub selector: &'a str,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Meta,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window: String,
    #[serde(default, deserialize_with = "null_default")]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default, deserialize_with = "null_default")]
    usage: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Described,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window_seconds: Option<i64>,
    #[serde(default)]
    value: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Described {
    name: String,
}

impl Source<'_> {
    /// What pods use of a resource; of one container of each, if it is named.
    pub async fn resource(&self, resource: &str, container: &str) -> Result<Found, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let query = [("labelSelector", self.selector.to_owned())];
        let list: List<PodMetrics> = self.get(&path, &query).await.map_err(|error| {
            format!("unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {error}")
        })?;
        let empty =
            || format!("unable to get metrics for resource {resource}: no metrics returned from resource metrics API");
        let mut samples = Samples::new();
        for pod in &list.items {
            if let Some(value_milli) = used(pod, resource, container)? {
                let sample = Sample {
                    value_milli,
                    at: pod.timestamp.unwrap_or_default(),
                    window: pod.window.parse().unwrap_or(SignedDuration::from_mins(1)),
                };
                samples.insert(pod.metadata.name.clone(), sample);
            }
        }
        if samples.is_empty() { Err(empty()) } else { Ok(Found::Pods(samples)) }
    }

    /// A metric of each pod.
    pub async fn pods(&self, metric: &Value) -> Result<Found, String> {
        let name = metric["name"].as_str().unwrap_or_default();
        let unable = |why: String| format!("unable to get metric {name}: {why}");
        let version = self.custom_version().await.map_err(unable)?;
        let path = format!("{version}/namespaces/{}/pods/*/{name}", self.namespace);
        let query =
            [("labelSelector", self.selector.to_owned()), ("metricLabelSelector", selector(&metric["selector"]))];
        let list: List<MetricValue> = self
            .get(&path, &query)
            .await
            .map_err(|error| unable(format!("unable to fetch metrics from custom metrics API: {error}")))?;
        if list.items.is_empty() {
            return Err(unable("no metrics returned from custom metrics API".into()));
        }
        let sample = |value: &MetricValue| Sample {
            value_milli: milli(&value.value),
            at: value.timestamp.unwrap_or_default(),
            window: SignedDuration::from_secs(value.window_seconds.unwrap_or(60)),
        };
        Ok(Found::Pods(list.items.iter().map(|v| (v.described_object.name.clone(), sample(v))).collect()))
    }

    /// A metric of an object, of the given kind.
    pub async fn object(&self, metric: &Value, object: &Value, kind: &Kind) -> Result<Found, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, object_kind, object_name) = (text(&metric["name"]), text(&object["kind"]), text(&object["name"]));
        let unable = |why: String| {
            format!("unable to get metric {name}: {object_kind} on {} {object_name}/{why}", self.namespace)
        };
        let version = self.custom_version().await.map_err(unable)?;
        let resource =
            if kind.group.is_empty() { kind.plural.to_string() } else { format!("{}.{}", kind.plural, kind.group) };
        let path = match kind.namespaced {
            true => format!("{version}/namespaces/{}/{resource}/{object_name}/{name}", self.namespace),
            false => format!("{version}/{resource}/{object_name}/{name}"),
        };
        let query = [("metricLabelSelector", selector(&metric["selector"]))];
        let list: List<MetricValue> = self
            .get(&path, &query)
            .await
            .map_err(|error| unable(format!("unable to fetch metrics from custom metrics API: {error}")))?;
        match list.items.first() {
            Some(value) => Ok(Found::Value(milli(&value.value))),
            None => Err(unable("no metrics returned from custom metrics API".into())),
        }
    }

    /// A metric of something outside; several of it are added up.
    pub async fn external(&self, metric: &Value) -> Result<Found, String> {
        let name = metric["name"].as_str().unwrap_or_default();
        let unable = |why: &str| {
            let shown = show_selector(&metric["selector"]);
            format!("unable to get external metric {}/{name}/{shown}: {why}", self.namespace)
        };
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{name}", self.namespace);
        let query = [("labelSelector", selector(&metric["selector"]))];
        let list: List<MetricValue> = self
            .get(&path, &query)
            .await
            .map_err(|error| unable(&format!("unable to fetch metrics from external metrics API: {error}")))?;
        if list.items.is_empty() {
            return Err(unable("no metrics returned from external metrics API"));
        }
        Ok(Found::Value(list.items.iter().map(|value| milli(&value.value)).sum()))
    }

    /// The root of the custom metrics, in the version that is served.
    async fn custom_version(&self) -> Result<String, String> {
        let group: Value = match self.get("/apis/custom.metrics.k8s.io", &[]).await {
            Ok(group) => group,
            Err(error) if error.is_not_found() => {
                return Err("no custom metrics API (custom.metrics.k8s.io) registered".into());
            }
            Err(error) => return Err(error.to_string()),
        };
        match group["preferredVersion"]["groupVersion"].as_str() {
            Some(version) => Ok(format!("/apis/{version}")),
            None => Err("no custom metrics API (custom.metrics.k8s.io) registered".into()),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&'static str, String)]) -> Result<T, ApiError> {
        let query: Vec<_> = query.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
        let body = self.api.get_raw(with_query(path.to_owned(), &query), "application/json").await?;
        serde_json::from_slice(&body).map_err(|e| ApiError::Decode(e.to_string()))
    }
}

/// What a pod uses, in thousandths; nothing if it does not say for all of its containers.
fn used(pod: &PodMetrics, resource: &str, container: &str) -> Result<Option<i64>, String> {
    if container.is_empty() {
        let values = pod.containers.iter().map(|c| c.usage.get(resource).map(milli));
        return Ok(values.collect::<Option<Vec<i64>>>().map(|values| values.iter().sum()));
    }
    match pod.containers.iter().find(|c| c.name == container) {
        Some(found) => Ok(found.usage.get(resource).map(milli)),
        None => Err(format!(
            "failed to get container metrics: container {container} not present in metrics for pod {}/{}",
            pod.metadata.namespace, pod.metadata.name
        )),
    }
}

/// A `metav1.LabelSelector` as it stands in queries.
fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for requirement in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = requirement["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match requirement["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

/// The same as it stands in messages: as Go prints it.
pub fn show_selector(selector: &Value) -> String {
    if selector.is_null() {
        return "nil".into();
    }
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default())).collect();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressions: String = expressions
        .map(|r| {
            let text = |key: &str| r[key].as_str().unwrap_or_default().to_owned();
            let values: Vec<&str> = r["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!("{{{} {} [{}]}},", text("key"), text("operator"), values.join(" "))
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_in_queries_and_messages() {
        let both = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&both), "a=1,b in (x,y),!c");
        assert_eq!((selector(&Value::Null), show_selector(&Value::Null)), (String::new(), "nil".to_owned()));
        assert!(show_selector(&both).starts_with("&LabelSelector{MatchLabels:map[string]string{a: 1,},"));
    }

    #[test]
    fn a_pods_use_is_that_of_its_containers() {
        let pod: PodMetrics =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "window": "15s",
            "containers": [{"name": "a", "usage": {"cpu": "250m"}}, {"name": "b", "usage": {"cpu": "1"}}]}))
            .unwrap();
        assert_eq!(used(&pod, "cpu", ""), Ok(Some(1250)));
        assert_eq!(used(&pod, "cpu", "a"), Ok(Some(250)));
        assert_eq!(used(&pod, "memory", ""), Ok(None));
        assert!(used(&pod, "cpu", "c").unwrap_err().contains("not present in metrics for pod n/p"));
    }
}
