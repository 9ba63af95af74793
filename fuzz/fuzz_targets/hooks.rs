//! Whatever the body of a hook's call says: at most two mails, each to one address, with nothing in them that could be more than
//! a code, a link and a label.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::http::{HookKind, asked_of};
use otp_relay::testing::intake::options;
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let kind = [HookKind::Supabase, HookKind::Logto, HookKind::Zitadel][usize::from(bits % 3)];
    let Some(asked) = asked_of(kind, body) else { return };
    assert!((1..=2).contains(&asked.len()));
    for (to, code, link, tag) in asked {
        assert!(!to.as_str().contains(char::is_control) && to.as_str().contains('@'));
        let is_printable = |code: &String| {
            (1..=64).contains(&code.len())
                && code.chars().all(|c| c == ' ' || c.is_ascii_graphic())
                && code.trim() == code
        };
        assert!(code.as_ref().is_none_or(is_printable), "{code:?}");
        let is_link = |link: &String| {
            let scheme = link.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
            matches!(scheme.as_deref(), Some("http" | "https"))
                && !link.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '"'))
        };
        assert!(link.as_ref().is_none_or(is_link), "{link:?}");
        assert!(options::tag(&tag).is_ok(), "{tag:?}");
    }
});
