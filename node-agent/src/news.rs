//! Watch channels whose receivers wake up for news only.

use tokio::sync::watch;

/// Sends what is news.
pub(crate) fn tell<T: PartialEq>(whom: &watch::Sender<T>, now: T) {
    whom.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}
