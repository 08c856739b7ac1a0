//! Lean forms of the kinds that controllers read: what they use of them, and nothing more.

mod address;
mod admission;
mod autoscaler;
mod cluster;
mod device;
mod migration;
mod network;
mod node_selector;
mod pod;
mod pool;
mod sets;
mod storage;
mod workload;

pub use address::*;
pub use admission::*;
pub use autoscaler::*;
pub use cluster::*;
pub use device::*;
pub use migration::*;
pub use network::*;
pub use node_selector::*;
pub use pod::*;
pub use pool::*;
pub use sets::*;
pub use storage::*;
pub use workload::*;

macro_rules! view {
    ($type:ident, $kind:expr $(, |$this:ident| $indexes:expr)?) => {
        impl $crate::runtime::cache::View for $type {
            fn kind() -> &'static $crate::runtime::kind::Kind {
                &$kind
            }
            fn meta(&self) -> &$crate::runtime::meta::Meta {
                &self.metadata
            }
            $(
                fn indexes(&self) -> Vec<(&'static str, String)> {
                    let $this = self;
                    $indexes
                }
            )?
        }
    };
}
use view;
