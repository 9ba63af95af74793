use std::time::Duration;

use super::known_hosts::KNOWN_FOR;
use super::table::{PATIENCE, PATIENCE_SENT};
use super::*;
use crate::base::clock::{Clock as _, SystemClock};
use crate::mail::registrable::registrable_domain;

const SECOND: Duration = Duration::from_secs(1);

fn start() -> Instant {
    SystemClock::default().instant()
}

fn session(domain: &str, host: &str, address: &str) -> Applicant {
    Applicant::new(domain, host, Some(address.parse().unwrap()))
}

/// The number of a zone's hosts, each with a name and a network of its own.
fn of_zone(zone: &str, number: usize) -> Applicant {
    let address = format!("10.{}.{}.1", number / 250, number % 250);
    session(&format!("{number}.{zone}"), &format!("mx.{number}.{zone}"), &address)
}

/// As many as there are places for.
fn fill(places: &Arc<Places>, now: Instant, applicant: impl Fn(usize) -> Applicant) -> Vec<Tenure> {
    (0..).map_while(|number| places.take(&applicant(number), now).ok()).collect()
}

#[test]
fn one_zone_network_or_domain_leaves_room_for_others() {
    let now = start();
    let check = |what: &str, applicant: &dyn Fn(usize) -> Applicant| {
        let places = Places::new(1000);
        let taken = fill(&places, now, applicant);
        assert_eq!(taken.len(), 74, "{what}");
        assert!(places.take(&session("good.test", "mx.good.test", "192.0.2.1"), now).is_ok(), "{what}");
    };
    check("one zone", &|number| of_zone("zone.test", number));
    check("one domain at hosts of many", &|number| of_zone(&format!("zone{number}.test"), number).at("a.evil.test"));
    check("many domains at one network", &|number| {
        session(&format!("zone{number}.test"), &format!("mx.zone{number}.test"), &format!("10.0.0.{}", number % 250))
    });
    check("many domains at one network of IPv6", &|number| {
        session(&format!("zone{number}.test"), &format!("mx.zone{number}.test"), &format!("2001:db8::{number:x}"))
    });
}

impl Applicant {
    fn at(mut self, domain: &str) -> Self {
        self.holders[1..].iter_mut().for_each(|holder| {
            if matches!(holder, Holder::Network(_)) {
                *holder = Holder::Domain(registrable_domain(domain).into());
            }
        });
        self
    }
}

#[test]
fn a_provider_that_takes_mail_has_two_thirds_at_once() {
    let (places, now) = (Places::new(1000), start());
    let tenant = |number: usize| session(&format!("tenant{number}.test"), "mx.provider.test", "192.0.2.1");
    places.take(&tenant(0), now).unwrap().held().took_mail(now);
    let mut taken = fill(&places, now, tenant);
    assert_eq!(taken.len(), 667);
    // While a quarter of them hang, there are no more than for anybody.
    let later = now + PATIENCE;
    taken.drain(300..);
    taken[100..].iter().for_each(|one| one.held().clone().works(later));
    assert_eq!(places.take(&tenant(0), later).err(), Some(Full::Share(0)));
    taken.iter().for_each(|one| one.held().clone().works(later));
    assert!(places.take(&tenant(0), later).is_ok());
    let tomorrow = now + KNOWN_FOR;
    assert_eq!(places.take(&tenant(0), tomorrow).err(), Some(Full::Share(0)), "long ago");
}

#[test]
fn the_oldest_of_whoever_holds_most_gives_way() {
    let (places, now) = (Places::new(12), start());
    let one = |number: u8| session("a.test", "mx.a.test", &format!("10.9.{number}.1"));
    places.take(&one(0), now).unwrap().held().took_mail(now);
    let most: Vec<_> = (0..7).map(|number| places.take(&one(number), now + SECOND * number.into()).unwrap()).collect();
    let others = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number));
    assert_eq!(others.len(), 5);
    let known = session("b.test", "mx.b.test", "192.0.2.1");
    let ask = |now| places.make_room(&known, Full::Places, now);
    ask(now + PATIENCE - SECOND);
    assert!(most.iter().all(|one| !one.held().has_to_go()), "none has waited for long enough");
    most[0].held().sent(now + PATIENCE);
    ask(now + PATIENCE + SECOND * 2);
    assert!(most[1].held().has_to_go(), "the oldest but one, whose content is out");
    assert!(!most[0].held().has_to_go());
    ask(now + PATIENCE + SECOND * 2);
    assert!(most[2].held().has_to_go(), "another one each time");
    others[4].held().rests(now + PATIENCE);
    ask(now + PATIENCE + SECOND * 2);
    assert!(others[4].held().has_to_go(), "one without work before all others");
    let left = |places: &[Tenure]| places.iter().filter(|one| !one.held().has_to_go()).count();
    (0..20).for_each(|_| ask(now + PATIENCE + SECOND * 70));
    assert_eq!((left(&most), left(&others)), (4, 0), "in the end all but the kept third");
    assert!(places.take(&known, now).is_err(), "they count until they are gone");
}

#[test]
fn the_kept_third_never_gives_way() {
    let (places, now) = (Places::new(9), start());
    let known: Vec<_> = (0..3).map(|number| of_zone(&format!("known{number}.test"), number)).collect();
    for applicant in &known {
        places.take(applicant, now).unwrap().held().took_mail(now);
    }
    let kept: Vec<_> = known.iter().map(|applicant| places.take(applicant, now).unwrap()).collect();
    let others = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number + 10));
    assert_eq!(others.len(), 6);
    let later = now + PATIENCE_SENT * 2;
    (0..9).for_each(|_| places.make_room(&session("c.test", "mx.c.test", "192.0.2.1"), Full::Places, later));
    assert!(others.iter().all(|one| one.held().has_to_go()));
    assert!(kept.iter().all(|one| !one.held().has_to_go()));
}

#[test]
fn who_holds_most_does_not_keep_others_from_asking() {
    let (places, now) = (Places::new(6), start());
    let taken = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number));
    assert_eq!(taken.len(), 4);
    places.make_room(&of_zone("zone0.test", 9), Full::Places, now + PATIENCE);
    assert!(taken.iter().all(|one| !one.held().has_to_go()), "it holds as many as any");
    places.make_room(&of_zone("new.test", 9), Full::Places, now + PATIENCE);
    assert!(taken.iter().any(|one| one.held().has_to_go()));
}

#[test]
fn an_entry_that_comes_to_a_session_about_to_go_keeps_it() {
    let (places, now) = (Places::new(3), start());
    let tenure = places.take(&of_zone("zone.test", 1), now).unwrap();
    let mut held = tenure.held().clone();
    held.rests(now);
    let why = places.take(&of_zone("zone.test", 2), now).unwrap_err();
    places.make_room(&of_zone("zone.test", 2), why, now);
    assert!(held.has_to_go());
    held.works(now);
    assert!(!held.has_to_go());
    places.make_room(&of_zone("new.test", 2), Full::Places, now + PATIENCE);
    assert!(held.has_to_go(), "it can be asked again");
}

#[test]
fn a_session_at_rest_makes_room_within_its_share() {
    let (places, now) = (Places::new(1000), start());
    let taken = fill(&places, now, |number| of_zone("zone.test", number));
    let applicant = of_zone("zone.test", 900);
    let why = places.take(&applicant, now).unwrap_err();
    places.make_room(&applicant, why, now + PATIENCE_SENT * 2);
    assert!(taken.iter().all(|one| !one.held().has_to_go()), "its own work does not give way");
    taken[7].held().rests(now);
    places.make_room(&applicant, why, now);
    assert!(taken[7].held().has_to_go());
}

#[test]
fn a_place_follows_its_session_to_another_address() {
    let (places, now) = (Places::new(10), start());
    let tenure = places.take(&session("a.test", "mx.a.test", "192.0.2.1"), now).unwrap();
    tenure.held().is_at("192.0.2.9".parse().unwrap());
    tenure.held().is_at("2001:db8::1".parse().unwrap());
    let held = |address: &str| {
        let holder = Holder::Network(network(address.parse().unwrap()));
        places.table.lock().shares.held(&holder)
    };
    assert_eq!((held("192.0.2.1"), held("2001:db8::ffff")), (0, 1));
    drop(tenure);
    assert_eq!((held("2001:db8::1"), places.used()), (0, 0));
}

#[test]
fn further_connections_have_shares_too() {
    let places = Places::new(1000);
    let taken: Vec<_> = (0..).map_while(|number| places.beside(&of_zone("zone.test", number))).collect();
    assert_eq!(taken.len(), 37);
    assert!(places.beside(&of_zone("good.test", 1)).is_some());
    drop(taken);
    assert_eq!(places.beside.lock().used(), 0);
}
