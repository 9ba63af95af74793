//! What a running relay takes on, and what waits for a restart.

use super::Config;
use super::keys;
use super::table::Reload;

impl Config {
    /// Keeps what only a restart can change as it is in `running`; returns the names of the keys that differ there.
    ///
    /// Every module is given either the whole of a changed key or nothing of it.
    pub(crate) fn keep(&mut self, running: &Self) -> Vec<String> {
        let mut kept = Vec::new();
        for table in keys::once() {
            for key in table.keys.iter().filter(|key| key.reload == Reload::Restart) {
                if key.write(self) != key.write(running) {
                    kept.push(keys::full_name(&table, key));
                }
                key.copy(running, self);
            }
        }
        if self.listeners != running.listeners {
            kept.push(keys::many("listener"));
            self.listeners.clone_from(&running.listeners);
        }
        if self.delivery.exceptions != running.delivery.exceptions {
            kept.push(keys::many("destination"));
            self.delivery.exceptions.clone_from(&running.delivery.exceptions);
        }
        self.spread();
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Another value for every key that is there once; files lie in the folder of the test.
    const OTHERS: [(&str, &str); 53] = [
        ("hostname", "\"other.example.com\""),
        ("data_dir", "\"elsewhere\""),
        ("tls.certificate", "\"c\""),
        ("tls.private_key", "\"c\""),
        ("acme.domains", "[\"relay.app.test\"]"),
        ("acme.email", "\"postmaster@app.test\""),
        ("acme.directory", "\"https://ca.test/dir\""),
        ("acme.ca_file", "\"c\""),
        ("acme.challenge", "\"tls-alpn-01\""),
        ("acme.http_address", "\"127.0.0.1:8080\""),
        ("submission.message_size_max", "\"2MiB\""),
        ("submission.recipients_max", "7"),
        ("submission.connections_max", "7"),
        ("submission.connections_per_address_max", "7"),
        ("submission.command_timeout", "\"7s\""),
        ("submission.idle_timeout", "\"7s\""),
        ("submission.verify_domain", "false"),
        ("submission.received_client", "true"),
        ("submission.long_lines", "\"refuse\""),
        ("submission.routed_addresses", "true"),
        ("otp.supersede", "\"off\""),
        ("otp.recipient_budget", "\"7/1m\""),
        ("otp.recipient_budget_total", "\"off\""),
        ("otp.deliver_at_most_once", "true"),
        ("verification.checks", "7"),
        ("verification.sends", "7"),
        ("verification.resend_after", "[\"7s\"]"),
        ("verification.live_codes", "7"),
        ("verification.recipient_checks", "\"7/1h\""),
        ("queue.entries_max", "7"),
        ("queue.seal", "false"),
        ("queue.trace_retention", "\"1h\""),
        ("resolver.nameservers", "[\"192.0.2.53\"]"),
        ("resolver.dnssec", "false"),
        ("resolver.trust_anchor", "\"anchor\""),
        ("delivery.port", "26"),
        ("delivery.source_addresses", "[\"192.0.2.7\"]"),
        ("delivery.connections_per_destination_max", "7"),
        ("delivery.allow_private_destinations", "true"),
        ("delivery.only_to", "[\"*@app.test\"]"),
        ("delivery.connect_timeout", "\"7s\""),
        ("delivery.tls", "\"verify\""),
        ("delivery.ca_file", "\"c\""),
        ("delivery.reverse_path", "\"bounces@app.test\""),
        ("http.address", "\"off\""),
        ("http.tls", "true"),
        ("http.hosts", "[\"otp.example.com\"]"),
        ("http.doors", "[\"emails\"]"),
        ("http.token_file", "\"other.token\""),
        ("http.templates", "\".\""),
        ("log.format", "\"json\""),
        ("log.recipients", "\"full\""),
        ("log.level", "\"debug\""),
    ];

    fn read(folder: &Path, text: &str) -> Config {
        let (config, findings) = Config::from_text(text, folder, None);
        config.unwrap_or_else(|| panic!("{findings}"))
    }

    fn settings(config: &Config) -> String {
        let Config { submission, intake, queue, resolver, delivery, http, log, .. } = config;
        let rest = (&config.hostname, &config.data_dir, &config.certificate, &config.seal, &config.trace_retention);
        format!(
            "{submission:?} {intake:?} {queue:?} {resolver:?} {delivery:?} {http:?} {log:?} {rest:?} {:?}",
            config.acme
        )
    }

    /// What `Relay::reload` gives to the modules.
    fn live(config: &Config) -> String {
        let Config { submission, intake, http, certificate, .. } = config;
        let http = (&http.hosts, &http.doors, http.message_size_max, &http.templates);
        format!("{submission:?} {intake:?} {certificate:?} {http:?}")
    }

    #[test]
    fn each_key_is_taken_on_whole_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        std::fs::write(folder.path().join("c"), pem).unwrap();
        let anchor = ". 172800 IN DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+\
                      KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==\n";
        std::fs::write(folder.path().join("anchor"), anchor).unwrap();
        let running = read(folder.path(), "");
        let mut others: std::collections::BTreeMap<_, _> = OTHERS.into_iter().collect();
        for table in keys::once() {
            for key in &table.keys {
                let name = keys::full_name(&table, key);
                let other = others.remove(name.as_str()).unwrap_or_else(|| panic!("no other value for {name}"));
                // These two go together.
                let text = if table.name == "tls" {
                    "[tls]\ncertificate = \"c\"\nprivate_key = \"c\"\n".to_owned()
                } else {
                    format!("{}\n{} = {other}\n", table.heading(), key.name)
                };
                let mut changed = read(folder.path(), &text);
                assert_ne!(settings(&changed), settings(&running), "{name} is read");
                let kept = changed.keep(&running);
                match key.reload {
                    Reload::Live => {
                        assert_eq!(kept, Vec::<String>::new(), "{name}");
                        assert_ne!(live(&changed), live(&running), "{name} is taken on");
                    }
                    Reload::Restart => {
                        assert_eq!(kept, [name]);
                        assert_eq!(settings(&changed), settings(&running));
                    }
                }
            }
        }
        assert_eq!(others.len(), 0, "there is no such key: {others:?}");
    }

    #[test]
    fn sections_that_need_a_restart_are_named() {
        let folder = Path::new("");
        let running = read(folder, "");
        let text = "[[listener]]\naddress = \"127.0.0.1:2526\"\n[[destination]]\ndomains = [\"a.example\"]\n\
                    [[user]]\nname = \"shop\"\nsenders = [\"*@app.test\"]\n";
        let mut changed = read(folder, text);
        assert_eq!(changed.keep(&running), ["[[listener]]", "[[destination]]"]);
        assert_eq!((&changed.listeners, settings(&changed)), (&running.listeners, settings(&running)));
        assert!(changed.accounts.contains_key("shop"));
        assert_eq!(read(folder, text).keep(&changed), ["[[listener]]", "[[destination]]"], "until there is a restart");
    }

    #[test]
    fn a_section_is_taken_on_whole_or_not() {
        for section in keys::all() {
            let repeats = section.heading.starts_with("[[");
            assert!(!repeats || section.reload.is_some(), "{}", section.heading);
        }
    }
}
