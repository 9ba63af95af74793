//! Who wants in, and does not get in: against a running relay over real sockets, or straight into the session where that
//! is enough.

mod addresses;
mod api;
mod authors;
mod budgets;
mod content;
mod dns;
mod doors;
mod greylists;
mod hosts;
mod injection;
#[allow(dead_code, reason = "made for another test program")]
mod notifications;
mod proxies;
mod replies;
mod shared_limits;
mod silent_zone;
mod smuggling;
mod unknown_clients;
mod users;
mod world;
