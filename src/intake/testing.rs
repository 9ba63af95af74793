//! A door on the ledger of one node, without a network: for tests of what the door makes of the ledger's answers.

use std::net::IpAddr;
use std::sync::Arc;

use super::door::{Door, InWork, Parts, PreparedSubmission, Ready};
use super::idempotency::RotatingSecrets;
use super::options::Options;
use super::refusal::Refusal;
use crate::accounts::user::{Senders, User};
use crate::base::clock::{ManualClock, Timestamp};
use crate::config::Config;
use crate::destination::resolver::{Answer, Dns, DnsError, MxRecord};
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::relay::builder::{Builder, Core};
use crate::smtp::server_session::{Protocol, Submission};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_255_200_000);
pub(super) const ALICE: &str = "alice@example.com";

struct NoDns;

impl Dns for NoDns {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }
}

struct Secrets;

impl RotatingSecrets for Secrets {
    fn of(&self, _: u64) -> Option<[u8; 32]> {
        Some([7; 32])
    }
}

pub(super) fn door() -> Arc<Door> {
    let builder = Builder::new(&Config::default()).clock(Arc::new(ManualClock::new(NOW))).dns(Arc::new(NoDns)).idle();
    let builder = builder.store_inline(Box::new(MemoryStore::default())).secrets(Arc::new(Secrets));
    let Core { door, .. } = builder.build().unwrap();
    door
}

/// Another door to the same ledger, which knows nothing of what the first is about to do: as that of another node.
pub(super) fn beside(door: &Door) -> Arc<Door> {
    let parts = &door.parts;
    Door::new(Parts {
        aftermath: parts.aftermath.clone(),
        queue: parts.queue.clone(),
        router: parts.router.clone(),
        keys: parts.keys.clone(),
        signing: parts.signing.clone(),
        secrets: parts.secrets.clone(),
        clock: parts.clock.clone(),
        reverse_path: parts.reverse_path.clone(),
        smart_hosts: parts.smart_hosts.clone(),
    })
}

pub(super) fn user() -> User {
    User { senders: Senders::Patterns(vec!["*@app.test".to_owned()]), ..User::unlimited("shop") }
}

/// A message with this text to one recipient, ready to be accepted.
pub(super) async fn prepared<'a>(door: &'a Door, options: Options, text: &str) -> Result<Box<Ready<'a>>, Refusal> {
    let submission = Submission {
        envelope: Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(ALICE).unwrap())],
        },
        content: format!("From: otp@app.test\r\n\r\n{text}\r\n").into(),
        client_name: "app.test".into(),
        protocol: Protocol { extended: true, utf8: false, encrypted: false, authenticated: true, http: false },
    };
    match door.prepare(&user(), submission, options, None, InWork::Wait).await? {
        PreparedSubmission::Ready(ready) => Ok(ready),
        PreparedSubmission::Repeat(receipt) => panic!("{receipt:?}"),
    }
}
