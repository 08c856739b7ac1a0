//! The scheduler: which node a pod runs on.
//!
//! [`schedule::schedule`] decides, purely, from a snapshot and a pod; [`run`] feeds it.
