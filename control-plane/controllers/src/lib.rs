//! The controllers: pure planners, and the executor that carries plans out.
pub mod runtime;
pub mod views;
