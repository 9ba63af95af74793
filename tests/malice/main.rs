//! Who wants in, and does not get in: against a running relay over real sockets, or straight into the session where that
//! is enough.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod addresses;
mod api;
mod authors;
mod budgets;
mod content;
mod dns;
mod doors;
mod greylists;
mod hosts;
#[path = "../support/in_memory.rs"]
mod in_memory;
mod injection;
mod logs;
#[allow(dead_code, reason = "made for another test program")]
#[path = "../fast_path/network.rs"]
mod network;
mod notifications;
mod proxies;
mod replies;
mod shared_limits;
mod silent_zone;
mod smuggling;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod users;
mod world;
