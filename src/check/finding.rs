//! One thing that is wrong, with what mends it.

use serde::Serialize;

use crate::base::named::named;
use crate::base::text::one_line;
use crate::config::findings::Severity;

named! {
    /// What is looked at: a closed set, whose names programs rely on.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum Check: name {
        Configuration = "configuration",
        /// The name in EHLO leads to every source address.
        EhloName = "ehlo-name",
        /// The way back from each source address.
        Ptr = "ptr",
        /// The address that providers see.
        SeenAddress = "seen-address",
        /// Connections to mail hosts.
        Port25 = "port-25",
        /// Nobody changes the conversation with them.
        Middlebox = "middlebox",
        Spf = "spf",
        /// From and reverse-path belong together.
        Alignment = "alignment",
        Dkim = "dkim",
        Dmarc = "dmarc",
        /// The domain in From exists and takes mail.
        FromDomain = "from-domain",
        /// Bounces arrive somewhere.
        BounceDomain = "bounce-domain",
        /// What else the own zones could say.
        OwnZone = "own-zone",
        /// The certificate for clients.
        Certificate = "certificate",
        /// Name servers.
        Resolver = "resolver",
        Clock = "clock",
        DataFolder = "data-folder",
        /// What the system lets the process do.
        Limits = "limits",
        /// Who may send.
        Relaying = "relaying",
        /// Other servers that carry mail.
        SmartHost = "smart-host",
        /// Who is told of events.
        Webhook = "webhook",
        /// What providers want.
        Provider = "provider",
        /// What providers refused.
        Refusals = "refusals",
        /// Lists of addresses that send unwanted mail.
        Blocklist = "blocklist",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    #[serde(serialize_with = "named")]
    pub check: Check,
    #[serde(serialize_with = "ranked")]
    pub severity: Severity,
    /// What it is about: a name, an address, a file.
    pub subject: String,
    pub text: String,
    /// How to mend it; may be empty.
    pub(crate) mend: String,
    /// Lines of a zone file to publish.
    pub records: Vec<String>,
}

fn named<S: serde::Serializer>(check: &Check, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(check.name())
}

fn ranked<S: serde::Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(severity.name())
}

impl Finding {
    /// Without a way to mend it yet.
    pub(crate) fn new(severity: Severity, check: Check, subject: impl Into<String>, text: impl Into<String>) -> Self {
        let (mend, records) = (String::new(), Vec::new());
        Self { check, severity, subject: subject.into(), text: text.into(), mend, records }
    }

    pub(crate) fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: mend.into(), ..self }
    }

    /// What to publish.
    pub(crate) fn record(mut self, line: impl Into<String>) -> Self {
        self.records.push(line.into());
        self
    }

    /// For people, in a line.
    pub(crate) fn line(&self) -> String {
        let mut line = self.severity.name().to_owned();
        if self.check != Check::Configuration && !self.subject.is_empty() {
            line.push_str(&format!(": {}: {}", self.check.name(), self.subject));
        }
        line.push_str(&format!(": {}", self.text));
        if !self.mend.is_empty() {
            line.push_str(&format!("; {}", self.mend));
        }
        if !self.records.is_empty() {
            line.push_str(&format!(": {}", self.records.join(" | ")));
        }
        one_line(&line).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_an_object() {
        let finding = Finding::new(Severity::Error, Check::Ptr, "198.51.100.7", "it has no PTR record")
            .mend("ask who gave it out to publish")
            .record("7.100.51.198.in-addr.arpa. 3600 IN PTR relay.example.com.");
        assert_eq!(
            finding.line(),
            "error: ptr: 198.51.100.7: it has no PTR record; ask who gave it out to publish: \
             7.100.51.198.in-addr.arpa. 3600 IN PTR relay.example.com."
        );
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["check"], &json["severity"]), (&"ptr".into(), &"error".into()));
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["check", "mend", "records", "severity", "subject", "text"]);
    }
}
