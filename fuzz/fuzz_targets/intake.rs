//! Content as an app hands it over: what is taken means the same to mail-parser, which reads as mail programs do, as it
//! does to the relay. There is one From with nobody in it whom the user may not send as, no option is left in it, the head
//! ends where the relay took it to end, and the life is no longer than Expires says.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mail_parser::{DateTime, HeaderValue, MessageParser};
use otp_relay::testing::intake::options::{LIFE, Options};
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::message::{Content, fields};
use otp_relay::testing::smtp::data::line_fault;
use otp_relay::testing::smtp::server_session::{Protocol, Submission};
use otp_relay_fuzz::relay::{NOW, Relay, runtime, user};
use tokio::runtime::Runtime;

static BENCH: LazyLock<(Runtime, Relay)> = LazyLock::new(|| (runtime(), Relay::new()));

fn submission(content: &[u8]) -> Submission {
    let mailbox = |text| Mailbox::parse(text).expect("an address");
    let envelope = Envelope {
        reverse_path: ReversePath(Some(mailbox("otp@shop.example"))),
        parameters: MailParameters::default(),
        recipients: vec![Recipient::new(mailbox("alice@example.com"))],
    };
    let protocol = Protocol { extended: true, utf8: true, encrypted: true, authenticated: true, http: false };
    Submission { envelope, content: Bytes::copy_from_slice(content), client_name: "app".to_owned(), protocol }
}

fn check(content: &[u8], life: Duration) {
    // Values are left alone: in a malformed date mail-parser loses itself, and takes the fields behind for a part of it.
    let parsed = MessageParser::new().default_header_raw().header_address("From").parse(content);
    let message = parsed.expect("what was taken can be read");
    // Both take the same lines for the same fields.
    let Content { head, .. } = Content::split(Bytes::copy_from_slice(content));
    let name_of = |name: &str| name.to_ascii_lowercase();
    let own: Vec<_> = fields(&head).map(|field| (name_of(&String::from_utf8_lossy(field.name)), field.raw)).collect();
    let others = message.headers().iter().map(|header| {
        (name_of(header.name.as_str()), &content[header.offset_field as usize..header.offset_end as usize])
    });
    let others: Vec<_> = others.collect();
    assert_eq!(own, others);
    assert_eq!(own.iter().filter(|(name, _)| name == "from").count(), 1);
    for name in ["date", "message-id", "received"] {
        assert!(own.iter().any(|(own, _)| own == name), "{name}");
    }
    assert!(!own.iter().any(|(name, _)| name.starts_with("x-otp-")));
    let from = message.from().expect("there is a From");
    for author in from.iter() {
        // Of odd forms (`otp @ example.com`) it makes no address.
        let Some(mailbox) = author.address().and_then(|address| Mailbox::parse(address).ok()) else { continue };
        assert!(user().may_send_as(&mailbox, |_| false), "{mailbox}");
    }
    assert!(life <= LIFE.1);
    if let [HeaderValue::Text(text)] = message.header_values("Expires").collect::<Vec<_>>()[..]
        && let Some(at) = DateTime::parse_rfc822(text).filter(|at| text.is_ascii() && at.is_valid())
    {
        assert!(i64::try_from(NOW.plus(life).as_secs()).is_ok_and(|end| end <= at.to_timestamp()), "{life:?} and {at}");
    }
}

fuzz_target!(|input: &[u8]| {
    // The session has seen to this.
    if line_fault(input).is_some() || input.contains(&0) {
        return;
    }
    let (runtime, relay) = &*BENCH;
    let user = user();
    let submitted = relay.door.submit(&user, submission(input), Options::default(), None);
    let Ok(receipt) = runtime.block_on(submitted) else { return };
    let (message, content) = relay.taken(receipt.id);
    relay.forget(receipt.id);
    check(&content, message.expires_at.since(NOW));
});
