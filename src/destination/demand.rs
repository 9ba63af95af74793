//! What a session with a host has to fulfil before a message goes over it, and whether it does. Made from what the
//! recipient's domain asks for (DANE, MTA-STS), the configuration and the message itself; whatever is strictest counts.
//! A host that cannot be used as strictly as that is not used at all.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::dane::{self, Tlsa, Usage};
use super::mta_sts::Mode;
use super::resolver::DnsError;
use super::route::{Host, Route};
use super::tlsa::TlsaRecord;
use crate::base::clock::Timestamp;
use crate::mail::message::fields;
use crate::tls::verify::Roots;

/// Certificates of a chain that are looked at.
const CHAIN_MAX: usize = 6;

/// `tls` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// As strict as the recipient's domain asks for.
    #[default]
    Opportunistic,
    /// The host's name in a valid certificate of a known authority, or DANE.
    Verify,
    /// DANE; hosts without it are not used.
    Dane,
    /// No TLS, whatever anybody asks for.
    None,
}

/// What the message itself asks for (RFC 8689).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsOption {
    /// Nothing.
    #[default]
    None,
    /// `REQUIRETLS`: hosts that are known for sure, and pass the option on.
    RequireTls,
    /// `TLS-Required: No`: it is to arrive, whatever the recipient's domain asks for.
    Relaxed,
}

impl TlsOption {
    /// Of a message with or without the parameter, and with this header section. The parameter counts more (section 4.3).
    pub fn of(require_tls: bool, head: &[u8]) -> Self {
        if require_tls {
            return Self::RequireTls;
        }
        let is_no = |text: String| text.eq_ignore_ascii_case("no");
        let mut relaxing = fields(head).filter(|field| field.is("TLS-Required"));
        // Somebody who says it twice does not know what he wants.
        match (relaxing.next(), relaxing.next()) {
            (Some(field), None) if field.text().is_some_and(is_no) => Self::Relaxed,
            _ => Self::None,
        }
    }
}

/// What a session has to fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// There is to be no TLS.
    Clear,
    /// TLS if it can be had, with anybody.
    Opportunistic,
    /// As `Opportunistic`, and the domain wants to know how its policy would work out (MTA-STS, mode testing).
    Tested {
        /// Whether the policy names the host.
        is_named: bool,
    },
    /// TLS, with anybody.
    Encrypted,
    /// TLS with a valid certificate of a known authority for the host's name.
    Named(Asker),
    /// TLS with a certificate that DNS vouches for.
    Dane {
        /// What it may be, all usable.
        records: Arc<[TlsaRecord]>,
        /// The name at which the records are, for which an authority has issued it.
        base: Arc<str>,
        /// The recipient's domain, for which an authority may have issued it too.
        domain: Arc<str>,
    },
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("none"),
            Self::Opportunistic => f.write_str("if offered"),
            Self::Tested { is_named: true } => f.write_str("if offered (MTA-STS, testing)"),
            Self::Tested { is_named: false } => {
                f.write_str("if offered (MTA-STS, testing; the policy does not name it)")
            }
            Self::Encrypted => f.write_str("needed, with any certificate"),
            Self::Named(Asker::Policy) => f.write_str("needed, with a certificate for its name (MTA-STS)"),
            Self::Named(_) => f.write_str("needed, with a certificate for its name"),
            Self::Dane { .. } => f.write_str("needed, with the certificate in DNS (DANE)"),
        }
    }
}

/// Who asks for a name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The domain's MTA-STS policy.
    Policy,
    /// The message, by REQUIRETLS.
    Message,
    /// The configuration.
    Configuration,
}

/// Why a host is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody may hide them.
    #[error("its TLSA records cannot be looked up: {0}")]
    TlsaTrouble(DnsError),
    /// `tls = "dane"`.
    #[error("it has no TLSA records, and the configuration asks for DANE")]
    NoTlsa,
    /// MTA-STS, mode enforce.
    #[error("the domain's MTA-STS policy does not name it")]
    NotInPolicy,
    /// REQUIRETLS (RFC 8689 section 4.2.1).
    #[error("neither DNSSEC nor MTA-STS vouches for its name, as REQUIRETLS needs")]
    NotVouchedFor,
    /// REQUIRETLS and `tls = "none"`.
    #[error("the message requires TLS, and the configuration forbids it")]
    Forbidden,
}

impl Refusal {
    /// Whether it is the message that asks for too much, rather than something that may pass.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::NotVouchedFor | Self::Forbidden)
    }
}

impl Demand {
    /// What a session with a host of the route has to fulfil. DANE goes before MTA-STS (RFC 8461 section 2).
    ///
    /// # Errors
    /// Why the host is not used.
    pub fn of(route: &Route, host: &Host, strictness: Strictness, option: TlsOption) -> Result<Self, Refusal> {
        if strictness == Strictness::None {
            return if option == TlsOption::RequireTls { Err(Refusal::Forbidden) } else { Ok(Self::Clear) };
        }
        let heeds_domain = option != TlsOption::Relaxed;
        match &host.tlsa {
            Tlsa::Failed(error) if heeds_domain || strictness == Strictness::Dane => {
                return Err(Refusal::TlsaTrouble(error.clone()));
            }
            Tlsa::Usable(records) if heeds_domain || strictness != Strictness::Opportunistic => {
                let (base, domain) = (host.tlsa_base.clone(), route.domain.clone());
                return Ok(Self::Dane { records: records.clone(), base, domain });
            }
            Tlsa::None | Tlsa::Unusable | Tlsa::Usable(_) | Tlsa::Failed(_) => {}
        }
        if strictness == Strictness::Dane {
            return Err(Refusal::NoTlsa);
        }
        let policy = route.policy.as_deref().filter(|_| heeds_domain);
        let mode = policy.map_or(Mode::None, |policy| policy.mode);
        let is_named = policy.is_some_and(|policy| policy.allows(&host.name));
        if mode == Mode::Enforce && !is_named {
            return Err(Refusal::NotInPolicy);
        }
        if option == TlsOption::RequireTls {
            let is_vouched_for = route.is_secure || mode != Mode::None && is_named;
            return if is_vouched_for { Ok(Self::Named(Asker::Message)) } else { Err(Refusal::NotVouchedFor) };
        }
        Ok(match (mode, strictness, &host.tlsa) {
            (Mode::Enforce, _, _) => Self::Named(Asker::Policy),
            (_, Strictness::Verify, _) => Self::Named(Asker::Configuration),
            (_, _, Tlsa::Unusable) if heeds_domain => Self::Encrypted,
            (Mode::Testing, _, _) => Self::Tested { is_named },
            (Mode::None, _, _) => Self::Opportunistic,
        })
    }

    /// The name that a host is asked for in the handshake: with DANE that at which its records are (RFC 7672 section 8.1).
    pub(crate) fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        match self {
            Self::Dane { base, .. } => base,
            Self::Clear | Self::Opportunistic | Self::Tested { .. } | Self::Encrypted | Self::Named(_) => host,
        }
    }

    /// Whether a session in clear text will do.
    pub(crate) fn allows_clear_text(&self) -> bool {
        matches!(self, Self::Clear | Self::Opportunistic | Self::Tested { .. })
    }

    /// Whether judging a chain of certificates can mean checking their signatures.
    pub(crate) fn checks_signatures(&self) -> bool {
        match self {
            Self::Clear | Self::Opportunistic | Self::Encrypted | Self::Tested { is_named: false } => false,
            Self::Tested { is_named: true } | Self::Named(_) | Self::Dane { .. } => true,
        }
    }

    /// Whether a session with the host fulfils it: one with TLS in which the host showed this chain, or one in clear text.
    /// Says who verified the host and how.
    pub(crate) fn judge(
        &self,
        host: &str,
        chain: Option<&[CertificateDer<'_>]>,
        roots: &Roots,
        now: Timestamp,
    ) -> Result<Cow<'static, str>, String> {
        let Some(chain) = chain else {
            return if self.allows_clear_text() { Ok("clear text".into()) } else { Err("not encrypted".to_owned()) };
        };
        // What lies behind is no part of a chain, and each certificate may cost a check of a signature for each other one.
        let chain = &chain[..chain.len().min(CHAIN_MAX)];
        match self {
            Self::Clear | Self::Opportunistic | Self::Encrypted => Ok("not verified".into()),
            Self::Tested { is_named: false } => Ok("not verified; MTA-STS would refuse: not in the policy".into()),
            Self::Tested { is_named: true } => Ok(match roots.verify(chain, host, now) {
                Ok(()) => "verified by name (MTA-STS, testing)".into(),
                Err(error) => format!("not verified; MTA-STS would refuse: {error}").into(),
            }),
            Self::Named(asker) => {
                roots.verify(chain, host, now)?;
                Ok(match asker {
                    Asker::Policy => "verified by name (MTA-STS)",
                    Asker::Message => "verified by name (REQUIRETLS)",
                    Asker::Configuration => "verified by name",
                }
                .into())
            }
            Self::Dane { records, base, domain } => match dane::verify(records, chain, &[base, host, domain], now)? {
                Usage::EndEntity => Ok("verified by DANE-EE".into()),
                Usage::TrustAnchor => Ok("verified by DANE-TA".into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mta_sts::Policy;
    use super::*;

    fn route(policy: Option<&str>, tlsa: Tlsa, is_secure: bool) -> Route {
        let policy = policy.map(|mode| {
            let text = format!("version: STSv1\nmode: {mode}\nmx: mx.example\nmax_age: 60\n");
            Arc::new(Policy::parse(text.as_bytes()).unwrap())
        });
        let host = |name: &str| Host { tlsa: tlsa.clone(), ..Host::new(name, 10, Vec::new()) };
        let route = Route::new("example", "mx.example,other.example", vec![host("mx.example"), host("other.example")]);
        Route { policy, is_secure, ..route }
    }

    /// Of the host that the policy names, and of the one that it does not.
    fn of(route: &Route, strictness: Strictness, option: TlsOption) -> [Result<Demand, Refusal>; 2] {
        [0, 1].map(|index| Demand::of(route, &route.hosts[index], strictness, option))
    }

    fn usable() -> Arc<[TlsaRecord]> {
        vec![format!("3 1 1 {}", "07".repeat(32)).parse().unwrap()].into()
    }

    #[test]
    fn what_the_domain_asks_for() {
        use Demand as D;
        let of = |route: &Route| of(route, Strictness::Opportunistic, TlsOption::None);
        let enforce = route(Some("enforce"), Tlsa::None, false);
        assert_eq!(of(&enforce), [Ok(D::Named(Asker::Policy)), Err(Refusal::NotInPolicy)]);
        let testing = route(Some("testing"), Tlsa::None, false);
        assert_eq!(of(&testing), [Ok(D::Tested { is_named: true }), Ok(D::Tested { is_named: false })]);
        let none = route(Some("none"), Tlsa::None, true);
        assert_eq!(of(&none), [Ok(D::Opportunistic), Ok(D::Opportunistic)]);
        let dane = |base: &str| D::Dane { records: usable(), base: base.into(), domain: "example".into() };
        let both = route(Some("enforce"), Tlsa::Usable(usable()), true);
        assert_eq!(of(&both), [Ok(dane("mx.example")), Ok(dane("other.example"))], "DANE goes before MTA-STS");
        assert_eq!(dane("end.example").server_name("mx.example"), "end.example");
        assert_eq!(D::Encrypted.server_name("mx.example"), "mx.example");
        let unusable = route(None, Tlsa::Unusable, true);
        assert_eq!(of(&unusable), [Ok(D::Encrypted), Ok(D::Encrypted)]);
        let unusable = route(Some("enforce"), Tlsa::Unusable, true);
        assert_eq!(of(&unusable), [Ok(D::Named(Asker::Policy)), Err(Refusal::NotInPolicy)]);
        let failed = route(None, Tlsa::Failed(DnsError::Timeout), true);
        let trouble = Err(Refusal::TlsaTrouble(DnsError::Timeout));
        assert_eq!(of(&failed), [trouble.clone(), trouble]);
    }

    #[test]
    fn what_the_configuration_asks_for() {
        use Demand as D;
        let plain = route(None, Tlsa::None, false);
        let first = |route: &Route, strictness| of(route, strictness, TlsOption::None)[0].clone();
        assert_eq!(first(&plain, Strictness::Opportunistic), Ok(D::Opportunistic));
        assert_eq!(first(&plain, Strictness::Verify), Ok(D::Named(Asker::Configuration)));
        assert_eq!(first(&plain, Strictness::Dane), Err(Refusal::NoTlsa));
        assert_eq!(first(&plain, Strictness::None), Ok(D::Clear));
        let dane = route(None, Tlsa::Usable(usable()), true);
        assert!(matches!(first(&dane, Strictness::Verify), Ok(D::Dane { .. })));
        assert!(matches!(first(&dane, Strictness::Dane), Ok(D::Dane { .. })));
        assert_eq!(first(&dane, Strictness::None), Ok(D::Clear));
    }

    #[test]
    fn what_the_message_asks_for() {
        use Demand as D;
        let first = |route: &Route, strictness, option| of(route, strictness, option)[0].clone();
        let (plain, enforce) = (route(None, Tlsa::None, false), route(Some("enforce"), Tlsa::None, false));
        let required = |route: &Route, strictness| first(route, strictness, TlsOption::RequireTls);
        assert_eq!(required(&plain, Strictness::Opportunistic), Err(Refusal::NotVouchedFor));
        assert_eq!(required(&plain, Strictness::None), Err(Refusal::Forbidden));
        assert_eq!(required(&enforce, Strictness::Opportunistic), Ok(D::Named(Asker::Message)));
        let secure = route(None, Tlsa::Unusable, true);
        assert_eq!(required(&secure, Strictness::Opportunistic), Ok(D::Named(Asker::Message)));
        let dane = route(None, Tlsa::Usable(usable()), true);
        assert!(matches!(required(&dane, Strictness::Opportunistic), Ok(D::Dane { .. })));
        for relaxed in [&enforce, &dane, &secure, &route(None, Tlsa::Failed(DnsError::Timeout), true)] {
            assert_eq!(first(relaxed, Strictness::Opportunistic, TlsOption::Relaxed), Ok(D::Opportunistic));
        }
        assert_eq!(first(&enforce, Strictness::Verify, TlsOption::Relaxed), Ok(D::Named(Asker::Configuration)));
        let failed = route(None, Tlsa::Failed(DnsError::Timeout), true);
        assert!(matches!(first(&failed, Strictness::Dane, TlsOption::Relaxed), Err(Refusal::TlsaTrouble(_))));
    }

    #[test]
    fn options_are_read() {
        let check =
            |require_tls, head: &str, expected| assert_eq!(TlsOption::of(require_tls, head.as_bytes()), expected);
        check(false, "From: a\r\n", TlsOption::None);
        check(false, "From: a\r\ntls-required: no\r\n", TlsOption::Relaxed);
        check(true, "TLS-Required: No\r\n", TlsOption::RequireTls);
        check(false, "TLS-Required: Yes\r\n", TlsOption::None);
        check(false, "TLS-Required: No\r\nTLS-Required: No\r\n", TlsOption::None);
    }

    #[test]
    fn clear_text_fulfils_only_what_asks_for_nothing() {
        let roots = Roots::load(None).unwrap();
        let judge = |demand: &Demand, chain| demand.judge("mx.example", chain, &roots, Timestamp::from_millis(0));
        let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).unwrap();
        let chain = [made.cert.der().clone()];
        let dane = Demand::Dane { records: usable(), base: "mx.example".into(), domain: "example".into() };
        for (demand, in_clear, self_signed) in [
            (Demand::Clear, true, true),
            (Demand::Opportunistic, true, true),
            (Demand::Tested { is_named: false }, true, true),
            (Demand::Tested { is_named: true }, true, true),
            (Demand::Encrypted, false, true),
            (Demand::Named(Asker::Policy), false, false),
            (dane, false, false),
        ] {
            assert_eq!(judge(&demand, None).is_ok(), in_clear, "{demand:?}");
            assert_eq!(demand.allows_clear_text(), in_clear);
            assert_eq!(judge(&demand, Some(&chain)).is_ok(), self_signed, "{demand:?}");
        }
    }
}
