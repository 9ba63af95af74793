//! The certificate for clients: whether they believe it, for the relay's name, and for how long.

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::look::Look;
use crate::config::findings::Severity;
use crate::tls::verify::Roots;
use crate::tls::{acceptor, read_certificates, validity};

/// How long before its end it is told.
const EARLY: Duration = Duration::from_secs(14 * 86_400);
const DAY_S: u64 = 86_400;

/// The configured ones; the one that the relay makes for itself is trusted by file, or not at all.
pub(super) fn look(look: &Look<'_>) {
    if let Some((certificate, private_key)) = look.config.certificate.files() {
        of_files(look, certificate, private_key, Some(&look.config.hostname));
    }
    // For which name a client asks that gets one of these is not known here.
    look.config.certificates.iter().for_each(|pair| of_files(look, &pair.certificate, &pair.private_key, None));
}

/// A chain and its key; whether the chain leads to an authority is looked at where there is a name to judge it for.
fn of_files(look: &Look<'_>, certificate: &Path, private_key: &Path, name: Option<&str>) {
    let subject = certificate.display().to_string();
    let add = |severity, text: String, mend: &str| {
        look.add(Finding::new(severity, Check::Certificate, &subject, text).mend(mend));
    };
    if let Err(error) = acceptor(certificate, private_key) {
        return add(Severity::Error, error.to_string(), "");
    }
    let Ok(chain) = read_certificates(certificate) else { return };
    let now = look.clock.wall();
    let left = chain.first().and_then(validity::of).map(|validity| validity.end.since(now));
    if left == Some(Duration::ZERO) {
        return add(
            Severity::Error,
            "it has ended, and clients do not believe it".into(),
            "get a new one; the relay takes it on when the file changes",
        );
    }
    let roots = Roots::load(look.config.delivery.ca_file.as_deref()).map_err(|error| error.to_string());
    let judged = name.map(|name| (name, roots.and_then(|roots| roots.verify(&chain, name, now))));
    if let Some((name, Err(text))) = judged {
        let text = format!("clients that know the usual authorities do not believe it for {name}: {text}");
        add(
            Severity::Error,
            text,
            "the file needs the whole chain, its own certificate first, for the name that clients use",
        );
    }
    if let Some(left) = left.filter(|left| *left < EARLY) {
        let text = format!("it ends in {} days", left.as_secs() / DAY_S);
        add(Severity::Warning, text, "have it renewed; the relay takes it on when the file changes");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_judged_as_clients_do() {
        let folder = tempfile::tempdir().unwrap();
        let shown = |name: &str| folder.path().join(name).display().to_string();
        let made = |name: &str, days: i64| {
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            // The clock of these tests stands at 2026-11-28.
            let now = time::OffsetDateTime::from_unix_timestamp(1_795_860_000).unwrap();
            params.not_before = now - time::Duration::days(200);
            params.not_after = now + time::Duration::days(days);
            let key = rcgen::KeyPair::generate().unwrap();
            std::fs::write(shown("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(shown("c.key"), key.serialize_pem()).unwrap();
        };
        let told = async || {
            let mut world = World::sound();
            world.tls = format!("certificate = \"{}\"\nprivate_key = \"{}\"\n", shown("c.pem"), shown("c.key"));
            world.ca_file = Some(shown("c.pem"));
            summary(&world, |look| Box::pin(async move { super::look(look) })).await
        };
        made("relay.app.test", 90);
        assert_eq!(told().await, []);
        for (name, days, severity, expected) in [
            ("relay.app.test", 10, Severity::Warning, "ends in 10 days"),
            ("relay.app.test", -1, Severity::Error, "has ended"),
            ("other.app.test", 90, Severity::Error, "do not believe it for relay.app.test"),
        ] {
            made(name, days);
            assert_one(&told().await, severity, expected);
        }
    }
}
