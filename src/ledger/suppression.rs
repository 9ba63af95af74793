//! Why an address is not sent to, and what a bounce makes of that: one row, and what follows from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::{Step, Timestamp};
use crate::event::cause::Cause;
use crate::ledger::side::SideRow;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

const HOUR: Duration = Duration::from_secs(3600);
/// How long the first, the second and each further hard bounce counts.
const TERMS: [Duration; 3] = [HOUR, Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400)];
/// How long others wait for the message that is the try: whoever sent it may have given it a day.
pub(crate) const TRY_MAX: Duration = Duration::from_secs(600);
/// So many refusals that say nothing of the address for certain count as a hard bounce.
const SOFT_MAX: u32 = 3;
/// What was learned and has not been confirmed for so long is forgotten.
const MEMORY: Duration = Duration::from_secs(60 * 86_400);
/// Version of the rows.
const VERSION: u8 = 2;
/// Longest reason.
const REASON_LEN_MAX: usize = 200;

/// Where a suppression comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From what mail hosts said; passes.
    Learned,
    /// Somebody put it here; stays.
    Manual,
    /// The recipient complained; stays.
    Complaint,
}

/// Whether an address is sent to: all that its sender may know of what others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It is.
    #[default]
    Open,
    /// It is not.
    Suppressed {
        /// Until when; none: it stays.
        until: Option<Timestamp>,
    },
}

/// Why an address is not sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// The address in lower case; for a whole domain, `@` and its name.
    pub address: String,
    /// Where it comes from.
    pub source: Source,
    /// In a few words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none: it stays.
    pub until: Option<Timestamp>,
    /// Whose message bounced: to others it is not told what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    /// Hard bounces so far.
    #[serde(default)]
    bounces: u32,
    /// Refusals that may have been about the address, since the last hard bounce.
    #[serde(default)]
    soft: u32,
    /// The message that is the try.
    #[serde(skip)]
    trying: Option<Try>,
}

/// A message that is sent although its recipient was suppressed until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Try {
    id: MessageId,
    /// Until when others wait for it.
    ends: Timestamp,
}

/// A refusal for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounce {
    /// It says that there is no such address.
    Hard,
    /// It may pass; several count as a hard one.
    Soft,
}

/// What a refusal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It says nothing new: it was under way when the suppression began to hold, or somebody put that there.
    No,
    /// It counts, and others may follow.
    Noted,
    /// The address is suppressed from now on.
    Suppressed,
}

impl Suppression {
    /// Nothing is known yet.
    pub(crate) fn silent(address: &str, now: Timestamp) -> Self {
        Self {
            address: address.to_owned(),
            source: Source::Learned,
            reason: String::new(),
            since: now,
            until: Some(now),
            user: None,
            bounces: 0,
            soft: 0,
            trying: None,
        }
    }

    /// Reads a stored row. Version 0.1 wrote the JSON alone, which begins with a brace.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let json = match value {
            [VERSION, json @ ..] => json,
            [b'{', ..] => value,
            _ => return None,
        };
        serde_json::from_slice(json).ok()
    }

    /// As it is stored.
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut value = vec![VERSION];
        // It has no maps and nothing else that could fail.
        let _ = serde_json::to_writer(&mut value, self);
        value.into()
    }

    /// One that somebody puts on the list.
    pub(crate) fn lasting(address: &str, source: Source, reason: &str, now: Timestamp) -> Self {
        let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_LEN_MAX).collect();
        Self { source, reason, until: None, bounces: 1, ..Self::silent(address, now) }
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether it only counts what may come to a suppression.
    pub(crate) fn is_silent(&self) -> bool {
        self.source == Source::Learned && self.bounces == 0
    }

    /// Whether it was learned so long ago that it may be forgotten.
    pub(crate) fn is_faded(&self, now: Timestamp) -> bool {
        self.source == Source::Learned && now.since(self.since) >= MEMORY
    }

    /// Hard bounces so far.
    pub(crate) fn bounces(&self) -> u32 {
        self.bounces
    }

    /// What a clock wrote that was ahead is valid for as long as it was meant to be, from now on.
    pub(crate) fn taken_up(self, now: Timestamp) -> Self {
        let ahead = self.since.since(now);
        Self { since: self.since.minus(ahead), until: self.until.map(|until| until.minus(ahead)), ..self }
    }

    /// How the address stands for a message; what is the try itself does not wait for it.
    pub(crate) fn standing(&self, now: Timestamp, id: Option<MessageId>) -> Standing {
        let others = self.trying.filter(|trying| now < trying.ends && Some(trying.id) != id);
        match others {
            _ if self.is_silent() => Standing::Open,
            _ if self.holds(now) => Standing::Suppressed { until: self.until },
            Some(Try { ends, .. }) => Standing::Suppressed { until: Some(ends) },
            None => Standing::Open,
        }
    }

    /// The same with its end as it stands for a message.
    pub(crate) fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    /// This message is the try.
    pub(crate) fn try_with(&mut self, id: MessageId, now: Timestamp) {
        if !self.is_silent() {
            self.trying = Some(Try { id, ends: now.plus(TRY_MAX) });
        }
    }

    /// The try of this message is over.
    pub(crate) fn end_try(&mut self, id: MessageId) {
        self.trying = self.trying.filter(|trying| trying.id != id);
    }

    /// Since when, where a message of this user bounced.
    pub(crate) fn bounced_for(&self, user: &str) -> Option<Timestamp> {
        let is_own = self.source == Source::Learned && self.user.as_deref() == Some(user);
        is_own.then_some(self.since)
    }

    /// Counts a refusal of a message of this user, which said `reason`.
    pub(crate) fn bounced(&mut self, bounce: Bounce, (user, reason): (&str, &str), now: Timestamp) -> Counted {
        if self.source != Source::Learned || (self.bounces > 0 && self.holds(now)) {
            return Counted::No;
        }
        if now.since(self.since) >= MEMORY {
            (self.bounces, self.soft) = (0, 0);
        }
        self.since = now;
        self.soft += u32::from(bounce == Bounce::Soft);
        if bounce == Bounce::Soft && self.soft < SOFT_MAX {
            return Counted::Noted;
        }
        let term = TERMS[usize::try_from(self.bounces).unwrap_or(usize::MAX).min(TERMS.len() - 1)];
        self.bounces += 1;
        self.soft = 0;
        self.until = Some(now.plus(term));
        self.user = Some(user.into());
        self.reason = reason.chars().take(REASON_LEN_MAX).collect();
        Counted::Suppressed
    }
}

/// An address is suppressed from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    /// Whose end says so.
    pub(crate) id: MessageId,
    /// Why.
    pub(crate) cause: Option<Cause>,
    /// Until when.
    pub(crate) until: Option<Timestamp>,
    /// Hard bounces so far.
    pub(crate) bounces: u32,
}

impl Learned {
    /// Tells the operator.
    pub(crate) fn log(self, step: Step) {
        let Self { id, cause, until, bounces } = self;
        let (cause, until) = (cause.map(Cause::name), until.map(|until| step.wall(until).rfc3339()));
        tracing::info!(%id, cause, until, bounces, "recipient suppressed");
    }
}

/// Whether a stored row can be read.
pub(crate) fn reads(row: &SideRow) -> bool {
    Suppression::decode(&row.1).is_some()
}

/// The rows that say something of an address: its own and its domain's.
pub(crate) fn keys(mailbox: &Mailbox) -> [String; 2] {
    [mailbox.plain_key(), format!("@{}", mailbox.domain_key())]
}

/// Whether what a host says of the address it was sent is said of this mailbox: hosts may fold other spellings into one
/// that is somebody else's, and what routes is answered by rules about routes.
pub(crate) fn teaches(mailbox: &Mailbox) -> bool {
    mailbox.is_plain() && !mailbox.is_routed()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::mail::id::IdSource;

    #[derive(Clone, Default)]
    struct Line(Arc<Mutex<Vec<u8>>>);

    impl Write for Line {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(part)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_operator_hears_of_it_by_the_wall_clock() {
        let (now, line) = (Timestamp::from_millis(1_795_255_200_000), Line::default());
        let writer = line.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let id = IdSource::with_random(|| 3).next(now);
        let learned = Learned { id, cause: Some(Cause::BadMailbox), until: Some(now.plus(HOUR)), bounces: 2 };
        let step = Step::ahead_by_millis(86_400_000);
        tracing::subscriber::with_default(subscriber, || learned.log(step));
        let line: serde_json::Value = serde_json::from_slice(&line.0.lock().unwrap()).unwrap();
        let expected = serde_json::json!({"message": "recipient suppressed", "id": id.to_string(), "cause": "bad_mailbox",
            "until": "2026-11-22T11:00:00.000Z", "bounces": 2});
        assert_eq!((&line["level"], &line["fields"]), (&"INFO".into(), &expected));
    }
}
