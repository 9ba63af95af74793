//! `[[smart_host]]`.

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::drafts::{Address, SmartHostSettings};
use super::file::Section;
use super::keys;
use super::sections::{InForce, read_many};
use crate::delivery::smart_host::{SmartHost, Tls};
use crate::smtp::client_session::Account;
use crate::smtp::sasl::PASSWORD_MAX;

/// Smart hosts at most: each failed one costs an attempt.
const SMART_HOSTS_MAX: usize = 16;
/// Where TLS begins before the first reply (RFC 8314).
const IMPLICIT_TLS_PORT: u16 = 465;
/// Where it begins with STARTTLS.
const STARTTLS_PORTS: [u16; 2] = [25, 587];

pub(super) fn read(top: &Section<'_>, in_force: &mut InForce) -> Vec<SmartHost> {
    let mut hosts: Vec<SmartHost> = Vec::new();
    read_many(top, &keys::smart_host(), in_force, |section, settings| {
        let line = section.line();
        if hosts.len() == SMART_HOSTS_MAX {
            section.error(line, "address", &format!("there can be {SMART_HOSTS_MAX} smart hosts at most"));
        }
        let Some(host) = smart_host(section, settings) else { return };
        if hosts.iter().any(|other| other.name == host.name) {
            section.error(line, "address", &format!("there is another smart host at {}", host.name));
        }
        hosts.push(host);
    });
    hosts
}

fn smart_host(section: &Section<'_>, settings: SmartHostSettings) -> Option<SmartHost> {
    let account = account(section, &settings);
    let SmartHostSettings { address: Address { host, port }, tls, when, domains, .. } = settings;
    if port == 0 {
        return None;
    }
    port_fits(section, port, tls);
    Some(SmartHost { tls, account, when, domains, ..SmartHost::at(&host, port) })
}

/// A session never begins where both sides wait for the other, or where one speaks TLS and the other does not.
fn port_fits(section: &Section<'_>, port: u16, tls: Tls) {
    let line = section.line_of("address");
    if port == IMPLICIT_TLS_PORT && tls != Tls::Implicit {
        let text = "at port 465 TLS begins with the connection; set tls = \"implicit\", or use the host's port with \
                    STARTTLS, mostly 587";
        section.error(line, "tls", text);
    }
    if STARTTLS_PORTS.contains(&port) && tls == Tls::Implicit {
        let text = format!("at port {port} hosts mostly begin in clear text; \"implicit\" is for port 465");
        section.warn(line, "tls", &text);
    }
}

fn account(section: &Section<'_>, settings: &SmartHostSettings) -> Option<Arc<Account>> {
    match (&settings.username, &settings.password_file) {
        (None, None) => None,
        (Some(_), None) => {
            let text = "is missing; username and password_file go together";
            section.error(section.line_of("username"), "password_file", text);
            None
        }
        (None, Some(_)) => {
            if !section.has("username") {
                let text = "is missing; username and password_file go together";
                section.error(section.line_of("password_file"), "username", text);
            }
            None
        }
        (Some(user), Some(file)) => {
            if !settings.tls.is_verified() {
                let text = "a password is sent only over a verified session; set tls = \"verify\" or \"implicit\", or \
                            leave out username and password_file";
                section.error(section.line_of("username"), "tls", text);
            }
            let password = password(section, file)?;
            Some(Arc::new(Account::new(user.clone(), password)))
        }
    }
}

/// The file's only line.
fn password(section: &Section<'_>, file: &Path) -> Option<Zeroizing<String>> {
    let line = section.line_of("password_file");
    let text = section.secret("password_file", file)?;
    let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    let fits = !password.is_empty() && password.len() <= PASSWORD_MAX && !password.contains(char::is_control);
    if !fits {
        let shown = file.display();
        let text = format!("{shown}: one line with a password of 1 to {PASSWORD_MAX} bytes is needed");
        section.error(line, "password_file", &text);
        return None;
    }
    Some(password)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Config;
    use super::*;
    use crate::policy::failover::When;

    fn lines(folder: &Path, text: &str) -> (Vec<SmartHost>, Vec<String>) {
        let (config, findings) = Config::from_text(text, folder, Some(Path::new("relay.toml")));
        let lines = findings.lines(Some(Path::new("relay.toml")));
        let others = ["nobody can submit", "no [[dkim]]", "refuse in EHLO"];
        let lines = lines.into_iter().filter(|line| !others.iter().any(|other| line.contains(other)));
        (config.map(|config| config.smart_hosts).unwrap_or_default(), lines.collect())
    }

    #[test]
    fn smart_hosts_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "pencil\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let text = "[[smart_host]]\naddress = \"Smtp.Example.com:587\"\nusername = \"shop\"\npassword_file = \"secret\"\n\
                    [[smart_host]]\naddress = \"[::1]:25\"\ntls = \"none\"\nwhen = \"always\"\ndomains = [\"*.example.org\"]\n";
        let (hosts, lines) = lines(folder.path(), text);
        assert!(lines.is_empty(), "{lines:?}");
        let [first, second] = hosts.as_slice() else { panic!("{hosts:?}") };
        assert_eq!((&*first.name, first.port, first.tls), ("smtp.example.com:587", 587, Tls::Verify));
        assert_eq!((first.when, first.account.is_some()), (When::Deadline, true));
        assert!(first.covers("example.net"));
        assert_eq!((&*second.name, &*second.host, second.tls), ("[::1]:25", "::1", Tls::Never));
        assert!(second.covers("a.example.org") && !second.covers("example.net"));
        assert!(!format!("{first:?}").contains("pencil"));
    }

    #[test]
    fn implicit_tls_is_good_enough_for_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "pencil\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for port in [465, 2465] {
            let text = format!(
                "[[smart_host]]\naddress = \"smtp.example.com:{port}\"\ntls = \"implicit\"\nusername = \"shop\"\n\
                 password_file = \"secret\"\n"
            );
            let (hosts, lines) = lines(folder.path(), &text);
            assert!(lines.is_empty(), "{lines:?}");
            assert_eq!((hosts[0].tls, hosts[0].port, hosts[0].account.is_some()), (Tls::Implicit, port, true));
        }
    }

    #[test]
    fn mistakes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "pencil\nand more\n").unwrap();
        fs::write(folder.path().join("empty"), "\n").unwrap();
        let check = |body: &str, expected: &str| {
            let (_, lines) = lines(folder.path(), &format!("[[smart_host]]\n{body}\n"));
            assert!(lines.iter().any(|line| line.contains(expected)), "{body}\n{lines:#?}");
            assert!(!lines.iter().any(|line| line.contains("pencil")));
        };
        check("tls = \"verify\"", ":1: [smart_host] address: is missing");
        check("address = \"smtp.example.com\"", ":2: [smart_host] address: a host and a port");
        check("address = \"::1:25\"", "a host and a port");
        let named =
            "error: relay.toml:2: [smart_host] tls: at port 465 TLS begins with the connection; set tls = \"implicit\"";
        for tls in ["", "tls = \"verify\"", "tls = \"opportunistic\"", "tls = \"none\""] {
            check(&format!("address = \"smtp.example.com:465\"\n{tls}"), named);
        }
        for port in [25, 587] {
            let warned =
                format!("warning: relay.toml:2: [smart_host] tls: at port {port} hosts mostly begin in clear text");
            check(&format!("address = \"smtp.example.com:{port}\"\ntls = \"implicit\""), &warned);
        }
        check("address = \"a.example:25\"\nwhen = \"never\"", ":3: [smart_host] when: one of \"deadline\"");
        check("address = \"a.example:25\"\ndomains = [\"@\"]", ":3: [smart_host] domains: ");
        check("address = \"a.example:25\"\nusername = \"u\"", "password_file: is missing");
        check("address = \"a.example:25\"\npassword_file = \"secret\"", "username: is missing");
        check("address = \"a.example:25\"\nusername = \"u\"\npassword_file = \"none\"", "No such file");
        check("address = \"a.example:25\"\nusername = \"u\"\npassword_file = \"empty\"", "one line with a password");
        check("address = \"a.example:25\"\nusername = \"u\"\npassword_file = \"secret\"", "one line with a password");
        check(
            "address = \"a.example:25\"\ntls = \"opportunistic\"\nusername = \"u\"\npassword_file = \"secret\"",
            "only over a verified session",
        );
        check(
            "address = \"a.example:25\"\n[[smart_host]]\naddress = \"A.example:25\"",
            ":3: [smart_host] address: there",
        );
        check("address = \"a.example:25\"\nwen = \"always\"", "did you mean `when`?");
    }
}
