//! Which recipient domains are served by smart hosts, for whoever has to know before there is a delivery.

use arc_swap::ArcSwap;

use crate::mail::address::domain_pattern_covers;

/// Patterns of recipient domains (`example.net`, `*.example.net`, `*`). They change with the configuration.
#[derive(Debug, Default)]
pub struct SmartHostDomains(ArcSwap<Patterns>);

/// The patterns of one configuration.
#[derive(Debug, Default)]
pub struct Patterns {
    /// Domains whose mail begins with a smart host.
    pub(crate) always: Vec<String>,
    /// All domains that a smart host may come to carry mail for.
    pub any: Vec<String>,
}

impl SmartHostDomains {
    /// Takes on those of another configuration.
    pub fn replace(&self, patterns: Patterns) {
        self.0.store(patterns.into());
    }

    /// Whether all mail for a domain (as `domain_key` writes it) begins with a smart host.
    pub(crate) fn take_all(&self, domain: &str) -> bool {
        self.0.load().always.iter().any(|pattern| domain_pattern_covers(pattern, domain))
    }

    /// Whether a smart host may come to carry mail for a domain.
    pub fn cover(&self, domain: &str) -> bool {
        self.0.load().any.iter().any(|pattern| domain_pattern_covers(pattern, domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_those_of_the_latest_configuration() {
        let domains = SmartHostDomains::default();
        assert!(!domains.cover("example.net") && !domains.take_all("example.net"));
        let any = vec!["*.example.net".to_owned(), "other.test".to_owned()];
        domains.replace(Patterns { always: vec!["other.test".to_owned()], any });
        let of = |domain| (domains.cover(domain), domains.take_all(domain));
        assert_eq!(
            (of("mail.example.net"), of("other.test"), of("third.test")),
            ((true, false), (true, true), (false, false))
        );
        domains.replace(Patterns::default());
        assert_eq!(of("other.test"), (false, false));
    }
}
