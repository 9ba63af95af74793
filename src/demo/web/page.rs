//! `GET /`: a page of what came. Its script and its style are files of their own: nothing inline runs.

use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::answers::typed;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn html() -> Response {
    let mut response = typed("text/html; charset=utf-8", include_str!("../page/index.html"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

pub(super) async fn script() -> Response {
    typed("text/javascript; charset=utf-8", include_str!("../page/page.js"))
}

pub(super) async fn style() -> Response {
    typed("text/css; charset=utf-8", include_str!("../page/page.css"))
}
