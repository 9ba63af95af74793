//! One transaction: the commands that may go, the replies in their order, and how it ends.

use std::time::{Duration, Instant};

use super::{
    Bdat, ClientSession, Failure, Fault, Framing, Outcome, REPLY_TIMEOUT, Stage, State, Step, Transaction,
    WRITE_TIMEOUT,
};
use crate::smtp::extension::Feature;
use crate::smtp::reply::{Reply, ReplyError, Severity};

impl ClientSession {
    /// Whether an extension is offered and to be used. Where the form of replies is not kept, one too many may come, and 354
    /// alone cannot be taken for another one: there it is one command at a time, and no chunk.
    pub(crate) fn may_use(&self, transaction: &Transaction, feature: Feature) -> bool {
        let keeps_form = self.reader.sloppiness().is_none();
        let is_offered = match feature {
            Feature::Chunking => self.extensions.chunking && keeps_form,
            Feature::Pipelining => self.extensions.pipelining && keeps_form,
            Feature::StartTls => self.extensions.starttls,
            Feature::EightBitMime => self.extensions.eight_bit_mime,
            Feature::SmtpUtf8 => self.extensions.smtputf8,
        };
        is_offered && !transaction.avoid.has(feature)
    }

    pub(super) fn begin(&mut self, transaction: &Transaction, now: Instant) -> Step {
        (self.outcome, self.suspicion) = (None, None);
        if self.reader.has_begun() {
            // An answer to nothing would be taken for the answer to MAIL, and every later one for the one before it.
            self.state = State::Transaction;
            return self.end(Fault::Closed);
        }
        if let Some(requirement) = self.unmet(transaction) {
            return Step::Done(Err(Failure { stage: Stage::Mail, fault: Fault::Unsupported(requirement) }));
        }
        self.transactions += 1;
        (self.has_sent_content, self.has_taken_content) = (false, false);
        self.final_timeout = transaction.final_timeout;
        self.bdat = transaction.bdat;
        self.pipelines = self.may_use(transaction, Feature::Pipelining);
        let chunks = self.may_use(transaction, Feature::Chunking);
        self.framing = if chunks { Framing::Chunk } else { Framing::Dotted };
        self.state = State::Transaction;
        if std::mem::take(&mut self.needs_reset) {
            self.unsent.push_back((Stage::Reset, b"RSET\r\n".to_vec()));
        }
        self.unsent.push_back((Stage::Mail, self.mail_command(transaction)));
        self.unsent.push_back((Stage::Rcpt, self.rcpt_command(transaction)));
        self.unsent.push_back(match self.framing {
            Framing::Dotted => (Stage::Data, b"DATA\r\n".to_vec()),
            Framing::Chunk => (Stage::Content, format!("BDAT {} LAST\r\n", transaction.size).into_bytes()),
        });
        self.send_next(now)
    }

    /// Puts the commands that may go now into the output: all with PIPELINING, else the next one.
    pub(super) fn send_next(&mut self, now: Instant) -> Step {
        while let Some((stage, command)) = self.unsent.pop_front() {
            if stage == Stage::Content && self.bdat == Bdat::AfterReplies && !self.due.is_empty() {
                self.unsent.push_front((stage, command));
                break;
            }
            self.output.0.extend_from_slice(&command);
            self.wait(REPLY_TIMEOUT, now);
            if stage == Stage::Content && self.reader.has_begun() {
                // It would be taken for the verdict.
                return self.end_at(Stage::Rcpt, Fault::Malformed(ReplyError::Unasked));
            }
            if stage == Stage::Content {
                return self.send_content(now);
            }
            self.due.push_back(stage);
            if !self.pipelines {
                break;
            }
        }
        Step::Read
    }

    pub(super) fn send_content(&mut self, now: Instant) -> Step {
        self.state = State::Sending;
        self.wait(WRITE_TIMEOUT, now);
        self.has_sent_content = true;
        Step::SendContent(self.framing)
    }

    pub(super) fn transaction_reply(&mut self, reply: Reply, now: Instant) -> Step {
        let Some(stage) = self.due.pop_front() else { return self.end(Fault::Reply(reply)) };
        let is_closing = reply.code == 421;
        let expected = if stage == Stage::Data { Severity::Intermediate } else { Severity::Success };
        if reply.severity() != expected {
            if !reply.is_refusal() {
                self.is_out_of_step = true;
                if !self.due.contains(&Stage::Content) {
                    return self.end_at(stage, Fault::Reply(reply));
                }
            }
            self.unsent.clear();
            self.outcome.get_or_insert(Err(Failure { stage, fault: Fault::Reply(reply) }));
        } else if stage == Stage::Data && self.outcome.is_none() {
            return self.go_ahead(now);
        } else if stage == Stage::Data {
            // DATA went out before RCPT was refused; all that may follow is the end of no content at all (RFC 2920
            // section 3.1).
            self.output.0.extend_from_slice(b".\r\n");
            self.due.push_back(Stage::Content);
        } else if stage == Stage::Content {
            self.content_taken(reply);
        }
        if is_closing {
            return self.end(Fault::Closed);
        }
        if self.due.is_empty() && self.unsent.is_empty() {
            return self.done(now);
        }
        if self.due.is_empty() {
            return self.send_next(now);
        }
        self.wait_for_next(now);
        Step::Read
    }

    /// 354: the content may go, unless there is a yes to it already.
    pub(super) fn go_ahead(&mut self, now: Instant) -> Step {
        if self.reader.has_begun() {
            match self.reader.next_reply() {
                Ok(Some(early)) if early.is_refusal() => self.early = Some(early),
                Ok(_) | Err(_) => return self.end_at(Stage::Data, Fault::Malformed(ReplyError::Unasked)),
            }
        }
        self.send_content(now)
    }

    /// Once the content is out, nobody else is asked before the server has said what became of it: also the replies to
    /// commands that went out with it may take as long. Nothing depends on the reply to content whose recipient was
    /// refused.
    pub(super) fn wait_for_next(&mut self, now: Instant) {
        let limit = match (self.due.contains(&Stage::Content), &self.outcome) {
            (true, None) => self.final_timeout,
            (true, Some(_)) => WRITE_TIMEOUT,
            (false, _) => REPLY_TIMEOUT,
        };
        self.wait(limit, now);
    }

    /// What is due now may take so long.
    pub(super) fn wait(&mut self, limit: Duration, now: Instant) {
        (self.since, self.timer) = (now, now + limit);
    }

    /// All replies are there.
    pub(super) fn done(&mut self, now: Instant) -> Step {
        let Some(outcome) = self.outcome.take() else { return self.end(Fault::Closed) };
        if outcome.is_ok() && self.is_in_doubt() {
            self.outcome = Some(outcome);
            return self.confirm(now);
        }
        self.state = State::Ready;
        self.conclude(outcome)
    }

    /// The end of a transaction.
    pub(super) fn conclude(&mut self, outcome: Outcome) -> Step {
        self.needs_reset = outcome.is_err();
        self.suspicion = outcome.as_ref().err().and_then(|failure| self.suspect(failure));
        // After a chunk that was no chunk to the server, it may have taken content for commands.
        if self.is_out_of_step || self.suspicion.is_some() {
            self.state = State::Over;
        }
        Step::Done(outcome)
    }
}
