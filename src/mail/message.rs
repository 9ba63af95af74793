//! The content of a message as bytes: header fields and body (RFC 5322 section 2.1), never reformatted.

use bytes::Bytes;
use mail_parser::MessageParser;
use memchr::memchr;
use zeroize::Zeroize as _;

/// The content: header section and body, apart, so that fields can be put in front without copying the body.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// The header fields, each ending in CRLF.
    pub head: Bytes,
    /// The empty line and what follows it; empty if the message has neither.
    pub body: Bytes,
}

impl Content {
    /// Takes content apart. Where a line that is no field ends the header section without an empty line, as if there
    /// were one: the body then starts with a CRLF that was not in the input.
    pub fn split(content: Bytes) -> Self {
        let end = header_section_end(&content);
        let (head, body) = (content.slice(..end), content.slice(end..));
        if body.is_empty() || body.starts_with(b"\r\n") {
            return Self { head: ended_by_crlf(head), body };
        }
        let mut separated = Vec::with_capacity(body.len() + 2);
        separated.extend_from_slice(b"\r\n");
        separated.extend_from_slice(&body);
        Self { head, body: wiped(separated) }
    }

    /// The first subject, decoded.
    pub fn subject(&self) -> Option<String> {
        let field = fields(&self.head).find(|field| field.is("Subject"))?;
        match field.plain_text() {
            Some(plain) => Some(plain.to_owned()),
            None => MessageParser::default().parse_headers(field.raw)?.subject().map(str::to_owned),
        }
    }

    /// Octets in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all octets are below 128.
    pub fn is_ascii(&self) -> bool {
        self.head.is_ascii() && self.body.is_ascii()
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} + {} octets)", self.head.len(), self.body.len())
    }
}

fn ended_by_crlf(head: Bytes) -> Bytes {
    if head.is_empty() || head.ends_with(b"\r\n") {
        return head;
    }
    let mut ended = head.to_vec();
    ended.extend_from_slice(b"\r\n");
    wiped(ended)
}

/// `Bytes` that are zeroed when the last clone or slice of them is dropped.
pub(crate) fn wiped(octets: impl AsRef<[u8]> + AsMut<[u8]> + Send + 'static) -> Bytes {
    Bytes::from_owner(Wiped(octets))
}

struct Wiped<T: AsMut<[u8]>>(T);

impl<T: AsRef<[u8]> + AsMut<[u8]>> AsRef<[u8]> for Wiped<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<T: AsMut<[u8]>> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, without white space before the colon.
    pub name: &'a [u8],
    /// Everything between the colon and the final CRLF, folding included.
    pub value: &'a [u8],
    /// The whole field with name, colon and CRLF.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// Whether the field has this name; case does not count.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value trimmed, where nothing has to be decoded: printable ASCII on one line, no encoded word, not empty.
    fn plain_text(&self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.value).ok()?.trim_matches(' ');
        let is_plain = !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~')) && !text.contains("=?");
        is_plain.then_some(text)
    }

    /// The value unfolded and trimmed; none if it is not UTF-8.
    pub fn text(&self) -> Option<String> {
        let text = std::str::from_utf8(self.value).ok()?;
        Some(text.replace(['\r', '\n'], "").trim().to_owned())
    }
}

/// The fields of a header section, in order. Ends at the first line that is no field.
pub fn fields(head: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let (field, tail) = next_field(rest)?;
        rest = tail;
        Some(field)
    })
}

/// The header section without white space between a field's name and its colon. RFC 5322 section 4.5 allows it only to be
/// read, and receivers disagree about what the field is then called, so that a signature over it is good for one and bad
/// for the other.
pub fn without_space_before_colons(head: Bytes) -> Bytes {
    let is_obsolete = |field: &Field<'_>| field.raw.get(field.name.len()) != Some(&b':');
    if !fields(&head).any(|field| is_obsolete(&field)) {
        return head;
    }
    let mut tidy = Vec::with_capacity(head.len());
    for field in fields(&head) {
        let colon = memchr(b':', field.raw).unwrap_or(field.name.len());
        tidy.extend_from_slice(field.name);
        tidy.extend_from_slice(&field.raw[colon..]);
    }
    tidy.into()
}

/// Who takes a body apart. Of the header fields it reads those that say how: in a malformed date it would lose itself, and take
/// the fields behind for a part of it.
pub(crate) fn body_parser() -> MessageParser {
    MessageParser::new().with_mime_headers().default_header_raw()
}

fn next_field(text: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let name_end = field_name_end(text)?;
    let colon = name_end + memchr(b':', &text[name_end..])?;
    let mut end = line_end(text, colon);
    while matches!(text.get(end), Some(b' ' | b'\t')) {
        end = line_end(text, end);
    }
    let raw = &text[..end];
    let value = &text[colon + 1..end];
    let value = value.strip_suffix(b"\r\n").unwrap_or(value);
    Some((Field { name: &text[..name_end], value, raw }, &text[end..]))
}

/// Index behind the CRLF of the line in which `from` lies.
fn line_end(text: &[u8], from: usize) -> usize {
    memchr(b'\n', &text[from..]).map_or(text.len(), |offset| from + offset + 1)
}

/// Where the name of the field at the start of `text` ends; none if no field starts here.
fn field_name_end(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|b| !matches!(b, b'!'..=b'9' | b';'..=b'~'))?;
    if end == 0 {
        return None;
    }
    let behind = text[end..].iter().find(|b| !matches!(b, b' ' | b'\t'))?;
    (*behind == b':').then_some(end)
}

fn header_section_end(content: &[u8]) -> usize {
    fields(content).map(|field| field.raw.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read without the parser is what the parser reads.
    #[test]
    fn a_plain_subject_is_what_the_parser_reads() {
        for value in [
            " 481516 is your code",
            "x",
            "  a  b  ",
            " \"quoted\" (c) <a@b.test>",
            " =?",
            " a=?b?=",
            " a: b; c, d\\e",
            "\tx",
        ] {
            let head = format!("Subject:{value}\r\n");
            let content = Content { head: head.clone().into(), body: Bytes::new() };
            let parsed = MessageParser::default().parse_headers(head.as_bytes()).unwrap();
            assert_eq!(content.subject().as_deref(), parsed.subject(), "{value:?}");
        }
    }

    fn check(content: &str, head: &str, body: &str) {
        let split = Content::split(Bytes::copy_from_slice(content.as_bytes()));
        assert_eq!((split.head.as_ref(), split.body.as_ref()), (head.as_bytes(), body.as_bytes()), "{content:?}");
    }

    #[test]
    fn octets_are_overwritten_when_the_last_lets_go() {
        struct Watched([u8; 3], std::sync::mpsc::Sender<[u8; 3]>);
        impl AsRef<[u8]> for Watched {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        impl AsMut<[u8]> for Watched {
            fn as_mut(&mut self) -> &mut [u8] {
                &mut self.0
            }
        }
        impl Drop for Watched {
            fn drop(&mut self) {
                self.1.send(self.0).unwrap();
            }
        }
        let (sender, left) = std::sync::mpsc::channel();
        let octets = wiped(Watched(*b"481", sender));
        let part = octets.slice(1..);
        drop(octets);
        assert!(left.try_recv().is_err(), "a part is in use");
        assert_eq!(part.as_ref(), b"81");
        drop(part);
        assert_eq!(left.recv(), Ok([0; 3]));
    }

    #[test]
    fn content_is_split_at_the_end_of_the_fields() {
        check("A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\r\nB: 2\r\n", "\r\nbody\r\n");
        check("A: 1\r\n folded\r\n\r\n", "A: 1\r\n folded\r\n", "\r\n");
        check("A: 1\r\n", "A: 1\r\n", "");
        check("A: 1", "A: 1\r\n", "");
        check("\r\nbody", "", "\r\nbody");
        check("", "", "");
        check("A: 1\r\nnot a field\r\n", "A: 1\r\n", "\r\nnot a field\r\n");
        check("hello\r\n", "", "\r\nhello\r\n");
        check(" leading space: x\r\n", "", "\r\n leading space: x\r\n");
        check("A : 1\r\n\r\nx", "A : 1\r\n", "\r\nx");
    }

    #[test]
    fn fields_are_read() {
        let head = b"From : a@b\r\nSubject: x\r\n\ty\r\nEmpty:\r\n";
        let all: Vec<_> = fields(head).map(|f| (f.name.to_vec(), f.text().unwrap())).collect();
        let expected =
            [("From", "a@b"), ("Subject", "x\ty"), ("Empty", "")].map(|(n, v)| (n.as_bytes().to_vec(), v.to_owned()));
        assert_eq!(all, expected);
        assert!(fields(head).next().is_some_and(|f| f.is("FROM")));
    }

    #[test]
    fn names_stand_at_their_colons() {
        let tidy = |head: &'static str| without_space_before_colons(head.into());
        assert_eq!(tidy("From : a\r\nTo:b :c\r\nX\t :\r\n d\r\n"), "From: a\r\nTo:b :c\r\nX:\r\n d\r\n");
        assert_eq!(tidy("From: a\r\n"), "From: a\r\n");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_made_up(lines in proptest::collection::vec("[ A-Za-z:]{0,12}", 0..8)) {
            let content = lines.join("\r\n");
            let split = Content::split(Bytes::from(content.clone().into_bytes()));
            let joined = [split.head.as_ref(), split.body.as_ref()].concat();
            let plain = String::from_utf8(joined).unwrap().replace("\r\n", "");
            proptest::prop_assert_eq!(plain, content.replace("\r\n", ""));
        }
    }
}
