//! Where an entry goes next: to the hosts of its recipient's domain, or by a smart host. What differs between the two is
//! said here; everything else takes a [`NextHop`].

use std::sync::Arc;

use super::caller::Caller;
use super::places::Applicant;
use super::settings::Settings;
use super::smart_host::{SmartHostState, Tls};
use crate::base::clock::Timestamp;
use crate::destination::demand::{Demand, Refusal};
use crate::destination::mx::Sought;
use crate::destination::route::{Host, Route, RouteError};
use crate::smtp::client_session::{Failure, Login, StartTls};
use crate::smtp::extension::{Feature, Features};

/// Where an entry goes next.
#[derive(Debug, Clone)]
pub(super) enum NextHop {
    /// To the hosts of its recipient's domain.
    Direct,
    SmartHost(Arc<SmartHostState>),
}

/// What a site is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SiteKey {
    /// The set of hosts that a route names.
    Destination(Arc<str>),
    /// The name of a smart host.
    SmartHost(Arc<str>),
}

/// For logs.
impl std::fmt::Display for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Destination(hosts) => f.write_str(hosts),
            Self::SmartHost(name) => write!(f, "smart host {name}"),
        }
    }
}

impl NextHop {
    /// The smart host, if it is one.
    pub(super) fn smart_host(&self) -> Option<&Arc<SmartHostState>> {
        match self {
            Self::Direct => None,
            Self::SmartHost(host) => Some(host),
        }
    }

    /// Whether it is the same, with the same settings: a smart host whose settings changed is another one.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Direct, Self::Direct) => true,
            (Self::SmartHost(one), Self::SmartHost(other)) => Arc::ptr_eq(one, other),
            (Self::Direct, Self::SmartHost(_)) | (Self::SmartHost(_), Self::Direct) => false,
        }
    }

    /// What the site is known by that a route leads to.
    pub(super) fn key(&self, route: &Route) -> SiteKey {
        match self {
            Self::Direct => SiteKey::Destination(route.destination.clone()),
            Self::SmartHost(host) => SiteKey::SmartHost(host.settings.name.clone()),
        }
    }

    /// What is looked up for mail to a domain.
    pub(super) fn sought<'a>(&'a self, domain: &'a str) -> Sought<'a> {
        match self {
            Self::Direct => Sought::Domain(domain),
            Self::SmartHost(host) => Sought::Host(&host.settings.host),
        }
    }

    /// Sessions at most with the site that a route leads to.
    pub(super) fn sessions_max(&self, route: &Route, settings: &Settings) -> usize {
        match self {
            Self::Direct => settings.sessions_max(&route.domain),
            Self::SmartHost(_) => settings.connections_per_destination_max,
        }
    }

    /// What a session counts for.
    pub(super) fn applicant(&self, of_route: impl FnOnce() -> Applicant) -> Applicant {
        match self {
            Self::Direct => of_route(),
            Self::SmartHost(_) => Applicant::chosen(),
        }
    }

    /// The port of its hosts.
    pub(super) fn port(&self, settings: &Settings) -> u16 {
        match self {
            Self::Direct => settings.port,
            Self::SmartHost(host) => host.settings.port,
        }
    }

    /// What a session with a host has to fulfil. Of a smart host only what is demanded of itself counts.
    ///
    /// # Errors
    /// When the host cannot be used as strictly as is demanded.
    pub(super) fn demand(
        &self,
        route: &Route,
        host: &Host,
        caller: &Caller,
        settings: &Settings,
    ) -> Result<Demand, Refusal> {
        if let Self::SmartHost(host) = self {
            return host.settings.tls.demand(caller.option());
        }
        let demand = Demand::of(route, host, settings.strictness(caller.domain()), caller.option())?;
        let is_avoided = settings.avoid(caller.domain()).has(Feature::StartTls);
        Ok(if is_avoided && demand.allows_clear_text() { Demand::Clear } else { demand })
    }

    /// What is not used with the hosts of a recipient domain, because the operator says so.
    pub(super) fn avoids(&self, domain: &str, settings: &Settings) -> Features {
        match self {
            Self::Direct => settings.avoid(domain),
            Self::SmartHost(_) => Features::NONE,
        }
    }

    /// How a session begins that would begin so at the hosts of a domain.
    pub(super) fn starttls(&self, of_domain: StartTls) -> StartTls {
        match self {
            Self::SmartHost(host) if host.settings.tls == Tls::Implicit => StartTls::Implicit,
            Self::Direct | Self::SmartHost(_) => of_domain,
        }
    }

    /// What a session needs to log in; none: nobody does.
    pub(super) fn login(&self) -> Result<Option<Login>, Failure> {
        match self {
            Self::Direct => Ok(None),
            Self::SmartHost(host) => host.login(),
        }
    }

    /// Its host, where one host is named.
    pub(super) fn host(&self) -> Option<&Arc<str>> {
        self.smart_host().map(|host| &host.settings.host)
    }

    /// Asks to try it now. Whether the hosts of a domain are there is known by their site.
    pub(super) fn enter(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.smart_host().map_or(Ok(()), |host| host.enter(now))
    }

    /// There is no way to it.
    pub(super) fn not_found(&self, error: &RouteError, now: Timestamp) {
        if let Self::SmartHost(host) = self {
            host.not_found(error, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::smart_host::{SmartHost, SmartHosts};
    use crate::destination::shares::Full;

    fn smart_host() -> NextHop {
        let hosts = SmartHosts::new(vec![SmartHost { tls: Tls::Implicit, ..SmartHost::at("smtp.example.com", 465) }]);
        NextHop::SmartHost(hosts.for_domain("example.org").remove(0))
    }

    #[test]
    fn a_smart_host_is_a_site_whatever_the_route() {
        let (host, route) = (smart_host(), Route::new("example.org", "mx.example.org", Vec::new()));
        assert_eq!(NextHop::Direct.key(&route), SiteKey::Destination("mx.example.org".into()));
        assert_eq!(host.key(&route), SiteKey::SmartHost("smtp.example.com:465".into()));
        assert_ne!(
            SiteKey::Destination("a:25".into()),
            SiteKey::SmartHost("a:25".into()),
            "also where they are called alike"
        );
        assert_eq!(host.key(&route).to_string(), "smart host smtp.example.com:465");
        assert_eq!(NextHop::Direct.sought("example.org"), Sought::Domain("example.org"));
        assert_eq!(host.sought("example.org"), Sought::Host("smtp.example.com"));
    }

    #[test]
    fn a_smart_host_with_other_settings_is_another() {
        let host = smart_host();
        assert!(host.is(&host.clone()) && !host.is(&smart_host()));
        assert!(NextHop::Direct.is(&NextHop::Direct) && !NextHop::Direct.is(&host));
    }

    #[test]
    fn what_differs_in_a_session() {
        let host = smart_host();
        assert_eq!(host.starttls(StartTls::Required), StartTls::Implicit);
        assert_eq!(NextHop::Direct.starttls(StartTls::IfOffered), StartTls::IfOffered);
        let of_route = || Applicant::new("example.org", "mx.example.org", None);
        let short_of = |hop: &NextHop| format!("{:?}", hop.applicant(of_route).short_of(Full::Share(0)));
        assert!(short_of(&NextHop::Direct).contains("example.org"));
        assert!(!short_of(&host).contains("example.org"), "it counts for nobody");
        assert_eq!((host.host().map(AsRef::as_ref), NextHop::Direct.host()), (Some("smtp.example.com"), None));
    }
}
