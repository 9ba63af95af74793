//! How the API refuses, for its description: which statuses there are, all with problem details.

use std::collections::BTreeMap;

use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::problem::ProblemJson;

/// Responses by status, as utoipa has them.
pub(super) type Responses = BTreeMap<String, RefOr<Response>>;

const MEANINGS: [(u16, &str); 13] = [
    (400, "no proper request"),
    (401, "a valid token is needed"),
    (403, "not allowed"),
    (404, "not found"),
    (405, "the path does not have this method"),
    (408, "the body came too slowly"),
    (409, "the idempotency key was used"),
    (413, "too large"),
    (415, "an unknown content coding"),
    (421, "not for this host"),
    (422, "not usable as it is"),
    (429, "faster or more than allowed"),
    (503, "not now"),
];

/// Refusals, as they are documented.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        described::<ProblemJson>("application/problem+json", |_| true)
    }
}

/// The statuses that a shape refuses with, each with a body of this type.
pub(super) fn described<T: ToSchema>(media_type: &str, has: fn(u16) -> bool) -> Responses {
    let meanings = MEANINGS.into_iter().filter(|(status, _)| has(*status));
    let described = meanings.map(|(status, meaning)| {
        let body = Content::new(Some(Ref::from_schema_name(T::name())));
        let response = ResponseBuilder::new().description(meaning).content(media_type, body).build();
        (status.to_string(), response.into())
    });
    described.collect()
}
