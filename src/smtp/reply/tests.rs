use super::*;
use proptest::prelude::*;

fn check(input: &str, code: u16, enhanced: Option<EnhancedCode>, text: &str) {
    let (reply, used) = parse_reply(input.as_bytes()).unwrap().unwrap();
    assert_eq!(
        (reply.code, reply.enhanced, reply.text.as_ref(), used),
        (code, enhanced, text, input.len()),
        "{input:?}"
    );
}

#[test]
fn replies_are_read() {
    check("250 ok\r\n", 250, None, "ok");
    check("250\r\n", 250, None, "");
    check("250 2.1.0 ok\r\n", 250, Some(EnhancedCode(2, 1, 0)), "ok");
    check("250-mx\r\n250-SIZE 10\r\n250 DSN\r\n", 250, None, "mx\nSIZE 10\nDSN");
    check("450-4.2.0 a\r\n450 4.2.0 b\r\n", 450, Some(EnhancedCode(4, 2, 0)), "a\nb");
    check("250 ok\n", 250, None, "ok");
    check("250 2.0.0\t\r\n", 250, Some(EnhancedCode(2, 0, 0)), "");
    check("550 4.1.1 odd\r\n", 550, None, "4.1.1 odd");
    check("457 grey\r\n", 457, None, "grey");
    check("451 5.2.1000 x\r\n", 451, None, "5.2.1000 x");
}

#[test]
fn the_last_code_counts_and_a_line_without_one_is_text() {
    check("250-ok\r\n200 fine\r\n", 200, None, "ok\nfine");
    check("250-2.1.0 a\r\n550 5.1.1 b\r\n", 550, Some(EnhancedCode(5, 1, 1)), "a\nb");
    check("550-5.1.1 a\r\n250 b\r\n", 250, None, "a\nb");
    check("250-a\r\nb\r\n250 c\r\n", 250, None, "a\nb\nc");
    check("250-a\r\n\r\n250 c\r\n", 250, None, "a\n\nc");
    check("\r\n250 a\r\n", 250, None, "a");
    check("a notice\r\n\r\n250 b\r\n", 250, None, "b");
    check("2500 x\r\n25\r\n250\tx\r\n250 b\r\n", 250, None, "b");
    let sloppiness = |input: &[u8]| {
        let mut reader = ReplyReader::default();
        reader.feed(input);
        assert!(reader.next_reply().unwrap().is_some());
        reader.sloppiness()
    };
    assert_eq!(sloppiness(b"250-a\r\n250 b\r\n"), None);
    assert_eq!(sloppiness(b"250-a\r\n200 b\r\n"), Some(Sloppiness::CodesDiffer));
    assert_eq!(sloppiness(b"\r\n250 b\r\n"), Some(Sloppiness::NoCode));
}

#[test]
fn what_has_no_end_is_refused() {
    let error = |input: &[u8]| parse_reply(input).unwrap_err();
    assert_eq!(error(&[b'2'; REPLY_LINE_MAX + 2]), ReplyError::TooLong);
    for line in [&b"250-x\r\n"[..], b"text\r\n", b"\r\n"] {
        assert_eq!(error(&line.repeat(REPLY_MAX / line.len() + 2)), ReplyError::TooLong);
    }
    assert_eq!(parse_reply(b"250-a\r\n25"), Ok(None));
    assert_eq!(parse_reply(b"HTTP/1.1 400\r\n"), Ok(None));
}

#[test]
fn text_is_not_the_beginning_of_a_reply() {
    let begun = |input: &[u8]| {
        let mut reader = ReplyReader::default();
        reader.feed(b"250 ok\r\n");
        reader.feed(input);
        reader.next_reply().unwrap().unwrap();
        (reader.has_begun(), reader.has_leftover())
    };
    assert_eq!(begun(b""), (false, false));
    assert_eq!(begun(b"text\r\n\r\n"), (false, true));
    assert_eq!(begun(b"text\r\n2"), (true, true));
    assert_eq!(begun(b"250-a\r\n"), (true, true));
    assert_eq!(begun(b"\r\n250 a\r\n"), (true, true));
}

#[test]
fn a_reader_returns_one_reply_after_the_other() {
    let mut reader = ReplyReader::default();
    reader.feed(b"250 a\r\n354");
    assert_eq!(reader.next_reply().unwrap().unwrap().text, "a");
    assert_eq!(reader.next_reply().unwrap(), None);
    assert!(reader.has_leftover());
    reader.feed(b" go\r\n");
    assert_eq!(reader.next_reply().unwrap().unwrap().code, 354);
    assert!(!reader.has_leftover());
}

#[test]
fn long_replies_are_cut_between_words() {
    let check = |text: String, expected: usize| {
        let cut = Reply::plain(550, text.clone()).cut().text;
        assert!(text.starts_with(cut.as_ref()));
        assert_eq!(cut.len(), expected, "{}", &text[..10]);
    };
    check("a".repeat(REPLY_KEPT_MAX), REPLY_KEPT_MAX);
    check(format!("{} 123456", "a".repeat(REPLY_KEPT_MAX - 4)), REPLY_KEPT_MAX - 3);
    check(format!("{} 123 456", "a".repeat(REPLY_KEPT_MAX - 4)), REPLY_KEPT_MAX);
    check("a".repeat(REPLY_KEPT_MAX + 1), 0);
    check("ü ".repeat(REPLY_KEPT_MAX), REPLY_KEPT_MAX - 1);
}

#[test]
fn control_characters_stay_out_of_logs() {
    let (reply, _) = parse_reply(b"550-a\x1b[31m\r\n550 b\r\n").unwrap().unwrap();
    assert_eq!(reply.to_string(), "550 a [31m b");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(code in 200u16..600, class in 2u8..6, lines in prop::collection::vec("[a-z][a-z ]{0,20}[a-z]", 1..4)) {
        let enhanced = (class != 3 && u16::from(class) == code / 100).then_some(EnhancedCode(class, 1, 22));
        let reply = Reply { code, enhanced, text: lines.join("\n").into() };
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        let read = parse_reply(&wire).unwrap();
        prop_assert_eq!(read, Some((reply, wire.len())));
    }
}
