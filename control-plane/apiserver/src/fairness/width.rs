//! How many seats a request takes (upstream `flowcontrol/request/width.go`): one, unless it has much to read.

use crate::authz::Attributes;
use crate::query::Query;
use crate::server::Shared;

/// So many objects are worth a seat.
const OBJECTS_PER_SEAT: usize = 100;
/// No request takes more.
const MOST: u32 = 10;

/// The seats that a request takes.
pub(crate) fn of(server: &Shared, request: &Attributes, query: &Query) -> u32 {
    let reads_all = match request.verb.as_str() {
        "list" | "deletecollection" => true,
        // A watch from a resource version on has nothing to read first.
        "watch" => matches!(query.get("resourceVersion"), "" | "0") || query.flag("sendInitialEvents"),
        _ => false,
    };
    if !reads_all || !request.name.is_empty() {
        return 1;
    }
    let Some(cache) = server.cache.resource(&request.group, &request.resource) else { return 1 };
    let all = cache.len();
    let limit = query.get("limit").parse().unwrap_or(0);
    seats(if limit == 0 { all } else { all.min(limit) })
}

fn seats(objects: usize) -> u32 {
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_lists_are_wide() {
        assert_eq!([0, 100, 101, 100_000].map(super::seats), [1, 1, 2, 10]);
    }
}
