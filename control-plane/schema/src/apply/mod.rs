//! Server-side apply: who owns which fields of an object (`metadata.managedFields`), and how an applied configuration
//! is merged into it. The semantics are those of upstream's structured-merge-diff.
//!
//! [`manager::FieldManager`] is what the API server calls. It works on [`set::Set`]s of paths by the rules of
//! [`updater::Updater`], which stands on four walks over an object and its type ([`typed::Type`]): [`compare`],
//! [`merge`], [`remove`] and [`field_set`].

pub mod compare;
pub mod conflict;
pub mod element;
pub mod field_set;
pub mod managed;
pub mod manager;
pub mod merge;
mod present;
mod reconcile;
pub mod remove;
pub mod scale;
pub mod set;
pub mod typed;
pub mod unowned;
pub mod updater;
pub mod validate;

#[cfg(test)]
mod tests;
