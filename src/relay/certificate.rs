//! The certificates shown to clients: the configured one, the one that a CA gave, or one generated and kept in the data directory;
//! and more of them by name. Which it is stands in the log, with the fingerprint that clients can be given. Files are watched.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_rustls::TlsAcceptor;

use super::acme;
use crate::base::clock::{Clock, Timestamp};
use crate::base::files::faults::absolute;
use crate::config::Config;
use crate::http::Api;
use crate::report::upkeep::Upkeep;
use crate::submission::listener::Submission;
use crate::tls::self_signed::{self, Outcome};
use crate::tls::{self, Pair, TlsError, validity};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What is shown, and where the made-up one is kept.
pub(super) struct Certificate {
    generated: Pair,
    clock: Arc<dyn Clock>,
    /// Held while the acceptor is changed.
    shown: Mutex<ShownCertificates>,
    upkeep: Arc<Upkeep>,
}

#[derive(Default)]
struct ShownCertificates {
    /// For whom the made-up one is; none where another is shown.
    generated_for: Option<String>,
    /// The one that a CA gives; until it does, the made-up one is shown.
    of_ca: Option<Pair>,
    hostname: String,
    configured: Option<Pair>,
    more: Vec<Pair>,
    /// The files as they were when they were last read.
    seen: Vec<(PathBuf, Option<State>)>,
}

/// By what a change of a file is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    changed_at: (i64, i64),
    len: u64,
    inode: u64,
}

impl State {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let changed_at = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { changed_at, len: metadata.len(), inode: metadata.ino() })
    }
}

impl Certificate {
    /// With the files of the made-up one.
    pub(super) fn new(
        (certificate, private_key): (PathBuf, PathBuf),
        clock: Arc<dyn Clock>,
        upkeep: Arc<Upkeep>,
    ) -> Self {
        Self { generated: Pair { certificate, private_key }, clock, shown: Mutex::default(), upkeep }
    }

    /// The acceptor for this configuration.
    ///
    /// # Errors
    /// When a certificate cannot be used, or not be made; then nothing changes.
    pub(super) fn acceptor(&self, config: &Config) -> Result<TlsAcceptor, TlsError> {
        let files = config.certificate.files();
        let configured =
            files.map(|(certificate, key)| Pair { certificate: certificate.to_owned(), private_key: key.to_owned() });
        let of_ca = (!config.acme.domains.is_empty()).then(|| acme::Folder::of(&config.data_dir).pair());
        let (hostname, more) = (config.hostname.clone(), config.certificates.clone());
        let next = ShownCertificates { hostname, configured, of_ca, more, ..ShownCertificates::default() };
        let mut shown = self.shown.lock();
        let (acceptor, next) = self.show(next)?;
        *shown = next;
        Ok(acceptor)
    }

    fn show(&self, mut next: ShownCertificates) -> Result<(TlsAcceptor, ShownCertificates), TlsError> {
        // What changes while it is read is seen at the next look.
        next.seen = next.files().into_iter().map(|path| (path.clone(), State::of(&path))).collect();
        let given = next.of_ca.as_ref().filter(|pair| pair.certificate.exists());
        let chosen = next.configured.as_ref().or(given).cloned();
        next.generated_for = chosen.is_none().then(|| next.hostname.clone());
        let default = match chosen {
            Some(pair) => pair,
            None => {
                self.make_up(&next.hostname)?;
                self.generated.clone()
            }
        };
        let acceptor = tls::acceptor_of(&default, &next.more)?;
        for pair in std::iter::once(&default).filter(|pair| **pair != self.generated).chain(&next.more) {
            let (file, until) = (absolute(&pair.certificate), validity::end_of(&pair.certificate)?);
            let (sha256, until) = (print_of(&pair.certificate)?, until.map(Timestamp::rfc3339));
            tracing::info!(file = %file.display(), sha256, until, "the certificate for clients");
        }
        let end = |(name, pair): (String, &Pair)| Some((name, validity::end_of(&pair.certificate).ok()??));
        let file = |pair: &Pair| pair.certificate.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let more = next.more.iter().map(|pair| (file(pair), pair));
        let all = std::iter::once((next.hostname.clone(), &default)).chain(more);
        self.upkeep.set_certificates(all.filter_map(end).collect());
        Ok((acceptor, next))
    }

    fn make_up(&self, hostname: &str) -> Result<(), TlsError> {
        let Pair { certificate, private_key } = &self.generated;
        let outcome = self_signed::ensure(certificate, private_key, hostname, self.clock.wall())?;
        let (file, sha256) = (absolute(certificate), print_of(certificate)?);
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
        Ok(())
    }

    /// Takes on files that changed, and replaces the made-up one before it ends.
    pub(super) async fn keep_valid(self: &Arc<Self>, submission: &Submission, api: &Api) {
        loop {
            tokio::time::sleep(LOOK).await;
            let certificate = self.clone();
            // A disk may take its time.
            let looked = tokio::task::spawn_blocking(move || certificate.renewed()).await;
            if let Ok(Some(acceptor)) = looked {
                api.show(acceptor.clone());
                submission.show(acceptor);
            }
        }
    }

    /// The next acceptor, where a file changed, or the made-up one is shown and ends soon. What cannot be used changes nothing,
    /// and is told once.
    pub(super) fn renewed(&self) -> Option<TlsAcceptor> {
        let mut shown = self.shown.lock();
        let seen: Vec<_> = shown.files().into_iter().map(|path| (path.clone(), State::of(&path))).collect();
        let is_over = shown.generated_for.as_deref().is_some_and(|hostname| {
            let Pair { certificate, private_key } = &self.generated;
            !self_signed::is_kept(certificate, private_key, hostname, self.clock.wall())
        });
        if seen == shown.seen && !is_over {
            return None;
        }
        let ShownCertificates { hostname, configured, of_ca, more, .. } = &*shown;
        let next = ShownCertificates {
            hostname: hostname.clone(),
            configured: configured.clone(),
            of_ca: of_ca.clone(),
            more: more.clone(),
            ..ShownCertificates::default()
        };
        match self.show(next) {
            Ok((acceptor, next)) => {
                *shown = next;
                Some(acceptor)
            }
            Err(error) => {
                shown.seen = seen;
                tracing::error!(%error, "a certificate for clients changed and cannot be used; the one of before stays");
                None
            }
        }
    }
}

impl ShownCertificates {
    fn files(&self) -> Vec<PathBuf> {
        let pairs = self.configured.iter().chain(&self.of_ca).chain(&self.more);
        pairs.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]).collect()
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

    fn made(folder: &Path, name: &str, file: &str) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        fs::write(folder.join(file), made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    }

    /// A file that changes is taken on; one that cannot be used changes nothing until it can.
    #[test]
    fn files_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_000_000_000)));
        let certificate =
            Certificate::new((folder.path().join("s.pem"), folder.path().join("s.key")), clock, Arc::default());
        made(folder.path(), "relay.test", "c.pem");
        made(folder.path(), "other.test", "m.pem");
        let text = "hostname = \"relay.test\"\n[tls]\ncertificate = \"c.pem\"\nprivate_key = \"c.pem\"\n\
                    [[certificate]]\ncertificate = \"m.pem\"\nprivate_key = \"m.pem\"\n";
        let (config, findings) = Config::from_text(text, folder.path(), None);
        let config = config.unwrap_or_else(|| panic!("{findings}"));
        certificate.acceptor(&config).unwrap();
        assert!(certificate.renewed().is_none());
        assert_eq!(certificate.upkeep.state().certificates.len(), 2);
        made(folder.path(), "relay.test", "c.pem");
        assert!(certificate.renewed().is_some() && certificate.renewed().is_none());
        fs::write(folder.path().join("m.pem"), "half a file").unwrap();
        assert!(certificate.renewed().is_none() && certificate.renewed().is_none());
        made(folder.path(), "other.test", "m.pem");
        assert!(certificate.renewed().is_some());
    }

    /// Until a CA gives one, the made-up one is shown.
    #[test]
    fn what_a_ca_gives_takes_the_place_of_the_generated_one() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_000_000_000)));
        let certificate =
            Certificate::new((folder.path().join("s.pem"), folder.path().join("s.key")), clock, Arc::default());
        let text = "hostname = \"relay.test\"\n[acme]\ndomains = [\"relay.test\"]\n";
        let (config, findings) = Config::from_text(text, folder.path(), None);
        let config = config.unwrap_or_else(|| panic!("{findings}"));
        certificate.acceptor(&config).unwrap();
        let end = |certificate: &Certificate| certificate.upkeep.state().certificates[0].1;
        let of_generated = end(&certificate);
        fs::create_dir_all(folder.path().join("data/acme")).unwrap();
        made(folder.path(), "relay.test", "data/acme/certificate.pem");
        assert!(certificate.renewed().is_some());
        assert_ne!(end(&certificate), of_generated);
    }

    #[test]
    fn the_generated_one_is_replaced_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let files = (folder.path().join("c.pem"), folder.path().join("c.key"));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_000_000_000)));
        let certificate = Certificate::new(files.clone(), clock.clone(), Arc::default());
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
