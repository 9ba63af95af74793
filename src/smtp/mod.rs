//! The protocol without sockets: lines, commands, replies, extensions, content, and the two session state machines.

pub mod client_name;
pub mod client_session;
pub mod command;
pub mod data;
pub mod extension;
pub mod line;
pub mod reply;
pub mod sasl;
pub mod server_session;
