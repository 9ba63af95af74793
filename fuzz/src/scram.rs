//! The client's side of SCRAM-SHA-256 (RFC 5802 section 3) for one password.

use std::num::NonZeroU32;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use otp_relay::testing::smtp::sasl::ScramVerifier;

/// The password behind [`verifier`].
pub const PASSWORD: &str = "pencil";
/// The server's nonce.
pub const NONCE: &str = "servernonce";
const SALT: &[u8] = b"salt";
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN;

/// What the server keeps.
pub fn verifier() -> ScramVerifier {
    static VERIFIER: LazyLock<ScramVerifier> = LazyLock::new(|| ScramVerifier::derive(PASSWORD, SALT, ITERATIONS));
    VERIFIER.clone()
}

/// The client's last message, with a proof that is right, given its first one (`n,,n=user,r=nonce`).
pub fn client_final(first: &str) -> Option<String> {
    let bare_at = first.match_indices(',').nth(1)?.0 + 1;
    let (header, bare) = first.split_at(bare_at);
    let nonce = format!("{}{NONCE}", bare.split(',').nth(1)?.strip_prefix("r=")?);
    let server_first = format!("r={nonce},s={},i={ITERATIONS}", BASE64.encode(SALT));
    let without_proof = format!("c={},r={nonce}", BASE64.encode(header));
    let message = format!("{bare},{server_first},{without_proof}");

    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, SALT, PASSWORD.as_bytes(), &mut salted);
    let client_key = hmac_sha256(&salted, b"Client Key");
    let signature = hmac_sha256(digest(&SHA256, &client_key).as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
    Some(format!("{without_proof},p={}", BASE64.encode(proof)))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}
