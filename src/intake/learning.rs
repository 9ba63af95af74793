//! What the end of an entry teaches of its recipient's address. The ledger counts it.

use crate::event::cause::Cause;
use crate::event::{Kind, Suppress};
use crate::ledger::attempt::Side;
use crate::ledger::suppression::Bounce;
use crate::queue::Ending;

/// What changes with this end.
pub(super) fn learned(ending: &Ending) -> Option<Side> {
    let kind = ending.event.kind();
    let bounce = match ending.suppress {
        _ if kind == Kind::Delivered => return Some(Side::Lifted),
        _ if kind != Kind::Failed => return None,
        Suppress::No => return None,
        Suppress::Count => Bounce::Soft,
        Suppress::Address => Bounce::Hard,
    };
    let said = ending.event.reply().unwrap_or("no reply");
    let cause = ending.event.cause().map_or("failed", Cause::name);
    Some(Side::Bounced { bounce, reason: format!("{cause}: {said}").into() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::event::{Attempted, Event, Happened};
    use crate::ledger::entry::Message;
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;
    use crate::queue::Reporting;

    fn ending(kind: Kind, suppress: Suppress, attempted: Attempted) -> Ending {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse("alice@example.com").unwrap())],
        };
        let id = IdSource::with_random(|| 3).next(now);
        let message = Arc::new(Message::new(id, "shop".into(), envelope, now..now));
        Ending {
            event: Event { head: message.entry_head(0, 1, now), what: Happened::of(kind, attempted, None) },
            message,
            suppress,
            was_sent: false,
            is_passed_on: false,
            is_late: false,
            reporting: Reporting::Not,
        }
    }

    #[test]
    fn only_refusals_that_say_something_of_the_address_count() {
        let check = |kind, suppress, expected: Option<(Bounce, &str)>| {
            let attempted = Attempted {
                cause: Some(Cause::BadMailbox),
                reply: Some("550 5.1.1 no such user".into()),
                ..Attempted::default()
            };
            let expected = expected.map(|(bounce, reason)| Side::Bounced { bounce, reason: reason.into() });
            assert_eq!(learned(&ending(kind, suppress, attempted)), expected, "{kind:?} {suppress:?}");
        };
        let reason = "bad_mailbox: 550 5.1.1 no such user";
        check(Kind::Failed, Suppress::Address, Some((Bounce::Hard, reason)));
        check(Kind::Failed, Suppress::Count, Some((Bounce::Soft, reason)));
        check(Kind::Failed, Suppress::No, None);
        for kind in [Kind::Expired, Kind::Cancelled, Kind::Superseded] {
            check(kind, Suppress::No, None);
        }
        let silent = ending(Kind::Failed, Suppress::Address, Attempted::default());
        let reason = "failed: no reply".into();
        assert_eq!(learned(&silent), Some(Side::Bounced { bounce: Bounce::Hard, reason }));
    }

    #[test]
    fn what_arrives_clears() {
        assert_eq!(learned(&ending(Kind::Delivered, Suppress::No, Attempted::default())), Some(Side::Lifted));
    }
}
