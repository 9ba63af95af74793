//! What may happen to an entry. Each step has one condition, which is looked at in the entry's row by the statement that
//! changes it; nothing else decides.
//!
//! An entry ends once, because its row goes once. At most one attempt runs at a time: an attempt needs the row's owner
//! and a lease, and the owner changes without its doing only after its epoch was revoked.

use crate::ledger::attempt::Epoch;

/// Whether content may leave twice where nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Delivery {
    /// It may: no code is lost.
    #[default]
    AtLeastOnce,
    /// It may not (`queue.deliver_at_most_once`): no content goes without a durable gate.
    AtMostOnce,
}

/// How an entry stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who alone may work on it.
    pub owner: Epoch,
    /// The last attempt that is known of.
    pub attempt: u32,
    /// The last attempt whose settlement is known.
    pub settled: u32,
    /// Content may be under way.
    pub is_out: bool,
}

/// Why a step is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Another owns it.
    NotOwner,
    /// A later attempt is known, or this one is settled.
    Passed,
}

/// What a deferral came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferral {
    /// It stands so now.
    Done(Standing),
    /// It was known already.
    Repeat,
}

/// What a takeover came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// It stands so now.
    Taken(Standing),
    /// Its content may have left, and must not leave again: the entry ends.
    OutcomeUnknown,
}

impl Standing {
    /// Accepted by this node, which may attempt it at once. That its content is out errs towards yes until the first
    /// settlement, except where no content goes without a gate.
    pub fn accepted(me: Epoch, delivery: Delivery) -> Self {
        Self { owner: me, attempt: 0, settled: 0, is_out: delivery == Delivery::AtLeastOnce }
    }

    fn owned_by(self, me: Epoch) -> Result<Self, Denied> {
        if self.owner == me && me != Epoch::UNOWNED { Ok(self) } else { Err(Denied::NotOwner) }
    }

    /// The content of attempt `number` is about to go.
    ///
    /// # Errors
    /// Where it must not.
    pub fn gate(self, me: Epoch, number: u32) -> Result<Self, Denied> {
        let this = self.owned_by(me)?;
        if this.attempt > number || this.settled >= number {
            return Err(Denied::Passed);
        }
        Ok(Self { attempt: number, is_out: true, ..this })
    }

    /// Attempt `number` ended without a decision.
    ///
    /// # Errors
    /// Where somebody else, or a later attempt, has it.
    pub fn defer(self, me: Epoch, number: u32) -> Result<Deferral, Denied> {
        let this = self.owned_by(me)?;
        if this.settled >= number && number > 0 {
            return Ok(Deferral::Repeat);
        }
        if this.attempt > number {
            return Err(Denied::Passed);
        }
        Ok(Deferral::Done(Self { attempt: number, settled: number, is_out: false, ..this }))
    }

    /// It ends by its owner.
    ///
    /// # Errors
    /// Where somebody else has it.
    pub fn end(self, me: Epoch) -> Result<(), Denied> {
        self.owned_by(me).map(|_| ())
    }

    /// Its owner was revoked, or there is none.
    pub fn take_over(self, me: Epoch, delivery: Delivery) -> Takeover {
        if self.is_out && delivery == Delivery::AtMostOnce {
            return Takeover::OutcomeUnknown;
        }
        Takeover::Taken(Self { owner: me, ..self })
    }

    /// It goes to another node, or to nobody. Content of it is not under way: its owner says so.
    ///
    /// # Errors
    /// Where somebody else has it.
    pub fn hand_over(self, me: Epoch, to: Epoch) -> Result<Self, Denied> {
        self.owned_by(me).map(|this| Self { owner: to, is_out: false, ..this })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Epoch = Epoch(7);
    const OTHER: Epoch = Epoch(8);

    fn fresh() -> Standing {
        Standing::accepted(ME, Delivery::AtLeastOnce)
    }

    fn deferred(standing: Standing, number: u32) -> Standing {
        match standing.defer(ME, number) {
            Ok(Deferral::Done(standing)) => standing,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_only_grow() {
        let first = fresh().gate(ME, 1).unwrap();
        assert_eq!(first.gate(ME, 1), Ok(first), "a repeat");
        let settled = deferred(first, 1);
        assert!(!settled.is_out);
        assert_eq!(settled.gate(ME, 1), Err(Denied::Passed));
        assert_eq!(settled.defer(ME, 1), Ok(Deferral::Repeat));
        let third = settled.gate(ME, 3).unwrap();
        assert_eq!(third.defer(ME, 2), Err(Denied::Passed));
        assert_eq!(third.gate(ME, 2), Err(Denied::Passed));
        // Without a gate, as within 250 ms.
        assert_eq!(deferred(settled, 2).attempt, 2);
    }

    #[test]
    fn only_the_owner_takes_a_step() {
        let standing = fresh();
        assert_eq!(standing.gate(OTHER, 1), Err(Denied::NotOwner));
        assert_eq!(standing.defer(OTHER, 1), Err(Denied::NotOwner));
        assert_eq!(standing.end(OTHER), Err(Denied::NotOwner));
        assert_eq!(standing.hand_over(OTHER, OTHER), Err(Denied::NotOwner));
        let unowned = standing.hand_over(ME, Epoch::UNOWNED).unwrap();
        assert_eq!(unowned.gate(Epoch::UNOWNED, 1), Err(Denied::NotOwner));
    }

    #[test]
    fn what_may_have_left_is_not_taken_over_where_it_may_leave_once() {
        let once = Standing::accepted(ME, Delivery::AtMostOnce);
        assert_eq!(once.take_over(OTHER, Delivery::AtMostOnce), Takeover::Taken(Standing { owner: OTHER, ..once }));
        let gated = once.gate(ME, 1).unwrap();
        assert_eq!(gated.take_over(OTHER, Delivery::AtMostOnce), Takeover::OutcomeUnknown);
        let deferred = deferred(gated, 1);
        assert!(matches!(deferred.take_over(OTHER, Delivery::AtMostOnce), Takeover::Taken(_)));
        assert!(matches!(fresh().take_over(OTHER, Delivery::AtLeastOnce), Takeover::Taken(_)));
    }

    proptest! {
        /// Whatever is tried in whatever order, an attempt's number never comes back, and nobody but the owner changes anything.
        #[test]
        fn no_order_of_steps_goes_back(steps in prop::collection::vec((0u8..4, 0u32..6, any::<bool>()), 1..40)) {
            let mut standing = fresh();
            for (step, number, is_mine) in steps {
                let by = if is_mine { ME } else { OTHER };
                let before = standing;
                standing = match step {
                    0 | 1 => standing.gate(by, number).unwrap_or(standing),
                    2 => match standing.defer(by, number) {
                        Ok(Deferral::Done(next)) => next,
                        Ok(Deferral::Repeat) | Err(_) => standing,
                    },
                    _ => standing,
                };
                prop_assert!(standing.attempt >= before.attempt && standing.settled >= before.settled);
                prop_assert!(is_mine || standing == before);
                prop_assert!(standing.settled <= standing.attempt);
            }
        }
    }
}
