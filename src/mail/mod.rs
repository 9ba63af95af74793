//! Values of mail: addresses, envelopes, header lines, ids. Nothing here does input or output.

pub mod address;
pub mod authors;
pub(crate) mod budget_form;
pub mod envelope;
pub mod id;
pub(crate) mod long_lines;
pub mod message;
pub(crate) mod registrable;
pub(crate) mod trial;
