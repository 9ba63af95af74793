//! An address that is read keeps what its printed, its ASCII and its comparison form promise: each form read again has
//! the same forms, case and quotes do not count, and who may not send as a domain may not do so in any spelling of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::text::is_deceptive;
use otp_relay::testing::intake::suppression::suppression_key;
use otp_relay::testing::mail::address::{
    AddressError, Mailbox, PATH_MAX, ReversePath, domain_key, domain_pattern_covers, parse_path, pattern_covers,
};
use otp_relay_fuzz::command::check_mailbox;

fn check_domain(text: &str) {
    let Some(key) = domain_key(text) else { return };
    assert!(key.is_ascii() && key == key.to_ascii_lowercase() && !key.ends_with('.') && key.len() <= 255);
    assert_eq!(domain_key(&key).as_deref(), Some(&*key));
    assert_eq!(domain_key(&text.to_ascii_uppercase()).as_deref(), Some(&*key));
    assert!(domain_pattern_covers(text, &key) && domain_pattern_covers("*", &key));
    assert!(!domain_pattern_covers(&format!("*.{key}"), &key));
    assert!(domain_pattern_covers(&format!("*.{key}"), &format!("a.{key}")));
    assert!(!domain_pattern_covers(&format!("*.{key}"), &format!("a{key}")));
}

fn check_keys(mailbox: &Mailbox) {
    check_mailbox(mailbox);
    assert!(mailbox.as_str().len() + 2 <= PATH_MAX && !mailbox.as_str().contains(is_deceptive));
    assert!(mailbox.masked().ends_with(&format!("@{}", mailbox.domain())));
    let plain = mailbox.plain_key();
    assert!(!mailbox.is_plain() || plain == mailbox.as_str());
    // No letter beyond ASCII turns into one of ASCII.
    assert_eq!(mailbox.plain_local_part().is_ascii(), mailbox.local_part().is_ascii());
    assert_eq!(suppression_key(mailbox.as_str()).as_deref(), Some(&*plain));
    assert!(pattern_covers(mailbox.as_str(), mailbox) && pattern_covers("*", mailbox));
    if mailbox.address_literal().is_none() {
        assert!(pattern_covers(&format!("*@{}", mailbox.domain()), mailbox));
        assert!(!pattern_covers(&format!("*@*.{}", mailbox.domain_key()), mailbox));
    }
    // What can be read again, being without quotes, is its own form.
    if let Ok(again) = Mailbox::parse(&plain) {
        assert_eq!(again.plain_key(), plain);
        assert!(pattern_covers(&plain, mailbox) && pattern_covers(mailbox.as_str(), &again));
    }
    let upper = format!("{}@{}", mailbox.local_part().to_ascii_uppercase(), mailbox.domain().to_ascii_uppercase());
    let upper = Mailbox::parse(&upper).expect("letters may be of any case");
    assert_eq!(upper.plain_key(), plain);
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_domain(text);
    let mailbox = Mailbox::parse(text);
    mailbox.iter().for_each(check_keys);
    let path = format!("<{text}>");
    assert_eq!(ReversePath::parse(&path).is_ok_and(|path| path == ReversePath::NULL), text.is_empty());
    match parse_path(&path) {
        // A source route is dropped.
        Ok(of_path) if text.starts_with('@') => assert!(text.ends_with(of_path.as_str())),
        of_path => assert!(of_path == mailbox || text.starts_with('@') || of_path == Err(AddressError::TooLong)),
    }
    // Where mail goes is what stands behind the last @.
    if let Ok(mailbox) = &mailbox {
        assert_eq!(text.rsplit_once('@').map(|(_, domain)| domain), Some(mailbox.domain()));
    }
});
