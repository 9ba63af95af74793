//! An exchange says that the password was proved if, and only if, the proof was right; what it hands on is bounded; and
//! once over it stays over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::smtp::sasl::{Exchange, MECHANISMS, PASSWORD_MAX, Progress, USER_MAX};
use otp_relay_fuzz::{choice, scram};

/// An answer that stands for a right proof.
const PROOF: &[u8] = b"\xfe";

fuzz_target!(|input: &[u8]| {
    let (mechanism, input) = choice(input);
    let answers: Vec<&[u8]> = input.split(|octet| *octet == b'\n').collect();
    let mechanism = MECHANISMS[usize::from(mechanism) % MECHANISMS.len()];
    let Some((mut exchange, mut progress)) = Exchange::start(mechanism, None) else { panic!("{mechanism}") };
    let (mut first, mut has_proved) = (None, false);
    for answer in answers {
        let first = *first.get_or_insert(answer);
        let proof = std::str::from_utf8(first).ok().and_then(scram::client_final).filter(|_| answer == PROOF);
        let asked_for_proof = matches!(&progress, Progress::Challenge(text) if text.starts_with(b"r="));
        if let Progress::CheckPassword { user, password } = &progress {
            assert!((1..=USER_MAX).contains(&user.len()) && password.len() <= PASSWORD_MAX);
        }
        let was_over = !matches!(progress, Progress::Challenge(_));
        progress = exchange.respond(proof.as_ref().map_or(answer, |proof| proof.as_bytes()));
        if let Progress::NeedVerifier { user } = &progress {
            assert!(mechanism == "SCRAM-SHA-256" && (1..=USER_MAX).contains(&user.len()));
            progress = exchange.verifier(scram::verifier(), scram::NONCE);
            assert!(matches!(&progress, Progress::Challenge(text) if text.starts_with(b"r=")));
        }
        assert!(!was_over || matches!(progress, Progress::Malformed), "{progress:?}");
        match &progress {
            Progress::Challenge(text) if text.starts_with(b"v=") => {
                assert!(asked_for_proof && proof.is_some());
                has_proved = true;
            }
            Progress::Proved { .. } => assert!(has_proved && answer.is_empty()),
            Progress::Refused { .. } => assert!(asked_for_proof && proof.is_none()),
            Progress::Malformed => assert!(!(asked_for_proof && proof.is_some())),
            _ => {}
        }
    }
});
