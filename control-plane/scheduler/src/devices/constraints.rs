//! What must hold for several devices of a claim together. Once a device breaks a constraint, more devices cannot mend
//! it, so the search goes no further.

use xebec_controllers::views::{Device, DeviceAttribute, DeviceConstraint};

/// A constraint, and the attributes of the devices that are in so far.
#[derive(Debug)]
pub(super) struct Constraint<'c> {
    requests: &'c [String],
    attribute: &'c str,
    distinct: bool,
    seen: Vec<&'c DeviceAttribute>,
}

impl<'c> Constraint<'c> {
    /// A claim's constraint; `None` if it is of an unknown kind.
    pub fn new(constraint: &'c DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Self { requests: &constraint.requests, attribute, distinct, seen: Vec::new() })
    }

    /// Whether it is for a request's devices: `full` is the request with the alternative, if there is one.
    fn concerns(&self, request: &str, full: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|name| name == request || name == full)
    }

    /// Adds a device, unless it breaks the constraint.
    pub fn add(&mut self, (request, full): (&str, &str), driver: &str, device: &'c Device) -> bool {
        if !self.concerns(request, full) {
            return true;
        }
        let Some(attribute) = device.attribute(driver, self.attribute) else { return false };
        let fits = match self.distinct {
            true => !self.seen.contains(&attribute),
            false => self.seen.first().is_none_or(|first| *first == attribute),
        };
        let fits = fits && *attribute != DeviceAttribute::Unknown;
        if fits {
            self.seen.push(attribute);
        }
        fits
    }

    /// Takes the device away that was added last.
    pub fn remove(&mut self, (request, full): (&str, &str)) {
        if self.concerns(request, full) {
            self.seen.pop();
        }
    }
}
