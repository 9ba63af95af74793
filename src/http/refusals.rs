//! How the API refuses, for its description: which statuses there are, all with problem details.

use utoipa::IntoResponses;

use super::problem::ProblemJson;

/// Refusals, as they are documented.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description")]
pub(super) enum Refusals {
    #[response(status = 400, description = "no proper request", content_type = "application/problem+json")]
    BadRequest(ProblemJson),
    #[response(status = 401, description = "a valid token is needed", content_type = "application/problem+json")]
    Unauthorized(ProblemJson),
    #[response(status = 403, description = "not allowed", content_type = "application/problem+json")]
    Forbidden(ProblemJson),
    #[response(status = 404, description = "not found", content_type = "application/problem+json")]
    NotFound(ProblemJson),
    #[response(
        status = 405,
        description = "the path does not have this method",
        content_type = "application/problem+json"
    )]
    Method(ProblemJson),
    #[response(status = 408, description = "the body came too slowly", content_type = "application/problem+json")]
    Slow(ProblemJson),
    #[response(status = 409, description = "the idempotency key was used", content_type = "application/problem+json")]
    Conflict(ProblemJson),
    #[response(status = 413, description = "too large", content_type = "application/problem+json")]
    TooLarge(ProblemJson),
    #[response(status = 415, description = "an unknown content coding", content_type = "application/problem+json")]
    Coding(ProblemJson),
    #[response(status = 421, description = "not for this host", content_type = "application/problem+json")]
    Host(ProblemJson),
    #[response(status = 422, description = "not usable as it is", content_type = "application/problem+json")]
    Invalid(ProblemJson),
    #[response(status = 429, description = "faster or more than allowed", content_type = "application/problem+json")]
    TooMany(ProblemJson),
    #[response(status = 503, description = "not now", content_type = "application/problem+json")]
    Unavailable(ProblemJson),
}
