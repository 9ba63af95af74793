//! `POST /v1/verifications`: a code is made and sent, or the one that is under way is told of.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::wire::{NewVerification, VerificationJson};
use super::{PURPOSE, SESSION_LEN_MAX};
use crate::accounts::user::{Senders, User};
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Happened};
use crate::http::Api;
use crate::http::api::{idempotency_key, wait_for_end};
use crate::http::auth::{Access, Principal};
use crate::http::body::{self, Payload};
use crate::http::compose::Letter;
use crate::http::compose::fields::Fields;
use crate::http::compose::people::{NAME_LEN_MAX, Person};
use crate::http::new_message::life;
use crate::http::problem::Problem;
use crate::http::send::{Draft, check_recipients};
use crate::http::template::{Mail, Purpose};
use crate::http::wire::Wait;
use crate::intake::options::{self, Options};
use crate::intake::refusal::Refusal;
use crate::intake::verification::code::{Alphabet, LENGTHS, LETTERS_MIN};
use crate::intake::verification::{Key, LIFE, Plan, Request, Secrecy, Slot, Turn, View};
use crate::ledger::entry::Message;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::id::MessageId;

/// Where the code goes in an app's own texts.
const CODE: &str = "{{code}}";

/// What a request asks for, read.
struct StartRequest {
    user: Arc<User>,
    from: Person,
    to: Person,
    purpose: Arc<str>,
    session: Option<String>,
    app: Option<String>,
    locale: String,
    life: Duration,
    alphabet: Alphabet,
    length: usize,
    own: Option<Own>,
    secrecy: Secrecy,
    idempotency_key: Option<Arc<str>>,
}

/// The app's own texts.
struct Own {
    subject: String,
    text: Option<String>,
    html: Option<String>,
}

/// `POST /v1/verifications`.
#[utoipa::path(post, path = "/v1/verifications", tag = "verifications", request_body = NewVerification,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeat with it is not sent again")),
    responses((status = 202, description = "a code is on its way", body = VerificationJson), (status = 200, description = "one is pending already", body = VerificationJson), super::super::refusals::Refusals))]
pub(in crate::http) async fn start(
    Access(api, who): Access,
    Payload(headers, body): Payload,
) -> Result<Response, Problem> {
    api.takes_mail()?;
    let settings = api.settings.load_full();
    let new: NewVerification = body::json(&headers, body, 2 * settings.message_size_max).await?;
    let who = who.renewed(&api)?;
    let wait = new.wait;
    if new.quiet && wait.is_some() {
        return Err(Problem::invalid("wait: not together with quiet, whose answer tells nothing"));
    }
    let wanted = StartRequest::read(&api, &who, new, &headers)?;
    let seat = wait.map(|Wait::Delivered| api.waits.take(&who, settings.sharing, "answers that wait")).transpose()?;
    let this = api.clone();
    let (is_new, view) = api.whole(async move { this.begin(wanted).await }).await?;
    if let (Some(_seat), Some(message)) = (seat, view.message) {
        wait_for_end(&api, &who, message).await?;
    }
    // What a wait was for has changed it.
    let view = api.view(&who, &view.id).unwrap_or(view);
    let status = if is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(VerificationJson::new(&api, &view).await)).into_response())
}

impl StartRequest {
    fn read(api: &Api, who: &Principal, new: NewVerification, headers: &HeaderMap) -> Result<Self, Problem> {
        let to = Person::parse(&new.to, "to")?;
        let from = sender(who, new.from.as_deref())?;
        let user = who.sender(api, &ReversePath(Some(from.mailbox.clone())))?;
        let purpose = options::tag(new.purpose.as_deref().unwrap_or(PURPOSE))
            .map_err(|_| Problem::invalid("purpose: 1 to 64 letters, digits and - _ . : /"))?;
        let is_session = |text: &String| {
            (1..=SESSION_LEN_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        if new.session.as_ref().is_some_and(|session| !is_session(session)) {
            return Err(Problem::invalid("session: 1 to 64 characters, none of them control characters"));
        }
        let app = new.app.as_deref().map(str::trim).filter(|app| !app.is_empty()).map(str::to_owned);
        if app.as_ref().is_some_and(|app| app.chars().count() > NAME_LEN_MAX || app.chars().any(char::is_control)) {
            return Err(Problem::invalid("app: at most 100 characters, none of them control characters"));
        }
        let life = match &new.life {
            Some(text) => Some(life(text)?).filter(|life| (LIFE.0..=LIFE.1).contains(life)),
            None => Some(user.life.clamp(LIFE.0, LIFE.1)),
        };
        let life = life.ok_or_else(|| Problem::invalid("life: 60 s to 30 m"))?;
        let alphabet = Alphabet::from(new.alphabet);
        let (least, usual) = match alphabet {
            Alphabet::Digits => (LENGTHS.0, LENGTHS.0),
            Alphabet::Letters => (LETTERS_MIN, LETTERS_MIN),
        };
        let length = new.length.unwrap_or(usual);
        if !(least..=LENGTHS.1).contains(&length) {
            return Err(Problem::invalid("length: 6 to 10; letters need 8 at least"));
        }
        let own = own_texts(new.subject, new.text, new.html)?;
        let idempotency_key = idempotency_key(headers)?.map(options::key).transpose()?;
        let secrecy = if new.quiet { Secrecy::Quiet } else { Secrecy::Open };
        let (session, locale) = (new.session, new.locale.unwrap_or_default());
        Ok(Self {
            user,
            from,
            to,
            purpose,
            session,
            app,
            locale,
            life,
            alphabet,
            length,
            own,
            secrecy,
            idempotency_key,
        })
    }

    fn request(&self) -> Request<'_> {
        Request {
            user: &self.user,
            to: &self.to.mailbox,
            purpose: &self.purpose,
            session: self.session.as_deref(),
            life: self.life,
            alphabet: self.alphabet,
            length: self.length,
            secrecy: self.secrecy,
            idempotency_key: self.idempotency_key.as_deref(),
        }
    }

    fn key(&self) -> Key {
        Key::new(&self.user.name, &self.to.mailbox, &self.purpose, self.session.as_deref())
    }

    /// The mail with its code.
    fn draft(&self, api: &Api, code: &str) -> Result<Draft, Problem> {
        let domain = self.from.mailbox.domain_key();
        let (subject, text, html) = match &self.own {
            Some(own) => {
                let filled = |text: &String| text.replace(CODE, code);
                (filled(&own.subject), own.text.as_ref().map(filled), own.html.as_ref().map(filled))
            }
            None => {
                let mail = Mail {
                    purpose: purpose(&self.purpose),
                    code: Some(code),
                    app: self.app.as_deref(),
                    locale: &self.locale,
                    life: self.life,
                    domain: &domain,
                    ..Mail::default()
                };
                let filled = api.settings.load().templates.fill(&mail);
                (filled.subject, Some(filled.text), Some(filled.html))
            }
        };
        let fields = Fields::default();
        let letter = Letter {
            from: &self.from,
            app: self.app.as_deref(),
            to: std::slice::from_ref(&self.to),
            cc: &[],
            reply_to: &[],
            subject: &subject,
            text: text.as_deref(),
            html: html.as_deref(),
            fields: &fields,
            attachments: &[],
            now: api.parts.clock.wall(),
        };
        let options = Options { life: Some(self.life), tag: Some(self.purpose.clone()), ..Options::default() };
        Ok(Draft {
            user: self.user.clone(),
            from: self.from.mailbox.clone(),
            recipients: vec![self.to.mailbox.clone()],
            options,
            content: letter.write()?,
        })
    }
}

/// Who sends: the app says, or its user has one address only.
fn sender(who: &Principal, from: Option<&str>) -> Result<Person, Problem> {
    if let Some(from) = from {
        return Person::author(from, "from");
    }
    let only = match who {
        Principal::User(login) => match &login.user.senders {
            Senders::Patterns(patterns) => match patterns.as_slice() {
                [one] => Mailbox::parse(one).ok().filter(|mailbox| mailbox.local_part() != "*"),
                _ => None,
            },
            Senders::SigningDomains => None,
        },
        Principal::Operator => None,
    };
    only.map(|mailbox| Person { name: None, mailbox }).ok_or_else(|| {
        Problem::invalid("from: is missing; it may be where the user's senders are one address").at_field("from")
    })
}

/// Texts of the app's own; none: the relay's mail.
fn own_texts(subject: Option<String>, text: Option<String>, html: Option<String>) -> Result<Option<Own>, Problem> {
    if subject.is_none() && text.is_none() && html.is_none() {
        return Ok(None);
    }
    let whole = |text: String| text.replace("{{ code }}", CODE);
    let (subject, text, html) = (subject.map(whole), text.map(whole), html.map(whole));
    let bodies: Vec<&String> = text.iter().chain(&html).collect();
    let Some(subject) = subject.filter(|_| !bodies.is_empty()) else {
        return Err(Problem::invalid("subject, and text or html, go together; without them the relay writes the mail"));
    };
    if bodies.iter().any(|body| !body.contains(CODE)) {
        return Err(Problem::invalid("text, html: each has to hold {{code}}"));
    }
    Ok(Some(Own { subject, text, html }))
}

/// What the relay's own mail says of a purpose.
fn purpose(name: &str) -> Purpose {
    match name {
        "signup" | "register" | "verify_email" => Purpose::Signup,
        "reset" | "recovery" | "password_reset" => Purpose::Reset,
        "invite" => Purpose::Invite,
        "email_change" => Purpose::EmailChange,
        "confirm" | "reauthentication" | "mfa" => Purpose::Confirm,
        _ => Purpose::Login,
    }
}

impl Api {
    /// Whether the verification is new, and how it stands then.
    async fn begin(self: Arc<Self>, wanted: StartRequest) -> Result<(bool, View), Problem> {
        let (door, clock) = (self.parts.door.clone(), self.parts.clock.clone());
        let verifications = door.verifications();
        let turn = verifications.turn(&wanted.key()).await;
        if !verifications.is_prepared(wanted.life, clock.now()) {
            let (door, life, now) = (door.clone(), wanted.life, clock.now());
            let prepared = tokio::task::spawn_blocking(move || door.verifications().prepare(life, now)).await;
            prepared.ok().and_then(Result::ok).ok_or(Refusal::Internal)?;
        }
        let limits = door.verification_limits();
        let slot = match verifications.plan(&wanted.request(), &limits, clock.now())? {
            Plan::Repeat(view) => return Ok((false, view)),
            Plan::Send(slot) => slot,
        };
        let (id, is_new) = (slot.id.clone(), slot.is_new);
        let user = wanted.user.name.clone();
        match wanted.secrecy {
            Secrecy::Open => self.send_code(&wanted, &slot).await?,
            Secrecy::Quiet => self.clone().send_quietly(wanted, slot, turn).await?,
        }
        let view = verifications.view(&user, &id, &limits, clock.now());
        view.map(|view| (is_new, view)).ok_or_else(Problem::unknown_verification)
    }

    /// Sends a code, or leaves no trace of it.
    async fn send_code(&self, wanted: &StartRequest, slot: &Slot) -> Result<(), Problem> {
        let sent = self.try_to_send(wanted, slot).await;
        if sent.is_err() {
            let changes = self.parts.door.verifications().withdrawn(slot, self.parts.clock.step());
            // What cannot be stored was not before either.
            let _ = self.parts.queue.store_side(changes).await;
        }
        sent.map_err(|(_, problem)| problem)
    }

    async fn try_to_send(&self, wanted: &StartRequest, slot: &Slot) -> Result<(), (Option<Refusal>, Problem)> {
        let door = &self.parts.door;
        let draft = wanted.draft(self, &slot.code).map_err(|problem| (None, problem))?;
        let checked = check_recipients(door, &[&draft]).await;
        checked.into_iter().collect::<Result<(), _>>().map_err(|problem| (None, problem))?;
        self.parts.delivery.prewarm(&draft.reverse_path(), &wanted.to.mailbox);
        let submitted = door.submit_code(slot, &draft.user, draft.submission(), draft.options.clone()).await;
        let receipt = submitted.map_err(|refusal| (Some(refusal.clone()), draft.refused(refusal)))?;
        self.parts.delivery.take_up(receipt.offered);
        Ok(())
    }

    /// Says that a verification has begun before anybody knows whether its code can be sent.
    async fn send_quietly(self: Arc<Self>, wanted: StartRequest, slot: Slot, turn: Turn) -> Result<(), Problem> {
        let (door, queue, step) = (&self.parts.door, &self.parts.queue, self.parts.clock.step());
        let rows = door.verifications().begun(&slot, step);
        if let Err(error) = queue.store_side(rows).await {
            door.verifications().withdrawn(&slot, step);
            return Err(Problem::from(Refusal::from(error)));
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            let _turn = turn;
            if let Err((_, problem)) = this.try_to_send(&wanted, &slot).await {
                this.not_sent(&wanted, &slot, &problem).await;
            }
        });
        Ok(())
    }

    /// Nobody who asked may tell; the events do.
    async fn not_sent(&self, wanted: &StartRequest, slot: &Slot, problem: &Problem) {
        let (now, step) = (self.parts.clock.now(), self.parts.clock.step());
        let changes = self.parts.door.verifications().refused(slot, now, step);
        let _ = self.parts.queue.store_side(changes).await;
        let id = MessageId::from_bytes(ulid::Ulid::generate().to_bytes());
        let recipient = wanted.to.mailbox.clone();
        let envelope = crate::mail::envelope::Envelope {
            reverse_path: ReversePath(Some(wanted.from.mailbox.clone())),
            parameters: crate::mail::envelope::MailParameters::default(),
            recipients: vec![crate::mail::envelope::Recipient::new(recipient)],
        };
        let message = Message {
            lane: wanted.user.lane,
            tag: Some(wanted.purpose.clone()),
            verification: Some(slot.id.clone()),
            ..Message::new(id, wanted.user.name.clone(), envelope, now..now.plus(wanted.life))
        };
        let note: Arc<str> = format!("not sent: {}", problem.why().text).into();
        let attempted = Attempted { cause: Some(Cause::PolicyRejected), note: Some(note), ..Attempted::default() };
        self.parts.queue.publish(Event { head: message.entry_head(0, 0, now), what: Happened::Failed(attempted) });
    }
}
