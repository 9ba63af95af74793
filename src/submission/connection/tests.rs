//! What a client is told of the end.

use super::*;
use crate::base::clock::Timestamp;
use crate::mail::id::IdSource;
use crate::queue::Offered;

#[test]
fn an_acceptance_names_the_message_and_what_became_of_it() {
    let id = IdSource::with_random(|| 7).next(Timestamp::from_millis(1_795_255_200_000));
    let check = |repeat_of, is_lowered, expected: &str| {
        let receipt = Receipt { id, repeat_of, is_lowered, offered: Offered::default() };
        assert_eq!(accepted(&receipt).to_string(), format!("{expected} id={id}"));
    };
    check(None, false, "250 2.0.0 accepted");
    check(None, true, "250 2.3.6 accepted in a less urgent lane");
    check(Some("delivered"), false, "250 2.0.0 accepted before, state=delivered");
    check(Some("queued"), true, "250 2.0.0 accepted before, state=queued");
}

#[test]
fn a_share_that_is_in_use_is_named_with_the_whole() {
    let reply = share_in_use(Portion { whole: 200, share: 150 });
    assert_eq!((reply.code, reply.enhanced), (421, Some(EnhancedCode(4, 7, 0))));
    assert!(reply.text.contains("150 of 200 (submission.connections_max)"), "{}", reply.text);
}
