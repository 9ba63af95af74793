//! Mail hosts that are sloppy or old, or offer what they do not support, in simulated time: a code gets there, once, and it
//! is told how.

#![allow(clippy::wildcard_enum_match_arm, reason = "a host does what is special about it")]

mod network;
mod race;

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::accounts::user::{Senders, User};
use otp_relay::testing::base::clock::{Clock as _, ManualClock, Timestamp};
use otp_relay::testing::base::lane::Lane;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::MessageId;
use otp_relay::testing::smtp::server_session::{Protocol, Submission};

use crate::support::in_memory::{Bounds, Life, RecordedEvents};
use crate::support::lines::Lines;
use network::{Chunking, GOOD, Hosts, Manner, Pipelining, Taken, Tls, says, tls};

const SECOND: Duration = Duration::from_secs(1);
const PLAIN: &str = "From: otp@app.test\r\n\r\n123456\r\n";

struct World {
    store: MemoryStore,
    life: Life,
    hosts: Hosts,
    told: Arc<RecordedEvents>,
    clock: Arc<ManualClock>,
    start: Timestamp,
    /// Of each code.
    code_life: Duration,
}

/// What became of a message.
struct Fate {
    kind: Kind,
    took: Duration,
    attempts: u32,
    event: Event,
    /// All copies that hosts took.
    copies: Vec<Taken>,
}

impl Fate {
    /// Delivered at the first attempt, once, within so long.
    #[track_caller]
    fn arrived_once(&self, within: Duration) -> &Taken {
        assert_eq!((self.kind, self.copies.len()), (Kind::Delivered, 1), "{:?}", self.event);
        assert_eq!(self.attempts, 1, "{:?}", self.event);
        assert!(self.took <= within, "{:?}", self.took);
        &self.copies[0]
    }

    fn note(&self) -> &str {
        self.event.note().unwrap_or_default()
    }
}

impl World {
    fn new(manners: &[Manner]) -> Self {
        Self::within(Bounds::default(), manners)
    }

    fn within(bounds: Bounds, manners: &[Manner]) -> Self {
        let start = Timestamp::from_millis(1_795_255_200_000);
        let (clock, hosts, told) =
            (Arc::new(ManualClock::new(start)), Hosts::new(manners), Arc::new(RecordedEvents::default()));
        let store = MemoryStore::default();
        let life = Life::begin_within(bounds, &store, &hosts, &clock, told.clone(), Vec::new());
        Self { store, life, hosts, told, clock, start, code_life: SECOND * 600 }
    }

    async fn fate(&self, recipient: &str) -> Fate {
        self.fate_of(recipient, PLAIN, MailParameters::default()).await
    }

    async fn submit(&self, recipient: &str, content: &str, parameters: MailParameters) -> MessageId {
        let user = User {
            name: "app".into(),
            senders: Senders::Patterns(vec!["*@app.test".into()]),
            lane: Lane::Otp,
            life: self.code_life,
            ..User::unlimited("app")
        };
        let submission = Submission {
            envelope: Envelope {
                reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
                parameters,
                recipients: vec![Recipient::new(Mailbox::parse(recipient).unwrap())],
            },
            content: content.to_owned().into(),
            client_name: "app.test".into(),
            protocol: Protocol { extended: true, utf8: true, encrypted: false, authenticated: true, http: false },
        };
        self.life.door.submit(&user, submission, Options::default(), None).await.unwrap().id
    }

    /// Sends a message, and waits for its end and for what might come behind it.
    async fn fate_of(&self, recipient: &str, content: &str, parameters: MailParameters) -> Fate {
        let before = self.clock.now();
        self.submit(recipient, content, parameters).await;
        let is_end = |event: &&Event| {
            let is_own = event.head.recipient.as_ref().is_some_and(|told| told.as_str() == recipient);
            is_own
                && matches!(event.kind(), Kind::Delivered | Kind::Failed | Kind::Expired)
                && event.head.entry.is_some()
        };
        let event = loop {
            if let Some(end) = self.told.0.lock().iter().find(is_end) {
                break end.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let took = self.clock.now().since(before);
        // A session that could be used is not, so that each message is the first in its session.
        tokio::time::sleep(SECOND * 100).await;
        let is_attempt = |told: &&Event| told.kind() == Kind::Attempted && told.head.id == event.head.id;
        let attempts = self.told.0.lock().iter().filter(is_attempt).count();
        let copies = self.hosts.taken().into_iter().filter(|taken| taken.recipient == recipient).collect();
        Fate { kind: event.kind(), took, attempts: u32::try_from(attempts).unwrap(), event, copies }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().since(self.start)
    }
}

const AT_ONCE: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn sloppy_replies_are_understood_and_nothing_comes_twice() {
    for (verb, reply) in [
        ("banner", "220-mx\r\n200 hello"),
        ("banner", "220-mx\r\nhello\r\n220 go on"),
        ("banner", "\r\n220 mx"),
        ("banner", "Warning: no greeting file\r\n220 mx"),
        ("EHLO", "250-mx\r\n250-PIPELINING\r\n200 CHUNKING"),
        ("EHLO", "250-mx\r\nhello\r\n250 PIPELINING"),
        ("EHLO", "451 4.3.0 not now"),
        ("EHLO", "502 5.5.1 what?"),
        ("EHLO", "550 5.7.1 no"),
        ("MAIL", "250-ok\r\n200 fine"),
        ("RCPT", "250-known\r\nwell known\r\n250 ok"),
        ("RCPT", "\r\n250 ok"),
        ("DATA", "354-go\r\n300 on"),
        ("dot", "250-queued\r\n200 thank you"),
        ("dot", "250-queued\r\nas 4711\r\n250 bye"),
        ("dot", "\r\n250 queued"),
        ("dot", "Notice: disk at 91 %\r\n250 queued"),
        ("dot", "299 sounds good"),
    ] {
        for offers in ["PIPELINING 8BITMIME", "8BITMIME", "PIPELINING CHUNKING", "CHUNKING"] {
            let world = World::new(&[Manner { offers, ..says(&[(verb, reply)]) }]);
            world.fate("a@one.test").await.arrived_once(AT_ONCE);
            world.fate("b@one.test").await.arrived_once(AT_ONCE);
        }
    }
}

/// However many messages it takes.
#[tokio::test(start_paused = true)]
async fn a_host_that_breaks_the_form_of_replies_is_named_once_a_day() {
    let lines = Lines::default();
    let _guard = lines.gather();
    let world = World::new(&[says(&[("MAIL", "250-ok\r\n200 fine")])]);
    let told = || lines.with("breaks the form of replies");
    for number in 0..3 {
        world.fate(&format!("user{number}@one.test")).await.arrived_once(AT_ONCE);
    }
    let [line] = &told()[..] else { panic!("{:?}", told()) };
    assert!(line.contains("INFO") && line.contains("host=mx1.test"), "{line}");
    tokio::time::sleep(SECOND * 24 * 3600).await;
    for number in 3..6 {
        world.fate(&format!("user{number}@one.test")).await.arrived_once(AT_ONCE * 2);
    }
    assert_eq!(told().len(), 2, "{:?}", told());
}

/// Each would be called by the greeting that the other one hears.
#[tokio::test(start_paused = true)]
async fn a_host_that_greets_and_goes_is_not_tried_without_a_pause() {
    let world = World::new(&[says(&[("EHLO", "250 mx\r\n250 too many")])]);
    let (a, b) = tokio::join!(world.fate("a@one.test"), world.fate("b@one.test"));
    assert_eq!((a.kind, b.kind), (Kind::Expired, Kind::Expired));
    assert!(world.hosts.connections() < 100, "{} connections", world.hosts.connections());
}

/// Whatever comes beside the replies, what the host refused does not count as delivered: neither a line that looks like a
/// reply, nor a reply too many, nor one before its time.
#[tokio::test(start_paused = true)]
async fn a_stray_line_is_no_acceptance() {
    for (verb, reply) in [
        ("banner", "220-mx\r\n250 messages\r\n220 mx"),
        ("EHLO", "250-mx\r\n250-PIPELINING\r\n200 messages\r\n250 CHUNKING"),
        ("EHLO", "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 ok"),
        ("MAIL", "250-You have\r\n200 messages\r\n250 ok"),
        ("MAIL", "250 ok\r\n250 ok"),
        ("RCPT", "250-You have\r\n200 messages\r\n250 ok"),
        ("RCPT", "250 ok\r\n250 ok"),
        ("RCPT", "250 ok\r\nnote\r\n250 ok"),
        ("RCPT", "550-no\r\n250 yes\r\n250 yes"),
        ("DATA", "354 go\r\n250 taken"),
        ("DATA", "354-go\r\n354 on\r\n250 taken"),
    ] {
        for offers in ["PIPELINING CHUNKING", "PIPELINING", "CHUNKING", ""] {
            let host = Manner { offers, ..says(&[(verb, reply), ("dot", "554 5.7.1 no")]) };
            let world = World { code_life: SECOND * 20, ..World::new(&[host]) };
            for recipient in ["a@one.test", "b@one.test"] {
                let fate = world.fate(recipient).await;
                assert_ne!(fate.kind, Kind::Delivered, "{verb} {reply:?} {offers}: {:?}", fate.event);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_yes_in_the_wrong_place_leads_to_the_next_host() {
    for (verb, reply) in
        [("MAIL", "354 go on"), ("RCPT", "354 go on"), ("DATA", "250 ok"), ("EHLO", "354 go on"), ("banner", "354 go")]
    {
        for offers in ["PIPELINING", ""] {
            let world = World::new(&[Manner { offers, ..says(&[(verb, reply)]) }, GOOD]);
            assert_eq!(world.fate("a@two.test").await.arrived_once(AT_ONCE).host, 2, "{verb} {reply}");
            // There is no other: it is tried again, to the end of its life.
            let fate = world.fate("b@one.test").await;
            assert_eq!((fate.kind, fate.event.cause()), (Kind::Expired, Some(Cause::ProtocolError)), "{verb} {reply}");
            assert!(fate.attempts > 3 && fate.copies.is_empty(), "{} attempts", fate.attempts);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_the_dot_leaves_it_open_unless_it_is_a_yes_or_a_no() {
    let world = World::new(&[says(&[("dot", "354 go on")])]);
    let fate = world.fate("a@one.test").await;
    let unknown = fate.event.cause() == Some(Cause::OutcomeUnknown) && fate.event.may_have_arrived();
    assert!(unknown, "{:?}", fate.event);
}

#[tokio::test(start_paused = true)]
async fn chunking_that_is_not_known_is_left_out_in_the_same_attempt_and_remembered() {
    for offers in ["PIPELINING CHUNKING", "CHUNKING"] {
        let world = World::new(&[Manner { offers, chunking: Chunking::Unknown, ..GOOD }]);
        assert_eq!(world.fate("a@one.test").await.arrived_once(AT_ONCE).verb, "DATA");
        assert_eq!(world.hosts.heard("BDAT"), 1);
        world.fate("b@one.test").await.arrived_once(AT_ONCE);
        assert_eq!(world.hosts.heard("BDAT"), 1, "remembered");
        tokio::time::sleep(SECOND * 24 * 3600).await;
        world.fate("c@one.test").await.arrived_once(AT_ONCE);
        assert_eq!(world.hosts.heard("BDAT"), 2, "for a day");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_behind_a_chunk_is_an_unanswered_dot_and_data_follows() {
    let world = World::new(&[Manner { offers: "PIPELINING CHUNKING", chunking: Chunking::Dropped, ..GOOD }]);
    let fate = world.fate("a@one.test").await;
    assert_eq!((fate.kind, fate.attempts, fate.copies.len(), fate.copies[0].verb), (Kind::Delivered, 2, 1, "DATA"));
    let first = world.told.0.lock().iter().find(|event| event.kind() == Kind::Deferred).cloned().unwrap();
    assert!(first.cause() == Some(Cause::OutcomeUnknown) && first.may_have_arrived(), "{first:?}");
    assert_eq!(world.hosts.heard("BDAT"), 1);
    world.fate("b@one.test").await.arrived_once(AT_ONCE);
    assert_eq!(world.hosts.heard("BDAT"), 1);
}

#[tokio::test(start_paused = true)]
async fn pipelining_that_is_not_supported_is_left_out_in_the_same_attempt_and_remembered() {
    for pipelining in [Pipelining::Synchronization, Pipelining::Order] {
        for offers in ["PIPELINING", "PIPELINING CHUNKING"] {
            let world = World::new(&[Manner { offers, pipelining, ..GOOD }]);
            world.fate("a@one.test").await.arrived_once(AT_ONCE);
            let connections = world.hosts.connections();
            assert!(connections <= 3, "{connections}");
            world.fate("b@one.test").await.arrived_once(AT_ONCE);
            assert_eq!(world.hosts.connections(), connections + 1, "remembered");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_rest_of_a_write_is_lost_one_command_at_a_time_goes_beside_it() {
    let world = World::new(&[Manner { pipelining: Pipelining::Lost, ..GOOD }]);
    world.fate("a@one.test").await.arrived_once(SECOND * 20 + AT_ONCE);
    assert_eq!(world.hosts.connections(), 2);
    world.fate("b@one.test").await.arrived_once(AT_ONCE);
    assert_eq!(world.hosts.connections(), 3, "remembered");
    // A host that is slow, no more, is not taken for one of them.
    let world = World::new(&[Manner { rcpt_takes: SECOND * 25, ..GOOD }]);
    world.fate("a@one.test").await.arrived_once(SECOND * 25 + AT_ONCE);
    world.hosts.turn(1, GOOD);
    let before = world.hosts.heard("RCPT");
    world.fate("b@one.test").await.arrived_once(AT_ONCE);
    assert_eq!(world.hosts.heard("RCPT"), before + 1);
}

#[tokio::test(start_paused = true)]
async fn tls_that_breaks_leads_to_clear_text_in_the_same_attempt_and_it_is_told() {
    for (manner, within, why) in [
        (Tls::ClientCertificate, AT_ONCE, "the host wants a client certificate (alert 116)"),
        (Tls::HangsUp, AT_ONCE, "connection lost at EHLO behind the handshake"),
        (Tls::Refuses, AT_ONCE, "500 5.5.2 what? to EHLO behind the handshake"),
        (Tls::Unanswered, SECOND * 10 + AT_ONCE, "no answer to STARTTLS"),
        (Tls::Closes, AT_ONCE, "connection lost at STARTTLS"),
        (Tls::Refused, AT_ONCE, "454 4.7.0 TLS not available to STARTTLS"),
        (Tls::Broken, AT_ONCE, "the server sent more before the handshake"),
    ] {
        let world = World::new(&[tls(manner)]);
        let fate = world.fate("a@one.test").await;
        assert!(!fate.arrived_once(within).is_encrypted);
        let note = fate.note();
        assert!(note.starts_with("in clear text: TLS failed (") && note.contains(why), "{why}: {note}");
        let steps = fate.event.steps().unwrap();
        assert!(
            steps.iter().any(|step| step.result.as_ref() == note && step.stage.as_ref() == "STARTTLS"),
            "{steps:?}"
        );
        // Remembered for an hour, then TLS comes first again.
        let before = world.hosts.heard("STARTTLS");
        let again = world.fate("b@one.test").await;
        again.arrived_once(AT_ONCE);
        assert_eq!((world.hosts.heard("STARTTLS"), again.note()), (before, note));
        world.hosts.turn(1, tls(Tls::Works));
        world.fate("c@one.test").await.arrived_once(AT_ONCE);
        assert_eq!(world.hosts.heard("STARTTLS"), before);
        tokio::time::sleep(SECOND * 3600).await;
        assert!(world.fate("d@one.test").await.arrived_once(AT_ONCE).is_encrypted);
    }
}

#[tokio::test(start_paused = true)]
async fn one_lost_connection_behind_a_handshake_is_no_reason_for_clear_text() {
    let world = World::new(&[tls(Tls::HangsUpOnce)]);
    let fate = world.fate("a@one.test").await;
    assert!(fate.arrived_once(AT_ONCE).is_encrypted, "{}", fate.note());
    assert_eq!(world.hosts.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_tls_worked_within_a_week_clear_text_comes_after_all_other_hosts() {
    for (broken, why) in [
        (Tls::Refuses, "500 5.5.2 what? to EHLO behind the handshake"),
        (Tls::Closes, "connection lost at STARTTLS"),
        (Tls::Refused, "454 4.7.0 TLS not available to STARTTLS"),
        (Tls::HangsUp, "connection lost at EHLO behind the handshake"),
        (Tls::Broken, "the server sent more before the handshake"),
        (Tls::Absent, "STARTTLS is not offered any more"),
    ] {
        let world = World::new(&[tls(Tls::Works), tls(Tls::Works)]);
        assert_eq!(world.fate("a@two.test").await.arrived_once(AT_ONCE).host, 1);
        world.hosts.turn(1, tls(broken));
        let fate = world.fate("b@two.test").await;
        let taken = fate.arrived_once(AT_ONCE);
        assert_eq!((taken.host, taken.is_encrypted), (2, true), "{why}: {}", fate.note());
        world.hosts.turn(2, Manner { is_down: true, ..GOOD });
        let fate = world.fate("c@two.test").await;
        let taken = fate.arrived_once(AT_ONCE);
        assert_eq!((taken.host, taken.is_encrypted), (1, false));
        assert_eq!(fate.note(), format!("in clear text: TLS failed ({why})"));
        // So long ago that it does not count.
        let world = World::new(&[tls(Tls::Works), tls(Tls::Works)]);
        world.fate("a@two.test").await.arrived_once(AT_ONCE);
        world.hosts.turn(1, tls(broken));
        tokio::time::sleep(SECOND * 7 * 24 * 3600).await;
        assert_eq!(world.fate("b@two.test").await.arrived_once(AT_ONCE).host, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn tls_that_worked_at_one_address_of_a_host_is_expected_at_the_other() {
    for broken in [Tls::Refuses, Tls::Closes, Tls::Refused, Tls::HangsUp, Tls::Broken, Tls::Absent] {
        let down = Manner { is_down: true, ..GOOD };
        let world = World::new(&[tls(Tls::Works), tls(broken), tls(Tls::Works)]);
        assert_eq!(world.fate("a@pair.test").await.arrived_once(AT_ONCE).host, 1);
        world.hosts.turn(1, down.clone());
        let fate = world.fate("b@pair.test").await;
        let taken = fate.arrived_once(AT_ONCE);
        assert_eq!((taken.host, taken.is_encrypted), (3, true), "{}", fate.note());
        // With no other left, it is better than none.
        world.hosts.turn(3, down.clone());
        let fate = world.fate("c@pair.test").await;
        let taken = fate.arrived_once(AT_ONCE);
        assert_eq!((taken.host, taken.is_encrypted), (2, false));
        assert!(fate.note().starts_with("in clear text: TLS failed ("), "{}", fate.note());
        // Where nothing is known of the host, it goes at once.
        let world = World::new(&[down, tls(broken), tls(Tls::Works)]);
        let fate = world.fate("a@pair.test").await;
        assert_eq!(fate.arrived_once(AT_ONCE).host, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_wants_tls_which_failed_is_left_for_the_next_and_tls_is_tried_again() {
    let first = Manner { requires_tls: true, ..tls(Tls::Broken) };
    let world = World::new(&[first.clone(), GOOD]);
    assert_eq!(world.fate("a@two.test").await.arrived_once(AT_ONCE).host, 2);
    // With no other host it is for now, and passes when TLS does.
    let world = World::new(std::slice::from_ref(&first));
    let hosts = world.hosts.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND * 5).await;
        hosts.turn(1, Manner { requires_tls: true, ..tls(Tls::Works) });
    });
    let fate = world.fate("a@one.test").await;
    assert_eq!((fate.kind, fate.copies.len()), (Kind::Delivered, 1), "{:?}", fate.event);
    assert!(fate.copies[0].is_encrypted && fate.took < SECOND * 20, "{:?}", fate.took);
    let deferred = world.told.0.lock().iter().find(|event| event.kind() == Kind::Deferred).cloned().unwrap();
    assert_eq!(deferred.cause(), Some(Cause::TlsRequired), "{deferred:?}");
}

const LARGE: usize = 30_000;

#[tokio::test(start_paused = true)]
async fn the_second_host_is_asked_where_it_can_help() {
    let utf8 = MailParameters { smtputf8: true, ..MailParameters::default() };
    let eight_bit = MailParameters { eight_bit: true, ..MailParameters::default() };
    let large = format!("{PLAIN}{}\r\n", "a line of text\r\n".repeat(LARGE / 16));
    let umlaut = "From: otp@app.test\r\n\r\nIhr Schlüssel: 123456\r\n";
    let offering = |offers| Manner { offers, ..GOOD };
    let check = async |first, second, recipient: &str, content: &str, parameters: &MailParameters| {
        let world = World::new(&[offering(first), offering(second)]);
        let fate = world.fate_of(recipient, content, parameters.clone()).await;
        let taken = fate.arrived_once(AT_ONCE).clone();
        assert_eq!(taken.host, 2, "{:?}", fate.event);
        taken
    };
    check("8BITMIME", "8BITMIME SMTPUTF8", "größe@two.test", PLAIN, &utf8).await;
    check("SIZE=20000", "SIZE=100000", "a@two.test", &large, &MailParameters::default()).await;
    let taken = check("PIPELINING", "PIPELINING 8BITMIME", "a@two.test", umlaut, &eight_bit).await;
    assert!(taken.mail.ends_with(" BODY=8BITMIME"), "{}", taken.mail);
    // The second host is down now, and the first can do it all by itself but for that: it is no end.
    let down = Manner { is_down: true, ..GOOD };
    for (first, recipient, content, parameters) in [
        ("8BITMIME", "größe@two.test", PLAIN, &utf8),
        ("SIZE=20000", "a@two.test", large.as_str(), &MailParameters::default()),
    ] {
        let world = World::new(&[offering(first), down.clone()]);
        let fate = world.fate_of(recipient, content, parameters.clone()).await;
        assert_eq!(fate.kind, Kind::Expired, "{:?}", fate.event);
        // Where all were heard, and none can, it is over at once.
        let world = World::new(&[offering(first), offering(first)]);
        let fate = world.fate_of(recipient, content, parameters.clone()).await;
        assert_eq!((fate.kind, fate.attempts), (Kind::Failed, 1), "{:?}", fate.event);
    }
}

/// More than one attempt asks, where they are well.
#[tokio::test(start_paused = true)]
async fn the_last_of_many_hosts_is_asked_for_what_the_others_lack() {
    let utf8 = MailParameters { smtputf8: true, ..MailParameters::default() };
    let mut manners = vec![GOOD; 19];
    manners.push(Manner { offers: "8BITMIME SMTPUTF8", ..GOOD });
    let fate = World::new(&manners).fate_of("größe@twenty.test", PLAIN, utf8.clone()).await;
    assert_eq!(fate.arrived_once(AT_ONCE).host, 20, "{:?}", fate.event);
    let fate = World::new(&vec![GOOD; 20]).fate_of("größe@twenty.test", PLAIN, utf8).await;
    assert_eq!((fate.kind, fate.attempts), (Kind::Failed, 1), "{:?}", fate.event);
}

#[tokio::test(start_paused = true)]
async fn eight_bit_content_goes_as_it_is_where_no_host_has_8bitmime_and_it_is_told() {
    let umlaut = "From: otp@app.test\r\n\r\nIhr Schlüssel: 123456\r\n";
    let bare = Manner { offers: "PIPELINING", ..GOOD };
    for (manners, recipient) in [
        (vec![bare.clone()], "a@one.test"),
        (vec![bare.clone(), bare.clone()], "a@two.test"),
        (vec![bare.clone(), Manner { is_down: true, ..GOOD }], "a@two.test"),
    ] {
        let world = World::new(&manners);
        let parameters = MailParameters { eight_bit: true, ..MailParameters::default() };
        let fate = world.fate_of(recipient, umlaut, parameters).await;
        let taken = fate.arrived_once(AT_ONCE);
        assert!(!taken.mail.contains("BODY"), "{}", taken.mail);
        assert!(fate.note().contains("8BITMIME"), "{}", fate.note());
    }
    // A refusal names it, too.
    let world = World::new(&[Manner { offers: "", ..says(&[("dot", "554 5.6.1 8-bit is not for me")]) }]);
    let fate = world.fate_of("a@one.test", umlaut, MailParameters::default()).await;
    assert_eq!(fate.kind, Kind::Failed);
    assert!(fate.note().contains("does not offer 8BITMIME"), "{:?}", fate.event);
    assert!(world.elapsed() < SECOND * 200);
}
