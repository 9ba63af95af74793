//! otp-relay: a self-hosted SMTP relay for one-time codes, login links and password resets.
//!
//! `ARCHITECTURE.md` at the root of the repository tells how the modules fit together.

#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm, reason = "tests name the one case they expect"))]

pub(crate) mod accounts;
pub(crate) mod base;
pub(crate) mod check;
pub mod cli;
pub(crate) mod config;
pub(crate) mod delivery;
pub(crate) mod demo;
pub(crate) mod destination;
pub(crate) mod dkim;
pub(crate) mod event;
pub(crate) mod greylist;
pub(crate) mod http;
pub(crate) mod intake;
pub(crate) mod ledger;
pub(crate) mod mail;
pub(crate) mod net;
pub(crate) mod policy;
pub(crate) mod queue;
pub(crate) mod relay;
pub(crate) mod report;
pub(crate) mod smtp;
pub(crate) mod submission;
#[doc(hidden)]
pub mod testing;
pub(crate) mod tls;
