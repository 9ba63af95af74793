//! Content as it comes in, gone through once before anything else is done with it. Whoever sent it chose how much there is
//! to read, so longer content is read off the threads that move mail.

use bytes::Bytes;

use super::options::{self, Options};
use super::refusal::Refusal;
use super::stamp::{self, Header, LongLines};
use crate::mail::message::Content;

/// Octets of content that are read where they came in: a code and its template, not a header section that was made to be
/// costly.
const PARSED_HERE_MAX: usize = 16 << 10;

/// What is known of a message once it was read.
pub(super) struct ParsedContent {
    /// Without long lines, options and private fields.
    pub(super) content: Content,
    pub(super) header: Header,
    /// What its header section asks for.
    pub(super) options: Options,
    /// Long lines were encoded.
    pub(super) is_encoded: bool,
}

/// Reads content.
///
/// # Errors
/// Why it cannot be sent.
pub(super) async fn parse(content: Bytes, policy: LongLines) -> Result<ParsedContent, Refusal> {
    if content.len() <= PARSED_HERE_MAX {
        return parse_here(content, policy);
    }
    // A panic is a bug of its own.
    tokio::task::spawn_blocking(move || parse_here(content, policy)).await.unwrap_or(Err(Refusal::Internal))
}

fn parse_here(content: Bytes, policy: LongLines) -> Result<ParsedContent, Refusal> {
    stamp::check_first_line(&content)?;
    stamp::check_size(&content)?;
    let (content, is_encoded) = stamp::without_long_lines(content, policy)?;
    let Content { head, body } = Content::split(content);
    let (options, head) = options::take(head)?;
    let content = Content { head: stamp::without_private_fields(head), body };
    let header = stamp::read(&content.head)?;
    Ok(ParsedContent { content, header, options, is_encoded })
}
