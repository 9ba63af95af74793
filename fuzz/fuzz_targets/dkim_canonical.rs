#![no_main]
//! Whatever content is signed, a receiver finds the signature good, by DATA and by BDAT alike; and no longer once the
//! body is another.

use std::sync::LazyLock;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::destination::resolver;
use otp_relay::testing::dkim::{Key, SenderField, Terms, record, verify};
use otp_relay::testing::mail::message::{Content, without_space_before_colons};
use otp_relay::testing::smtp::data::line_fault;
use tokio::runtime::{Builder, Runtime};

struct Bench {
    runtime: Runtime,
    resolver: TokioResolver,
    key: Key,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let resolver = runtime.block_on(async { resolver::build(ResolverConfig::default()) }).expect("a resolver");
    let pem = record::generate_ed25519().expect("a key");
    let key = Key::from_pem("example.com", "fuzz", &pem).expect("the key is good");
    Bench { runtime, resolver, key }
});

/// The verifier looks at the real time.
const TERMS: Terms = Terms {
    signed_at: Timestamp::from_millis(1000),
    life_ends_at: Timestamp::from_millis(32_503_680_000_000),
    sender: SenderField::Closed,
};

fn passes(message: &[u8]) -> bool {
    let Bench { runtime, resolver, key } = &*BENCH;
    let verdicts = runtime.block_on(verify::verify_against(resolver.clone(), message, key.record()));
    let verdicts = verdicts.expect("the record is good");
    // Content may bring signatures of its own; ours is the first.
    verdicts.first().is_some_and(|verdict| verdict.result.is_ok())
}

fuzz_target!(|input: &[u8]| {
    // What intake lets through: one From, CRLF only, and no signature before ours.
    if line_fault(input).is_some() || input.to_ascii_lowercase().windows(14).any(|w| w == b"dkim-signature") {
        return;
    }
    let Content { head, body } = Content::split(Bytes::from([b"From: a@example.com\r\n", input].concat()));
    let content = Content { head: without_space_before_colons(head), body };
    let signature = BENCH.key.sign(&content, TERMS).expect("there is a From");
    let chunk = [signature.as_bytes(), &content.head, &content.body].concat();
    assert!(passes(&chunk), "as sent by BDAT");
    let mut dotted = chunk.clone();
    if !dotted.ends_with(b"\r\n") {
        dotted.extend_from_slice(b"\r\n");
    }
    assert!(passes(&dotted), "as sent by DATA");
    let other_body = if content.body.is_empty() { &b"\r\nx\r\n"[..] } else { b"x\r\n" };
    assert!(!passes(&[&dotted, other_body].concat()), "with more behind it");
});
