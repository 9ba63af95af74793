//! Replies are the same however they arrive; what was read and written again reads the same; what is shown to people
//! has no control characters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::smtp::reply::{REPLY_LINE_MAX, Reply, ReplyReader, parse_reply};
use otp_relay_fuzz::{choice, pieces};

/// Written, and read again; none if it is long.
fn written(reply: &Reply) -> Option<Reply> {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    if wire.len() >= REPLY_LINE_MAX / 2 {
        return None;
    }
    let (read, used) = parse_reply(&wire).expect("it is short").expect("it is whole");
    assert_eq!(used, wire.len());
    Some(read)
}

fuzz_target!(|input: &[u8]| {
    let (seed, input) = choice(input);
    let (mut replies, mut rest, mut error) = (Vec::new(), input, None);
    while error.is_none() {
        match parse_reply(rest) {
            Ok(None) => break,
            Err(found) => error = Some(found),
            Ok(Some((reply, used))) => {
                assert!((1..=rest.len()).contains(&used));
                assert!(!reply.to_string().chars().any(char::is_control));
                // A line without a code has one once it is written; what is in form stays as it is.
                if let Some(in_form) = written(&reply) {
                    assert_eq!(in_form.code, reply.code);
                    // In form it can be longer: an enhanced code found behind a continuation stands on every line.
                    if let Some(again) = written(&in_form) {
                        assert_eq!(again, in_form);
                    }
                }
                replies.push(reply);
                rest = &rest[used..];
            }
        }
    }
    let (mut reader, mut read) = (ReplyReader::default(), Vec::new());
    for piece in pieces(input, seed) {
        reader.feed(piece);
        while let Some(reply) = reader.next_reply().transpose() {
            match reply {
                Ok(reply) => read.push(reply),
                Err(found) => {
                    assert_eq!((Some(found), read), (error, replies));
                    return;
                }
            }
        }
    }
    assert_eq!((error, &read), (None, &replies));
    assert_eq!(reader.has_leftover(), !rest.is_empty());
});
