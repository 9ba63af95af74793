//! Shares of what is bounded: where several users are configured, none of them may hold all of it.

use std::collections::HashMap;
use std::sync::Arc;

/// Whether users have to leave room for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// There is one user at most: it may have everything.
    #[default]
    Alone,
    /// There are more: none may have more than three quarters.
    Several,
}

/// What there is in all, and what one user may hold of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// In all.
    pub whole: usize,
    /// One user.
    pub share: usize,
}

/// Why a user gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// All of it is in use.
    Whole,
    /// The user holds its share already.
    Share,
}

impl Sharing {
    /// Among so many users.
    pub(crate) fn among(users: usize) -> Self {
        if users > 1 { Self::Several } else { Self::Alone }
    }

    /// What there is of a whole for one user. One is always for everybody, however small the whole.
    pub fn of(self, whole: usize) -> Portion {
        let share = match self {
            Self::Alone => whole,
            Self::Several => (whole - whole.div_ceil(4)).max(1),
        };
        Portion { whole, share }
    }
}

/// Who holds how much of one whole. Asking costs one look into a table, however much is held.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    total: usize,
    by_user: HashMap<Arc<str>, usize>,
}

impl Shares {
    /// Takes `count` for a user.
    pub(crate) fn take(&mut self, user: &Arc<str>, count: usize, portion: Portion) -> Result<(), Beyond> {
        if self.total + count > portion.whole {
            return Err(Beyond::Whole);
        }
        if self.of(user) + count > portion.share {
            return Err(Beyond::Share);
        }
        self.add(user, count);
        Ok(())
    }

    /// Counts what cannot be refused.
    pub(crate) fn add(&mut self, user: &Arc<str>, count: usize) {
        if count == 0 {
            return;
        }
        self.total += count;
        match self.by_user.get_mut(user) {
            Some(held) => *held += count,
            None => drop(self.by_user.insert(user.clone(), count)),
        }
    }

    /// Gives back `count` of what a user holds.
    pub(crate) fn give_back(&mut self, user: &str, count: usize) {
        let Some(held) = self.by_user.get_mut(user) else { return };
        let count = count.min(*held);
        *held -= count;
        self.total -= count;
        if *held == 0 {
            self.by_user.remove(user);
        }
    }

    /// What a user holds.
    pub(crate) fn of(&self, user: &str) -> usize {
        self.by_user.get(user).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_three_quarters_where_there_are_others() {
        let shares = |whole| (Sharing::among(1).of(whole).share, Sharing::among(2).of(whole).share);
        assert_eq!(
            [1, 2, 3, 4, 5, 256, 2000].map(shares),
            [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (256, 192), (2000, 1500)]
        );
        assert_eq!(Sharing::among(0), Sharing::Alone);
    }

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let (shop, bank) = ("shop".into(), "bank".into());
        let portion = Sharing::Several.of(8);
        let mut shares = Shares::default();
        assert_eq!(shares.take(&shop, 7, portion), Err(Beyond::Share));
        assert_eq!(shares.take(&shop, 6, portion), Ok(()));
        assert_eq!(shares.take(&shop, 1, portion), Err(Beyond::Share));
        assert_eq!(shares.take(&bank, 2, portion), Ok(()));
        assert_eq!(shares.take(&bank, 1, portion), Err(Beyond::Whole));
        shares.give_back("shop", 1);
        assert_eq!(shares.take(&bank, 1, portion), Ok(()));
        // What cannot be refused counts too.
        shares.add(&shop, 3);
        assert_eq!((shares.of("shop"), shares.of("bank")), (8, 3));
        shares.give_back("shop", 99);
        shares.give_back("nobody", 1);
        shares.give_back("bank", 3);
        assert!(shares.total == 0 && shares.by_user.is_empty());
    }
}
