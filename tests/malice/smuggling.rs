//! SMTP smuggling: one program takes for the end of a message what another takes for a part of it. Nothing that anybody
//! could take for an end gets in, and nothing that a lenient receiver could take for one goes out.

use otp_relay::testing::event::Kind;
use otp_relay::testing::smtp::data::{DataDecoder, Decoded, final_dot, line_fault, stuff};
use proptest::prelude::*;

use crate::support::client::{Client, mail};
use crate::support::start_with_host;

/// Ends of content that one program or another was seen to believe in.
const FALSE_ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n.\r\0\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\n",
    "\n\n.\r\n",
    "\r\n.\n\r\n",
    "\r\0\n.\r\n",
    "\n\r.\r\n",
    "\r\n\r.\r\n",
    "\r\n.\n.\r\n",
];
/// Not ends by anybody's rules, but close to one.
const ODD_LINES: &[&str] = &[
    "\r\n..\r\n",
    "\r\n. \r\n",
    "\r\n.\x0b\r\n",
    "\r\n.\t\r\n",
    "\r\n .\r\n",
    "\r\n\x1a\r\n",
    "\r\n.\u{85}\r\n",
    "\r\n\u{2028}.\u{2028}\r\n",
];
const SMUGGLED: &str =
    "MAIL FROM:<otp@app.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\nFrom: ceo@app.test\r\n\r\nsmuggled\r\n.\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_false_end_of_content_is_believed() {
    let (_folder, mx, relay, _events) = start_with_host(&[], "").await;
    for end in FALSE_ENDS {
        let mut app = Client::connect(relay.addresses()[0]).await;
        for line in ["MAIL FROM:<otp@app.test>", "RCPT TO:<alice@example.test>", "DATA"] {
            app.say(line).await;
        }
        app.send(format!("{}{end}{SMUGGLED}", mail("one")).as_bytes()).await;
        let reply = app.hear().await;
        assert!(reply.starts_with("554 5.6.0 "), "{}: {reply}", end.escape_debug());
        assert_eq!(app.hear().await, "", "nothing more is said behind {}", end.escape_debug());
    }
    for end in FALSE_ENDS {
        let mut app = Client::connect(relay.addresses()[0]).await;
        let content = format!("{}{end}{SMUGGLED}", mail("one"));
        app.send(b"MAIL FROM:<otp@app.test>\r\nRCPT TO:<alice@example.test>\r\n").await;
        app.send(format!("BDAT {} LAST\r\n{content}", content.len()).as_bytes()).await;
        let replies = [app.hear().await, app.hear().await, app.hear().await, app.hear().await];
        assert!(replies[2].starts_with("554 5.6.0 ") && replies[3].is_empty(), "{}: {replies:?}", end.escape_debug());
    }
    relay.shut_down().await;
    assert!(mx.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_line_is_a_line() {
    for extensions in [&["PIPELINING", "8BITMIME"][..], &["PIPELINING", "8BITMIME", "CHUNKING"]] {
        let (_folder, mx, relay, mut events) = start_with_host(extensions, "[otp]\nrecipient_budget = \"off\"\n").await;
        let mut app = Client::connect(relay.addresses()[0]).await;
        for (number, line) in ODD_LINES.iter().enumerate() {
            let content = format!("{}{line}{}", mail("one"), SMUGGLED.replace("\r\n.\r\n", "\r\n"));
            assert_eq!(line_fault(content.as_bytes()), None);
            app.send(b"MAIL FROM:<otp@app.test> BODY=8BITMIME\r\nRCPT TO:<alice@example.test>\r\n").await;
            app.send(format!("BDAT {} LAST\r\n{content}", content.len()).as_bytes()).await;
            app.hear().await;
            app.hear().await;
            let reply = app.hear().await;
            assert!(reply.starts_with("250 "), "{}: {reply}", line.escape_debug());
            events.next(Kind::Delivered).await;
            let received = mx.received();
            assert_eq!(received.len(), number + 1);
            assert!(received[number].content.ends_with(content.as_bytes()), "{}", line.escape_debug());
            assert!(received[number].rcpt.starts_with("RCPT TO:<alice@"));
        }
        relay.shut_down().await;
    }
}

/// Where a receiver that takes anything for a line end, and drops NULs, sees content end; behind the last octet of it.
fn lenient_end(wire: &[u8]) -> Option<usize> {
    let kept: Vec<(usize, u8)> = wire.iter().copied().enumerate().filter(|(_, octet)| *octet != 0).collect();
    let is_end = |octet: Option<&(usize, u8)>| matches!(octet, Some((_, b'\r' | b'\n')));
    (0..kept.len()).find_map(|at| {
        let begins_line = at == 0 || is_end(kept.get(at - 1));
        let dot_alone = kept[at].1 == b'.' && is_end(kept.get(at + 1));
        let is_crlf = matches!((kept.get(at + 1), kept.get(at + 2)), (Some((_, b'\r')), Some((_, b'\n'))));
        (begins_line && dot_alone).then(|| kept[at + if is_crlf { 2 } else { 1 }].0 + 1)
    })
}

#[test]
fn the_lenient_receiver_is_lenient() {
    for end in FALSE_ENDS {
        let wire = format!("Subject: x\r\n\r\nx{end}MAIL");
        assert!(lenient_end(wire.as_bytes()).is_some(), "{}", end.escape_debug());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Content in parts, as it is sent: what gets in, and what is put in front of it.
    #[test]
    fn what_goes_out_has_one_end(words in prop::collection::vec("\\.|\r\n|\r\n\\.|\u{b}|\u{85}|MAIL|x| ", 0..16), cut in 0usize..40) {
        let content = words.concat().into_bytes();
        prop_assume!(line_fault(&content).is_none());
        let cut = content[..cut.min(content.len())].windows(2).rposition(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
        let mut wire = b"Received: by relay\r\n".to_vec();
        stuff(&content[..cut], true, &mut wire);
        stuff(&content[cut..], true, &mut wire);
        wire.extend_from_slice(final_dot(if content.is_empty() { b"\r\n" } else { &content }));
        prop_assert_eq!(lenient_end(&wire), Some(wire.len()));
        prop_assert!(!wire.contains(&0));
    }

    /// What gets in by DATA, whatever is sent, has no line end that is not CRLF and no NUL.
    #[test]
    fn what_gets_in_is_unambiguous(words in prop::collection::vec("\\.|\r\n|\r|\n|\0|x", 0..24)) {
        let sent = words.concat();
        let mut decoder = DataDecoder::new(1 << 16);
        if let Decoded::Complete(used) = decoder.feed(sent.as_bytes()) {
            prop_assert_eq!(lenient_end(&sent.as_bytes()[..used]), Some(used));
            prop_assert_eq!(line_fault(&decoder.into_content()), None);
        }
    }
}
