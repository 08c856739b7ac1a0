//! Images on this node: their names, pulls from registries, and imports of archives into containerd.

pub mod archive;
pub mod content;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod store;
pub mod unused;

pub use store::ImageStore;
