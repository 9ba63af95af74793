//! `[[webhook]]`.

use std::path::Path;

use super::drafts::Webhook;
use super::file::Section;
use super::keys;
use super::sections::{InForce, read_many};
use crate::report::webhooks::ENDPOINTS_MAX;
use crate::report::webhooks::endpoint::{Endpoint, SECRETS_MAX, Secret};

pub(super) fn read(top: &Section<'_>, in_force: &mut InForce) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    read_many(top, &keys::webhook(), in_force, |section, webhook: Webhook| {
        if endpoints.len() == ENDPOINTS_MAX {
            section.error(section.line(), "url", &format!("there can be {ENDPOINTS_MAX} webhooks at most"));
        }
        let secrets = webhook.secret_file.as_deref().and_then(|file| secrets(section, file));
        let (Some(target), Some(secrets)) = (webhook.url, secrets) else { return };
        if endpoints.iter().any(|other| other.target.url == target.url) {
            section.error(section.line_of("url"), "url", "there is another webhook with this URL");
        }
        if !target.is_tls && !is_this_machine(&target.host) {
            section.warn(section.line_of("url"), "url", "addresses and replies travel in clear text; use https");
        }
        let Webhook { events, users, format, .. } = webhook;
        endpoints.push(Endpoint { target, secrets, events, users, format });
    });
    endpoints
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The lines of the file.
fn secrets(section: &Section<'_>, file: &Path) -> Option<Vec<Secret>> {
    let line = section.line_of("secret_file");
    let text = section.secret("secret_file", file)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Option<Vec<Secret>> = lines.map(Secret::parse).collect();
    let secrets = secrets.filter(|secrets| (1..=SECRETS_MAX).contains(&secrets.len()));
    if secrets.is_none() {
        let shown = file.display();
        let text = format!("{shown}: one line, or two, of \"whsec_\" and 16 to 512 bytes in base64 is needed");
        section.error(line, "secret_file", &text);
    }
    secrets
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Config;
    use super::*;
    use crate::event::Kind;
    use crate::report::webhooks::endpoint::Format;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn read(secret: &str, body: &str) -> (Vec<Endpoint>, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!("[[webhook]]\nsecret_file = \"secret\"\n{body}\n");
        let (config, findings) = Config::from_text(&text, folder.path(), Some(Path::new("relay.toml")));
        let lines = findings.lines(Some(Path::new("relay.toml")));
        let lines: Vec<String> = lines.into_iter().filter(|line| line.contains("[webhook]")).collect();
        (config.map(|config| config.webhooks).unwrap_or_default(), lines.join("\n"))
    }

    #[test]
    fn webhooks_are_read() {
        let body = "url = \"https://app.example.com/hooks\"\nevents = [\"delivered\"]\nusers = [\"shop\"]\nformat = \"emails\"";
        let (endpoints, lines) = read(&format!("{SECRET}\n{SECRET}\n"), body);
        let [endpoint] = &endpoints[..] else { panic!("{lines}") };
        assert_eq!((endpoint.secrets.len(), &*endpoint.target.host), (2, "app.example.com"));
        assert_eq!((&endpoint.events[..], endpoint.format), (&[Kind::Delivered][..], Format::Emails));
        assert!(lines.is_empty(), "{lines}");
    }

    #[test]
    fn mistakes_are_told() {
        let check = |secret: &str, body: &str, expected: &str| {
            let (_, lines) = read(secret, body);
            assert!(lines.contains(expected), "{body}: {lines}");
        };
        check(SECRET, "", "[webhook] url: is missing");
        check(SECRET, "url = \"ftp://a.example/\"", "[webhook] url: a URL like");
        check(SECRET, "url = \"https://a.example/\"\nevents = [\"sent\"]", "[webhook] events: \"sent\": an event like");
        check("secret", "url = \"https://a.example/\"", "secret: one line, or two, of \"whsec_\"");
        check(&[SECRET; 3].join("\n"), "url = \"https://a.example/\"", "one line, or two");
        check(SECRET, "url = \"http://a.example/\"", "in clear text");
    }
}
