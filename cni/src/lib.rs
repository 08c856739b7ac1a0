//! The CNI plugin: pod interfaces and addresses.
