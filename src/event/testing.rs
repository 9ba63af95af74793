//! Events for tests.

use std::time::Duration;

use super::Head;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

impl Head {
    /// Of the first attempt of a code to `alice@example.com`, whose life of ten minutes begins now.
    pub(crate) fn sample(id: MessageId, time: Timestamp) -> Self {
        Self {
            time,
            id,
            entry: Some(0),
            user: "shop".into(),
            lane: Lane::Otp,
            tag: None,
            from: None,
            traceparent: None,
            verification: None,
            message_id: None,
            recipient: Some(Mailbox::parse("alice@example.com").unwrap()),
            attempt: 1,
            expires_at: time.plus(Duration::from_secs(600)),
            since_accepted: Duration::ZERO,
        }
    }
}
