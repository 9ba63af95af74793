//! A worker without sockets: gives a session messages to deliver, and checks what it makes of the server's replies.

use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{DeliverBy, DeliverByMode, MailParameters, Notify, Recipient, Ret};
use otp_relay::testing::smtp::client_session::{
    Bdat, ClientSession, ClientSettings, EightBit, Event, Framing, StartTls, Step, Transaction, Trust,
};
use otp_relay::testing::smtp::data::line_fault;
use otp_relay::testing::smtp::extension::{Feature, Features};
use otp_relay::testing::smtp::reply::{Reply, ReplyReader, Severity};

use crate::{Mark, parts, pieces};

const TRANSACTIONS_MAX: u32 = 3;
const VERBS: [&[u8]; 10] = [
    b"EHLO ",
    b"HELO ",
    b"STARTTLS\r",
    b"RSET\r",
    b"MAIL FROM:<",
    b"RCPT TO:<",
    b"DATA\r",
    b"BDAT 57 LAST\r",
    b".\r",
    b"QUIT\r",
];

/// What to deliver, and how; one bit each.
#[derive(Clone, Copy)]
pub struct TlsOption(pub u8);

impl TlsOption {
    fn has(self, bit: u8) -> bool {
        self.0 & (1 << bit) != 0
    }

    fn starttls(self) -> StartTls {
        match (self.has(0), self.has(1)) {
            (false, false) => StartTls::Never,
            (true, false) => StartTls::IfOffered,
            (_, true) => StartTls::Required,
        }
    }

    /// Whether STARTTLS is out of the play: what happens then depends on what arrives in one piece with its reply.
    pub fn compares(self) -> bool {
        self.starttls() == StartTls::Never
    }

    fn transaction(self) -> Transaction {
        let mailbox = |text| Mailbox::parse(text).expect("a good address");
        let parameters = MailParameters {
            smtputf8: self.has(2),
            require_tls: self.has(3),
            ret: Some(Ret::Headers),
            envid: Some("id+2B1".into()),
            priority: Some(4),
            ..MailParameters::default()
        };
        let recipient = Recipient {
            mailbox: mailbox(if self.has(2) { "müller@bücher.example" } else { "user@bücher.example" }),
            notify: Some(Notify { failure: true, ..Notify::default() }),
            orcpt: Some("rfc822;user@example.net".into()),
        };
        Transaction {
            reverse_path: ReversePath((!self.has(4)).then(|| mailbox("otp@shop.example"))),
            parameters,
            recipient,
            size: 57,
            eight_bit: EightBit::AsItIs,
            avoid: if self.has(6) { Feature::Chunking.into() } else { Features::NONE },
            utf8_fields: self.has(5),
            deliver_by: Some(DeliverBy { seconds: 120, mode: DeliverByMode::Return, trace: false }),
            final_timeout: Duration::from_secs(120),
            bdat: if self.has(6) { Bdat::AfterReplies } else { Bdat::AtOnce },
        }
    }
}

/// Plays what a server says up to the end of the first transaction, in pieces of any length. A session that was told
/// something between its greeting and the transaction is confused, in one way or another.
pub fn play(option: TlsOption, script: &[u8], seed: u8) -> Vec<String> {
    let mut worker = Worker::new(option, 1);
    for (text, mark) in parts(script) {
        pieces(text, seed).for_each(|piece| worker.feed(Event::Received(piece)));
        worker.mark(mark);
    }
    // Confusion shows when something happens, or never.
    worker.deeds.retain(|deed| deed != "confused");
    // From the content on it counts whether a reply too many is there already.
    let is_content = |deed: &String| deed.contains("SendContent") || deed.contains("Unasked");
    let until = worker.deeds.iter().position(is_content).unwrap_or(worker.deeds.len());
    worker.deeds.truncate(until);
    worker.deeds.iter().map(|deed| deed.replace(r"BDAT 57 LAST\r\n", "")).collect()
}

/// Plays octet by octet, with several transactions and an eye on every reply.
pub fn watch(option: TlsOption, script: &[u8]) {
    let mut worker = Worker::new(option, TRANSACTIONS_MAX);
    worker.replies = Some((ReplyReader::default(), Vec::new()));
    for (text, mark) in parts(script) {
        text.chunks(1).for_each(|octet| worker.watched(octet));
        worker.mark(mark);
    }
}

struct Worker {
    session: ClientSession,
    now: Instant,
    transaction: Transaction,
    transactions_max: u32,
    in_transaction: bool,
    has_sent_content: bool,
    is_over: bool,
    /// The replies read by somebody else, where every one is watched.
    replies: Option<(ReplyReader, Vec<Reply>)>,
    deeds: Vec<String>,
}

impl Worker {
    fn new(option: TlsOption, transactions_max: u32) -> Self {
        let settings =
            ClientSettings { hostname: "relay.example.com".to_owned(), starttls: option.starttls(), login: None };
        let now = SystemClock::default().instant();
        Self {
            session: ClientSession::new(settings, now),
            now,
            transaction: option.transaction(),
            transactions_max,
            in_transaction: false,
            has_sent_content: false,
            is_over: false,
            replies: None,
            deeds: Vec::new(),
        }
    }

    fn watched(&mut self, octet: &[u8]) {
        if let Some((reader, replies)) = &mut self.replies {
            reader.feed(octet);
            if let Ok(Some(reply)) = reader.next_reply() {
                replies.push(reply);
            }
        }
        self.feed(Event::Received(octet));
    }

    fn mark(&mut self, mark: Option<Mark>) {
        match mark {
            None => {}
            // An idle session has no deadline.
            Some(Mark::Timeout) if self.session.deadline().is_none() => {}
            Some(Mark::Timeout) => self.feed(Event::Timeout),
            Some(Mark::End) => self.feed(Event::Closed),
            Some(Mark::Go) if self.session.is_usable() && self.transactions_max > 0 && !self.is_over => {
                let next = self.transact();
                self.go_on(next);
            }
            Some(Mark::Go) => {}
        }
    }

    fn feed(&mut self, event: Event<'_>) {
        if self.is_over {
            return;
        }
        let step = self.session.handle(event, self.now);
        let next = self.done(step);
        self.go_on(next);
    }

    /// Does what the session needs until it wants to read.
    fn go_on(&mut self, mut next: Option<Next>) {
        while let Some(event) = next {
            let transaction = self.transaction.clone();
            let event = match event {
                Next::Encrypted => Event::TlsEstablished(Trust::Unverified),
                Next::Sent => Event::ContentSent,
                Next::Transact => Event::Transact(&transaction),
            };
            let step = self.session.handle(event, self.now);
            next = self.done(step);
        }
        assert_eq!(self.session.deadline().is_some(), !self.session.is_usable() && !self.is_over);
    }

    /// Notes and checks what the session did; says what it needs.
    fn done(&mut self, step: Step) -> Option<Next> {
        self.check_output();
        if !matches!(step, Step::Read) {
            self.deeds.push(format!("{step:?}"));
        }
        match step {
            Step::Read => None,
            Step::StartTls => Some(Next::Encrypted),
            Step::DeriveKeys(_) => unreachable!("nobody logs in"),
            // Whoever compares says when to go.
            Step::Ready if self.replies.is_none() => None,
            Step::Ready => self.transact(),
            Step::SendContent(framing) => {
                assert!(self.in_transaction && !self.has_sent_content);
                self.check_go_ahead(framing);
                self.has_sent_content = true;
                Some(Next::Sent)
            }
            Step::Done(outcome) => {
                assert!(self.in_transaction, "a second end of one transaction");
                if let Ok(reply) = outcome {
                    assert!(self.has_sent_content && reply.severity() == Severity::Success);
                    let known = self.replies.as_ref().map(|(_, replies)| replies.iter().cloned().map(Reply::cut));
                    assert!(known.is_none_or(|mut known| known.any(|known| known == reply)));
                } else if self.deeds.len() == 3 && self.deeds[1].starts_with("Ready") && !self.session.is_usable() {
                    self.deeds[2] = "confused".to_owned();
                }
                self.in_transaction = false;
                self.transact()
            }
            Step::Failed(_) => {
                assert!(!self.in_transaction, "a transaction without an end");
                if self.deeds.len() == 3 && self.deeds[1].starts_with("Ready") {
                    self.deeds[2] = "confused".to_owned();
                }
                self.is_over = true;
                None
            }
        }
    }

    fn transact(&mut self) -> Option<Next> {
        if !self.session.is_usable() {
            self.is_over = true;
            return None;
        }
        if self.transactions_max == 0 {
            self.is_over = self.replies.is_none();
            return None;
        }
        self.transactions_max -= 1;
        (self.in_transaction, self.has_sent_content) = (true, false);
        Some(Next::Transact)
    }

    /// Content that cannot be taken back goes out only when RCPT was accepted.
    fn check_go_ahead(&self, framing: Framing) {
        let Some((_, replies)) = &self.replies else { return };
        let last: Vec<Severity> = replies.iter().rev().take(2).map(Reply::severity).collect();
        match framing {
            Framing::Dotted => assert_eq!(last, [Severity::Intermediate, Severity::Success]),
            Framing::Chunk if self.session.extensions().pipelining => {}
            Framing::Chunk => assert_eq!(last, [Severity::Success, Severity::Success]),
        }
    }

    fn check_output(&mut self) {
        let output = self.session.take_output();
        assert_eq!(line_fault(&output), None);
        assert!(output.is_empty() || output.ends_with(b"\r\n"));
        for line in output.split_inclusive(|octet| *octet == b'\n') {
            assert!(line.len() <= 512);
            assert!(VERBS.iter().any(|verb| line.starts_with(verb)), "{}", line.escape_ascii());
            assert!(self.session.extensions().smtputf8 || line.is_ascii());
        }
        let said = output.escape_ascii().to_string();
        match self.deeds.last_mut() {
            Some(before) if before.ends_with(r"\r\n") => before.push_str(&said),
            _ if said.is_empty() => {}
            _ => self.deeds.push(said),
        }
    }
}

enum Next {
    Encrypted,
    Sent,
    Transact,
}
