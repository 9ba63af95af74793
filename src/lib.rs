//! otp-relay: a self-hosted SMTP relay for one-time codes, login links and password resets.
//!
//! `ARCHITECTURE.md` at the root of the repository tells how the modules fit together.

#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm, reason = "tests name the one case they expect"))]

pub mod accounts;
pub mod base;
pub(crate) mod check;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod destination;
pub mod dkim;
pub mod event;
pub mod greylist;
pub mod http;
pub mod intake;
pub mod ledger;
pub mod mail;
pub mod net;
pub mod policy;
pub mod queue;
pub mod relay;
pub mod report;
pub mod smtp;
pub mod submission;
pub mod tls;
