//! Where a call comes from: a signature over its body, or a value that nobody else knows. All of it is compared in constant time,
//! and whoever cannot show it learns nothing else.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Kind;
use crate::base::clock::Timestamp;

/// How far a caller's clock may be from ours.
const TOLERANCE: Duration = Duration::from_secs(300);
/// Signatures that are looked at.
const SIGNATURES_MAX: usize = 16;
/// Secrets of a hook: the old and the new one while it is being changed, and some to spare.
const SECRETS_MAX: usize = 8;
/// Octets of a secret.
const SECRET_LEN: std::ops::RangeInclusive<usize> = 8..=512;

/// What proves a call; any of them may.
#[derive(Clone, Default)]
pub struct Secrets(Arc<[Zeroizing<Vec<u8>>]>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Those of a file, one a line.
    ///
    /// # Errors
    /// What is wrong with it, without any of it.
    pub fn read(kind: Kind, text: &str) -> Result<Self, String> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() || lines.len() > SECRETS_MAX {
            return Err(format!("1 to {SECRETS_MAX} lines with a secret each are needed"));
        }
        let secret = |line: &&str| {
            let octets = match kind {
                Kind::Supabase => whsec(line).ok_or("a line like v1,whsec_... is needed")?,
                Kind::Logto | Kind::Zitadel => Zeroizing::new(line.as_bytes().to_vec()),
            };
            if !SECRET_LEN.contains(&octets.len()) {
                return Err("a secret has 8 to 512 bytes".to_owned());
            }
            Ok(octets)
        };
        Ok(Self(lines.iter().map(secret).collect::<Result<Vec<_>, String>>()?.into()))
    }

    fn any(&self, holds: impl Fn(&[u8]) -> bool) -> bool {
        // All are looked at, whichever it is.
        self.0.iter().fold(false, |any, secret| holds(secret) | any)
    }
}

/// `v1,whsec_<base64>`, the first part of which some leave out.
fn whsec(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    let encoded = line.strip_prefix("v1,").unwrap_or(line).strip_prefix("whsec_")?;
    STANDARD.decode(encoded).ok().map(Zeroizing::new)
}

/// Whether a call comes from who knows a secret of the hook.
pub(crate) fn holds(kind: Kind, secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
    match kind {
        Kind::Supabase => standard_webhooks(secrets, headers, body, now),
        Kind::Logto => {
            let shown = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
            secrets.any(|secret| verify_slices_are_equal(secret, shown).is_ok())
        }
        Kind::Zitadel => zitadel(secrets, headers, body, now),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a time in seconds is near enough.
fn is_near(seconds: &str, now: Timestamp) -> bool {
    let Some(at) = seconds.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000)) else { return false };
    let at = Timestamp::from_millis(at);
    at.since(now).max(now.since(at)) <= TOLERANCE
}

/// <https://github.com/standard-webhooks/standard-webhooks>, where signatures may be separated by commas too.
fn standard_webhooks(secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
    let field = |name: &str| text(headers, &format!("webhook-{name}"));
    let (Some(id), Some(time), Some(signatures)) = (field("id"), field("timestamp"), field("signature")) else {
        return false;
    };
    if !is_near(time, now) {
        return false;
    }
    let shown: Vec<Vec<u8>> = signatures_of(signatures).filter_map(|text| STANDARD.decode(text).ok()).collect();
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
    secrets.any(|secret| matches(secret, &signed, &shown))
}

/// The `v1` ones of `v1,<base64> v1,<base64>`, `v1,<base64>, v1,<base64>` and the like.
pub(crate) fn signatures_of(text: &str) -> impl Iterator<Item = &str> {
    let mut words = text.split([' ', ',']).filter(|word| !word.is_empty()).take(2 * SIGNATURES_MAX);
    std::iter::from_fn(move || {
        loop {
            // What follows another version's name is not looked at, whatever it is.
            let (version, signature) = (words.next()?, words.next()?);
            if version == "v1" {
                return Some(signature);
            }
        }
    })
}

/// `t=<unix>,v1=<hex>`, of `t.body`.
fn zitadel(secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
    let Some(text) = text(headers, "zitadel-signature") else { return false };
    let Some((time, shown)) = zitadel_signatures(text).filter(|(time, _)| is_near(time, now)) else { return false };
    let signed = [time.as_bytes(), b".", body].concat();
    secrets.any(|secret| matches(secret, &signed, &shown))
}

/// The time and the `v1` signatures; none without exactly one time.
pub(crate) fn zitadel_signatures(text: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    let (mut time, mut signatures) = (None, Vec::new());
    for part in text.split(',').map(str::trim).take(2 * SIGNATURES_MAX) {
        match part.split_once('=') {
            Some(("t", text)) if time.is_none() => time = Some(text),
            Some(("t", _)) => return None,
            Some(("v1", hex)) if signatures.len() < SIGNATURES_MAX => signatures.extend(decoded(hex)),
            _ => {}
        }
    }
    Some((time?, signatures))
}

fn decoded(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

fn matches(secret: &[u8], signed: &[u8], shown: &[Vec<u8>]) -> bool {
    let expected = hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), signed);
    shown.iter().fold(false, |any, shown| verify_slices_are_equal(expected.as_ref(), shown).is_ok() | any)
}
