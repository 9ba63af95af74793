//! Checking what somebody typed: each check is counted, stored, and then answered.

use std::sync::Arc;
use std::time::Duration;

use super::guesses::GuessKey;
use super::state::{self, Answer, AnsweredCheck, Key, State, Verification};
use super::{CheckError, CheckResult, KEY_SLACK, Limits, Selector, Verifications, code, rows};
use crate::base::clock::{Clock, Step, Timestamp};
use crate::event::Head;
use crate::intake::options;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::side::SideChange;
use crate::mail::address::Mailbox;
use crate::mail::budget_form::budget_form;
use crate::mail::id::MessageId;
use crate::queue::Queue;
use crate::queue::inspect::Filter;

/// How long ago a verification began for which wrong checks of its recipient are on disk.
const LATELY: Duration = Duration::from_secs(3600);

impl Verifications {
    /// Checks a code. What it spends is on disk when this returns; whoever drops this before knows nothing.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn check(
        &self,
        asked: (&str, Selector<'_>, &str, Option<&str>),
        queue: &Queue,
        clock: &dyn Clock,
        limits: &Limits,
    ) -> Result<CheckResult, CheckError> {
        let (user, which, typed, idempotency_key) = asked;
        let code = code::typed(typed).ok_or(CheckError::Malformed)?;
        let key = match which {
            Selector::Id(id) => self.key_of(id).filter(|key| *key.user == *user).ok_or(CheckError::Unknown)?,
            Selector::Address(to, purpose, session) => Key::new(user, to, purpose, session),
        };
        let _turn = self.turn(&key).await;
        let moment = Moment { limits, now: clock.now(), step: clock.step() };
        let spent = match which {
            Selector::Id(id) => self.spend(id, &code, idempotency_key, &moment)?.ok_or(CheckError::Unknown)?,
            Selector::Address(to, ..) => self.spend_at(&key, to, &code, idempotency_key, &moment)?,
        };
        if !spent.changes.is_empty()
            && let Err(error) = queue.store_side(spent.changes).await
        {
            if let Some(id) = &spent.id {
                let held = self.table.lock().take_back_approval(id);
                held.into_iter().for_each(|bucket| self.keys.found(bucket));
            }
            return Err(CheckError::Store(error.into()));
        }
        for message in spent.over {
            queue.supersede(&Filter::of_message(message), moment.now);
        }
        let checked = CheckResult { answer: spent.answer, approved: spent.approved };
        match which {
            Selector::Id(_) => Ok(checked),
            Selector::Address(..) => blind_to_user(checked, spent.blocked),
        }
    }

    /// Spends a check of a verification, if there is one of this id.
    fn spend(
        &self,
        id: &str,
        code: &str,
        idempotency_key: Option<&str>,
        moment: &Moment<'_>,
    ) -> Result<Option<CountedCheck>, CheckError> {
        let Moment { limits, now, step } = *moment;
        let mut table = self.table.lock();
        let (blocked, before) = (table.blocked(id, now), table.held(id));
        let Some(one) = table.get_mut(id) else { return Ok(None) };
        let digest = |bucket| self.keys.digest(bucket, &[&one.key.user, id], code);
        if let Some(answered) = idempotency_key.and_then(|key| one.answered(key, now)) {
            let is_same =
                one.sends.iter().any(|send| digest(send.bucket).is_some_and(|other| other.is(&answered.digest)));
            // Once the keys are gone, the key of the request alone says that it is a repeat.
            let is_known = one.sends.iter().any(|send| digest(send.bucket).is_some());
            let answer = answered.answer;
            return if is_same || !is_known {
                Ok(Some(CountedCheck::told(answer, blocked)))
            } else {
                Err(CheckError::Conflict)
            };
        }
        if one.state(now) != State::Pending {
            return Ok(Some(CountedCheck::told(one.check(false, now), blocked)));
        }
        let newest: Vec<&state::Send> = one.live(now).collect();
        let newest = &newest[newest.len().saturating_sub(limits.live_codes)..];
        let typed: Vec<_> = newest.iter().map(|send| digest(send.bucket)).collect();
        let mut matching = None;
        for (send, typed) in newest.iter().zip(&typed) {
            let is_it = typed.is_some_and(|typed| typed.is(&send.digest));
            matching = matching.or(is_it.then_some(send.message));
        }
        let typed = typed.into_iter().flatten().next_back();
        let answer = one.check(matching.is_some(), now);
        let answered =
            idempotency_key.zip(typed).map(|(key, digest)| AnsweredCheck { key: key.into(), digest, at: now, answer });
        one.answers.retain(|answered| now.since(answered.at) < state::REPEAT);
        one.answers.extend(answered.clone());
        let changes = vec![rows::check(one, answer, answered.as_ref(), now, step)];
        let approved = matching.map(|message| Box::new(approved(one, message, now)));
        let over = if answer.state == State::Pending {
            Vec::new()
        } else {
            one.sends.iter().filter_map(|send| send.message).collect()
        };
        let whose = (one.key.user.clone(), one.form.clone());
        if !answer.valid {
            table.wrong(&whose, limits, now);
        }
        table.is_due(id);
        let after = table.held(id);
        drop(table);
        self.release(before, after);
        let id = answer.valid.then(|| id.into());
        Ok(Some(CountedCheck { id, answer, changes, approved, over, blocked }))
    }

    /// The same by address; where nothing is pending there, a wrong check of the recipient is counted.
    fn spend_at(
        &self,
        key: &Key,
        to: &Mailbox,
        code: &str,
        idempotency_key: Option<&str>,
        moment: &Moment<'_>,
    ) -> Result<CountedCheck, CheckError> {
        let Moment { limits, now, step } = *moment;
        let found = self.table.lock().latest(key).map(|one| (one.id.clone(), one.state(now)));
        if let Some((id, state)) = &found {
            let is_answered = idempotency_key.is_some_and(|asked| self.is_answered(id, asked, now));
            if *state == State::Pending || is_answered {
                let spent = self.spend(id, code, idempotency_key, moment)?;
                return spent.ok_or(CheckError::Unknown);
            }
        }
        // As much work as where there is one.
        let _ = self.keys.digest(CodeKeys::bucket(now.plus(KEY_SLACK)), &[&key.user, &key.to], code);
        let whose: GuessKey = (key.user.clone(), budget_form(to).into());
        let mut table = self.table.lock();
        if let Some(wait) = table.guesses.blocked(&whose, now) {
            return Err(CheckError::Guessed(wait));
        }
        table.wrong(&whose, limits, now);
        let changes = if table.began_lately(&whose, LATELY, now) {
            let change = rows::guess(&whose, now, step);
            table.remember_guess(now, &change);
            vec![change]
        } else {
            Vec::new()
        };
        Ok(CountedCheck { changes, ..CountedCheck::told(NOTHING, None) })
    }

    fn is_answered(&self, id: &str, key: &str, now: Timestamp) -> bool {
        self.table.lock().get_mut(id).is_some_and(|one| one.answered(key, now).is_some())
    }
}

/// What a check by address is told where nothing was right.
pub(super) const NOTHING: Answer = Answer { valid: false, state: State::Pending, checks_left: 0 };

/// When a check is, and what holds then.
struct Moment<'a> {
    limits: &'a Limits,
    now: Timestamp,
    step: Step,
}

/// A check that was counted, and what follows from it.
struct CountedCheck {
    /// Of an approval: which.
    id: Option<Arc<str>>,
    answer: Answer,
    changes: Vec<SideChange>,
    approved: Option<Box<(Head, Option<Duration>)>>,
    /// Messages that are of no more use.
    over: Vec<MessageId>,
    /// For how long no new verification of the recipient begins.
    blocked: Option<Duration>,
}

impl CountedCheck {
    fn told(answer: Answer, blocked: Option<Duration>) -> Self {
        Self { id: None, answer, changes: Vec::new(), approved: None, over: Vec::new(), blocked }
    }
}

/// By address, whatever is not right is told alike.
fn blind_to_user(checked: CheckResult, blocked: Option<Duration>) -> Result<CheckResult, CheckError> {
    match blocked {
        _ if checked.answer.valid => Ok(checked),
        Some(wait) => Err(CheckError::Guessed(wait)),
        None => Ok(CheckResult { answer: NOTHING, ..checked }),
    }
}

/// What the event of an approval says: of the message whose code was typed.
fn approved(one: &Verification, message: Option<MessageId>, now: Timestamp) -> (Head, Option<Duration>) {
    let index = one.sends.iter().position(|send| send.message == message).unwrap_or_default();
    let arrived = one.arrived_at(index).map(|at| now.since(at));
    let send = one.sends.get(index);
    let head = Head {
        time: now,
        id: message.unwrap_or(MessageId::from_bytes([0; 16])),
        entry: None,
        user: one.key.user.clone(),
        lane: one.lane,
        tag: options::tag(&one.key.purpose).ok(),
        from: None,
        traceparent: None,
        verification: Some(one.id.clone()),
        message_id: None,
        recipient: Mailbox::parse(&one.key.to).ok(),
        attempt: 0,
        expires_at: send.map_or(now, |send| send.expires_at),
        since_accepted: send.map_or(Duration::ZERO, |send| now.since(send.at)),
    };
    (head, arrived)
}
