//! The runtime and the image store on a real containerd, started by the tests themselves. They run as root.

mod lifecycle;
mod pull;
mod support;
mod volumes;
