//! `GET /openapi.json`: the API's description (OpenAPI 3.1), made of the types and paths that the code has.

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, SecurityRequirement};

use super::doors;
use super::problem::ProblemJson;
use super::refusals::Refusals;

/// What stands before the paths.
pub(super) fn head() -> OpenApi {
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A user's token, or the operator's."));
    let server_token = ApiKey::Header(ApiKeyValue::with_description("X-Postmark-Server-Token", "A user's token."));
    let components = ComponentsBuilder::new()
        .security_scheme("token", SecurityScheme::Http(bearer.build()))
        .security_scheme("server_token", SecurityScheme::ApiKey(server_token))
        .schema_from::<ProblemJson>();
    let components = doors::errors(components);
    let info = InfoBuilder::new()
        .title("otp-relay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Sends one-time codes, and tells what became of them."))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))));
    let security = SecurityRequirement::new("token", Vec::<String>::new());
    OpenApiBuilder::new().info(info.build()).components(Some(components.build())).security(Some([security])).build()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Refusals))]
pub(super) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], super::description())
}
