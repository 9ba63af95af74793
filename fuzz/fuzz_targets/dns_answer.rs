//! Whatever name servers answer: a route has few hosts with few addresses each, in the order of preference, and no address
//! of the inside unless that is allowed; a domain that says it takes no mail gets none; nothing that DNSSEC does not vouch
//! for counts as if it did; and the same answers make the same route.
#![no_main]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::clock::{Clock, ManualClock};
use otp_relay::testing::destination::dane::Tlsa;
use otp_relay::testing::destination::demand::{Demand, Strictness, TlsOption};
use otp_relay::testing::destination::mta_sts::announced_id;
use otp_relay::testing::destination::mx::Router;
use otp_relay::testing::destination::public::is_public;
use otp_relay::testing::destination::resolver::{
    Answer, Dns, DnsError, MxRecord, Records, read_ipv4, read_ipv6, read_mx, read_tlsa, read_txt,
};
use otp_relay::testing::destination::route::{Route, RouteError};
use otp_relay::testing::destination::tlsa::TlsaRecord;
use otp_relay_fuzz::choice;
use otp_relay_fuzz::relay::{NOW, runtime};
use tokio::runtime::Runtime;

const DOMAIN: &str = "a.example";
const ALIASES_MAX: usize = 8;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

/// All that name servers know. As a resolver does, an answer has the aliases that lead to it.
#[derive(Clone)]
struct Zone(Arc<[Record]>);

impl Zone {
    fn answers(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, DnsError> {
        let mut name = Name::from_ascii(name).map_err(|_| DnsError::BadName)?;
        name.set_fqdn(true);
        let mut answers = Vec::new();
        for _ in 0..ALIASES_MAX {
            let of_name = || self.0.iter().filter(|record| record.name == name);
            answers.extend(of_name().filter(|record| record.record_type() == kind).cloned());
            let alias = of_name().find_map(|record| match &record.data {
                RData::CNAME(alias) => Some((record.clone(), alias.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            answers.push(record);
            name = target;
        }
        if answers.is_empty() { Err(DnsError::NoSuchName) } else { Ok(answers) }
    }

    fn read<'a, T: Send + 'a>(
        &'a self,
        name: &str,
        kind: RecordType,
        read: fn(&[Record]) -> Result<Records<T>, DnsError>,
    ) -> Answer<'a, T> {
        let found = self.answers(name, kind).and_then(|answers| read(&answers));
        Box::pin(async { found })
    }
}

impl Dns for Zone {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        self.read(domain, RecordType::MX, read_mx)
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        self.read(host, RecordType::A, read_ipv4)
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        self.read(host, RecordType::AAAA, read_ipv6)
    }

    fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        self.read(name, RecordType::TXT, read_txt)
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
        self.read(name, RecordType::TLSA, read_tlsa)
    }
}

fn check(route: &Route, zone: &Zone, allows_private: bool, is_signed: bool) {
    assert!((1..=32).contains(&route.hosts.len()) && &*route.domain == DOMAIN);
    assert!(route.hosts.iter().any(|host| !host.addresses.is_empty()));
    assert!(route.hosts.is_sorted_by_key(|host| host.preference));
    let names: BTreeSet<&str> = route.hosts.iter().map(|host| &*host.name).collect();
    assert_eq!(names.len(), route.hosts.len(), "no host twice");
    for host in &route.hosts {
        assert!(!host.name.is_empty() && *host.name == *host.name.to_ascii_lowercase());
        assert!(host.addresses.len() <= 64);
        assert!(allows_private || host.addresses.iter().all(|address| is_public(*address)), "{route:?}");
        let is_named = |name: &str, kind, address| {
            zone.answers(name, kind)
                .is_ok_and(|answers| answers.iter().any(|answer| answer.data.ip_addr() == Some(address)))
        };
        for address in &host.addresses {
            let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            assert!(is_named(&host.name, kind, *address), "{address}");
        }
        assert!(is_signed || matches!(host.tlsa, Tlsa::None));
        if let Tlsa::Usable(records) = &host.tlsa {
            assert!((1..=32).contains(&records.len()) && route.is_secure);
        }
        // With DANE there is no way back to clear text.
        if let Ok(demand) = Demand::of(route, host, Strictness::Opportunistic, TlsOption::default()) {
            let is_needed = !matches!(demand, Demand::Clear | Demand::Opportunistic | Demand::Tested { .. });
            assert!(matches!(host.tlsa, Tlsa::None) || is_needed, "{demand}");
        }
    }
    assert!(is_signed || !route.is_secure);
}

fuzz_target!(|input: &[u8]| {
    let (bits, input) = choice(input);
    let (allows_private, is_signed) = (bits & 1 != 0, bits & 2 != 0);
    let Ok(message) = Message::from_vec(input) else { return };
    let proof = if is_signed { Proof::Secure } else { Proof::Insecure };
    let mut records = message.answers.clone();
    records.extend(message.authorities.iter().chain(&message.additionals).cloned());
    records.iter_mut().for_each(|record| record.proof = proof);
    let zone = Zone(records.into());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    let found = RUNTIME.block_on(async {
        let router = Router::new(Arc::new(zone.clone()), clock.clone(), allows_private);
        let found = router.route(DOMAIN).await;
        // A denial is remembered for as long as the answer says, which may be no time.
        let remembered = router.remembered(DOMAIN);
        assert!(found.is_err() && remembered.is_none() || remembered.as_ref() == Some(&found), "it is remembered");
        let again = Router::new(Arc::new(zone.clone()), clock, allows_private).route(DOMAIN).await;
        assert!(again == found);
        found
    });
    match &found {
        Ok(route) => check(route, &zone, allows_private, is_signed),
        Err(RouteError::Private) => assert!(!allows_private),
        Err(_) => {}
    }
    let mx = zone.answers(DOMAIN, RecordType::MX).and_then(|answers| read_mx(&answers));
    if let Ok(mx) = &mx {
        assert_eq!(mx.records.iter().all(|mx| mx.exchange.is_empty()), found == Err(RouteError::NullMx));
        assert!(mx.ttl <= Duration::from_secs(u32::MAX.into()) && mx.secure == is_signed);
    }
    if let Some(id) =
        RUNTIME.block_on(zone.txt(DOMAIN)).ok().and_then(|texts| announced_id(&texts.records).map(str::to_owned))
    {
        assert!((1..=32).contains(&id.len()));
    }
});
