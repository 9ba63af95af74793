//! A request's body: whole, in time, within its bound, unpacked, and read as JSON.

use std::convert::Infallible;
use std::io::Read as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use flate2::bufread::GzDecoder;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::intake::refusal::Refusal;

/// How long a request's body may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of a request that is no message.
const SMALL_LEN_MAX: usize = 64 << 10;
/// Longest request that is worked on where it came in.
const SHORT_LEN: usize = 32 << 10;
/// What some programs put in front of JSON, against RFC 8259 section 8.1, which lets it be passed over.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a request brings.
pub(super) struct Payload(pub(super) HeaderMap, pub(super) Body);

impl<S: Sync> FromRequest<S> for Payload {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        Ok(Self(parts.headers, body))
    }
}

/// How a body is packed (RFC 9110 section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut coding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().map_err(|_| Problem::unsupported_coding())?;
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                match name.to_ascii_lowercase().as_str() {
                    "identity" => {}
                    "gzip" | "x-gzip" if coding == Self::Identity => coding = Self::Gzip,
                    _ => return Err(Problem::unsupported_coding()),
                }
            }
        }
        Ok(coding)
    }
}

/// The JSON of a request of at most so many octets, packed or unpacked.
pub(super) async fn json<T>(headers: &HeaderMap, body: Body, len_max: usize) -> Result<T, Problem>
where
    T: DeserializeOwned + Send + 'static,
{
    json_with_len(headers, body, len_max).await.map(|(json, _)| json)
}

/// The same, and how many octets it was.
pub(super) async fn json_with_len<T>(headers: &HeaderMap, body: Body, len_max: usize) -> Result<(T, usize), Problem>
where
    T: DeserializeOwned + Send + 'static,
{
    let coding = Coding::of(headers)?;
    let packed = whole(body, len_max).await?;
    let text = match coding {
        Coding::Identity => packed,
        // Off the threads that move mail: a megabyte takes milliseconds.
        Coding::Gzip => {
            let unpacking = tokio::task::spawn_blocking(move || unpacked(&packed, len_max));
            unpacking.await.unwrap_or_else(|_| Err(Problem::invalid("the body cannot be unpacked")))?
        }
    };
    let len = text.len();
    let json = apart(len, move || {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        serde_json::from_slice(text).map_err(|error| Problem::unreadable(&error))
    });
    Ok((json.await?, len))
}

/// Work on so many octets that a client sent; on those of a long request off the threads that move mail.
pub(super) async fn apart<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if len <= SHORT_LEN {
        return work();
    }
    // A panic is a bug of its own.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Problem::from(Refusal::Internal)))
}

/// A small request as it came, unpacked: what is signed is every octet of it.
pub(super) async fn small(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    match Coding::of(headers)? {
        Coding::Identity => whole(body, SMALL_LEN_MAX).await,
        Coding::Gzip => Err(Problem::unsupported_coding()),
    }
}

/// The JSON of a small request.
pub(super) async fn small_json<T>(headers: &HeaderMap, body: Body) -> Result<T, Problem>
where
    T: DeserializeOwned + Send + 'static,
{
    json(headers, body, SMALL_LEN_MAX).await
}

fn too_large(len_max: usize) -> Problem {
    Problem::too_large(format!("a request of more than {len_max} bytes")).in_our_words()
}

async fn whole(body: Body, len_max: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(TIMEOUT, Limited::new(body, len_max).collect()).await {
        Err(_) => Err(Problem::too_slow()),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(len_max)),
        Ok(Err(_)) => Err(Problem::invalid("the request's body did not come whole")),
    }
}

/// One gzip member and nothing behind it. No more than `len_max` octets and one are ever unpacked.
fn unpacked(packed: &[u8], len_max: usize) -> Result<Bytes, Problem> {
    let malformed = || Problem::invalid("the body is not what Content-Encoding says (gzip)");
    let mut text = Vec::with_capacity(packed.len().min(len_max));
    let mut decoder = GzDecoder::new(packed);
    let bound = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.by_ref().take(bound).read_to_end(&mut text).map_err(|_| malformed())?;
    if text.len() > len_max {
        return Err(too_large(len_max));
    }
    if !decoder.into_inner().is_empty() {
        return Err(malformed());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_to_its_bound() {
        assert_eq!(unpacked(&packed(b"{}"), 2).unwrap().as_ref(), b"{}");
        assert_eq!(unpacked(&packed(b""), 2).unwrap().as_ref(), b"");
        assert!(unpacked(&packed(b"{ }"), 2).is_err());
        let bomb = packed(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100 << 10, "{}", bomb.len());
        assert!(unpacked(&bomb, 64 << 10).is_err());
        assert!(unpacked(&[packed(b"{"), packed(b"}")].concat(), 10).is_err(), "two members");
        assert!(unpacked(&packed(b"{}")[..10], 10).is_err());
        assert!(unpacked(b"{}", 10).is_err());
    }

    #[test]
    fn codings_are_known_or_refused() {
        let coding = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            Coding::of(&headers).ok()
        };
        assert_eq!(coding(&[]), Some(Coding::Identity));
        assert_eq!(coding(&["identity"]), Some(Coding::Identity));
        assert_eq!(coding(&["GZip"]), Some(Coding::Gzip));
        assert_eq!(coding(&["identity, gzip"]), Some(Coding::Gzip));
        for refused in [&["br"][..], &["deflate"], &["gzip, gzip"], &["gzip", "gzip"], &["zstd"], &["gzip;q=1"]] {
            assert_eq!(coding(refused), None, "{refused:?}");
        }
    }
}
