//! Facts about destinations, by whose mail they came about.

use std::collections::HashMap;

use crate::base::clock::Timestamp;
use crate::greylist::facts::Facts;
use crate::mail::registrable::registrable_domain;

/// Recipient domains whose facts about one destination are kept, and destinations of one such domain. Whoever owns a zone
/// makes as many of both as they like.
pub(super) const SOURCES_MAX: usize = 256;
pub(super) const DESTINATIONS_MAX: usize = 64;
/// Whose facts those are that version 0.1 stored of a destination, without saying by whose mail they came about: one more
/// source among others.
pub(super) const UNKNOWN_SOURCE: &str = "";

/// Facts about destinations, by the registrable part of recipients' domains.
#[derive(Debug, Default)]
pub(super) struct LearnedFacts {
    pub(super) of: HashMap<Box<str>, HashMap<Box<str>, Facts>>,
    /// How many a domain has.
    pub(super) counts: HashMap<Box<str>, usize>,
    pub(super) len: usize,
}

impl LearnedFacts {
    pub(super) fn take_up(&mut self, destination: &str, source: &str, facts: Option<Facts>) {
        if let Some(facts) = facts {
            self.add(destination.into(), source.into(), facts);
        }
    }

    fn add(&mut self, destination: Box<str>, source: Box<str>, facts: Facts) {
        if self.of.entry(destination).or_default().insert(source.clone(), facts).is_none() {
            self.len += 1;
            *self.counts.entry(source).or_default() += 1;
        }
    }

    /// Returns the key of the row that is to go.
    pub(super) fn remove(&mut self, destination: &str, source: &str) -> Option<String> {
        let sources = self.of.get_mut(destination)?;
        sources.remove(source)?;
        if sources.is_empty() {
            self.of.remove(destination);
        }
        self.len -= 1;
        if let Some(count) = self.counts.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(source);
            }
        }
        Some(row_key(destination, source))
    }

    pub(super) fn of_mut(&mut self, destination: &str, source: &str) -> Option<&mut Facts> {
        self.of.get_mut(destination)?.get_mut(source)
    }

    /// A domain's own facts, to be added to. Where all hosts are its own, what is known of them without a source is its own.
    pub(super) fn begin(&mut self, destination: &str, source: &str) -> &mut Facts {
        if self.of_mut(destination, source).is_none() {
            let known = self.own(destination, source).cloned().unwrap_or_default();
            self.add(destination.into(), source.into(), known);
        }
        self.of.entry(destination.into()).or_default().entry(source.into()).or_default()
    }

    fn own(&self, destination: &str, source: &str) -> Option<&Facts> {
        let sources = self.of.get(destination)?;
        let is_its_own = || destination.split(',').all(|host| registrable_domain(host) == source);
        sources.get(source).or_else(|| sources.get(UNKNOWN_SOURCE).filter(|_| is_its_own()))
    }

    /// What counts for a domain.
    pub(super) fn counting(&self, destination: &str, source: &str, now: Timestamp) -> Option<Facts> {
        let sources = self.of.get(destination)?;
        let others = sources.iter().filter(|(name, facts)| name.as_ref() != source && facts.is_current(now));
        let own = self.own(destination, source).filter(|facts| facts.is_current(now));
        Some(Facts::for_domain(own, others.map(|(_, facts)| facts), now))
    }

    /// Where a destination has too many sources, or a domain too many destinations, one of them goes: returns the key of its row.
    pub(super) fn make_room_for(&mut self, destination: &str, source: &str) -> Option<String> {
        let sources = self.of.get(destination);
        if sources.is_some_and(|sources| sources.contains_key(source)) {
            return None;
        }
        let oldest = match sources {
            _ if self.counts.get(source).is_some_and(|count| *count >= DESTINATIONS_MAX) => {
                let of_source = self.of.iter().filter_map(|(name, sources)| Some((name, sources.get(source)?)));
                let (oldest, _) = of_source.min_by_key(|(_, facts)| facts.last_seen())?;
                (oldest.clone(), source.into())
            }
            Some(sources) if sources.len() >= SOURCES_MAX => {
                let (oldest, _) = sources.iter().min_by_key(|(_, facts)| facts.last_seen())?;
                (destination.into(), oldest.clone())
            }
            Some(_) | None => return None,
        };
        self.remove(&oldest.0, &oldest.1)
    }

    pub(super) fn times(&self) -> impl Iterator<Item = Timestamp> {
        self.of.values().flat_map(HashMap::values).map(Facts::last_seen)
    }
}

/// Of the row in which facts are stored.
pub(super) fn row_key(destination: &str, source: &str) -> String {
    if source == UNKNOWN_SOURCE { format!("d{destination}") } else { format!("f{source}\n{destination}") }
}
