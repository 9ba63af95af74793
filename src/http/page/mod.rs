//! The page at `/`: how codes fare, one screen for whoever runs the relay. It is served by the relay alone, loads nothing from
//! elsewhere and has no script or style in its text. Whoever signs in shows a token once; it then comes in a cookie that no
//! script can read and no other site can send.

mod chart;
mod data;
mod figures;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::auth::{self, Access, ShownToken};
use super::body::{Payload, small_json};
use super::problem::Problem;
pub(super) use figures::Day;

/// The cookie that holds the token.
pub(super) const COOKIE: &str = "otp_relay_token";
/// A field that a form on another site cannot send; without it the cookie changes nothing.
pub(super) const CHANGES: HeaderName = HeaderName::from_static("x-otp-page");
/// How long a browser keeps the cookie, in seconds.
const KEPT_S: u32 = 12 * 3600;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");
/// Everything from here, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// How long what is served may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Until it is asked whether it is still so.
    Revalidate,
    Never,
}

fn guarded(mut response: Response, keep: Keep) -> Response {
    let headers = response.headers_mut();
    let kept = match keep {
        Keep::Revalidate => "no-cache",
        Keep::Never => "no-store",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn text(content_type: &'static str, text: &'static str) -> Response {
    guarded(([(header::CONTENT_TYPE, content_type)], text).into_response(), Keep::Revalidate)
}

/// `GET /`.
pub(super) async fn html() -> Response {
    text("text/html; charset=utf-8", HTML)
}

/// `GET /page/page.css`.
pub(super) async fn style() -> Response {
    text("text/css; charset=utf-8", STYLE)
}

/// `GET /page/page.js`.
pub(super) async fn script() -> Response {
    text("text/javascript; charset=utf-8", SCRIPT)
}

/// `GET /page/icon.svg`.
pub(super) async fn icon() -> Response {
    text("image/svg+xml", ICON)
}

/// `GET /page/data`: what the page shows; to a user only who it is, to nobody that they are nobody.
pub(super) async fn data(access: Result<Access, Problem>) -> Response {
    let answer = match access {
        Ok(Access(api, who)) => Json(data::of(&api, &who).await).into_response(),
        Err(_) => Json(serde_json::json!({"who": null})).into_response(),
    };
    guarded(answer, Keep::Never)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    token: String,
}

/// `POST /page/session`: signs in.
pub(super) async fn sign_in(State(api): State<Arc<Api>>, Payload(headers, body): Payload) -> Result<Response, Problem> {
    if !headers.contains_key(CHANGES) {
        return Err(Problem::forbidden("signing in takes the header X-OTP-Page"));
    }
    let Session { token } = small_json(&headers, body).await?;
    let token = token.trim();
    let is_plain =
        !token.is_empty() && token.bytes().all(|octet| octet.is_ascii_graphic() && !b";,\"\\".contains(&octet));
    match auth::by_token(&api, token) {
        ShownToken::Token(_) if is_plain => Ok(with_cookie(token, KEPT_S, came_by(&api, &headers))),
        ShownToken::Token(_) | ShownToken::Nothing | ShownToken::Nonsense => Err(Problem::wrong_token()),
    }
}

/// `DELETE /page/session`: signs out.
pub(super) async fn sign_out(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    with_cookie("", 0, came_by(&api, &headers))
}

/// How a browser reaches the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In clear text, at least for the last part of the way, and nobody says otherwise.
    Clear,
    /// By TLS to here, or to a proxy.
    Tls,
}

/// By TLS where the listener speaks it; else as the browser names the page's origin, or a proxy the scheme. A client that is
/// wrong about it loses its own cookie, and nothing else: the word of anybody is good enough.
fn came_by(api: &Api, headers: &HeaderMap) -> Way {
    if api.settings.load().tls { Way::Tls } else { named_way(headers) }
}

fn named_way(headers: &HeaderMap) -> Way {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = text("x-forwarded-proto").split(',').next().unwrap_or_default().trim();
    let is_tls = text("origin").starts_with("https://") || scheme.eq_ignore_ascii_case("https");
    if is_tls { Way::Tls } else { Way::Clear }
}

fn with_cookie(token: &str, age_s: u32, way: Way) -> Response {
    let secure = match way {
        Way::Clear => "",
        Way::Tls => "; Secure",
    };
    let cookie = format!("{COOKIE}={token}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    guarded(response, Keep::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_stays_on_encrypted_ways() {
        let check = |name: &'static str, value: &str, expected: Way| {
            let headers = [(HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect();
            assert_eq!(named_way(&headers), expected, "{name}: {value}");
        };
        check("origin", "https://relay.example.com", Way::Tls);
        check("origin", "http://127.0.0.1:8587", Way::Clear);
        check("origin", "null", Way::Clear);
        check("x-forwarded-proto", "HTTPS, http", Way::Tls);
        check("x-forwarded-proto", "http, https", Way::Clear);
        assert_eq!(named_way(&HeaderMap::new()), Way::Clear);
        let set = |way| with_cookie("t", 9, way).headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(set(Way::Tls).ends_with("; SameSite=Strict; Secure") && set(Way::Clear).ends_with("; SameSite=Strict"));
    }

    #[test]
    fn the_page_is_small_and_has_nothing_inline() {
        assert!(HTML.len() + STYLE.len() + SCRIPT.len() < 100 << 10);
        for inline in ["<style", " style=", " onclick=", "javascript:", "http://", "https://"] {
            assert!(!HTML.contains(inline), "{inline}");
        }
        assert_eq!(HTML.matches("<script").count(), HTML.matches("<script src=\"/page/").count());
        for unsafe_call in ["innerHTML", "eval(", "document.write", "https://"] {
            assert!(!SCRIPT.contains(unsafe_call), "{unsafe_call}");
        }
        assert!(!STYLE.contains("url("));
    }
}
