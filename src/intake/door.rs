//! The door: nothing but this puts mail into the queue.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::aftermath::Aftermath;
use super::allowance::{Allowance, Pace};
use super::buckets::Buckets;
use super::forecasts::Forecasts;
pub(crate) use super::idempotency::InWork;
use super::idempotency::{self, Lookup, Reservation, RotatingSecrets};
use super::options::Options;
use super::parsed_content::{self, ParsedContent};
use super::refusal::Refusal;
pub use super::settings::{BUDGET, Settings};
pub(crate) use super::settings::{BUDGET_TOTAL, Learning};
use super::stamp::{self, Trace};
use super::terms;
use super::unsigned::Unsigned;
use super::verification::{self, Slot, Verifications};
use crate::accounts::user::User;
use crate::base::clock::{Clock, Timestamp};
use crate::destination::mx::Router;
use crate::destination::route::{Route, RouteError};
use crate::destination::via::SmartHostDomains;
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::event::usual_message_id;
use crate::greylist::facts::Facts;
use crate::ledger::LedgerError;
use crate::ledger::accept::{NewMessage, Refused, Repeated};
use crate::ledger::entry::{Message, SignedContent, State};
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::budget_form;
use crate::mail::envelope::Envelope;
use crate::mail::id::MessageId;
use crate::mail::message::Content;
use crate::queue::{AppendError, Offered, Queue};
use crate::smtp::client_name::received_from;
use crate::smtp::server_session::Submission;

/// What is told of a message with long lines.
const ENCODED: &str = "lines of more than 998 bytes were encoded";

/// What intake works with.
pub struct Parts {
    /// Who sees to what ends in the queue, with the settings.
    pub aftermath: Arc<Aftermath>,
    /// Where mail goes.
    pub queue: Arc<Queue>,
    /// Who knows which domains can receive.
    pub router: Arc<Router>,
    /// The keys to sign with.
    pub keys: Arc<ArcSwap<Keys>>,
    pub(crate) signing: Arc<SigningPool>,
    /// Secrets for what is remembered of content.
    pub secrets: Arc<dyn RotatingSecrets>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The reverse-path that mail leaves with; none: the client's.
    pub reverse_path: Option<Mailbox>,
    /// The domains that smart hosts serve.
    pub smart_hosts: Arc<SmartHostDomains>,
}

/// The door.
pub struct Door {
    pub(super) parts: Parts,
    pub(super) buckets: Buckets,
    unsigned: Unsigned,
    idempotency: idempotency::Keys,
    forecasts: Forecasts,
}

/// A message was taken.
#[derive(Debug)]
pub struct Receipt {
    /// Its id; the first one's, if this is a repeat.
    pub id: MessageId,
    /// Where this one repeats a message that was taken before, how that one stands; then this one is not sent.
    pub repeat_of: Option<&'static str>,
    /// Whether it asked for a more urgent lane than its user may have.
    pub(crate) is_lowered: bool,
    /// Its entries, for delivery.
    pub offered: Offered,
}

/// What a submission came to before anything of it is stored.
pub(crate) enum PreparedSubmission<'a> {
    /// It was taken before.
    Repeat(Receipt),
    /// It can be stored.
    Ready(Box<Ready<'a>>),
}

/// A message that was found good and has all that it needs. Dropped, it gives that back.
pub struct Ready<'a> {
    message: Arc<Message>,
    content: Content,
    allowance: Allowance<'a>,
    reservation: Option<Box<Reservation<'a>>>,
    /// For want of a key nobody signs for it.
    author: Option<Mailbox>,
    is_encoded: bool,
    is_lowered: bool,
    /// The verification whose code it carries.
    slot: Option<&'a Slot>,
}

impl Door {
    /// A door to the queue. What is stored of budgets and keys counts from here on.
    pub fn new(parts: Parts) -> Arc<Self> {
        budget_form::prepare();
        parts.aftermath.take_up(&parts.queue, parts.clock.now());
        let idempotency = idempotency::Keys::new(parts.secrets.clone());
        let forecasts = Forecasts {
            queue: parts.queue.clone(),
            router: parts.router.clone(),
            smart_hosts: parts.smart_hosts.clone(),
            reverse_path: parts.reverse_path.clone(),
        };
        Arc::new(Self { parts, buckets: Buckets::default(), unsigned: Unsigned::default(), idempotency, forecasts })
    }

    /// Changes the settings.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        self.parts.aftermath.reconfigure(settings);
    }

    /// Who sees to what ends in the queue.
    pub fn aftermath(&self) -> &Aftermath {
        &self.parts.aftermath
    }

    /// Sends what is gathered for senders when it is due. Goes on until it is dropped.
    pub async fn run_digests(&self) {
        self.parts.aftermath.run_digests(&self.parts.queue).await;
    }

    /// Sends all that is gathered, before the relay stops.
    pub(crate) fn send_digests(&self) {
        self.parts.aftermath.send_digests(&self.parts.queue);
    }

    /// Lets verifications go that are over. Goes on until it is dropped.
    pub(crate) async fn run_verifications(&self) {
        let span = || self.settings().verification.recipient_checks.span;
        self.verifications().run(&self.parts.queue, &*self.parts.clock, span).await;
    }

    /// Takes an address out of the verifications that are final; one under way is withdrawn first.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn erase_verifications(&self, plain: &str) -> Result<(), Refusal> {
        let changes = self.verifications().erase(plain, self.parts.clock.now());
        Ok(self.parts.queue.store_side(changes).await?)
    }

    /// What codes may be checked, and how often sent.
    pub(crate) fn verification_limits(&self) -> verification::Limits {
        self.settings().verification.clone()
    }

    /// The verifications.
    pub fn verifications(&self) -> &Verifications {
        &self.parts.aftermath.verifications
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.parts.aftermath.settings.load_full()
    }

    /// May this user use this reverse-path? The null path is for notifications, which any user may pass on; who wrote
    /// the message is looked at again when its From field is there.
    ///
    /// # Errors
    /// What would be allowed.
    pub(crate) fn check_sender(&self, user: &User, reverse_path: &ReversePath) -> Result<(), Refusal> {
        reverse_path.mailbox().map_or(Ok(()), |mailbox| self.check_author(user, mailbox, "reverse-path"))
    }

    fn check_author(&self, user: &User, mailbox: &Mailbox, what: &'static str) -> Result<(), Refusal> {
        let keys = self.parts.keys.load();
        if user.may_send_as(mailbox, |domain| keys.of(domain).is_some()) {
            return Ok(());
        }
        Err(Refusal::Sender { what, allowed: user.allowed() })
    }

    /// What the wall clock shows at a time of the relay's.
    pub(crate) fn wall(&self, at: Timestamp) -> Timestamp {
        self.parts.clock.step().wall(at)
    }

    pub(super) fn by_wall(&self, refusal: Refusal) -> Refusal {
        refusal.by_wall(self.parts.clock.step())
    }

    /// When a live entry is expected to pass a host that makes it wait; none: at once, or nobody knows.
    pub(crate) fn predicted_at(&self, message: &Message, index: u16) -> Option<Timestamp> {
        let now = self.parts.clock.now();
        let (_, forecast) = self.forecasts.of(message, &message.recipient(index).mailbox, now)?;
        forecast.passes_at(now)
    }

    /// Who serves a domain, and what is known of their greylisting.
    ///
    /// # Errors
    /// Why nobody serves it.
    pub(crate) async fn learned(&self, domain: &str) -> Result<(Arc<Route>, Option<Facts>), RouteError> {
        let route = self.parts.router.route(domain).await?;
        let facts = self.parts.queue.greylists().facts(domain, &route.destination, self.parts.clock.now());
        Ok((route, facts))
    }

    /// Takes a message: completes, signs and stores it, and hands it to delivery. Returns when it would survive a power
    /// cut. The given options count more than those in the message's header section.
    ///
    /// # Errors
    /// Why it was not taken; then nothing of it is kept.
    pub async fn submit(
        &self,
        user: &User,
        submission: Submission,
        options: Options,
        client: Option<IpAddr>,
    ) -> Result<Receipt, Refusal> {
        match self.prepare_for((None, Pace::AtOnce), user, (submission, options), client, InWork::Wait).await? {
            PreparedSubmission::Repeat(receipt) => Ok(receipt),
            PreparedSubmission::Ready(ready) => self.accept(*ready).await,
        }
    }

    /// The same with the code of a verification, which is stored in the same commit.
    ///
    /// # Errors
    /// As [`Door::submit`].
    pub(crate) async fn submit_code(
        &self,
        slot: &Slot,
        user: &User,
        submission: Submission,
        options: Options,
    ) -> Result<Receipt, Refusal> {
        match self.prepare_for((Some(slot), Pace::AtOnce), user, (submission, options), None, InWork::Wait).await? {
            PreparedSubmission::Repeat(receipt) => Ok(receipt),
            PreparedSubmission::Ready(ready) => self.accept(*ready).await,
        }
    }

    /// The first half of [`Door::submit`]: everything that can refuse a message, before anything is stored, so that several
    /// messages are taken together or not at all. Each that is ready goes to [`Door::accept`].
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) async fn prepare(
        &self,
        user: &User,
        submission: Submission,
        options: Options,
        client: Option<IpAddr>,
        in_work: InWork,
    ) -> Result<PreparedSubmission<'_>, Refusal> {
        self.prepare_for((None, Pace::WithOthers), user, (submission, options), client, in_work).await
    }

    async fn prepare_for<'a>(
        &'a self,
        (slot, pace): (Option<&'a Slot>, Pace),
        user: &User,
        (submission, options): (Submission, Options),
        client: Option<IpAddr>,
        in_work: InWork,
    ) -> Result<PreparedSubmission<'a>, Refusal> {
        let now = self.parts.clock.now();
        let settings = self.settings();
        let Submission { envelope, content, client_name, protocol } = submission;
        envelope.recipients.iter().try_for_each(|recipient| settings.check_form(&recipient.mailbox))?;
        let ParsedContent { content, header, options: own, is_encoded } =
            parsed_content::parse(content, settings.long_lines).await?;
        let options = options.or(own);
        for author in header.from.mailboxes.iter().chain(&header.from.also_readable) {
            self.check_author(user, author, "From")?;
        }
        let today = self.wall(now);
        let life = terms::expires_at(user, &options, &envelope, &content, today)?.since(today);
        let life = now..now.plus(life);
        let key = options.idempotency_key.as_deref();
        let asking = (&*self.parts.queue, user);
        let reservation = match self.idempotency.ask(asking, key, (&envelope, &content), in_work, now).await? {
            Some(Lookup::Repeat(id)) => return Ok(PreparedSubmission::Repeat(self.repeat(id))),
            Some(Lookup::First(reservation)) => Some(reservation),
            None => None,
        };
        let id = self.parts.aftermath.ids.next(now);
        let client = client.filter(|_| settings.received_client).map(|ip| received_from(&client_name, ip));
        let trace = Trace { hostname: &settings.hostname, client, protocol, id, now: self.wall(now) };
        let message_id = unusual(stamp::message_id(&header, &trace), id, &envelope);
        let content = stamp::stamp(content, &header, &trace);
        let signing_domain = self.signing_domain(&header.from.mailboxes, &envelope);
        let is_lowered = terms::asked_lane(&options, &envelope).is_some_and(|lane| lane < user.lane);
        let message = terms::message(id, user, envelope, &content, &options, signing_domain, life);
        let supersede = settings.rule_of(message.supersede);
        let message = Message { is_direct: self.is_direct(&message.envelope), message_id, supersede, ..message };
        let message = match slot {
            Some(slot) => slot.carried_by(message),
            None => message,
        };
        let message = Arc::new(message);
        let limits = (&*self.parts.aftermath, &self.buckets, &*self.parts.queue);
        let allowance = Allowance::take(limits, user, &message, reservation.is_some(), pace).await;
        let allowance = allowance.map_err(|refusal| self.by_wall(refusal))?;
        let author = header.from.mailboxes.into_iter().next();
        Ok(PreparedSubmission::Ready(Box::new(Ready {
            message,
            content,
            allowance,
            reservation,
            author,
            is_encoded,
            is_lowered,
            slot,
        })))
    }

    /// The second half of [`Door::submit`].
    ///
    /// # Errors
    /// When it cannot be stored or signed; then nothing of it is kept.
    pub(crate) async fn accept(&self, ready: Ready<'_>) -> Result<Receipt, Refusal> {
        let Ready { message, content, mut allowance, reservation, author, is_encoded, is_lowered, slot } = ready;
        let id = message.id;
        let step = self.parts.clock.step();
        let side = slot.into_iter().flat_map(|slot| self.verifications().sent(slot, &message, step)).collect();
        let idempotency = reservation.as_ref().map(|reservation| reservation.known_by.clone());
        let queue = &self.parts.queue;
        let note = is_encoded.then_some(ENCODED);
        let budgets = allowance.budgets();
        let new = NewMessage { rows: side, budgets, idempotency, ..queue.new_message(message.clone(), content, note) };
        let offered = match (self.store(new).await, &reservation) {
            (Ok(offered), _) => offered,
            // Another node was faster.
            (Err(NotStored::Repeats(repeated)), Some(reservation)) => {
                let (envelope, now) = (&message.envelope, self.parts.clock.now());
                let first = self.idempotency.resolve(queue, repeated, reservation, envelope, now).await?;
                return Ok(self.repeat(first));
            }
            (Err(NotStored::Repeats(_)), None) => return Err(Refusal::Internal),
            (Err(NotStored::Refused(refusal)), _) => return Err(refusal),
        };
        allowance.keep();
        if message.signing_domain.is_none() {
            let author = author.as_ref().or_else(|| message.envelope.reverse_path.mailbox());
            self.log_unsigned(author, id, message.accepted_at);
        }
        Ok(Receipt { id, repeat_of: None, is_lowered, offered })
    }

    /// The receipt of the first: the state of its first entry that has not ended.
    fn repeat(&self, id: MessageId) -> Receipt {
        let snapshot = self.parts.queue.message(id);
        let live = snapshot.iter().flat_map(|snapshot| &snapshot.entries).find_map(|entry| entry.state);
        let repeat_of = Some(live.map_or("ended", State::name));
        Receipt { id, repeat_of, is_lowered: false, offered: Offered::default() }
    }

    /// The domain that signs for the author's, since DMARC looks at that; else the one for the reverse-path's.
    fn signing_domain(&self, from: &[Mailbox], envelope: &Envelope) -> Option<Arc<str>> {
        let keys = self.parts.keys.load();
        let mut candidates = from.iter().chain(envelope.reverse_path.mailbox());
        candidates.find_map(|mailbox| keys.signing_domain(&mailbox.domain_key()).map(Arc::from))
    }

    /// A message goes unsigned, for want of a key for its author's domain.
    fn log_unsigned(&self, author: Option<&Mailbox>, id: MessageId, now: Timestamp) {
        let domain = author.map_or_else(String::new, Mailbox::domain_key);
        if let Some((domain, messages)) = self.unsigned.count(&domain, now) {
            tracing::warn!(%id, domain, messages, "no DKIM key for the sender's domain; messages go unsigned");
        }
    }

    /// Whether no smart host can come to carry it to any recipient, as far as is known now.
    fn is_direct(&self, envelope: &Envelope) -> bool {
        let mut recipients = envelope.recipients.iter();
        !recipients.any(|recipient| self.parts.smart_hosts.cover(&recipient.mailbox.domain_key()))
    }

    /// Storing and signing take about as long as each other; they go side by side.
    async fn store(&self, new: NewMessage) -> Result<Offered, NotStored> {
        let Parts { queue, keys, signing, .. } = &self.parts;
        let (message, content) = (new.message.clone(), new.content.clone());
        let refused = |error| NotStored::of(error, &message.user, &*self.parts.clock);
        let acceptance = queue.begin(NewMessage { at_once: !signing.is_busy(), ..new });
        let mut acceptance = acceptance.map_err(refused)?;
        let terms = message.signature_terms(self.parts.clock.step());
        let keys_of = |domain: &str| keys.load().of_acceptance(domain, terms.signed_at);
        let signatures = match message.signing_domain.as_deref().and_then(keys_of) {
            Some(keys) => signing.sign(message.lane, &keys, &content, terms).await,
            None => Some(bytes::Bytes::new()),
        };
        acceptance.stored().await.map_err(refused)?;
        let signatures = signatures.ok_or(NotStored::Refused(Refusal::Internal))?;
        let risks = self.forecasts.risks(&message, self.parts.clock.now());
        Ok(queue.admit(acceptance, SignedContent { signatures, content }, &risks))
    }
}

/// What is kept of the Message-ID field.
fn unusual(message_id: Arc<str>, id: MessageId, envelope: &Envelope) -> Option<Arc<str>> {
    let usual = usual_message_id(id, envelope.reverse_path.mailbox());
    (usual.as_deref() != Some(&*message_id)).then_some(message_id)
}

/// Why a message was not stored.
enum NotStored {
    /// The same is known to the ledger.
    Repeats(Repeated),
    /// For a reason that its client hears.
    Refused(Refusal),
}

impl NotStored {
    fn of(error: AppendError, user: &str, clock: &dyn Clock) -> Self {
        let refusal = match error {
            AppendError::QueueFull { entries_max } => Refusal::QueueFull { entries_max },
            AppendError::ShareFull(portion) => Refusal::Share(portion),
            AppendError::Refused(Refused::Repeats(repeated)) => return Self::Repeats(repeated),
            AppendError::Refused(Refused::Budget(why)) => Refusal::over_budget(why, clock.now()),
            AppendError::Refused(Refused::Suppressed(found)) => Refusal::suppressed(&found, user),
            AppendError::Refused(Refused::Full) => Refusal::DiskFull,
            AppendError::Refused(Refused::Unavailable(_)) => Refusal::ShuttingDown,
            AppendError::Refused(Refused::Failed) => Refusal::Internal,
        };
        Self::Refused(refusal.by_wall(clock.step()))
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Full => Self::DiskFull,
            LedgerError::Damaged(_) | LedgerError::Fault(_) => Self::Internal,
            LedgerError::Unavailable => Self::ShuttingDown,
        }
    }
}
