//! A file per verb; what the writing ones share is in [`decode`], [`modify`] and [`admit`].

pub mod admit;
pub mod apply;
pub mod conversions;
pub mod create;
pub mod decode;
pub mod delete;
pub mod deletecollection;
pub mod get;
pub mod list;
pub mod modify;
pub mod origin;
pub mod patch;
pub mod select;
pub mod track;
pub mod update;
pub mod watch;
mod yaml;
