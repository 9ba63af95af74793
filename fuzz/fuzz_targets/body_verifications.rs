//! Bodies of verifications: each is answered; what begins has one mail to one address, and the answer says nothing but how it stands,
//! of a quiet one not even that.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::smtp::data::line_fault;
use otp_relay_fuzz::api::{BENCH, SIZE_MAX, STAMP_MAX, asked};
use otp_relay_fuzz::choice;
use serde_json::Value;

/// What an answer may hold; the first four also where it is quiet.
const MEMBERS: [&str; 8] = ["expires_at", "id", "resend_at", "state", "checks_left", "message", "purpose", "sends"];

fn names(answer: &Value) -> Vec<&str> {
    answer.as_object().expect("an object").keys().map(String::as_str).collect()
}

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let line =
        ["POST /v1/verifications", "POST /v1/verifications/check", "POST /v1/verifications/vrf_0123456789abcdef/check"]
            [usize::from(bits % 3)];
    let relay = &BENCH.relay;
    let (status, answer) = asked(&BENCH, line, "shop-token", body);
    match (status, bits % 3) {
        (200 | 202, 0) => {
            let asked: Value = serde_json::from_slice(body).expect("what is taken is JSON");
            let known = if asked["quiet"] == true { &MEMBERS[..4] } else { &MEMBERS[..] };
            assert!(names(&answer).iter().all(|name| known.contains(name)), "{answer}");
            assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("vrf_")), "{answer}");
        }
        (200, _) => assert_eq!(names(&answer), ["checks_left", "state", "valid"]),
        (status, _) => assert!([400, 403, 404, 409, 413, 422, 429].contains(&status), "{status}: {answer}"),
    }
    // Those of quiet ones come a little later.
    for live in relay.queue.list(&Filter::default(), 100).messages {
        let (message, content) = relay.taken(live.message.id);
        relay.forget(live.message.id);
        assert!(message.verification.is_some() && message.envelope.recipients.len() == 1);
        assert!(line_fault(&content).is_none() && content.len() <= SIZE_MAX + STAMP_MAX);
    }
});
