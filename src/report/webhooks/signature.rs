//! Signatures of Standard Webhooks: HMAC-SHA-256 over id, time and body.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::endpoint::Secret;
use crate::event::Event;

/// The same for all tries at one event, and when it is replayed.
pub(super) fn id(event: &Event) -> String {
    let head = &event.head;
    let text =
        format!("{} {:?} {} {} {}", head.id, head.entry, event.kind().name(), head.time.as_millis(), head.attempt);
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    format!("msg_{}", data_encoding::HEXLOWER.encode(&digest.as_ref()[..16]))
}

/// The content of `webhook-signature`: one for each secret.
pub(super) fn sign(secrets: &[Secret], id: &str, seconds: u64, body: &[u8]) -> String {
    let signed = [format!("{id}.{seconds}.").as_bytes(), body].concat();
    let one = |secret: &Secret| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.octets()), &signed);
        format!("v1,{}", BASE64_STANDARD.encode(tag.as_ref()))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(sign(std::slice::from_ref(&secret), id, 1_614_265_330, body), expected);
        let both = sign(&[secret.clone(), secret], id, 1_614_265_330, body);
        assert_eq!(both, format!("{expected} {expected}"));
    }
}
