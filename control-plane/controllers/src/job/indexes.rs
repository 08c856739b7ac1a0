//! Completion indexes of Indexed jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use crate::views::Pod;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A set of indexes, written `1,3-5,7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads a set; parts that are not well-formed are left out.
    pub fn parse(text: &str) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                // An Indexed job has at most 100,000 indexes.
                set.extend((first..=last).take(100_000));
            }
        }
        Self(set)
    }

    pub fn insert(&mut self, index: i32) {
        self.0.insert(index);
    }

    pub fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i32 {
        i32::try_from(self.0.intersection(&other.0).count()).unwrap_or(i32::MAX)
    }

    pub fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        for (i, (first, last)) in runs.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Which active pods stay and which are too many: one for each index that is not done, `wanted` at most.
pub(super) fn split<'a>(
    active: &[&'a Pod],
    done: &Indexes,
    total: i32,
    wanted: usize,
    index_of: impl Fn(&Pod) -> Option<i32>,
) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let mut keep: BTreeMap<i32, &Pod> = BTreeMap::new();
    let mut surplus = Vec::new();
    let mut by_age = active.to_vec();
    by_age.sort_by_key(|p| (!p.is_ready(), p.metadata.creation_timestamp));
    for pod in by_age {
        match index_of(pod).filter(|i| (0..total).contains(i) && !done.contains(*i)) {
            Some(index) if keep.len() < wanted && !keep.contains_key(&index) => {
                keep.insert(index, pod);
            }
            _ => surplus.push(pod),
        }
    }
    (keep.into_values().collect(), surplus)
}

/// The template for an index: the pod's name, host name, label, annotation and environment tell it which one it is.
pub(super) fn template(template: &Value, job: &str, index: i32) -> Value {
    let mut template = template.clone();
    let number = index.to_string();
    template["metadata"]["annotations"][INDEX] = number.as_str().into();
    template["metadata"]["labels"][INDEX] = number.as_str().into();
    template["metadata"]["generateName"] = format!("{job}-{index}-").into();
    template["spec"]["hostname"] = format!("{job}-{index}").into();
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
        "fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for list in ["initContainers", "containers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            let has =
                container["env"].as_array().is_some_and(|e| e.iter().any(|v| v["name"] == "JOB_COMPLETION_INDEX"));
            if !has {
                match container["env"].as_array_mut() {
                    Some(env) => env.push(variable.clone()),
                    None => container["env"] = json!([variable]),
                }
            }
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for text in ["", "0", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(Indexes::parse(text).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-2,x,5").len(), 4);
    }
}
