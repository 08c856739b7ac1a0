//! The cluster CA, certificates, join tokens and service-account tokens.
