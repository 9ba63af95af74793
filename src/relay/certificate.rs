//! The certificate shown to clients: the configured one, or one made up and kept in the data folder. Which one it is stands in
//! the log, with the fingerprint that clients can be given.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_rustls::TlsAcceptor;

use crate::base::clock::Clock;
use crate::base::files::faults::absolute;
use crate::config::Config;
use crate::submission::listener::Submission;
use crate::tls::self_signed::{self, Outcome};
use crate::tls::{self, TlsError};

/// How often is looked whether the made-up one ends soon.
const LOOK: Duration = Duration::from_secs(86_400);

/// What is shown, and where the made-up one is kept.
pub(super) struct Certificate {
    certificate: PathBuf,
    private_key: PathBuf,
    clock: Arc<dyn Clock>,
    /// For whom the made-up one is; none where another is configured. Held while the acceptor is changed.
    made_up_for: Mutex<Option<String>>,
}

impl Certificate {
    /// With the files of the made-up one.
    pub(super) fn new((certificate, private_key): (PathBuf, PathBuf), clock: Arc<dyn Clock>) -> Self {
        Self { certificate, private_key, clock, made_up_for: Mutex::new(None) }
    }

    /// The acceptor for this configuration.
    ///
    /// # Errors
    /// When a certificate cannot be used, or not be made.
    pub(super) fn acceptor(&self, config: &Config) -> Result<TlsAcceptor, TlsError> {
        let Some((certificate, private_key)) = config.certificate.files() else {
            let acceptor = self.generated(&config.hostname)?;
            *self.made_up_for.lock() = Some(config.hostname.clone());
            return Ok(acceptor);
        };
        let acceptor = tls::acceptor(certificate, private_key)?;
        *self.made_up_for.lock() = None;
        tracing::info!(file = %absolute(certificate).display(), sha256 = print_of(certificate)?, "the certificate for clients");
        Ok(acceptor)
    }

    fn generated(&self, hostname: &str) -> Result<TlsAcceptor, TlsError> {
        let outcome = self_signed::ensure(&self.certificate, &self.private_key, hostname, self.clock.wall())?;
        let acceptor = tls::acceptor(&self.certificate, &self.private_key)?;
        let (file, sha256) = (absolute(&self.certificate), print_of(&self.certificate)?);
        let (file, names) = (file.display(), self_signed::names(hostname).join(", "));
        match outcome {
            Outcome::Kept => {
                tracing::info!(%file, sha256, names, "the certificate for clients, made by the relay itself")
            }
            Outcome::Made => {
                tracing::info!(%file, sha256, names, "a certificate was made; clients have to trust this file")
            }
            Outcome::Replaced => {
                tracing::warn!(%file, sha256, names, "a new certificate was made; clients have to trust this file now");
            }
        }
        Ok(acceptor)
    }

    /// Replaces the made-up one before it ends.
    pub(super) async fn keep_valid(&self, submission: &Submission) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(acceptor) = self.renewed() {
                submission.show(acceptor);
            }
        }
    }

    /// The next one, where the made-up one is shown and ends soon.
    fn renewed(&self) -> Option<TlsAcceptor> {
        let made_up_for = self.made_up_for.lock();
        let hostname = made_up_for.as_deref()?;
        if self_signed::is_kept(&self.certificate, &self.private_key, hostname, self.clock.wall()) {
            return None;
        }
        let made = self.generated(hostname);
        made.inspect_err(|error| tracing::error!(%error, "the certificate for clients cannot be made anew")).ok()
    }
}

fn print_of(certificate: &Path) -> Result<String, TlsError> {
    Ok(tls::read_certificates(certificate)?.first().map(self_signed::fingerprint).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{ManualClock, Timestamp};

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn the_made_up_one_is_replaced_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let files = (folder.path().join("c.pem"), folder.path().join("c.key"));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_000_000_000)));
        let certificate = Certificate::new(files.clone(), clock.clone());
        let config = |tls: &str| {
            let text = format!("hostname = \"relay.test\"\n{tls}");
            let (config, findings) = Config::from_text(&text, folder.path(), None);
            config.unwrap_or_else(|| panic!("{findings}"))
        };
        certificate.acceptor(&config("")).unwrap();
        let first = print_of(&files.0).unwrap();
        clock.advance(DAY * 334);
        assert!(certificate.renewed().is_none());
        clock.advance(DAY * 2);
        assert!(certificate.renewed().is_some());
        assert_ne!(print_of(&files.0).unwrap(), first);
        assert!(certificate.renewed().is_none(), "the next one is good for a year");
        // One of the operator's own is theirs to replace.
        certificate.acceptor(&config("[tls]\ncertificate = \"c.pem\"\nprivate_key = \"c.key\"\n")).unwrap();
        clock.advance(DAY * 400);
        assert!(certificate.renewed().is_none());
    }
}
