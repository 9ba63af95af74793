use std::net::IpAddr;

use super::super::dane::Tlsa;
use super::super::resolver::{Answer, DnsError, MxRecord, Records};
use super::super::route::Host;
use super::super::tlsa::TlsaRecord;
use super::*;
use crate::base::clock::{ManualClock, Timestamp};

type Rows = Result<Vec<String>, DnsError>;

/// DNS from a table of `name type -> text`.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<(String, &'static str), Rows>>,
    asked: Mutex<Vec<String>>,
    is_secure: bool,
}

impl Table {
    fn set(&self, name: &str, kind: &'static str, found: Result<&[&str], DnsError>) {
        let found = found.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect());
        self.rows.lock().insert((name.to_owned(), kind), found);
    }

    fn get<T>(&self, name: &str, kind: &'static str, read: impl Fn(&str) -> T) -> Result<Records<T>, DnsError> {
        self.asked.lock().push(format!("{name} {kind}"));
        let rows = self.rows.lock();
        let found = rows.get(&(name.to_owned(), kind)).cloned().unwrap_or(Err(DnsError::NoRecords))?;
        Ok(Records {
            records: found.iter().map(|row| read(row)).collect(),
            ttl: Duration::from_secs(300),
            secure: self.is_secure,
        })
    }
}

impl Dns for Table {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let found = self.get(domain, "MX", |row| {
            let (preference, exchange) = row.split_once(' ').unwrap();
            MxRecord { preference: preference.parse().unwrap(), exchange: exchange.to_owned() }
        });
        Box::pin(async move { found })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let found = self.get(host, "A", |row| row.parse().unwrap());
        Box::pin(async move { found })
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let found = self.get(host, "AAAA", |row| row.parse().unwrap());
        Box::pin(async move { found })
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
        let found = self.get(name, "TLSA", |row| row.parse().unwrap());
        Box::pin(async move { found })
    }

    fn alias<'a>(&'a self, host: &'a str) -> Answer<'a, String> {
        let found = self.get(host, "CNAME", str::to_owned);
        Box::pin(async move { found })
    }
}

fn router(table: &Arc<Table>, allow_private: bool) -> (Router, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
    (Router::new(table.clone(), clock.clone(), allow_private), clock)
}

#[tokio::test(start_paused = true)]
async fn hosts_come_by_preference() {
    let table = Arc::new(Table::default());
    table.set("example.com", "MX", Ok(&["20 b.example.com", "10 z.example.com", "10 a.example.com"]));
    for (host, address) in [("a", "93.184.215.1"), ("b", "93.184.215.2"), ("z", "93.184.215.3")] {
        table.set(&format!("{host}.example.com"), "A", Ok(&[address]));
    }
    table.set("a.example.com", "AAAA", Ok(&["2606:2800::1"]));
    let (router, _) = router(&table, false);
    let route = router.route("example.com").await.unwrap();
    let names: Vec<&str> = route.hosts.iter().map(|host| host.name.as_ref()).collect();
    assert_eq!(names, ["a.example.com", "z.example.com", "b.example.com"]);
    assert_eq!(route.hosts[0].addresses.len(), 2);
    assert_eq!(route.destination.as_ref(), "a.example.com,b.example.com,z.example.com");
    assert_eq!(route.name().as_ref(), "a.example.com");
}

#[tokio::test(start_paused = true)]
async fn more_hosts_and_addresses_are_kept_than_one_attempt_tries() {
    let table = Arc::new(Table::default());
    let of = async |hosts: usize, addresses: usize| {
        let rows: Vec<String> = (0..hosts).map(|number| format!("10 mx{number:02}.test")).collect();
        table.set("d.test", "MX", Ok(&rows.iter().map(String::as_str).collect::<Vec<_>>()));
        let ips: Vec<String> = (0..addresses).map(|number| format!("93.184.215.{number}")).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        rows.iter().for_each(|row| table.set(row.split_once(' ').unwrap().1, "A", Ok(&ips)));
        let route = router(&table, false).0.route("d.test").await.unwrap();
        let all: usize = route.hosts.iter().map(|host| host.addresses.len()).sum();
        (route.hosts.len(), route.hosts[0].addresses.len(), all, route.destination.split(',').count())
    };
    assert_eq!(of(1, 9).await, (1, 9, 9, 1));
    assert_eq!(of(17, 1).await, (17, 1, 17, 16), "the name of the destination is as before");
    assert_eq!(of(1, 100).await, (1, 32, 32, 1));
    assert_eq!(of(16, 100).await, (16, 8, 128, 16));
    assert_eq!(of(100, 100).await, (32, 4, 128, 16));
}

/// What of so many hosts each look-up finds, when nobody takes mail there.
async fn passed_on(table: &Arc<Table>, hosts: usize, look_ups: usize) -> Vec<Result<Vec<String>, RouteError>> {
    let rows: Vec<String> = (1..=hosts).map(|number| format!("10 mx{number:02}.test")).collect();
    table.set("d.test", "MX", Ok(&rows.iter().map(String::as_str).collect::<Vec<_>>()));
    let (router, clock) = router(table, false);
    let mut found = Vec::new();
    for _ in 0..look_ups {
        let route = router.route("d.test").await;
        found.push(route.clone().map(|route| {
            let usable = route.hosts.iter().filter(|host| !host.addresses.is_empty());
            usable.map(|host| host.name.to_string()).collect()
        }));
        match route {
            Ok(route) => {
                assert_eq!(router.route("d.test").await.unwrap(), route, "it stays");
                router.pass_on(Sought::Domain("d.test"), &route);
                router.pass_on(Sought::Domain("d.test"), &route);
            }
            Err(_) => clock.advance(Duration::from_secs(3)),
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn hosts_beyond_those_of_a_route_have_their_turn() {
    let table = Arc::new(Table::default());
    (1..=50).for_each(|number| table.set(&format!("mx{number:02}.test"), "A", Ok(&["93.184.215.1"])));
    let found: Vec<Vec<String>> = passed_on(&table, 50, 4).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((found[0].len(), found[0][31].as_str()), (32, "mx32.test"));
    assert_eq!((found[1].len(), found[1][16].as_str(), found[1][31].as_str()), (32, "mx33.test", "mx48.test"));
    assert!(found[2].contains(&"mx50.test".to_owned()) && found[3] == found[0], "{:?}", found[2]);
    assert!(found.iter().all(|names| names[..16] == found[0][..16]), "the most preferred ones always");
}

#[tokio::test(start_paused = true)]
async fn hosts_without_addresses_do_not_hide_those_behind_them() {
    let one = async |number: usize, look_ups| {
        let table = Arc::new(Table::default());
        table.set(&format!("mx{number:02}.test"), "A", Ok(&["93.184.215.1"]));
        passed_on(&table, 99, look_ups).await.pop().unwrap()
    };
    assert_eq!(one(33, 1).await, Ok(vec!["mx33.test".to_owned()]));
    // It is further than one look-up goes, which is no end yet.
    assert!(one(99, 1).await.unwrap_err().is_temporary());
    assert_eq!(one(99, 3).await, Ok(vec!["mx99.test".to_owned()]));
    let none = async |hosts| passed_on(&Arc::new(Table::default()), hosts, 1).await.pop().unwrap();
    assert_eq!(none(40).await, Err(RouteError::NoHost), "all were looked up");
    assert!(none(99).await.unwrap_err().is_temporary());
}

#[tokio::test(start_paused = true)]
async fn addresses_beyond_those_of_a_route_have_their_turn() {
    let table = Arc::new(Table::default());
    // What is not used does not count.
    let private = (0..100).map(|number| format!("10.0.0.{number}"));
    let ips: Vec<String> = private.chain((1..=60).map(|number| format!("93.184.215.{number}"))).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    table.set("d.test", "MX", Ok(&["10 mx.test"]));
    table.set("mx.test", "A", Ok(&ips));
    let (router, _) = router(&table, false);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let route = router.route("d.test").await.unwrap();
        assert_eq!((route.hosts[0].addresses.len(), route.part.of), (32, 2));
        seen.extend(route.hosts[0].addresses.clone());
        router.pass_on(Sought::Domain("d.test"), &route);
    }
    assert_eq!(seen.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_named_twice_is_one_host() {
    let table = Arc::new(Table::default());
    table.set("example.com", "MX", Ok(&["30 a.example.com", "20 b.example.com", "10 a.example.com"]));
    table.set("a.example.com", "A", Ok(&["93.184.215.1"]));
    table.set("b.example.com", "A", Ok(&["93.184.215.2"]));
    let route = router(&table, false).0.route("example.com").await.unwrap();
    let hosts: Vec<_> = route.hosts.iter().map(|host| (host.preference, host.name.as_ref())).collect();
    assert_eq!(hosts, [(10, "a.example.com"), (20, "b.example.com")]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_named_may_be_private() {
    let table = Arc::new(Table::default());
    table.set("smtp.example.com", "A", Ok(&["10.0.0.1"]));
    table.set("smtp.example.com", "MX", Ok(&["10 other.example.com"]));
    let (router, _) = router(&table, false);
    let route = router.route_to(Sought::Host("smtp.example.com")).await.unwrap();
    assert_eq!(route.hosts[0].addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(router.route("smtp.example.com").await, Err(RouteError::NoHost));
    let route = router.route_to(Sought::Host("::1")).await.unwrap();
    assert_eq!(route.hosts[0].addresses, ["::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(router.route_to(Sought::Host("gone.example.com")).await, Err(RouteError::NoHost));
}

#[tokio::test(start_paused = true)]
async fn domains_without_mx_and_without_mail() {
    let table = Arc::new(Table::default());
    table.set("implicit.example", "A", Ok(&["93.184.215.1"]));
    table.set("null.example", "MX", Ok(&["0 "]));
    table.set("gone.example", "MX", Err(DnsError::NoSuchName));
    table.set("inside.example", "A", Ok(&["10.0.0.1"]));
    table.set("ill.example", "MX", Err(DnsError::Timeout));
    table.set("lame.example", "MX", Ok(&["10 lame-mx.example"]));
    table.set("lame-mx.example", "A", Err(DnsError::Failed("SERVFAIL".into())));
    let (router, _) = router(&table, false);
    let route = router.route("implicit.example").await.unwrap();
    assert_eq!(route.hosts[0].name.as_ref(), "implicit.example");
    assert_eq!(router.route("null.example").await, Err(RouteError::NullMx));
    assert_eq!(router.route("gone.example").await, Err(RouteError::NoSuchDomain));
    assert_eq!(router.route("nothing.example").await, Err(RouteError::NoHost));
    assert_eq!(router.route("inside.example").await, Err(RouteError::Private));
    assert!(router.route("ill.example").await.unwrap_err().is_temporary());
    assert!(router.route("lame.example").await.unwrap_err().is_temporary());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_asked_again_and_outlives_trouble() {
    let table = Arc::new(Table::default());
    table.set("example.com", "MX", Ok(&["10 a.example.com"]));
    table.set("a.example.com", "A", Ok(&["93.184.215.1"]));
    let (router, clock) = router(&table, false);
    let first = router.route("example.com").await.unwrap();
    let asked = table.asked.lock().len();
    assert_eq!(router.route("example.com").await.unwrap(), first);
    assert_eq!(table.asked.lock().len(), asked);
    table.set("example.com", "MX", Err(DnsError::Timeout));
    clock.advance(Duration::from_secs(301));
    assert_eq!(router.remembered("example.com"), None);
    assert_eq!(router.route("example.com").await.unwrap(), first);
    assert!(table.asked.lock().len() > asked);
    clock.advance(Duration::from_secs(7 * 3600));
    assert!(router.route("example.com").await.is_err());
    table.set("example.com", "MX", Err(DnsError::NoSuchName));
    clock.advance(Duration::from_secs(3));
    assert_eq!(router.route("example.com").await, Err(RouteError::NoSuchDomain));
}

type Row<'a> = (&'a str, &'static str, Result<&'a [&'a str], DnsError>);

#[tokio::test(start_paused = true)]
async fn tlsa_records_are_looked_for_at_the_end_of_aliases_first() {
    let digest = |octet: &str| format!("3 1 1 {}", octet.repeat(32));
    let of = async |rows: &[Row]| {
        let table = Arc::new(Table { is_secure: true, ..Table::default() });
        table.set("example.com", "MX", Ok(&["10 mx.example.com"]));
        table.set("mx.example.com", "A", Ok(&["93.184.215.1"]));
        rows.iter().for_each(|(name, kind, found)| table.set(name, kind, found.clone()));
        let route = router(&table, false).0.route("example.com").await.unwrap();
        let Host { tlsa, tlsa_base, .. } = route.hosts[0].clone();
        let found = match tlsa {
            Tlsa::Usable(records) => records[0].to_string(),
            other => format!("{other:?}"),
        };
        (found, tlsa_base.to_string())
    };
    let (one, two) = (digest("01"), digest("02"));
    let (alias, at_end) = (("mx.example.com", "CNAME", Ok(&["host.example.net"][..])), "_25._tcp.host.example.net");
    let at_first = "_25._tcp.mx.example.com";
    let is = |found: &str, base: &str| (found.to_owned(), base.to_owned());
    let both = [alias.clone(), (at_end, "TLSA", Ok(&[&*one])), (at_first, "TLSA", Ok(&[&*two]))];
    assert_eq!(of(&both).await, is(&one, "host.example.net"));
    let first_only = [alias.clone(), (at_first, "TLSA", Ok(&[&*two]))];
    assert_eq!(of(&first_only).await, is(&two, "mx.example.com"));
    assert_eq!(of(&first_only[1..]).await, is(&two, "mx.example.com"), "no alias");
    assert_eq!(of(std::slice::from_ref(&alias)).await, is("None", "mx.example.com"));
    let hidden = [alias.clone(), (at_end, "TLSA", Err(DnsError::Timeout)), (at_first, "TLSA", Ok(&[&*two]))];
    assert_eq!(of(&hidden).await, is("Failed(Timeout)", "host.example.net"), "it never downgrades");
    let unknown = [("mx.example.com", "CNAME", Err(DnsError::Timeout)), (at_first, "TLSA", Ok(&[&*two][..]))];
    assert_eq!(of(&unknown).await, is("Failed(Timeout)", "mx.example.com"));
}
