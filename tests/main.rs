//! All tests that run the relay, or parts of it, from outside: one program, so that the crate is linked once.
//! Programs of their own are `refusals` and `forged_lines`, whose process has a log, and `architecture`, which reads the sources.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod api;
mod classification;
mod clock;
mod commands;
mod configuration;
mod damage;
mod data_folder;
mod doors;
mod end_to_end;
mod fast_path;
mod first_day;
mod greylisting;
mod hooks;
mod hosts;
mod http;
mod ledger;
mod malice;
mod options;
mod sandbox;
mod sealing;
mod service;
mod simulation;
mod slow_dns;
mod smart_hosts;
mod stalled_log;
mod support;
mod tls_policy;
mod transcripts;
mod upkeep;
mod user_defaults;
mod verifications;
mod webhooks;
