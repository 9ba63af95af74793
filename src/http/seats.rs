//! What a user may have of the API at once: connections, followers of events, answers that wait; and a turn among those who
//! look through the whole queue. Some of each is kept for the operator.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::auth::Principal;
use super::problem::Problem;
use crate::accounts::credentials::Admits;
use crate::base::shares::{Beyond, Portion, Shares, Sharing};

/// The operator's name among those who hold something; no user has it.
pub(super) const OPERATOR: &str = "";
/// Likewise, whoever shows no token.
pub(super) const ANYBODY: &str = "\0";

/// How much there is of something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// For all users together.
    pub(super) users: usize,
    pub(super) user: usize,
    /// For the operator, beside what users hold.
    pub(super) operator: usize,
}

impl Bounds {
    /// What a user may have.
    pub(super) fn of_user(self, sharing: Sharing) -> Portion {
        let Portion { whole, share } = sharing.of(self.users);
        Portion { whole, share: share.min(self.user) }
    }

    /// Where anybody is let in, all tests share one token: it may have as much as there is, and that is more.
    pub(super) fn where_admitted(self, admits: Admits, anybodys: usize) -> Self {
        match admits {
            Admits::Known => self,
            Admits::Anybody => Self { users: anybodys, user: anybodys, operator: anybodys },
        }
    }

    /// Who it is, to those who count, and what it may have.
    pub(super) fn of(self, who: &Principal, sharing: Sharing) -> (Arc<str>, Portion) {
        match who.only_user() {
            Some(user) => (user, self.of_user(sharing)),
            None => {
                (OPERATOR.into(), Portion { whole: self.users + self.operator, share: self.user.max(self.operator) })
            }
        }
    }
}

/// Something of which there is only so much.
#[derive(Debug)]
pub(super) struct Seats {
    bounds: Bounds,
    held: Mutex<Shares>,
}

/// One of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    user: Arc<str>,
}

impl Seats {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, held: Mutex::default() })
    }

    /// One for whoever asks.
    ///
    /// # Errors
    /// When there is none; `what` says of what.
    pub(super) fn take(self: &Arc<Self>, who: &Principal, sharing: Sharing, what: &str) -> Result<Seat, Problem> {
        let (user, portion) = self.bounds.of(who, sharing);
        match self.held.lock().take(&user, 1, portion) {
            Ok(()) => Ok(Seat { seats: self.clone(), user }),
            Err(Beyond::Share) => {
                Err(Problem::too_many(format!("this token has {} {what} already, as many as it may", portion.share)))
            }
            Err(Beyond::Whole) => Err(Problem::too_many(format!("there are too many {what} already"))),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.held.lock().give_back(&self.user, 1);
    }
}

/// Turns: of each name one at a time, the others behind it.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Arc<str>, Arc<Turn<()>>>>);

impl Turns {
    /// Waits for the turn of this name; it ends when what is returned is dropped.
    pub(super) async fn next(&self, name: Arc<str>) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            // Whom nobody waits for, and who does nothing, is not kept.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(name).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_has_its_turn() {
        let turns = Turns::default();
        let first = turns.next("shop".into()).await;
        let _other = turns.next("bank".into()).await;
        {
            let second = turns.next("shop".into());
            tokio::pin!(second);
            assert!(second.as_mut().now_or_never().is_none());
            drop(first);
            second.await;
        }
        drop(turns.next("cafe".into()).await);
        drop(turns.next("cafe".into()).await);
        assert_eq!(turns.0.lock().len(), 2, "bank and cafe");
    }

    #[test]
    fn some_is_kept_for_the_operator() {
        let seats = Seats::new(Bounds { users: 4, user: 3, operator: 2 });
        let operator = |count: usize| {
            (0..count).map(|_| seats.take(&Principal::Operator, Sharing::Several, "seats")).collect::<Vec<_>>()
        };
        let (_, of_shop) = seats.bounds.of(&Principal::Operator, Sharing::Several);
        assert_eq!(of_shop, Portion { whole: 6, share: 3 });
        seats.held.lock().add(&"shop".into(), 4);
        let taken = operator(3);
        assert_eq!(taken.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
        drop(taken);
        assert_eq!(seats.held.lock().of(OPERATOR), 0);
    }
}
