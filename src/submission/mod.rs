//! Submission: SMTP from the apps. Knows connections, users and their passwords; what happens to mail is intake's.

mod connection;
pub mod listener;
pub mod proxy_header;
