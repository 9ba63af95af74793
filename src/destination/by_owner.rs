//! What is remembered of domains, within a bound that is shared by whose they are: whoever owns a zone makes as many names in it as
//! they like, and is to push out nothing but their own.

use std::collections::HashMap;

use crate::mail::registrable::registrable_domain;

#[derive(Debug)]
pub(super) struct ByOwner<V> {
    of: HashMap<String, V>,
    /// How many each registrable domain has.
    counts: HashMap<Box<str>, usize>,
}

impl<V> Default for ByOwner<V> {
    fn default() -> Self {
        Self { of: HashMap::new(), counts: HashMap::new() }
    }
}

impl<V> ByOwner<V> {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn get(&self, domain: &str) -> Option<&V> {
        self.of.get(domain)
    }

    pub(super) fn get_mut(&mut self, domain: &str) -> Option<&mut V> {
        self.of.get_mut(domain)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.of.iter()
    }

    pub(super) fn insert(&mut self, domain: String, value: V) {
        let owner = registrable_domain(&domain).into();
        if self.of.insert(domain, value).is_none() {
            *self.counts.entry(owner).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, domain: &str) -> Option<V> {
        let value = self.of.remove(domain)?;
        let owner = registrable_domain(domain);
        if let Some(count) = self.counts.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(owner);
            }
        }
        Some(value)
    }

    /// Keeps what fits; returns the domains that went.
    pub(super) fn retain(&mut self, fits: impl Fn(&V) -> bool) -> Vec<String> {
        let gone: Vec<String> =
            self.of.iter().filter(|(_, value)| !fits(value)).map(|(domain, _)| domain.clone()).collect();
        gone.iter().for_each(|domain| _ = self.remove(domain));
        gone
    }

    /// Where there are more than this: of the owner that has most, the one with the least worth goes. Where nobody has more than
    /// others, of all.
    pub(super) fn shrink<W: Ord>(&mut self, most: usize, worth: impl Fn(&V) -> W) -> Option<String> {
        if self.of.len() <= most {
            return None;
        }
        let (owner, count) = self.counts.iter().max_by_key(|(_, count)| **count)?;
        let is_own = |domain: &str| {
            *count == 1 || domain.ends_with(owner.as_ref()) && registrable_domain(domain) == owner.as_ref()
        };
        let (least, _) = self.of.iter().filter(|(domain, _)| is_own(domain)).min_by_key(|(_, value)| worth(value))?;
        let least = least.clone();
        self.remove(&least);
        Some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_pushes_out_their_own() {
        let mut map = ByOwner::default();
        for number in 0..5 {
            map.insert(format!("honest{number}.example"), 0);
        }
        for number in 1..100 {
            map.insert(format!("s{number}.attacker.example"), number);
            map.shrink(10, |worth| *worth);
        }
        assert_eq!(map.len(), 10);
        assert!((0..5).all(|number| map.get(&format!("honest{number}.example")).is_some()));
        assert!(map.get("s99.attacker.example").is_some() && map.get("s1.attacker.example").is_none());
        assert_eq!(map.shrink(10, |worth| *worth), None);
    }

    #[test]
    fn where_nobody_has_more_the_least_worth_goes() {
        let mut map = ByOwner::default();
        for (domain, worth) in [("a.example", 3), ("b.example", 1), ("c.example", 2)] {
            map.insert(domain.to_owned(), worth);
        }
        assert_eq!(map.shrink(2, |worth| *worth).as_deref(), Some("b.example"));
        assert_eq!(map.retain(|worth| *worth > 2), ["c.example"]);
        assert_eq!((map.counts.len(), map.remove("a.example"), map.counts.len()), (1, Some(3), 0));
    }
}
