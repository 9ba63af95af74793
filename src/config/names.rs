//! Whether the relay's name is one that others take: mail hosts in EHLO, and clients in the certificate.

use super::Config;
use super::file::Source;
use crate::base::files::faults::{absolute, quoted};
use crate::tls::{read_certificates, self_signed};

/// Warns of a name that is not full, and of one that the configured certificate is not for.
pub(super) fn advise(config: &Config, source: &Source<'_>) {
    let name = &config.hostname;
    if !is_full(name) {
        let of = if config.file.is_some() { "hostname" } else { "the machine's name" };
        source.advise(format!(
            "{of} is \"{name}\", which mail hosts refuse in EHLO: write hostname = \"relay.example.com\", the full name of the \
             address that mail goes out from"
        ));
    }
    let Some((path, _)) = config.certificate.files() else { return };
    // What is wrong with the file itself is reported where it is read.
    let own = read_certificates(path).ok().and_then(|chain| chain.into_iter().next());
    if own.is_some_and(|own| !self_signed::is_for(&own, name)) {
        let path = absolute(path);
        source.advise(format!(
            "the certificate {} is not for \"{name}\", so clients that connect by this name refuse it: get one for it, or set \
             hostname to a name that `openssl x509 -noout -ext subjectAltName -in {}` shows",
            path.display(),
            quoted(&path)
        ));
    }
}

/// Whether a name has a place in the DNS of the world, or is an address literal.
fn is_full(name: &str) -> bool {
    let is_local = name == "localhost.localdomain" || name.ends_with(".localhost");
    name.starts_with('[') || name.trim_end_matches('.').contains('.') && !is_local
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::clock::Timestamp;

    fn mistakes(text: &str, folder: &Path) -> Vec<String> {
        let (_, findings) = Config::from_text(text, folder, Some(Path::new("relay.toml")));
        let is_of_names = |text: &String| text.contains("EHLO") || text.contains("certificate");
        findings.0.into_iter().map(|finding| finding.text).filter(is_of_names).collect()
    }

    #[test]
    fn names_that_mail_hosts_refuse_are_told() {
        let count = |name: &str| mistakes(&format!("hostname = \"{name}\"\n"), Path::new("")).len();
        for (name, expected) in
            [("relay.example.com", 0), ("[192.0.2.1]", 0), ("localhost", 1), ("relay", 1), ("localhost.localdomain", 1)]
        {
            assert_eq!(count(name), expected, "{name}");
        }
    }

    #[test]
    fn a_certificate_for_another_name_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        let now = Timestamp::from_millis(1_795_000_000_000);
        self_signed::ensure(&certificate, &key, "relay.example.com", now).unwrap();
        let of = |name: &str| {
            mistakes(
                &format!("hostname = \"{name}\"\n[tls]\ncertificate = \"c.pem\"\nprivate_key = \"c.key\"\n"),
                folder.path(),
            )
        };
        assert_eq!(of("relay.example.com"), [""; 0]);
        let text = of("mail.example.com").pop().unwrap();
        let file = certificate.display();
        assert!(text.starts_with(&format!("the certificate {file} is not for \"mail.example.com\"")), "{text}");
        assert!(text.ends_with(&format!("-in {file}` shows")), "{text}");
    }
}
