//! From mails that are written to messages that are accepted: what every way in over HTTP has in common.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Api;
use super::problem::Problem;
use crate::accounts::user::User;
use crate::intake::door::{Door, InWork, PreparedSubmission, Ready, Receipt};
use crate::intake::options::Options;
use crate::intake::recipient::{DNS_WAIT, RecipientCheck};
use crate::intake::refusal::Refusal;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::message::Content;
use crate::smtp::server_session::{Protocol, Submission};

/// A mail that is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) user: Arc<User>,
    pub(super) from: Mailbox,
    pub(super) recipients: Vec<Mailbox>,
    pub(super) options: Options,
    pub(super) content: Bytes,
}

/// What becomes of several mails where one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// None is stored.
    AllOrNone,
    /// The others are taken.
    EachByItself,
}

impl Draft {
    /// What could be a repeat, which costs nothing, is not held to limits before the door knows.
    fn may_be_repeat(&self) -> bool {
        self.options.idempotency_key.is_some() || !self.user.defaults.idempotency_window.is_zero()
    }

    /// As it goes in by the door.
    pub(super) fn submission(&self) -> Submission {
        let content = &self.content;
        let needs_utf8 = self.recipients.iter().chain([&self.from]).any(|mailbox| !mailbox.has_ascii_local_part())
            || !content.is_ascii() && !Content::split(content.clone()).head.is_ascii();
        let parameters =
            MailParameters { smtputf8: needs_utf8, eight_bit: !content.is_ascii(), ..MailParameters::default() };
        let recipients = self.recipients.iter().map(|mailbox| Recipient::new(mailbox.clone())).collect();
        Submission {
            envelope: Envelope { reverse_path: self.reverse_path(), parameters, recipients },
            content: content.clone(),
            client_name: "http".to_owned(),
            protocol: Protocol { extended: true, utf8: needs_utf8, encrypted: false, authenticated: true, http: true },
        }
    }

    pub(super) fn reverse_path(&self) -> ReversePath {
        ReversePath(Some(self.from.clone()))
    }

    /// A refusal of it, for the log.
    pub(super) fn refused(&self, refusal: Refusal) -> Problem {
        Problem::from(refusal).meant_for(self.recipients.iter().cloned())
    }
}

/// Whether mail may go to all recipients of each draft. All domains are looked up side by side, each once: an answer about
/// one is worth as much as about all.
pub(super) async fn check_recipients(door: &Door, drafts: &[&Draft]) -> Vec<Result<(), Problem>> {
    let mut unknown: HashMap<String, &Mailbox> = HashMap::new();
    let mut checked = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let mut results = Vec::with_capacity(draft.recipients.len());
        for mailbox in &draft.recipients {
            results.push(match door.check_recipient(&draft.user, mailbox).await {
                RecipientCheck::Done(Err(Refusal::Budget { .. } | Refusal::TotalBudget | Refusal::Rate { .. }))
                    if draft.may_be_repeat() =>
                {
                    Ok(())
                }
                RecipientCheck::Done(result) => result,
                RecipientCheck::NeedsDns => {
                    unknown.insert(mailbox.domain_key(), mailbox);
                    Ok(())
                }
            });
        }
        checked.push(results);
    }
    let look_ups = unknown.into_iter().map(|(domain, mailbox)| async {
        let result = door.wait_for_domain(mailbox, DNS_WAIT).await;
        (domain, result)
    });
    let known: HashMap<String, Result<(), Refusal>> =
        futures_util::future::join_all(look_ups).await.into_iter().collect();
    let whole = |(draft, results): (&&Draft, Vec<Result<(), Refusal>>)| {
        draft.recipients.iter().zip(results).try_for_each(|(mailbox, result)| {
            let of_domain = || known.get(&mailbox.domain_key()).cloned().unwrap_or(Ok(()));
            result.and_then(|()| of_domain()).map_err(|refusal| Problem::from(refusal).about_recipient(mailbox))
        })
    };
    drafts.iter().zip(checked).map(whole).collect()
}

/// How far a draft came before anything was stored.
enum Step<'a> {
    Refused(Problem),
    Taken(Receipt),
    Ready(Box<Ready<'a>>),
    /// The same is being accepted right now, maybe as another of the same request.
    InWork,
}

impl Api {
    /// Takes several mails: checks all of them, takes what each needs, then stores them side by side. The outcome of each in
    /// its place.
    ///
    /// # Errors
    /// With [`Together::AllOrNone`], why which of them is refused; then nothing is stored.
    pub(super) async fn send_all(
        &self,
        drafts: &[Draft],
        together: Together,
    ) -> Result<Vec<Result<Receipt, Problem>>, (usize, Problem)> {
        let door = &self.parts.door;
        let checked = check_recipients(door, &drafts.iter().collect::<Vec<_>>()).await;
        if together == Together::AllOrNone
            && let Some((index, Err(problem))) = checked.iter().cloned().enumerate().find(|(_, result)| result.is_err())
        {
            return Err((index, problem));
        }
        for (draft, _) in drafts.iter().zip(&checked).filter(|(_, result)| result.is_ok()) {
            draft.recipients.iter().for_each(|mailbox| self.parts.delivery.prewarm(&draft.reverse_path(), mailbox));
        }
        let mut steps = Vec::with_capacity(drafts.len());
        for (index, (draft, result)) in drafts.iter().zip(checked).enumerate() {
            let step = match result {
                Ok(()) => prepare(door, draft, InWork::Refuse).await,
                Err(problem) => Step::Refused(problem),
            };
            if together == Together::AllOrNone
                && let Step::Refused(problem) = step
            {
                return Err((index, problem));
            }
            steps.push(step);
        }
        let stored = steps.into_iter().zip(drafts).map(|(step, draft)| self.store(draft, step));
        let mut outcomes = futures_util::future::join_all(stored).await;
        // Of those that were held up by another of this request, that one is over.
        for (outcome, draft) in outcomes.iter_mut().zip(drafts) {
            if outcome.is_none() {
                // Who names no key has not said that it repeats itself, and gets the answer of the first.
                let in_work = if draft.options.idempotency_key.is_some() { InWork::Refuse } else { InWork::Wait };
                *outcome = self.store(draft, prepare(door, draft, in_work).await).await;
            }
        }
        let in_work = |draft: &Draft| Err(draft.refused(Refusal::InWork));
        Ok(outcomes.into_iter().zip(drafts).map(|(outcome, draft)| outcome.unwrap_or_else(|| in_work(draft))).collect())
    }

    /// Stores what is ready and has it delivered; none where the same is being accepted.
    async fn store(&self, draft: &Draft, step: Step<'_>) -> Option<Result<Receipt, Problem>> {
        let mut stored = match step {
            Step::Refused(problem) => Err(problem),
            Step::Taken(receipt) => Ok(receipt),
            Step::Ready(ready) => self.parts.door.accept(*ready).await.map_err(|refusal| draft.refused(refusal)),
            Step::InWork => return None,
        };
        if let Ok(receipt) = &mut stored {
            self.parts.delivery.take_up(std::mem::take(&mut receipt.offered));
        }
        Some(stored)
    }
}

async fn prepare<'a>(door: &'a Door, draft: &Draft, in_work: InWork) -> Step<'a> {
    let options = draft.options.clone();
    match door.prepare(&draft.user, draft.submission(), options, None, in_work).await {
        Ok(PreparedSubmission::Repeat(receipt)) => Step::Taken(receipt),
        Ok(PreparedSubmission::Ready(ready)) => Step::Ready(ready),
        Err(Refusal::InWork) => Step::InWork,
        Err(refusal) => Step::Refused(draft.refused(refusal)),
    }
}
