//! Gets the certificate of `[tls]` from a CA and renews it. What it keeps is in `data_dir/acme`; what it got is taken on by
//! whoever watches certificate files.

mod web;
mod web_server;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::random::random_number;
use crate::base::clock::{Clock, Timestamp};
use crate::base::files;
use crate::destination::resolver::Dns;
use crate::net::Network;
use crate::submission::listener::Submission;
use crate::tls::acme::{Challenge, Settings, answering, jitter_of, renewal_at, wait_after};
use crate::tls::verify::Roots;
use crate::tls::{self, Pair, self_signed, validity};
use web::Web;

/// How often is looked whether the certificate is due, and the CA asked whether it suggests another time.
const LOOK: Duration = Duration::from_secs(10);
const ASK_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// How long one order may take.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// Orders that are begun anew at once where the CA does not like a nonce (RFC 8555 section 6.5).
const NONCES_MAX: u32 = 8;
const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.pem";
const RECORDS: &str = "records";

/// `data_dir/acme`.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("acme"))
    }

    /// The certificate with its key, in one file, so that both change at once.
    pub(crate) fn pair(&self) -> Pair {
        let path = self.0.join(CERTIFICATE);
        Pair { certificate: path.clone(), private_key: path }
    }

    /// The records that dns-persist-01 needs, as far as they are known: the account has to be made first.
    pub(crate) fn records(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(RECORDS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, name: &str, octets: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        files::replace(&self.0.join(name), octets)
    }
}

pub(super) struct Parts {
    pub(super) dns: Arc<dyn Dns>,
    pub(super) network: Arc<dyn Network>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) submission: Arc<Submission>,
}

/// Gets certificates until the relay stops.
pub(super) struct Acme {
    settings: Settings,
    folder: Folder,
    parts: Parts,
    /// What the CA suggested for the certificate that is there, and when it is asked again.
    window: Option<Range<Timestamp>>,
    ask_at: Timestamp,
    failures: u32,
    retry_at: Timestamp,
}

impl Acme {
    pub(super) fn new(settings: Settings, data_dir: &Path, parts: Parts) -> Self {
        let folder = Folder::of(data_dir);
        let zero = Timestamp::default();
        Self { settings, folder, parts, window: None, ask_at: zero, failures: 0, retry_at: zero }
    }

    /// `changed` is called when there is a new certificate.
    pub(super) async fn run(mut self, mut changed: impl FnMut()) {
        loop {
            let now = self.parts.clock.wall();
            let current = self.current();
            if self.retry_at <= now && self.is_due(current.as_ref(), now).await {
                match self.renew(current.as_ref()).await {
                    Ok(until) => {
                        self.succeeded(until);
                        changed();
                    }
                    Err(error) => self.failed(&error, current.as_ref()),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn succeeded(&mut self, until: Option<Timestamp>) {
        let (domains, until) = (self.settings.domains.join(" "), until.map(Timestamp::rfc3339));
        tracing::info!(domains, until, "the CA gave a certificate");
        (self.window, self.ask_at, self.failures, self.retry_at) =
            (None, Timestamp::default(), 0, Timestamp::default());
    }

    fn failed(&mut self, error: &anyhow::Error, current: Option<&Current>) {
        self.failures = self.failures.saturating_add(1);
        let jitter = random_number().map_or(0.5, |number| (number >> 32) as f64 / f64::from(u32::MAX));
        let wait = wait_after(self.failures, jitter);
        self.retry_at = self.parts.clock.wall().plus(wait);
        let until = current.map(|current| current.validity.end.rfc3339());
        let (error, again_in_s) = (format!("{error:#}"), wait.as_secs());
        tracing::error!(error, until, again_in_s, "no certificate from the CA; the one that is there stays");
    }

    /// The certificate that is there, if it is for all names.
    fn current(&self) -> Option<Current> {
        let chain = tls::read_certificates(&self.folder.pair().certificate).ok()?;
        let own = chain.into_iter().next()?;
        let is_for_all = self.settings.domains.iter().all(|name| self_signed::is_for(&own, name));
        let validity = validity::of(&own).filter(|_| is_for_all)?;
        Some(Current { own, validity })
    }

    async fn is_due(&mut self, current: Option<&Current>, now: Timestamp) -> bool {
        let Some(current) = current else { return true };
        if self.ask_at <= now {
            let (window, pause) = self.suggestion(current).await;
            self.window = window.or(self.window.take());
            self.ask_at = now.plus(pause);
        }
        renewal_at(&current.validity, self.window.as_ref(), jitter_of(&current.own)) <= now
    }

    /// What the CA suggests (RFC 9773), and when to ask again. A CA need not.
    async fn suggestion(&self, current: &Current) -> (Option<Range<Timestamp>>, Duration) {
        let asked = async {
            let account = self.account().await?;
            let id = CertificateIdentifier::try_from(&current.own).map_err(anyhow::Error::msg)?;
            Ok::<_, anyhow::Error>(account.renewal_info(&id).await?)
        };
        match tokio::time::timeout(ORDER_TIMEOUT, asked).await {
            Ok(Ok((info, pause))) => {
                let at = |time: time::OffsetDateTime| {
                    let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000);
                    Timestamp::from_millis(millis.unwrap_or(0)).min(Timestamp::MAX)
                };
                let window = at(info.suggested_window.start)..at(info.suggested_window.end);
                (Some(window), pause.clamp(LOOK, ASK_PAUSE))
            }
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "the CA suggests no time for the renewal");
                (None, ASK_PAUSE)
            }
            Err(_) => (None, ASK_PAUSE),
        }
    }

    async fn renew(&self, current: Option<&Current>) -> anyhow::Result<Option<Timestamp>> {
        let ordering = async {
            let account = self.account().await?;
            let mut refused = 0;
            loop {
                match self.order(&account, current).await {
                    Err(error) if is_bad_nonce(&error) && refused < NONCES_MAX => refused += 1,
                    result => return result,
                }
            }
        };
        let (key, chain) =
            tokio::time::timeout(ORDER_TIMEOUT, ordering).await.context("the CA takes longer than 5 minutes")??;
        let text = zeroize::Zeroizing::new(format!("{}\n{}", key.trim_end(), chain));
        // What clients could not be shown does not take the place of what they can.
        let trial = self.folder.0.join("trial.pem");
        self.folder.write("trial.pem", text.as_bytes()).context("the certificate cannot be written")?;
        let usable = tls::acceptor(&trial, &trial).map(drop);
        files::destroy(&trial)?;
        usable.context("what the CA gave cannot be used")?;
        self.folder.write(CERTIFICATE, text.as_bytes()).context("the certificate cannot be written")?;
        Ok(validity::end_of(&self.folder.pair().certificate)?)
    }

    /// Key and chain.
    async fn order(&self, account: &Account, current: Option<&Current>) -> anyhow::Result<(String, String)> {
        let mut order = self.new_order(account, current).await?;
        let waiting = self.begin_challenges(&mut order).await?;
        let retries = RetryPolicy::new().timeout(ORDER_TIMEOUT);
        let ready = async {
            self.set_ready(&mut order).await?;
            order.poll_ready(&retries).await.map_err(anyhow::Error::from)
        };
        let status = match waiting {
            ChallengeResponse::Web(answers) => {
                let address = self.settings.http_address;
                tokio::select! {
                    biased;
                    served = web_server::serve(address, Arc::new(answers)) => match served {
                        Err(error) => bail!("acme.http_address {address}: {error}"),
                        Ok(never) => match never {},
                    },
                    status = ready => status?,
                }
            }
            ChallengeResponse::Tls(answers) => {
                self.parts.submission.answer(Some(answering(&answers)?));
                let _ending = ChallengeGuard(&self.parts.submission);
                ready.await?
            }
            ChallengeResponse::Nothing => ready.await?,
        };
        anyhow::ensure!(status == OrderStatus::Ready, "the CA does not believe that the names are ours: {status:?}");
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&retries).await?;
        Ok((key, chain))
    }

    /// An order that names the certificate it replaces (RFC 9773), where the CA says when to renew. One that does not take that name, or
    /// answers without it, as it must not, gets another order: else no renewal would come about with it.
    async fn new_order(&self, account: &Account, current: Option<&Current>) -> anyhow::Result<Order> {
        let names: Vec<Identifier> = self.settings.domains.iter().cloned().map(Identifier::Dns).collect();
        let replaced = current.filter(|_| self.window.is_some());
        if let Some(id) = replaced.and_then(|current| CertificateIdentifier::try_from(&current.own).ok()) {
            match account.new_order(&NewOrder::new(&names).replaces(id.into_owned())).await {
                Ok(order) => return Ok(order),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    if is_bad_nonce(&error) {
                        return Err(error);
                    }
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "the CA did not take an order that names the certificate it replaces; it gets one without"
                    );
                }
            }
        }
        Ok(account.new_order(&NewOrder::new(&names)).await?)
    }

    /// What has to be served while the CA looks.
    async fn begin_challenges(&self, order: &mut Order) -> anyhow::Result<ChallengeResponse> {
        let (mut of_web, mut of_tls) = (Vec::new(), Vec::new());
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let challenge = authorization.challenge(self.kind()).with_context(|| self.not_offered())?;
            let Identifier::Dns(name) = challenge.identifier().identifier.clone() else {
                bail!("the CA asks for no name")
            };
            let answer = challenge.key_authorization();
            of_tls.push((name, answer.digest().as_ref().to_vec()));
            of_web.push((challenge.token.clone(), answer.as_str().to_owned()));
        }
        Ok(match self.settings.challenge {
            Challenge::Http => ChallengeResponse::Web(of_web),
            Challenge::TlsAlpn => ChallengeResponse::Tls(of_tls),
            Challenge::DnsPersist => ChallengeResponse::Nothing,
        })
    }

    async fn set_ready(&self, order: &mut Order) -> anyhow::Result<()> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending {
                authorization.challenge(self.kind()).with_context(|| self.not_offered())?.set_ready().await?;
            }
        }
        Ok(())
    }

    fn kind(&self) -> ChallengeType {
        match self.settings.challenge {
            Challenge::Http => ChallengeType::Http01,
            Challenge::TlsAlpn => ChallengeType::TlsAlpn01,
            Challenge::DnsPersist => ChallengeType::Unknown(Challenge::DnsPersist.name().to_owned()),
        }
    }

    fn not_offered(&self) -> String {
        format!("the CA does not offer {}; set another acme.challenge", self.settings.challenge.name())
    }

    /// The account, made if there is none with this CA.
    async fn account(&self) -> anyhow::Result<Account> {
        let web = self.web()?;
        let path = self.folder.0.join(ACCOUNT);
        let builder = Account::builder_with_http(Box::new(web.clone()));
        match fs::read(&path) {
            Ok(text) => {
                let text = zeroize::Zeroizing::new(text);
                let known: AccountFile = serde_json::from_slice(&text)
                    .with_context(|| format!("{} cannot be read; remove it to make another account", path.display()))?;
                if known.directory == self.settings.directory {
                    return Ok(builder.from_credentials(known.credentials).await?);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(path.display().to_string()),
        }
        let email = self.settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = email.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let directory = self.settings.directory.clone();
        let (account, credentials) =
            Account::builder_with_http(Box::new(web.clone())).create(&new, directory.clone(), None).await?;
        let text = zeroize::Zeroizing::new(serde_json::to_vec(&AccountFile { directory, credentials })?);
        self.folder.write(ACCOUNT, &text).context("the account cannot be written down")?;
        tracing::info!(account = account.id(), directory = self.settings.directory, "an account was made with the CA");
        self.log_records(&account, &web).await?;
        Ok(account)
    }

    /// What DNS must have for dns-persist-01: bound to the account, it stays.
    async fn log_records(&self, account: &Account, web: &Web) -> anyhow::Result<()> {
        if self.settings.challenge != Challenge::DnsPersist {
            return Ok(());
        }
        let directory = web.get(&self.settings.directory).await?;
        let issuer =
            directory["meta"]["caaIdentities"][0].as_str().context("the CA does not say how it is named in DNS")?;
        let line = |name: &String| {
            format!("_validation-persist.{name}. 3600 IN TXT \"{issuer}; accounturi={}\"\n", account.id())
        };
        let records: String = self.settings.domains.iter().map(line).collect();
        records.lines().for_each(|record| tracing::info!(record, "dns-persist-01 needs this record"));
        Ok(self.folder.write(RECORDS, records.as_bytes())?)
    }

    fn web(&self) -> anyhow::Result<Web> {
        let roots = Roots::load(self.settings.ca_file.as_deref())?;
        let tls = TlsConnector::from(Arc::new(roots.client_config()?));
        Ok(Web { dns: self.parts.dns.clone(), network: self.parts.network.clone(), tls })
    }
}

/// The certificate that is there.
struct Current {
    own: CertificateDer<'static>,
    validity: Range<Timestamp>,
}

/// What is to be served while the CA looks.
enum ChallengeResponse {
    /// A web server with these answers.
    Web(Vec<(String, String)>),
    /// The listeners, with these digests for these names.
    Tls(Vec<(String, Vec<u8>)>),
    /// The record is there already.
    Nothing,
}

/// Takes the answer of the listeners back, however the order ends.
struct ChallengeGuard<'a>(&'a Submission);

impl Drop for ChallengeGuard<'_> {
    fn drop(&mut self) {
        self.0.answer(None);
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct AccountFile {
    directory: String,
    credentials: AccountCredentials,
}

fn is_bad_nonce(error: &anyhow::Error) -> bool {
    let problem = error.chain().find_map(|error| match error.downcast_ref::<Error>() {
        Some(Error::Api(problem)) => problem.r#type.as_deref(),
        Some(_) | None => None,
    });
    problem.is_some_and(|kind| kind.ends_with(":badNonce"))
}
