//! Replies are the same however they arrive; what was read and written again reads the same; what is shown to people
//! has no control characters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::smtp::reply::{REPLY_LINE_MAX, ReplyReader, parse_reply};
use otp_relay_fuzz::{choice, pieces};

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
                let mut wire = Vec::new();
                reply.write_to(&mut wire);
                if wire.len() < REPLY_LINE_MAX {
                    assert_eq!(parse_reply(&wire), Ok(Some((reply.clone(), wire.len()))));
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
