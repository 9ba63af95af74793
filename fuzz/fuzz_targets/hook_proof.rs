//! No header fields but those made with a secret prove a call, whatever stands beside them.
#![no_main]

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use otp_relay::testing::http::{HookKind, HookSecrets, is_proved};
use otp_relay_fuzz::choice;
use otp_relay_fuzz::relay::NOW;

const SECRET: &[u8] = b"0123456789abcdef01234567";

fn headers(kind: HookKind, field: &[u8], time: u64) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(field).ok()?;
    let mut headers = HeaderMap::new();
    match kind {
        HookKind::Supabase => {
            headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
            headers.insert("webhook-timestamp", HeaderValue::from(time));
            headers.insert("webhook-signature", value);
        }
        HookKind::Logto => drop(headers.insert("authorization", value)),
        HookKind::Zitadel => drop(headers.insert("zitadel-signature", value)),
    }
    Some(headers)
}

fuzz_target!(|input: &[u8]| {
    let (bits, input) = choice(input);
    let kind = [HookKind::Supabase, HookKind::Logto, HookKind::Zitadel][usize::from(bits % 3)];
    let file = match kind {
        HookKind::Supabase => format!("v1,whsec_{}", STANDARD.encode(SECRET)),
        HookKind::Logto | HookKind::Zitadel => String::from_utf8_lossy(SECRET).into_owned(),
    };
    let secrets = HookSecrets::read(kind, &file).expect("a secret");
    let end = input.iter().position(|octet| *octet == b'\n').unwrap_or(input.len());
    let (field, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let now = NOW.as_secs();
    if let Some(headers) = headers(kind, field, now) {
        assert!(!is_proved(kind, &secrets, &headers, body, NOW) || kind == HookKind::Logto && field == SECRET);
    }
    let mac = |front: &str| hmac::sign(&hmac::Key::new(HMAC_SHA256, SECRET), &[front.as_bytes(), body].concat());
    for (time, expected) in [(now, true), (now - 301, false)] {
        let field = match kind {
            HookKind::Supabase => {
                let signature = STANDARD.encode(mac(&format!("msg_1.{time}.")));
                let separator = [" ", ",", ", "][usize::from(bits / 3 % 3)];
                format!("v1,AAAA{separator}v1,{signature}")
            }
            HookKind::Logto => return,
            HookKind::Zitadel => {
                let hex: String =
                    mac(&format!("{time}.")).as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
                format!("t={time},v1=00,v1={hex}")
            }
        };
        let headers = headers(kind, field.as_bytes(), time).expect("ASCII");
        assert_eq!(is_proved(kind, &secrets, &headers, body, NOW), expected);
    }
});
