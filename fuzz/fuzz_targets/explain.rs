//! Any refusal has one cause, the same each time; no other reply has one; the wait read from it is bounded, and
//! so is what follows from it: the next attempt lies ahead and within the life.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::greylist::facts::Facts;
use otp_relay::testing::greylist::step::History;
use otp_relay::testing::policy::cause::of_reply;
use otp_relay::testing::policy::hint;
use otp_relay::testing::policy::next::{Next, next};
use otp_relay::testing::smtp::client_session::Stage;
use otp_relay::testing::smtp::reply::{Severity, parse_reply};
use otp_relay_fuzz::choice;

const STAGES: [Stage; 5] = [Stage::Rcpt, Stage::Banner, Stage::Ehlo, Stage::Mail, Stage::Content];
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

fuzz_target!(|input: &[u8]| {
    let (seed, input) = choice(input);
    assert!(hint::wait(&String::from_utf8_lossy(input)).is_none_or(|wait| wait <= WAIT_MAX));
    let Ok(Some((reply, _))) = parse_reply(input) else { return };
    let stage = STAGES[usize::from(seed) % STAGES.len()];
    let verdict = of_reply(stage, &reply);
    assert_eq!(verdict, of_reply(stage, &reply));
    let is_refusal = matches!(reply.severity(), Severity::Transient | Severity::Permanent);
    assert_eq!(verdict.is_some(), is_refusal);
    let Some(verdict) = verdict else { return };
    assert!(verdict.hint.is_none_or(|hint| hint <= WAIT_MAX));
    assert!(!(verdict.action.next_mx && stage == Stage::Content));
    let accepted_at = Timestamp::from_millis(1_000_000);
    let now = accepted_at.plus(Duration::from_secs(seed.into()));
    let expires_at = accepted_at.plus(Duration::from_secs(300));
    let history = History { accepted_at, expires_at, first_deferred_at: accepted_at, attempts: 1, spread: 0.0 };
    if let Next::At(at) = next(verdict, &history, &Facts::default(), now) {
        assert!(now < at && at < expires_at);
    }
});
