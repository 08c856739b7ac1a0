//! Amounts of what pods ask for and nodes have.

use std::collections::BTreeMap;

use xebec_schema::quantity::Quantity;

use crate::views::Container;

/// Amounts by resource. A resource that is not mentioned is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU, in thousandths of a core.
    pub cpu_milli: i64,
    /// Memory, in bytes.
    pub memory: i64,
    /// Disk for containers and `emptyDir`, in bytes.
    pub ephemeral_storage: i64,
    /// Pods: 1 for a pod.
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// From a `ResourceList`. What is no quantity (the API has refused it before) counts as 0.
    pub fn of_quantities(list: &BTreeMap<String, String>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(text) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                _ => {
                    resources.others.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    /// What a pod takes (KEP-753): the larger of what its containers and sidecars take together and what any init
    /// container takes beside the sidecars started before it; and the overhead.
    pub fn of_pod(containers: &[Container], init: &[Container], overhead: &BTreeMap<String, String>) -> Self {
        let of = |c: &Container| Self::of_quantities(&c.resources.requests);
        let mut running = Self::default();
        containers.iter().for_each(|c| running.add(&of(c)));
        let mut sidecars = Self::default();
        let mut starting = Self::default();
        for container in init {
            let mut alone = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&alone);
                starting.raise(&sidecars);
            } else {
                alone.add(&sidecars);
                starting.raise(&alone);
            }
        }
        running.add(&sidecars);
        running.raise(&starting);
        running.add(&Self::of_quantities(overhead));
        running.pods = 1;
        running
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    /// Takes away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    /// The larger of each.
    fn raise(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, other.cpu_milli);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = f(self.pods, other.pods);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_insert(0);
            *own = f(*own, *amount);
        }
        self.others.retain(|_, amount| *amount != 0);
    }

    /// The resources of which there is too little for `wanted`, when `used` is taken already; in upstream's words.
    pub fn lacking(&self, used: &Self, wanted: &Self) -> Vec<String> {
        let mut lacking = Vec::new();
        if used.pods + wanted.pods > self.pods {
            lacking.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, have: i64, used: i64, wanted: i64| {
            if wanted > 0 && wanted > have.saturating_sub(used) {
                lacking.push(format!("Insufficient {name}"));
            }
        };
        check("cpu", self.cpu_milli, used.cpu_milli, wanted.cpu_milli);
        check("memory", self.memory, used.memory, wanted.memory);
        check("ephemeral-storage", self.ephemeral_storage, used.ephemeral_storage, wanted.ephemeral_storage);
        let amount = |of: &Self, name: &str| of.others.get(name).copied().unwrap_or(0);
        for (name, wanted) in &wanted.others {
            check(name, amount(self, name), amount(used, name), *wanted);
        }
        lacking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(requests: &[(&str, &str)], restart: Option<&str>) -> Container {
        let mut container = Container { restart_policy: restart.map(Into::into), ..Container::default() };
        container.resources.requests = requests.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        container
    }

    #[test]
    fn a_pod_takes_the_larger_of_starting_and_running() {
        let containers = [container(&[("cpu", "100m"), ("memory", "1Gi")], None)];
        let init = [container(&[("cpu", "50m")], Some("Always")), container(&[("cpu", "1")], None)];
        let pod = Resources::of_pod(&containers, &init, &BTreeMap::new());
        assert_eq!((pod.cpu_milli, pod.memory, pod.pods), (1050, 1 << 30, 1));
    }

    #[test]
    fn what_is_lacking_is_named() {
        let have = Resources { cpu_milli: 1000, pods: 1, ..Resources::default() };
        let used = Resources { cpu_milli: 900, pods: 1, ..Resources::default() };
        let gpu = BTreeMap::from([("gpu".to_owned(), 1)]);
        let wanted = Resources { cpu_milli: 200, pods: 1, others: gpu, ..Resources::default() };
        assert_eq!(have.lacking(&used, &wanted), ["Too many pods", "Insufficient cpu", "Insufficient gpu"]);
        assert!(have.lacking(&Resources::default(), &Resources { pods: 1, ..Resources::default() }).is_empty());
    }
}
