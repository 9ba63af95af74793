//! What has to be kept up: certificates, keys, records. Set by whoever looks at them, shown in metrics and on the page.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::exposition::{Exposition, Type};
use crate::base::clock::Timestamp;

/// Keys whose age is told: the oldest.
const KEYS_MAX: usize = 100;

/// What was wrong at the last look, as `check` says it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UpkeepFinding {
    /// What was looked at.
    pub check: &'static str,
    /// `error`, `warning` or `note`.
    pub severity: &'static str,
    /// What it is about.
    pub subject: String,
    /// What is wrong.
    pub text: String,
    /// How to mend it.
    pub(crate) mend: String,
    /// What to publish.
    pub records: Vec<String>,
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Certificates by name, and when they end.
    pub(crate) certificates: Vec<(String, Timestamp)>,
    /// Keys by domain and selector, and when they were made.
    pub keys: Vec<(String, String, Timestamp)>,
    /// What DNS says; none: it was not looked at yet.
    pub findings: Option<Vec<UpkeepFinding>>,
    /// When it was looked at.
    pub(crate) looked_at: Option<Timestamp>,
}

/// The same, for all to see.
#[derive(Debug, Default)]
pub struct Upkeep(ArcSwap<State>);

impl Upkeep {
    /// How things stand now; certificates are told by whoever shows them.
    pub fn set(&self, state: State) {
        self.0.rcu(|now| State { certificates: now.certificates.clone(), ..state.clone() });
    }

    /// Which certificates are shown from now on, by name, and when they end.
    pub(crate) fn set_certificates(&self, certificates: Vec<(String, Timestamp)>) {
        self.0.rcu(|now| State { certificates: certificates.clone(), ..State::clone(now) });
    }

    /// How they stood at the last look.
    pub fn state(&self) -> Arc<State> {
        self.0.load_full()
    }

    /// Families of metrics.
    pub fn write(&self, out: &mut Exposition, now: Timestamp) {
        let state = self.state();
        let help = "When a certificate ends, in seconds since 1970.";
        out.family("tls_certificate_expires_timestamp_seconds", Type::Gauge, help);
        for (name, ends_at) in &state.certificates {
            out.sample(&[("name", name)], ends_at.as_secs());
        }
        out.family("dkim_key_age_seconds", Type::Gauge, "How old a key is that signs.");
        let mut keys: Vec<_> = state.keys.iter().collect();
        keys.sort_by_key(|(_, _, made_at)| *made_at);
        for (domain, selector, made_at) in keys.into_iter().take(KEYS_MAX) {
            out.sample(&[("domain", domain), ("selector", selector)], now.since(*made_at).as_secs());
        }
        out.family("check_findings", Type::Gauge, "What the last daily look at DNS found, by check and severity.");
        let findings = state.findings.as_deref().unwrap_or_default();
        let mut counted: std::collections::BTreeMap<(&str, &str), u64> = std::collections::BTreeMap::new();
        for check in ["ehlo-name", "ptr", "spf", "dkim", "dmarc", "from-domain", "resolver"] {
            if state.findings.is_some() {
                counted.insert((check, "error"), 0);
            }
        }
        findings.iter().for_each(|found| *counted.entry((found.check, found.severity)).or_default() += 1);
        for ((check, severity), count) in counted {
            out.sample(&[("check", check), ("severity", severity)], count);
        }
    }
}
