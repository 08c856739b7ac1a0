//! Images on this node: their names, pulls from registries, and imports of archives into containerd.

pub mod reference;
