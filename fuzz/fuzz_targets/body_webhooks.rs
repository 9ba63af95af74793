//! Bodies about webhooks: each is answered, and a URL that the configuration does not name is never posted to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::api::{BENCH, asked_of_thread};
use otp_relay_fuzz::choice;
use serde_json::{Value, json};

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let (line, nothing) = match bits & 1 {
        0 => ("POST /v1/webhooks/replay", json!({"replayed": 0})),
        _ => ("POST /v1/webhooks/test", json!({"tested": []})),
    };
    let (status, answer) = asked_of_thread(&BENCH, line, "operator-token", body);
    if status < 300 {
        assert_eq!(answer, nothing);
        let asked: Value = serde_json::from_slice(body).expect("what is taken is JSON");
        assert!(asked["endpoint"].is_null(), "{asked}");
    } else {
        assert!([400, 404, 413, 422].contains(&status), "{status}: {answer}");
    }
});
