//! MAIL, RCPT and the content, by DATA or by BDAT (RFC 3030).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{About, Chunks, Phase, Protocol, ServerSession, State, Step, Submission, Transaction};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::wiped;
use crate::smtp::command::Mail;
use crate::smtp::data::{DataDecoder, Decoded, line_fault};
use crate::smtp::reply::{self, EnhancedCode, Reply};

/// How long the content of one message may take to arrive in all.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(600);
/// What is read over of content that is too big before the connection is closed instead.
const OVERSIZE_READ_MAX: u64 = 16 << 20;
/// A BDAT of fewer octets counts as a command that brings nothing on.
const CHUNK_LEN_MIN: u64 = 512;

impl ServerSession {
    pub(super) fn mail(&mut self, mail: Box<Mail>) -> Option<Step> {
        if self.client_name.is_none() {
            return self.refuse(&reply::EHLO_FIRST);
        }
        if !self.may_send() {
            return self.refuse(&reply::AUTHENTICATION_REQUIRED);
        }
        if self.in_transaction() {
            return self.refuse(&Reply::new(503, EnhancedCode(5, 5, 1), "nested MAIL command"));
        }
        if mail.size.is_some_and(|size| size > self.settings.message_size_max) {
            return self.refuse(&reply::TOO_BIG);
        }
        if mail.parameters.require_tls && !self.peer.encrypted {
            return self.refuse(&Reply::new(
                530,
                EnhancedCode(5, 7, 10),
                "REQUIRETLS needs TLS on this connection too",
            ));
        }
        if let Some(by) = mail.parameters.deliver_by {
            let (least, most) = self.settings.deliver_by;
            let seconds = Duration::from_secs(u64::from(by.seconds.unsigned_abs()));
            if by.seconds > 0 && !(least..=most).contains(&seconds) {
                let text = format!("BY is from {} to {} seconds here", least.as_secs(), most.as_secs());
                return self.refuse(&Reply::new(501, EnhancedCode(5, 5, 4), text));
            }
        }
        self.state = State::AwaitSender(mail.clone());
        Some(Step::CheckSender(mail))
    }

    pub(super) fn rcpt(&mut self, recipient: Recipient) -> Option<Step> {
        self.about = About::One(recipient.mailbox.clone());
        let State::Mail(transaction) = &mut self.state else {
            return self.refuse(&Reply::new(503, EnhancedCode(5, 5, 1), "MAIL first"));
        };
        if transaction.chunks.is_some() {
            return self.refuse(&reply::BAD_SEQUENCE);
        }
        let envelope = &transaction.envelope;
        if !envelope.parameters.smtputf8 && !recipient.mailbox.as_str().is_ascii() {
            return self.refuse(&reply::SMTPUTF8_NEEDED);
        }
        if envelope.recipients.iter().any(|known| known.mailbox == recipient.mailbox) {
            return self.say(&reply::RECIPIENT_OK);
        }
        if envelope.recipients.len() >= self.settings.recipients_max {
            return self.say(&reply::TOO_MANY_RECIPIENTS);
        }
        let State::Mail(transaction) = std::mem::replace(&mut self.state, State::Ready) else { return None };
        self.state = State::AwaitRecipient(transaction, recipient.clone());
        Some(Step::CheckRecipient(recipient))
    }

    pub(super) fn checked(&mut self, result: Result<(), Reply>) {
        match (std::mem::replace(&mut self.state, State::Ready), result) {
            (State::AwaitSender(mail), Ok(())) => {
                let envelope =
                    Envelope { reverse_path: mail.reverse_path, parameters: mail.parameters, recipients: Vec::new() };
                self.state = State::Mail(Box::new(Transaction { envelope, content: BytesMut::new(), chunks: None }));
                self.reply(&reply::SENDER_OK);
            }
            (State::AwaitRecipient(mut transaction, recipient), Ok(())) => {
                match &mut self.meant_for {
                    Some((_, more)) => *more += 1,
                    None => self.meant_for = Some((recipient.mailbox.clone(), 0)),
                }
                transaction.envelope.recipients.push(recipient);
                self.state = State::Mail(transaction);
                self.reply(&reply::RECIPIENT_OK);
            }
            (State::AwaitRecipient(transaction, _), Err(reply)) => {
                self.state = State::Mail(transaction);
                self.reply(&reply);
            }
            (State::AwaitSender(_), Err(reply)) => self.reply(&reply),
            (other, _) => self.state = other,
        }
    }

    pub(super) fn data(&mut self, now: Instant) -> Option<Step> {
        let State::Mail(transaction) = std::mem::replace(&mut self.state, State::Ready) else {
            return self.refuse(&Reply::new(503, EnhancedCode(5, 5, 1), "MAIL first"));
        };
        if transaction.chunks.is_some() || transaction.envelope.recipients.is_empty() {
            let reply = if transaction.chunks.is_some() { reply::BAD_SEQUENCE } else { reply::NO_RECIPIENTS };
            self.state = State::Mail(transaction);
            return self.refuse(&reply);
        }
        let size_max = usize::try_from(self.settings.message_size_max).unwrap_or(usize::MAX);
        let decoder = Box::new(DataDecoder::new(size_max));
        self.phase = Phase::Content;
        self.state = State::Content { transaction, decoder, until: now + CONTENT_TIMEOUT };
        self.say(&Reply::plain(354, "end with <CRLF>.<CRLF>"))
    }

    pub(super) fn content(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let State::Content { decoder, .. } = &mut self.state else { return (0, None) };
        match decoder.feed(input) {
            Decoded::More if decoder.size() as u64 > self.settings.message_size_max + OVERSIZE_READ_MAX => {
                (input.len(), Some(self.drain(&reply::TOO_BIG)))
            }
            Decoded::More => (input.len(), None),
            Decoded::Fault(fault) => (input.len(), Some(self.line_fault(fault))),
            Decoded::Complete(used) => {
                let State::Content { transaction, decoder, .. } = std::mem::replace(&mut self.state, State::Ready)
                else {
                    return (used, None);
                };
                if decoder.is_over_limit() {
                    return (used, self.refuse(&reply::TOO_BIG));
                }
                (used, self.hand_over(transaction.envelope, wiped(decoder.into_content())))
            }
        }
    }

    pub(super) fn bdat(&mut self, size: u64, last: bool, now: Instant) -> Option<Step> {
        let (transaction, reply) =
            if let State::Mail(mut transaction) = std::mem::replace(&mut self.state, State::Ready) {
                // Every chunk counts against the time of the whole content.
                let fresh = Chunks { announced: 0, until: now + CONTENT_TIMEOUT };
                let mut chunks = transaction.chunks.unwrap_or(fresh);
                chunks.announced = chunks.announced.saturating_add(size);
                if transaction.envelope.recipients.is_empty() {
                    (Some(transaction), reply::NO_RECIPIENTS)
                } else if chunks.announced <= self.settings.message_size_max {
                    if size >= CHUNK_LEN_MIN {
                        self.idle_commands = self.idle_commands.saturating_sub(1);
                    }
                    transaction.chunks = Some(chunks);
                    transaction.content.reserve(usize::try_from(size).unwrap_or(0).min(64 << 10));
                    self.state = State::Chunk { transaction, left: size, last };
                    return None;
                } else {
                    (None, reply::TOO_BIG)
                }
            } else {
                (None, Reply::new(503, EnhancedCode(5, 5, 1), "MAIL first"))
            };
        if size > OVERSIZE_READ_MAX {
            return Some(self.drain(&reply));
        }
        self.state = State::RefusedChunk { left: size, transaction, reply };
        None
    }

    pub(super) fn chunk(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let (State::Chunk { left, .. } | State::RefusedChunk { left, .. }) = &mut self.state else { return (0, None) };
        let used = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= used as u64;
        let is_complete = *left == 0;
        if let State::Chunk { transaction, .. } = &mut self.state {
            transaction.content.extend_from_slice(&input[..used]);
        }
        if !is_complete {
            return (used, None);
        }
        (used, self.chunk_complete())
    }

    pub(super) fn chunk_complete(&mut self) -> Option<Step> {
        let state = std::mem::replace(&mut self.state, State::Ready);
        if let State::RefusedChunk { transaction, reply, .. } = state {
            self.state = transaction.map_or(State::Ready, State::Mail);
            return self.refuse(&reply);
        }
        let State::Chunk { transaction, last, .. } = state else { return None };
        if !last {
            self.state = State::Mail(transaction);
            return self.say(&reply::CHUNK_OK);
        }
        match line_fault(&transaction.content) {
            Some(fault) => Some(self.line_fault(fault)),
            None => self.hand_over(transaction.envelope, wiped(transaction.content)),
        }
    }

    pub(super) fn hand_over(&mut self, envelope: Envelope, content: Bytes) -> Option<Step> {
        (self.state, self.phase) = (State::AwaitHandOver, Phase::Content);
        let protocol = Protocol {
            extended: self.extended,
            utf8: envelope.parameters.smtputf8,
            encrypted: self.peer.encrypted,
            authenticated: self.user.is_some(),
            http: false,
        };
        let client_name = self.client_name.clone().unwrap_or_default();
        Some(Step::HandOver(Box::new(Submission { envelope, content, client_name, protocol })))
    }
}
