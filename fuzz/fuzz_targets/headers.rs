//! Taking content apart loses and invents nothing but one CRLF between head and body, and the fields cover the head.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use otp_relay::testing::mail::message::{Content, fields};
use otp_relay::testing::smtp::data::line_fault;

fuzz_target!(|input: &[u8]| {
    let Content { head, body } = Content::split(Bytes::copy_from_slice(input));
    let without_blank = body.strip_prefix(b"\r\n").unwrap_or(&body);
    let is_same = [&head[..], &body].concat() == input;
    let has_blank_more = [&head[..], without_blank].concat() == input;
    let has_end_more = body.is_empty() && head.strip_suffix(b"\r\n") == Some(input);
    assert!(is_same || has_blank_more || has_end_more);
    assert!(body.is_empty() || body.starts_with(b"\r\n"));

    // Content that is taken in has passed this.
    if line_fault(input).is_some() {
        return;
    }
    let joined = [&head[..], &body].concat();
    assert!(fields(&head).map(|field| field.raw).collect::<Vec<_>>().concat() == head);
    for field in fields(&head) {
        assert!(!field.name.is_empty() && field.is(&String::from_utf8_lossy(field.name)));
        assert!(field.raw.starts_with(field.name) && field.raw.ends_with(b"\r\n"));
        assert!(field.raw.strip_suffix(b"\r\n").is_some_and(|raw| raw.ends_with(field.value)));
        assert!(field.text().is_none_or(|text| !text.contains(['\r', '\n'])));
    }
    assert!(Content::split(Bytes::from(joined)) == Content { head, body });
});
