//! Who may take one more of a bounded number of places, where anybody who can type an address makes others ask for them.
//!
//! A holder is what places are counted by: a registrable domain, a network of addresses. It may take one more while it
//! holds less than a part of what is still free: twice that if it is known, an eighth if it is not. The more is taken, the
//! less each may have, so that one who holds none finds a place long after others are held to their share, and nothing has
//! to be taken away for that. A third is kept for those that are known.

use std::collections::HashMap;
use std::hash::Hash;

/// What is known of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has served well lately.
    Known,
    Unknown,
    /// It failed lately.
    Suspect,
}

impl Standing {
    /// Whether a holder that holds so many may have one more, while so many are free.
    fn allows(self, held: usize, free: usize) -> bool {
        free > 0
            && match self {
                Self::Known => held < 2 * free,
                Self::Unknown => held == 0 || held < free / 8,
                Self::Suspect => held == 0 || held < free / 32,
            }
    }
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Places,
    /// None of what is free is for this holder: its index among those that were named.
    Share(usize),
}

/// Places and who holds them.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    all: usize,
    /// Of these, those for holders that are known.
    kept: usize,
    used: usize,
    /// Of these, those of holders that are not known.
    used_unknown: usize,
    held: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// So many places, a third of them kept for those that are known.
    pub(crate) fn new(all: usize) -> Self {
        Self { kept: all / 3, ..Self::without_kept(all) }
    }

    /// So many places, none of them kept.
    pub(crate) fn without_kept(all: usize) -> Self {
        Self { all, kept: 0, used: 0, used_unknown: 0, held: HashMap::new() }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Places kept for those that are known.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Places free for one of this standing.
    pub(crate) fn free(&self, standing: Standing) -> usize {
        let free = self.all.saturating_sub(self.used);
        match standing {
            Standing::Known => free,
            Standing::Unknown | Standing::Suspect => free.min((self.all - self.kept).saturating_sub(self.used_unknown)),
        }
    }

    /// Places that a holder has.
    pub(crate) fn held(&self, holder: &K) -> usize {
        self.held.get(holder).copied().unwrap_or(0)
    }

    pub(crate) fn held_most(&self, holders: &[K]) -> usize {
        holders.iter().map(|holder| self.held(holder)).max().unwrap_or(0)
    }

    /// Takes a place that counts for each of these holders, no two of which are equal. Nobody's place is only counted.
    pub(crate) fn take(&mut self, holders: &[K], standing: Standing) -> Result<(), Full> {
        let free = self.free(standing);
        if free == 0 {
            return Err(Full::Places);
        }
        if let Some(index) = holders.iter().position(|holder| !standing.allows(self.held(holder), free)) {
            return Err(Full::Share(index));
        }
        self.used += 1;
        self.used_unknown += usize::from(standing != Standing::Known);
        holders.iter().for_each(|holder| self.add(holder));
        Ok(())
    }

    /// Gives a place back, with the holders and the standing that it has by now.
    pub(crate) fn give_back(&mut self, holders: &[K], standing: Standing) {
        self.used -= 1;
        self.used_unknown -= usize::from(standing != Standing::Known);
        holders.iter().for_each(|holder| self.remove(holder));
    }

    /// A place of one that was not known counts as one of the known from now on.
    pub(crate) fn became_known(&mut self) {
        self.used_unknown -= 1;
    }

    /// A place counts for another holder in place of this one.
    pub(crate) fn moved(&mut self, from: &K, to: &K) {
        self.remove(from);
        self.add(to);
    }

    fn add(&mut self, holder: &K) {
        match self.held.get_mut(holder) {
            Some(held) => *held += 1,
            None => _ = self.held.insert(holder.clone(), 1),
        }
    }

    fn remove(&mut self, holder: &K) {
        if let Some(held) = self.held.get_mut(holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many as there are for this holder.
    fn fill(shares: &mut Shares<String>, holder: &str, standing: Standing) -> usize {
        (0..).take_while(|_| shares.take(&[holder.to_owned()], standing).is_ok()).count()
    }

    #[test]
    fn one_holder_never_gets_all() {
        let check = |standing, all, expected| {
            assert_eq!(fill(&mut Shares::new(all), "one", standing), expected, "{standing:?} of {all}");
        };
        check(Standing::Known, 1000, 667);
        check(Standing::Known, 20, 14);
        check(Standing::Unknown, 1000, 74);
        check(Standing::Unknown, 20, 1);
        check(Standing::Suspect, 1000, 20);
        for standing in [Standing::Known, Standing::Unknown, Standing::Suspect] {
            check(standing, 1, 1);
        }
    }

    #[test]
    fn who_holds_none_finds_a_place_also_behind_many_that_took_all_they_could() {
        let mut shares = Shares::new(1000);
        for number in 0..40 {
            assert!(fill(&mut shares, &format!("zone{number}"), Standing::Unknown) > 0, "zone {number}");
            assert!(shares.free(Standing::Known) >= 333);
        }
    }

    #[test]
    fn a_third_is_kept_for_those_that_are_known() {
        let mut shares = Shares::new(9);
        (0..6).for_each(|number| shares.take(&[number], Standing::Unknown).unwrap());
        assert_eq!(shares.take(&[6], Standing::Unknown), Err(Full::Places));
        assert_eq!(shares.take(&[7], Standing::Known), Ok(()));
        shares.became_known();
        assert_eq!(shares.take(&[8], Standing::Unknown), Ok(()));
        assert_eq!(shares.take(&[9], Standing::Known), Ok(()));
        assert_eq!(shares.take(&[10], Standing::Known), Err(Full::Places));
    }

    #[test]
    fn a_place_counts_for_all_its_holders() {
        let mut shares = Shares::without_kept(4);
        let of = |domain: &'static str, network: &'static str| [domain, network];
        shares.take(&of("a", "192.0.2"), Standing::Known).unwrap();
        shares.take(&of("b", "192.0.2"), Standing::Known).unwrap();
        shares.take(&of("c", "192.0.2"), Standing::Known).unwrap();
        assert_eq!(shares.take(&of("d", "192.0.2"), Standing::Known), Err(Full::Share(1)), "one network");
        shares.moved(&"192.0.2", &"198.51.100");
        assert_eq!(shares.held_most(&of("a", "192.0.2")), 2);
        shares.give_back(&of("a", "198.51.100"), Standing::Known);
        assert_eq!((shares.held(&"a"), shares.held(&"198.51.100"), shares.used()), (0, 0, 2));
        assert_eq!(shares.take(&[], Standing::Unknown), Ok(()), "nobody's");
    }
}
