//! How much of a device a request takes (KEP-5075).

use xebec_controllers::views::{Amount, Amounts, CapacityPolicy, Device, DeviceCapacity};
use xebec_schema::quantity::{Format, Quantity};

/// How much of its capacity a device gives to a request: `None` if it does not have what is asked for, or not so.
pub(super) fn consumed(device: &Device, requests: &Amounts) -> Option<Amounts> {
    if requests.keys().any(|name| !device.capacity.contains_key(name)) {
        return None;
    }
    let mut out = Amounts::new();
    for (name, capacity) in &device.capacity {
        let amount = granted(requests.get(name), capacity);
        if capacity.request_policy.as_ref().is_some_and(|policy| violates(&amount, policy)) {
            return None;
        }
        out.insert(name.clone(), Amount(amount));
    }
    Some(out)
}

/// Whether a device has room for an amount, beside what others have.
pub(super) fn fits<'a>(device: &Device, amounts: &Amounts, others: impl Iterator<Item = &'a Amounts> + Clone) -> bool {
    device.capacity.iter().all(|(name, capacity)| {
        let own = amounts.get(name).map_or(Quantity::ZERO, |amount| amount.0);
        let taken = others.clone().filter_map(|other| other.get(name));
        taken.fold(own, |sum, other| sum.add(&other.0)) <= capacity.value.0
    })
}

fn granted(asked: Option<&Amount>, capacity: &DeviceCapacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(Amount(asked)) = asked else {
        return policy.and_then(|policy| policy.default).unwrap_or(capacity.value).0;
    };
    let Some(policy) = policy else { return *asked };
    if let Some((range, min)) = policy.valid_range.as_ref().and_then(|range| Some((range, range.min?.0))) {
        if *asked < min {
            return min;
        }
        let Some(step) = range.step.map(|step| step.0.nano()).filter(|step| *step > 0) else { return *asked };
        let steps = (asked.nano() - min.nano() + step - 1) / step;
        return Quantity::from_nano(min.nano().saturating_add(steps.saturating_mul(step)), Format::BinarySi);
    }
    policy.valid_values.iter().map(|valid| valid.0).find(|valid| asked <= valid).unwrap_or(*asked)
}

fn violates(amount: &Quantity, policy: &CapacityPolicy) -> bool {
    if policy.default.is_some_and(|default| default.0 == *amount) {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        let min = range.min.map_or(0, |min| min.0.nano());
        let step = range.step.map(|step| step.0.nano()).filter(|step| *step > 0);
        return range.max.is_some_and(|max| *amount > max.0)
            || step.is_some_and(|step| (amount.nano() - min) % step != 0);
    }
    !policy.valid_values.is_empty() && !policy.valid_values.iter().any(|valid| valid.0 == *amount)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(policy: serde_json::Value, asked: Option<&str>) -> Option<String> {
        let device = json!({"name": "d", "capacity": {"memory": {"value": "10Gi", "requestPolicy": policy}}});
        let device: Device = serde_json::from_value(device).unwrap();
        let requests = asked.map(|asked| ("memory".to_owned(), Amount(Quantity::parse(asked).unwrap())));
        consumed(&device, &requests.into_iter().collect()).map(|amounts| amounts["memory"].0.to_string())
    }

    #[test]
    fn what_is_asked_for_is_rounded_up_as_the_policy_says() {
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(taken(json!(null), None), is("10Gi"));
        assert_eq!(taken(json!(null), Some("3Gi")), is("3Gi"));
        assert_eq!(taken(json!({"default": "1Gi"}), None), is("1Gi"));
        let range = json!({"default": "1Gi", "validRange": {"min": "2Gi", "step": "2Gi", "max": "6Gi"}});
        assert_eq!(taken(range.clone(), Some("1Gi")), is("2Gi"));
        assert_eq!(taken(range.clone(), Some("3Gi")), is("4Gi"));
        assert_eq!(taken(range, Some("7Gi")), None);
        let fraction = json!({"validRange": {"min": "500m", "step": "250m"}});
        assert_eq!(taken(fraction, Some("600m")), is("750m"));
        let values = json!({"validValues": ["1Gi", "4Gi"]});
        assert_eq!(taken(values.clone(), Some("2Gi")), is("4Gi"));
        assert_eq!(taken(values, Some("5Gi")), None);
    }

    #[test]
    fn what_a_device_does_not_have_cannot_be_had() {
        let device: Device = serde_json::from_value(json!({"name": "d"})).unwrap();
        let requests = Amounts::from([("memory".to_owned(), Amount(Quantity::ZERO))]);
        assert_eq!(consumed(&device, &requests), None);
    }
}
