//! `xebec server`: the API server, the controllers and the scheduler in one process.

pub mod config;
