//! The whole control plane on virtual time, from a seed.
