//! Content as it goes over the wire.

use bytes::Bytes;

use crate::ledger::entry::SignedContent;
use crate::smtp::client_session::Framing;
use crate::smtp::data;

/// Octets of content that are dot-stuffed where mail is moved; longer content is on another thread.
const FRAMED_HERE_MAX: usize = 32 << 10;

/// What goes over the wire, behind what `wire` holds; none where that could not be made.
pub(super) async fn framed(framing: Framing, content: &SignedContent, mut wire: Vec<u8>) -> Option<Vec<u8>> {
    let parts = [&content.signatures, &content.content.head, &content.content.body].map(Bytes::clone);
    if framing == Framing::Chunk || content.len() <= FRAMED_HERE_MAX {
        frame(framing, &parts, &mut wire);
        return Some(wire);
    }
    let framing = move || {
        frame(framing, &parts, &mut wire);
        wire
    };
    tokio::task::spawn_blocking(framing).await.ok()
}

/// Adds the content as it goes over the wire.
fn frame(framing: Framing, parts: &[Bytes; 3], wire: &mut Vec<u8>) {
    wire.reserve(parts.iter().map(Bytes::len).sum::<usize>() + 64);
    match framing {
        Framing::Chunk => parts.iter().for_each(|part| wire.extend_from_slice(part)),
        Framing::Dotted => {
            let start = wire.len();
            for part in parts {
                let at_line_start = wire.len() == start || wire.ends_with(b"\r\n");
                if data::needs_stuffing(part, at_line_start) {
                    data::stuff(part, at_line_start, wire);
                } else {
                    wire.extend_from_slice(part);
                }
            }
            let end = data::final_dot(&wire[start..]);
            wire.extend_from_slice(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::message::Content;

    fn framed(framing: Framing, signatures: &'static str, content: &'static str) -> String {
        let content = Content::split(content.into());
        let mut wire = b"BDAT 1 LAST\r\n".to_vec();
        frame(framing, &[signatures.into(), content.head, content.body], &mut wire);
        String::from_utf8(wire).unwrap()
    }

    #[test]
    fn content_is_framed() {
        let content = "From: a\r\n\r\n.dot\r\nlast";
        assert_eq!(framed(Framing::Chunk, "D: x\r\n", content), format!("BDAT 1 LAST\r\nD: x\r\n{content}"));
        assert_eq!(
            framed(Framing::Dotted, "D: x\r\n", content),
            "BDAT 1 LAST\r\nD: x\r\nFrom: a\r\n\r\n..dot\r\nlast\r\n.\r\n"
        );
        assert_eq!(framed(Framing::Dotted, "", "From: a\r\n"), "BDAT 1 LAST\r\nFrom: a\r\n.\r\n");
    }
}
