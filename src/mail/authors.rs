//! Whom a From field names (RFC 5322 sections 3.4 and 4.4, RFC 6854), read so strictly that no other program can read
//! somebody else. Parsers disagree about an `@` where none belongs: in `ceo@bank.test <otp@example.com>` some show the
//! first address, some the second.

use mail_parser::MessageParser;

use super::address::Mailbox;
use crate::base::text::is_deceptive;

/// Characters that some programs take for an `@`.
const LIKE_AT: [char; 2] = ['\u{ff20}', '\u{fe6b}'];

/// Why a From field is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorsError {
    /// It is no list of addresses.
    #[error("the From field holds no valid address")]
    Malformed,
    /// An `@` stands in a display or group name, neither in quotes nor in a comment.
    #[error("an unquoted @ in a display or group name of the From field; put the name in quotes")]
    UnquotedAt,
    /// An encoded word (RFC 2047 section 5 forbids it) in an address: some programs decode it.
    #[error("an encoded word in an address of the From field")]
    EncodedAddress,
}

/// The authors of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authors {
    /// The addresses, in order.
    pub mailboxes: Vec<Mailbox>,
    /// What else a careless program can take for one: addresses in encoded words, in quoted local parts, and in quoted
    /// strings and comments with escapes or comments inside, about whose end programs disagree.
    pub(crate) also_readable: Vec<Mailbox>,
}

impl Authors {
    /// Reads the value of a From field, folding included.
    ///
    /// # Errors
    /// Where it names nobody, or not clearly.
    pub fn read(value: &[u8]) -> Result<Self, AuthorsError> {
        let text = std::str::from_utf8(value).map_err(|_| AuthorsError::Malformed)?.replace("\r\n", "");
        let mut reader = Reader { text: &text, tokens: Vec::new(), at: 0, authors: Self::default() };
        reader.take_apart()?;
        reader.list()?;
        if reader.authors.mailboxes.is_empty() { Err(AuthorsError::Malformed) } else { Ok(reader.authors) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Characters of atoms.
    Word,
    /// A quoted string, quotes included.
    Quoted,
    /// A domain literal, or what looks like one in a name.
    Literal,
    /// One of `@ . , : ; < >`.
    Sign(char),
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// Where it stands, in octets.
    start: usize,
}

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    /// The token that is next.
    at: usize,
    authors: Authors,
}

impl<'a> Reader<'a> {
    /// Into tokens; comments and white space between them are left out.
    fn take_apart(&mut self) -> Result<(), AuthorsError> {
        let mut rest = self.text;
        while let Some(first) = rest.chars().next() {
            let start = self.text.len() - rest.len();
            let (kind, len) = match first {
                ' ' | '\t' => (None, 1),
                '(' => (None, self.comment(rest)?),
                '"' => (Some(Kind::Quoted), self.quoted(rest)?),
                '[' => (Some(Kind::Literal), literal_len(rest)?),
                '@' | '.' | ',' | ':' | ';' | '<' | '>' => (Some(Kind::Sign(first)), 1),
                _ if LIKE_AT.contains(&first) => return Err(AuthorsError::UnquotedAt),
                _ => (Some(Kind::Word), word_len(rest)?),
            };
            let (text, tail) = rest.split_at(len);
            self.tokens.extend(kind.map(|kind| Token { kind, text, start }));
            rest = tail;
        }
        Ok(())
    }

    /// Octets of the comment at the start of `rest`.
    fn comment(&mut self, rest: &str) -> Result<usize, AuthorsError> {
        let mut depth = 0_usize;
        let mut is_plain = true;
        let mut characters = rest.char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '(' => {
                    depth += 1;
                    is_plain &= depth == 1;
                }
                ')' => {
                    depth -= 1;
                    if depth == 0 {
                        self.may_be_read(&rest[..index], is_plain)?;
                        return Ok(index + 1);
                    }
                }
                '\\' => {
                    is_plain = false;
                    characters.next();
                }
                _ if is_control(character) => return Err(AuthorsError::Malformed),
                _ => {}
            }
        }
        Err(AuthorsError::Malformed)
    }

    /// Octets of the quoted string at the start of `rest`.
    fn quoted(&mut self, rest: &str) -> Result<usize, AuthorsError> {
        let mut is_plain = true;
        let mut characters = rest.char_indices().skip(1);
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.may_be_read(&rest[1..index], is_plain)?;
                    return Ok(index + 1);
                }
                '\\' => {
                    is_plain = false;
                    characters.next();
                }
                _ if is_control(character) => return Err(AuthorsError::Malformed),
                _ => {}
            }
        }
        Err(AuthorsError::Malformed)
    }

    /// What a quoted string or a comment holds counts only where programs may disagree about its end.
    fn may_be_read(&mut self, inside: &str, is_plain: bool) -> Result<(), AuthorsError> {
        if !is_plain {
            self.authors.also_readable.extend(addresses_in(&inside.replace('\\', ""))?);
        }
        Ok(())
    }

    fn peek(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    fn list(&mut self) -> Result<(), AuthorsError> {
        let mut in_group = false;
        while self.at < self.tokens.len() {
            let name = self.phrase();
            match self.peek() {
                Some(Kind::Sign('<')) => {
                    self.name(&name)?;
                    self.at += 1;
                    self.in_brackets()?;
                }
                Some(Kind::Sign(':')) if !in_group && !name.is_empty() => {
                    self.name(&name)?;
                    in_group = true;
                    self.at += 1;
                    continue;
                }
                Some(Kind::Sign('@')) => self.bare(&name)?,
                _ if name.is_empty() => {}
                _ => return Err(AuthorsError::Malformed),
            }
            if in_group && self.peek() == Some(Kind::Sign(';')) {
                in_group = false;
                self.at += 1;
            }
            match self.peek() {
                None => {}
                Some(Kind::Sign(',')) => self.at += 1,
                Some(_) => return Err(AuthorsError::Malformed),
            }
        }
        Ok(())
    }

    /// The words, quoted strings and dots that are next.
    fn phrase(&mut self) -> Vec<Token<'a>> {
        let start = self.at;
        while matches!(self.peek(), Some(Kind::Word | Kind::Quoted | Kind::Literal | Kind::Sign('.'))) {
            self.at += 1;
        }
        self.tokens[start..self.at].to_vec()
    }

    /// A display or group name.
    fn name(&mut self, name: &[Token<'_>]) -> Result<(), AuthorsError> {
        if name.iter().any(|token| token.kind == Kind::Literal && token.text.contains('@')) {
            return Err(AuthorsError::UnquotedAt);
        }
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return Ok(()) };
        let raw = &self.text[first.start..last.start + last.text.len()];
        if name.iter().any(|token| token.kind == Kind::Word && token.text.contains("=?")) {
            self.authors.also_readable.extend(addresses_in(&decoded(raw))?);
        }
        Ok(())
    }

    /// `addr-spec >`, after `<`.
    fn in_brackets(&mut self) -> Result<(), AuthorsError> {
        let local = self.phrase();
        self.address(&local)?;
        if self.peek() != Some(Kind::Sign('>')) {
            return Err(AuthorsError::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// An address without brackets; nothing may follow that would make a name of it.
    fn bare(&mut self, local: &[Token<'_>]) -> Result<(), AuthorsError> {
        let rest = self.tokens[self.at..].iter().map(|token| token.kind);
        let mut until_next = rest.take_while(|kind| !matches!(kind, Kind::Sign(',' | ';')));
        if until_next.any(|kind| matches!(kind, Kind::Sign('<' | ':'))) {
            return Err(AuthorsError::UnquotedAt);
        }
        self.address(local)
    }

    /// An address whose local part has been read, and whose `@` is next.
    fn address(&mut self, local: &[Token<'_>]) -> Result<(), AuthorsError> {
        if self.peek() != Some(Kind::Sign('@')) {
            return Err(AuthorsError::Malformed);
        }
        self.at += 1;
        let domain = self.phrase();
        if !alternates(local) || !alternates(&domain) {
            return Err(AuthorsError::Malformed);
        }
        let pieces = readable_pieces(local, &domain);
        let (local_part, domain) = (joined(local), joined(&domain));
        if local_part.contains("=?") {
            return Err(AuthorsError::EncodedAddress);
        }
        if local_part.starts_with('"') {
            self.authors.also_readable.extend(addresses_in(&local_part.replace(['"', '\\'], ""))?);
        }
        let is_readable = |(local, domain): &(String, String)| !local.is_empty() && domain.contains('.');
        for (local, domain) in pieces.into_iter().filter(is_readable) {
            let mailbox = Mailbox::parse(&format!("{local}@{domain}")).map_err(|_| AuthorsError::Malformed)?;
            self.authors.also_readable.push(mailbox);
        }
        let mailbox = Mailbox::parse(&format!("{local_part}@{domain}")).map_err(|_| AuthorsError::Malformed)?;
        self.authors.mailboxes.push(mailbox);
        Ok(())
    }
}

fn joined(tokens: &[Token<'_>]) -> String {
    tokens.iter().map(|token| token.text).collect()
}

/// What is read by programs for which an address ends, or begins, at white space or a comment beside one of its dots: local
/// parts and domains.
fn readable_pieces(local: &[Token<'_>], domain: &[Token<'_>]) -> Vec<(String, String)> {
    let gaps = |tokens: &[Token<'_>]| -> Vec<usize> {
        let is_apart = |pair: &[Token<'_>]| pair[0].start + pair[0].text.len() != pair[1].start;
        (1..tokens.len()).filter(|index| is_apart(&tokens[index - 1..=*index])).collect()
    };
    let shorter = gaps(domain).into_iter().map(|end| joined(&domain[..end]).trim_end_matches('.').to_owned());
    let later = gaps(local).into_iter().map(|start| joined(&local[start..]).trim_start_matches('.').to_owned());
    let whole = joined(domain);
    shorter.map(|domain| (joined(local), domain)).chain(later.map(|local| (local, whole.clone()))).collect()
}

/// Whether dots stand between words, and nothing else does: what is put together was apart by no more than white space
/// and comments around dots.
fn alternates(tokens: &[Token<'_>]) -> bool {
    let is_dot = |token: &Token<'_>| token.kind == Kind::Sign('.');
    tokens.len() % 2 == 1 && tokens.iter().enumerate().all(|(index, token)| is_dot(token) == (index % 2 == 1))
}

fn is_control(character: char) -> bool {
    character != '\t' && is_deceptive(character)
}

fn literal_len(rest: &str) -> Result<usize, AuthorsError> {
    let len = rest.find(']').ok_or(AuthorsError::Malformed)? + 1;
    let is_plain = |c: char| !is_control(c) && !matches!(c, '\\' | '"' | '(' | '<');
    if rest[1..len].chars().all(is_plain) { Ok(len) } else { Err(AuthorsError::Malformed) }
}

fn word_len(rest: &str) -> Result<usize, AuthorsError> {
    let ends = |c: char| matches!(c, ' ' | '\t' | '(' | ')' | '"' | '[' | ']' | '\\') || "@.,:;<>".contains(c);
    let ends = |c: char| ends(c) || is_control(c) || LIKE_AT.contains(&c);
    match rest.find(ends).unwrap_or(rest.len()) {
        0 => Err(AuthorsError::Malformed),
        len => Ok(len),
    }
}

/// Text with its encoded words decoded.
fn decoded(raw: &str) -> String {
    let field = format!("Subject: {raw}\r\n");
    let message = MessageParser::default().parse_headers(field.as_bytes());
    message.as_ref().and_then(|message| message.subject()).unwrap_or_default().to_owned()
}

/// Everything in a text that looks like an address at a domain of more than one label.
fn addresses_in(text: &str) -> Result<Vec<Mailbox>, AuthorsError> {
    let text = text.replace(LIKE_AT, "@");
    let mut found = Vec::new();
    for (at, _) in text.match_indices('@') {
        let before = text[..at].trim_end();
        let local =
            before.rsplit(|c: char| c.is_whitespace() || "<>()[]\",:;@\\".contains(c)).next().unwrap_or_default();
        let behind = text[at + 1..].trim_start();
        let domain = behind.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '.' && c != '_').next();
        let domain = domain.unwrap_or_default().trim_end_matches('.');
        if local.is_empty() || !domain.contains('.') {
            continue;
        }
        found.push(Mailbox::parse(&format!("{local}@{domain}")).map_err(|_| AuthorsError::UnquotedAt)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, mailboxes: &[&str], also_readable: &[&str]) {
        let authors = Authors::read(value.as_bytes()).unwrap_or_else(|error| panic!("{value}: {error}"));
        let texts = |list: &[Mailbox]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&authors.mailboxes), mailboxes, "{value}");
        assert_eq!(texts(&authors.also_readable), also_readable, "{value}");
    }

    #[test]
    fn authors_are_read() {
        let one = &["otp@app.test"][..];
        for value in [
            " otp@app.test",
            " App <otp@app.test>",
            " App Codes Inc. <otp@app.test>",
            " [Staging] App <otp@app.test>",
            "\r\n App\r\n\t<otp@app.test>",
            " \"otp, codes\" <otp@app.test>",
            " \"ceo@bank.test\" <otp@app.test>",
            " (ceo@bank.test) otp@app.test (ceo@bank.test)",
            " otp @ app.test",
            " otp (why) @ (not) app (this) . test (way)",
            " < otp@app.test >",
            " Codes: otp@app.test;",
            " Codes: otp@app.test",
            " , otp@app.test, ,",
            " Gr\u{fc}\u{df}e <otp@app.test>",
            " =?utf-8?q?Gr=C3=BC=C3=9Fe?= <otp@app.test>",
            " =?utf-8?q?Shop_=40_home?= <otp@app.test>",
        ] {
            check(value, one, &[]);
        }
        check(" \"otp codes\"@app.test", &["\"otp codes\"@app.test"], &[]);
        check(" a@app.test, B <b@app.test>", &["a@app.test", "b@app.test"], &[]);
        check(" A: a@app.test, b@app.test;, c@app.test", &["a@app.test", "b@app.test", "c@app.test"], &[]);
        check(" otp@[192.0.2.1]", &["otp@[192.0.2.1]"], &[]);
        check(" otp@b\u{fc}cher.test", &["otp@b\u{fc}cher.test"], &[]);
    }

    #[test]
    fn what_a_careless_program_reads_is_told() {
        let one = &["otp@app.test"][..];
        let two = &["ceo@bank.test"][..];
        check(" =?utf-8?q?ceo=40bank=2Etest?= <otp@app.test>", one, two);
        check(" =?utf-8?q?ceo=40bank.test?= <otp@app.test>", one, two);
        check(" =?utf-8?b?Y2VvQGJhbmsudGVzdA==?= <otp@app.test>", one, two);
        check(" =?utf-8?b?Y2VvQGJhbmsudGVzdA==?= x: otp@app.test;", one, two);
        check(" =?utf-8?q?=3Cceo_=40_bank.test=3E=2C?= <otp@app.test>", one, two);
        check(" =?utf-8?q?ceo=EF=BC=A0bank.test?= <otp@app.test>", one, two);
        check(" \"x\\\" <ceo@bank.test>, \\\"\" <otp@app.test>", one, two);
        check(" ((a) ceo@bank.test) <otp@app.test>", one, two);
        check(" (\\) <ceo@bank.test>) <otp@app.test>", one, two);
        check(" \"ceo@bank.test\"@app.test", &["\"ceo@bank.test\"@app.test"], two);
        check(" ceo@bank.test().x", &["ceo@bank.test.x"], two);
        check(" ceo@bank.test .x", &["ceo@bank.test.x"], two);
        check(" ceo@bank.test. x", &["ceo@bank.test.x"], two);
        check(" x(). ceo@bank.test", &["x.ceo@bank.test"], &["ceo@bank.test", "ceo@bank.test"]);
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        use AuthorsError::{EncodedAddress, Malformed, UnquotedAt};
        for (value, expected) in [
            (" ceo@bank.test <otp@app.test>", UnquotedAt),
            (" ceo@bank.test:otp@app.test;", UnquotedAt),
            (" otp@app.test <otp@app.test>", UnquotedAt),
            (" CEO ceo@bank.test CEO <otp@app.test>", UnquotedAt),
            (" a@app.test, ceo@bank.test <otp@app.test>", UnquotedAt),
            (" [ceo@bank.test] <otp@app.test>", UnquotedAt),
            (" ceo\u{ff20}bank.test <otp@app.test>", UnquotedAt),
            (" ceo\u{fe6b}bank.test: otp@app.test;", UnquotedAt),
            (" =?utf-8?q?ceo=40bank.test?=@app.test", EncodedAddress),
            (" <=?utf-8?q?ceo=40bank.test=3e?=@app.test>", EncodedAddress),
            ("", Malformed),
            (" ,", Malformed),
            (" nobody", Malformed),
            (" nobody:;", Malformed),
            (" <otp@app.test> ceo@bank.test", Malformed),
            (" <otp@app.test> <ceo@bank.test>", Malformed),
            (" otp@app.test ceo@bank.test", Malformed),
            (" otp@app.test;ceo@bank.test", Malformed),
            (" <@bank.test:otp@app.test>", Malformed),
            (" otp@app@bank.test", Malformed),
            (" otp codes@app.test", Malformed),
            (" otp@app.test (", Malformed),
            (" otp@app.test )", Malformed),
            (" \"otp@app.test", Malformed),
            (" a: b: otp@app.test;;", Malformed),
            (" otp\u{0}@app.test", Malformed),
            (" otp\u{202e}@app.test", Malformed),
            (" x\\ <otp@app.test>", Malformed),
            (" <otp@app.test", Malformed),
            (" <>", Malformed),
        ] {
            assert_eq!(Authors::read(value.as_bytes()), Err(expected), "{value}");
        }
        assert_eq!(Authors::read(b" \xff <otp@app.test>"), Err(Malformed));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]
        /// Another parser, which is lenient, reads nobody in what is let through but those who are checked.
        #[test]
        fn another_parser_reads_nobody_else(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    "ceo@bank.test", "otp@app.test", "otp@app.test", "<", ">", "<otp@app.test>", "\"", "(", ")", ",", ":", ";", " ", "\\", "x",
                    "[", "]", "@", ".", "=?utf-8?q?ceo=40bank.test?=", "=?utf-8?q?x?=",
                ]),
                1..9,
            )
        ) {
            let value = pieces.concat();
            let Ok(authors) = Authors::read(value.as_bytes()) else { return Ok(()) };
            let field = format!("From: {value}\r\n");
            let message = MessageParser::new().with_address_headers().parse_headers(field.as_bytes()).unwrap();
            let read = message.from().into_iter().flat_map(|from| from.iter()).filter_map(|author| author.address());
            for address in read.filter_map(|address| Mailbox::parse(address).ok()) {
                let is_checked = authors.mailboxes.iter().chain(&authors.also_readable).any(|author| *author == address);
                proptest::prop_assert!(is_checked, "{:?} in {:?}", address.as_str(), value);
            }
        }
    }
}
