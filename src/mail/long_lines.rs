//! Lines of more than 998 octets (RFC 5322 section 2.1.1), which mail hosts cut, refuse or break as they like. Before a message is
//! signed, header fields are folded at white space, and the part with such a line is encoded anew (RFC 2045 section 6): its text
//! reads the same. What is signed or encrypted inside the message is not touched.

use bytes::{BufMut, Bytes, BytesMut};
use mail_parser::{MessageParser, MimeHeaders as _};
use memchr::memchr_iter;
use zeroize::Zeroizing;

use super::message::{Content, Field, fields, wiped};

/// Octets of a line without its CRLF.
pub(crate) const LINE_LEN_MAX: usize = 998;
/// Octets of a line of what is encoded here.
const ENCODED_LINE_LEN: usize = 76;
/// Multiparts in one another.
const DEPTH_MAX: usize = 16;

/// A long line that stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongLine {
    /// From 1, header section included.
    pub number: usize,
    /// Why nothing is done about it.
    pub(crate) why: &'static str,
}

/// The first long line of content, if there is one.
pub(crate) fn first(content: &[u8]) -> Option<usize> {
    let mut start = 0;
    for (index, end) in memchr_iter(b'\n', content).chain([content.len()]).enumerate() {
        if content[start..end].len() > LINE_LEN_MAX && without_cr(&content[start..end]).len() > LINE_LEN_MAX {
            return Some(index + 1);
        }
        start = end + 1;
    }
    None
}

/// The same message without long lines.
///
/// # Errors
/// The first line that cannot be shortened without changing what the message says.
pub(crate) fn shortened(content: &Bytes) -> Result<Bytes, LongLine> {
    let mut output = Vec::with_capacity(content.len() + content.len() / 8);
    entity(content, 1, 0, &mut output)?;
    Ok(wiped(output))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Lines of `octets`, each with its end.
fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.split_inclusive(|octet| *octet == b'\n')
}

/// A header section and its body, whose first line has this number in the whole.
fn entity(content: &[u8], line: usize, depth: usize, output: &mut Vec<u8>) -> Result<(), LongLine> {
    let Some(long) = first(content) else {
        output.put_slice(content);
        return Ok(());
    };
    let Content { head, body } = Content::split(wiped(content.to_vec()));
    let head_lines = memchr_iter(b'\n', &head).count();
    let head = folded(&head, line)?;
    let Some(long_in_body) = first(&body) else {
        output.put_slice(&head);
        output.put_slice(&body);
        return Ok(());
    };
    let fault = |why| LongLine { number: line + long.max(head_lines + long_in_body) - 1, why };
    let parser = MessageParser::new().with_mime_headers();
    // A section without any field has no part to be asked.
    let parsed = parser.parse_headers(&head[..]).filter(|parsed| !parsed.parts.is_empty());
    let kind = parsed.as_ref().and_then(|parsed| parsed.content_type());
    match kind.map(|kind| (kind.ctype().to_ascii_lowercase(), kind.subtype().unwrap_or_default().to_ascii_lowercase()))
    {
        Some((kind, subtype)) if kind == "multipart" && matches!(subtype.as_str(), "signed" | "encrypted") => {
            Err(fault("in a part that is signed or encrypted"))
        }
        Some((multipart, _)) if multipart == "multipart" => {
            let boundary = kind.and_then(|kind| kind.attribute("boundary")).filter(|boundary| !boundary.is_empty());
            let boundary = boundary.ok_or_else(|| fault("in a multipart without a boundary"))?;
            if depth == DEPTH_MAX {
                return Err(fault("in parts of parts of parts"));
            }
            output.put_slice(&head);
            parts(&body, boundary, line + head_lines, depth, output)
        }
        Some((message, _)) if message == "message" => Err(fault("in a message within the message")),
        _ => leaf(&head, &body, depth, output).map_err(fault),
    }
}

/// The body of a multipart.
fn parts(body: &[u8], boundary: &str, line: usize, depth: usize, output: &mut Vec<u8>) -> Result<(), LongLine> {
    let delimiter = format!("--{boundary}");
    let (mut part, mut part_line, mut is_inside) = (Zeroizing::new(Vec::new()), line, false);
    let flush = |part: &[u8], line: usize, is_inside: bool, output: &mut Vec<u8>| match (is_inside, first(part)) {
        (true, _) => entity(part, line, depth + 1, output),
        (false, None) => {
            output.put_slice(part);
            Ok(())
        }
        (false, Some(long)) => {
            Err(LongLine { number: line + long - 1, why: "before the first part or behind the last" })
        }
    };
    for (index, text) in lines(body).enumerate() {
        let rest = text.strip_prefix(delimiter.as_bytes());
        let rest = rest.map(|rest| (rest.starts_with(b"--"), rest.strip_prefix(b"--").unwrap_or(rest)));
        match rest.filter(|(_, rest)| rest.iter().all(u8::is_ascii_whitespace)) {
            None => part.extend_from_slice(text),
            Some((is_last, _)) => {
                flush(&part, part_line, is_inside, output)?;
                output.put_slice(text);
                part.clear();
                (part_line, is_inside) = (line + index + 1, !is_last);
            }
        }
    }
    flush(&part, part_line, is_inside, output)
}

/// A part that has no parts.
fn leaf(head: &[u8], body: &[u8], depth: usize, output: &mut Vec<u8>) -> Result<(), &'static str> {
    let text = body.strip_prefix(b"\r\n").unwrap_or(body);
    let encoding = fields(head).find(|field| field.is("Content-Transfer-Encoding")).and_then(|field| field.text());
    let encoding = encoding.unwrap_or_default().to_ascii_lowercase();
    match encoding.as_str() {
        "base64" => {
            output.put_slice(head);
            output.put_slice(b"\r\n");
            wrap_base64(text, output);
        }
        "quoted-printable" => {
            output.put_slice(head);
            output.put_slice(b"\r\n");
            wrap_quoted_printable(text, output);
        }
        "" | "7bit" | "8bit" | "binary" => {
            let is_encoding = |field: &Field<'_>| field.is("Content-Transfer-Encoding");
            fields(head).filter(|field| !is_encoding(field)).for_each(|field| output.put_slice(field.raw));
            if depth == 0 && !fields(head).any(|field| field.is("MIME-Version")) {
                output.put_slice(b"MIME-Version: 1.0\r\n");
            }
            output.put_slice(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n");
            quoted_printable(text, output);
        }
        _ => return Err("in a part of unknown encoding"),
    }
    Ok(())
}

/// Base64 in lines of the usual length; line ends mean nothing in it.
fn wrap_base64(text: &[u8], output: &mut Vec<u8>) {
    let digits: Vec<u8> = text.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    for line in digits.chunks(ENCODED_LINE_LEN) {
        output.put_slice(line);
        output.put_slice(b"\r\n");
    }
}

/// Quoted-printable with soft line ends where its lines are long.
fn wrap_quoted_printable(text: &[u8], output: &mut Vec<u8>) {
    for line in lines(text) {
        let mut rest = line;
        while without_end(rest).len() > LINE_LEN_MAX {
            let mut len = ENCODED_LINE_LEN - 1;
            // Not within `=3D`.
            while rest[len - 1] == b'=' || rest[len - 2] == b'=' {
                len -= 1;
            }
            output.put_slice(&rest[..len]);
            output.put_slice(b"=\r\n");
            rest = &rest[len..];
        }
        output.put_slice(rest);
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    without_cr(line.strip_suffix(b"\n").unwrap_or(line))
}

/// Text as quoted-printable; its line ends stay.
pub(crate) fn quoted_printable(text: &[u8], output: &mut Vec<u8>) {
    for line in lines(text) {
        let content = without_end(line);
        let mut column = 0;
        for (index, octet) in content.iter().enumerate() {
            let is_last = index + 1 == content.len();
            let is_plain = match octet {
                b'=' => false,
                // What some hosts change at the start of a line.
                b'.' | b'F' => column > 0,
                b' ' | b'\t' => !is_last,
                other => other.is_ascii_graphic(),
            };
            let len = if is_plain { 1 } else { 3 };
            if column + len > ENCODED_LINE_LEN - usize::from(!is_last) {
                output.put_slice(b"=\r\n");
                column = 0;
            }
            if is_plain {
                output.push(*octet);
            } else {
                output.put_slice(format!("={octet:02X}").as_bytes());
            }
            column += len;
        }
        output.put_slice(&line[content.len()..]);
    }
}

/// Header fields folded where their lines are long.
fn folded(head: &Bytes, line: usize) -> Result<Bytes, LongLine> {
    if first(head).is_none() {
        return Ok(head.clone());
    }
    let mut output = BytesMut::with_capacity(head.len() + head.len() / 64);
    for (index, text) in lines(head).enumerate() {
        let fault = LongLine { number: line + index, why: "in the header section, without white space to fold it at" };
        fold(text, &mut output).ok_or(fault)?;
    }
    Ok(output.freeze())
}

/// One line, as few pieces of it as fit; none where there is no place to fold.
fn fold(line: &[u8], output: &mut BytesMut) -> Option<()> {
    let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t');
    let mut rest = line;
    while without_end(rest).len() > LINE_LEN_MAX {
        // Neither piece may be all white space: such a line ends the header section for some.
        let start = rest.iter().position(|octet| !is_blank(octet))?;
        let end = without_end(rest).iter().rposition(|octet| !is_blank(octet))?;
        let limit = end.min(LINE_LEN_MAX);
        let at = start + rest.get(start..=limit)?.iter().rposition(is_blank)?;
        output.put_slice(&rest[..at]);
        output.put_slice(b"\r\n");
        rest = &rest[at..];
    }
    output.put_slice(rest);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoded form, after checking that it has no long line, and that what it says is what was said.
    fn check(content: &str) -> String {
        let short = shortened(&Bytes::from(content.to_owned())).unwrap_or_else(|fault| panic!("{fault:?}"));
        assert!(first(content.as_bytes()).is_some() && first(&short).is_none(), "{content}");
        let short = String::from_utf8(short.to_vec()).unwrap();
        let said = |text: &str| {
            let message = MessageParser::default().parse(text).unwrap();
            let parts = message.parts.iter().filter(|part| !part.is_multipart()).map(|part| part.contents().to_vec());
            let headers =
                message.headers_raw().filter(|(name, _)| !name.starts_with("Content-Tr") && *name != "MIME-Version");
            let headers = headers.map(|(name, value)| format!("{name}:{}", value.replace("\r\n", "").trim()));
            (parts.collect::<Vec<_>>(), headers.collect::<Vec<_>>())
        };
        assert_eq!(said(content), said(&short), "{short}");
        short
    }

    fn refused(content: &str) -> (usize, &'static str) {
        let fault = shortened(&Bytes::from(content.to_owned())).unwrap_err();
        (fault.number, fault.why)
    }

    #[test]
    fn long_lines_are_found() {
        let line = |len: usize| "x".repeat(len);
        assert_eq!(first(format!("a\r\n{}\r\n", line(998)).as_bytes()), None);
        assert_eq!(first(format!("a\r\n{}", line(998)).as_bytes()), None);
        assert_eq!(first(format!("a\r\n{}\r\nb", line(999)).as_bytes()), Some(2));
        assert_eq!(first(format!("a\r\n{}", line(999)).as_bytes()), Some(2));
        assert_eq!(first(b""), None);
    }

    /// A part, or a message that is refused later, may have no header section that can be read.
    #[test]
    fn a_section_without_fields_is_no_end_of_the_world() {
        let long = "x".repeat(1200);
        for content in [format!("\r\n{long}\r\n"), format!(":\r\n\r\n{long}"), long.clone(), format!(" \r\n\r\n{long}")]
        {
            // Whatever comes of it, it comes to something.
            let _ = shortened(&Bytes::from(content));
        }
        let part = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n";
        let short = shortened(&Bytes::from(format!("{part}{long}\r\n--b--\r\n"))).unwrap();
        assert_eq!(first(&short), None);
    }

    #[test]
    fn text_becomes_quoted_printable() {
        let long = format!("F.=\t {} \t\r\n.\r\nFrom x\r\n \r\nend", "Gr\u{fc}\u{df}e, ".repeat(200));
        for head in [
            "Subject: x\r\n",
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX: y\r\n",
            "content-type: TEXT/html; charset=utf-8\r\nmime-version: 1.0\r\ncontent-transfer-encoding: 7bit\r\n",
        ] {
            let short = check(&format!("{head}\r\n{long}"));
            assert_eq!(short.to_ascii_lowercase().matches("mime-version: 1.0\r\n").count(), 1, "{short}");
            assert_eq!(short.to_ascii_lowercase().matches("content-transfer-encoding:").count(), 1, "{short}");
            assert!(short.is_ascii() && short.split("\r\n\r\n").nth(1).unwrap().lines().all(|line| line.len() <= 76));
        }
    }

    #[test]
    fn only_the_part_with_the_line_changes() {
        let part = |body: &str| {
            format!("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}\r\n")
        };
        let inner = format!(
            "Content-Type: multipart/alternative; boundary=\"in ner\"\r\n\r\n--in ner\r\n{}--in ner \r\n{}--in ner--\r\n",
            part("short \u{fc}"),
            part(&"long ".repeat(300)),
        );
        let content = format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=outer\r\n\r\npreamble\r\n--outer\r\n{inner}--outer\r\n{}--outer--\r\nepilogue\r\n",
            part("short too \u{fc}"),
        );
        let short = check(&content);
        assert_eq!(short.matches("quoted-printable").count(), 1);
        assert!(short.contains(&part("short \u{fc}")) && short.contains(&part("short too \u{fc}")));
        let start = short.find("epilogue").unwrap();
        assert_eq!(&short[start - 11..], "--outer--\r\nepilogue\r\n");
    }

    #[test]
    fn what_is_encoded_is_wrapped() {
        let base64 = "TWFueSBoYW5kcw".repeat(2 * 50) + "==";
        let short =
            check(&format!("Content-Type: text/plain\r\nContent-Transfer-Encoding: BASE64\r\n\r\n{base64}\r\n"));
        assert_eq!(
            short.replace("\r\n", ""),
            format!("Content-Type: text/plainContent-Transfer-Encoding: BASE64{base64}")
        );
        for shift in 0..3 {
            let printable = format!("{}{}", "x".repeat(shift), "=C3=BC".repeat(400));
            check(&format!(
                "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{printable}\r\n"
            ));
        }
    }

    #[test]
    fn header_fields_are_folded() {
        let short = check(&format!("Subject: {}\r\nTo: x\r\n\r\nbody\r\n", "word ".repeat(500)));
        assert_eq!(short.matches("\r\n word").count(), 2);
        check(&format!("Subject:{}word\r\n\r\nbody\r\n", " ".repeat(3) + &"x".repeat(500) + " " + &"y".repeat(600)));
        check(&format!("References: <{}@x>\r\n <{}@y> <z@z>\r\n\r\nbody\r\n", "x".repeat(300), "y".repeat(990)));
        let number = refused(&format!("To: x\r\nSubject: {}\r\n\r\nbody\r\n", "x".repeat(1000)));
        assert_eq!(number, (2, "in the header section, without white space to fold it at"));
        // Folded here, a line of nothing but white space would end the header section for some.
        assert_eq!(refused(&format!("Subject: x{}\r\n\r\n", " ".repeat(2000))).0, 1);
        assert_eq!(refused(&format!("Subject: x\r\n{}y\r\n\r\n", " ".repeat(2000))).0, 2);
    }

    #[test]
    fn what_is_signed_stays() {
        let long = "x".repeat(999);
        for kind in ["signed; protocol=\"application/pgp-signature\"", "encrypted"] {
            let content = format!(
                "Content-Type: multipart/{kind}; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n{long}\r\n--b--\r\n"
            );
            assert_eq!(refused(&content), (6, "in a part that is signed or encrypted"));
            let nested = format!("Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n{content}\r\n--a--\r\n");
            assert_eq!(refused(&nested), (9, "in a part that is signed or encrypted"));
        }
        let within = format!("Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\n{long}\r\n");
        assert_eq!(refused(&within), (5, "in a message within the message"));
        let odd = format!("Content-Transfer-Encoding: x-uuencode\r\n\r\n{long}\r\n");
        assert_eq!(refused(&odd), (3, "in a part of unknown encoding"));
        let lost = format!("Content-Type: multipart/mixed; boundary=a\r\n\r\n{long}\r\n--a\r\n\r\nx\r\n--a--\r\n");
        assert_eq!(refused(&lost), (3, "before the first part or behind the last"));
        let nowhere = format!("Content-Type: multipart/mixed\r\n\r\n{long}\r\n");
        assert_eq!(refused(&nowhere), (3, "in a multipart without a boundary"));
    }

    #[test]
    fn depth_is_bounded() {
        let mut content = format!("\r\n{}\r\n", "x".repeat(999));
        for depth in 0..20 {
            content = format!(
                "Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n{content}--b{depth}--\r\n"
            );
        }
        assert_eq!(refused(&content).1, "in parts of parts of parts");
    }

    proptest::proptest! {
        /// Whatever comes: the result has no long line, and what can be read of it is the same.
        #[test]
        fn nothing_is_lost(pieces in proptest::collection::vec("[ -~\u{e4}]{0,40}", 1..80), ends in proptest::collection::vec(proptest::bool::weighted(0.05), 80)) {
            let mut body = String::new();
            for (piece, ends) in pieces.iter().zip(ends) {
                body.push_str(piece);
                body.push_str(if ends { "\r\n" } else { "" });
            }
            let content = format!("Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}");
            let short = shortened(&Bytes::from(content.clone())).unwrap();
            proptest::prop_assert!(first(&short).is_none());
            let read = |octets: &[u8]| MessageParser::default().parse(octets).and_then(|m| m.body_text(0).map(|t| t.into_owned()));
            proptest::prop_assert_eq!(read(content.as_bytes()), read(&short));
        }
    }
}
