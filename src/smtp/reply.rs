//! Replies: the ready-made ones that this server says, and the reading of those that others say (RFC 5321 section
//! 4.2, RFC 2034, RFC 3463).

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use memchr::memchr;

use crate::base::named::named;
use crate::base::text::one_line;

/// Longest line of a reply that is read.
pub const REPLY_LINE_MAX: usize = 8 * 1024;
/// Longest reply that is read, all lines together.
pub(crate) const REPLY_MAX: usize = 64 * 1024;

/// Longest text of a reply that is kept: whoever has to say something says it in fewer octets.
pub const REPLY_KEPT_MAX: usize = 1024;

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Reads a code at the start of `text`; returns it and what follows the blank behind it.
    pub fn split_from(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let class = parts.next()?;
        let number = |part: Option<&str>| {
            let part = part?;
            let is_number = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if is_number { part.parse::<u16>().ok() } else { None }
        };
        let (subject, detail) = (number(parts.next())?, number(parts.next())?);
        if parts.next().is_some() || !matches!(class, "2" | "4" | "5") {
            return None;
        }
        Some((Self(class.as_bytes()[0] - b'0', subject, detail), rest))
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl EnhancedCode {
    /// Digit by digit, since these numbers are in every reply.
    fn write_to(self, out: &mut impl fmt::Write) -> fmt::Result {
        write_number(out, self.0.into())?;
        out.write_char('.')?;
        write_number(out, self.1)?;
        out.write_char('.')?;
        write_number(out, self.2)
    }
}

fn write_number(out: &mut impl fmt::Write, number: u16) -> fmt::Result {
    let digit = |place: u16| char::from(b'0' + u8::try_from(number / place % 10).unwrap_or_default());
    match number {
        0..10 => out.write_char(digit(1)),
        10..100 => out.write_char(digit(10)).and_then(|()| out.write_char(digit(1))),
        100..1000 => [100, 10, 1].into_iter().try_for_each(|place| out.write_char(digit(place))),
        _ => write!(out, "{number}"),
    }
}

impl fmt::Debug for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first digit of a reply code (RFC 5321 section 4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// 2yz.
    Success,
    /// 3yz.
    Intermediate,
    /// 4yz, and any code outside 200 to 599, which nothing else can be made of.
    Transient,
    /// 5yz.
    Permanent,
}

/// A reply of one or more lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599 when made here; when read, what the three digits say.
    pub code: u16,
    /// The enhanced status code, if there is one.
    pub enhanced: Option<EnhancedCode>,
    /// The text without codes, lines joined by LF.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code.
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: Some(enhanced), text: text.into() }
    }

    /// A reply to EHLO, HELO, STARTTLS's 220 and the like, which carry no enhanced status code (RFC 2034 section 4).
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: None, text: text.into() }
    }

    /// What the first digit says.
    pub fn severity(&self) -> Severity {
        match self.code / 100 {
            2 => Severity::Success,
            3 => Severity::Intermediate,
            5 => Severity::Permanent,
            _ => Severity::Transient,
        }
    }

    /// With the first [`REPLY_KEPT_MAX`] octets of its text, without a word that goes on behind them: half a code would not be known
    /// for one.
    #[must_use]
    pub fn cut(self) -> Self {
        if self.text.len() <= REPLY_KEPT_MAX {
            return self;
        }
        let kept = &self.text[..self.text.floor_char_boundary(REPLY_KEPT_MAX)];
        let goes_on = self.text[kept.len()..].starts_with(char::is_alphanumeric);
        let kept = if goes_on { kept.trim_end_matches(char::is_alphanumeric) } else { kept };
        Self { text: kept.to_owned().into(), ..self }
    }

    /// Whether it says no, for now or for good.
    pub fn is_refusal(&self) -> bool {
        matches!(self.severity(), Severity::Transient | Severity::Permanent)
    }

    /// Writes the reply as it goes over the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let out = &mut Octets(out);
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            // Writing to a Vec cannot fail.
            let _ = self.write_line(out, separator, line);
        }
    }

    fn write_line(&self, out: &mut Octets<'_>, separator: char, line: &str) -> fmt::Result {
        write_number(out, self.code)?;
        out.write_char(separator)?;
        if let Some(enhanced) = self.enhanced {
            enhanced.write_to(out)?;
            out.write_char(' ')?;
        }
        out.write_str(line)?;
        out.write_str("\r\n")
    }

    /// On one line, as it is displayed.
    pub fn line(&self) -> String {
        let mut line = String::with_capacity(self.text.len() + "250 2.0.0 ".len());
        // Writing to a String cannot fail.
        let _ = self.write_on_one_line(&mut line);
        line
    }

    fn write_on_one_line(&self, out: &mut impl fmt::Write) -> fmt::Result {
        write_number(out, self.code)?;
        if let Some(enhanced) = self.enhanced {
            out.write_char(' ')?;
            enhanced.write_to(out)?;
        }
        if self.text.is_empty() {
            return Ok(());
        }
        out.write_char(' ')?;
        out.write_str(&one_line(&self.text))
    }
}

/// Text written behind octets.
struct Octets<'a>(&'a mut Vec<u8>);

impl fmt::Write for Octets<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// On one line, for people and logs; what could deceive is taken out.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_on_one_line(f)
    }
}

/// What is wrong with the bytes that came where a reply was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// More than 8 KiB in a line or 64 KiB in all.
    #[error("the reply is too long")]
    TooLong,
    /// It came before what it would answer was sent.
    #[error("a reply to nothing that was asked")]
    Unasked,
}

named! {
    /// How a server breaks the form of replies (RFC 5321 section 4.2.1), where what it means is clear all the same.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Sloppiness: text {
        /// The lines of one reply carry different codes; that of the last line counts.
        CodesDiffer = "the lines of a reply carry different codes",
        /// A line carries no code; it is text.
        NoCode = "a line of a reply carries no code",
    }
}

/// Puts replies together from what arrives.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// Octets of `buffer` that belong to replies already returned, or to `lines`.
    read: usize,
    lines: Lines,
    sloppiness: Option<Sloppiness>,
}

impl ReplyReader {
    /// Adds what arrived.
    pub fn feed(&mut self, input: &[u8]) {
        if self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        }
        self.buffer.extend_from_slice(input);
    }

    /// Whether bytes are left that belong to no reply returned yet, be they text without a code.
    pub fn has_leftover(&self) -> bool {
        self.read < self.buffer.len() || self.lines.size > 0
    }

    /// Whether another reply has begun, or may have: whole lines without a code in front of it are none.
    pub(crate) fn has_begun(&mut self) -> bool {
        while self.lines.code.is_none() {
            let before = self.lines.size;
            let mut ahead = Lines { size: before, ..Lines::default() };
            match ahead.take(&self.buffer[self.read..]) {
                Ok(Some(LinePlace::Text)) if ahead.code.is_none() => {
                    self.read += ahead.size - before;
                    self.lines = ahead;
                }
                Ok(None) => return self.read < self.buffer.len(),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        true
    }

    /// How the server broke the form of replies last, if it did.
    pub(crate) fn sloppiness(&self) -> Option<Sloppiness> {
        self.sloppiness
    }

    /// The next whole reply, if it has arrived.
    ///
    /// # Errors
    /// When what arrived is no reply; nothing after it can be trusted.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let before = self.lines.size;
            let Some(place) = self.lines.take(&self.buffer[self.read..])? else { return Ok(None) };
            self.read += self.lines.size - before;
            if place == LinePlace::Last {
                let lines = std::mem::take(&mut self.lines);
                self.sloppiness = lines.sloppiness.or(self.sloppiness);
                return Ok(Some(lines.into_reply()));
            }
        }
    }
}

/// Reads one reply from the start of `input`; returns it and the octets it took, or none while it is incomplete.
///
/// # Errors
/// As [`ReplyReader::next_reply`].
pub fn parse_reply(input: &[u8]) -> Result<Option<(Reply, usize)>, ReplyError> {
    let mut lines = Lines::default();
    loop {
        match lines.take(&input[lines.size..])? {
            None => return Ok(None),
            Some(LinePlace::Middle | LinePlace::Text) => {}
            Some(LinePlace::Last) => {
                let size = lines.size;
                return Ok(Some((lines.into_reply(), size)));
            }
        }
    }
}

/// The lines of one reply so far, each read once however slowly they arrive.
#[derive(Debug, Default)]
struct Lines {
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: String,
    size: usize,
    sloppiness: Option<Sloppiness>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinePlace {
    /// Without a code.
    Text,
    Middle,
    Last,
}

impl Lines {
    /// Takes the line at the start of `input`, if all of it is there. What a reply means stands in its last line: its code
    /// counts. A line without a code is text, in front of the first code not even that.
    fn take(&mut self, input: &[u8]) -> Result<Option<LinePlace>, ReplyError> {
        let end = memchr(b'\n', input);
        let length = end.unwrap_or(input.len());
        if length > REPLY_LINE_MAX || self.size + length > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        if end.is_none() {
            return Ok(None);
        }
        self.size += length + 1;
        let line = input[..length].strip_suffix(b"\r").unwrap_or(&input[..length]);
        let Some((code, place, rest)) = parse_line(line) else {
            self.sloppiness = Some(Sloppiness::NoCode);
            if self.code.is_some() {
                self.text.push('\n');
                self.text.push_str(String::from_utf8_lossy(line).trim_end());
            }
            return Ok(Some(LinePlace::Text));
        };
        if self.code.is_some_and(|known| known != code) {
            self.sloppiness = Some(Sloppiness::CodesDiffer);
            // It belongs to a code that does not count.
            self.enhanced = self.enhanced.filter(|enhanced| u16::from(enhanced.0) == code / 100);
        }
        let rest = String::from_utf8_lossy(rest);
        let rest = rest.trim_end();
        let rest = match EnhancedCode::split_from(rest) {
            Some((found, rest)) if u16::from(found.0) == code / 100 => {
                self.enhanced = self.enhanced.or(Some(found));
                rest
            }
            _ => rest,
        };
        if self.code.is_some() {
            self.text.push('\n');
        }
        self.text.push_str(rest);
        self.code = Some(code);
        Ok(Some(place))
    }

    fn into_reply(self) -> Reply {
        Reply { code: self.code.unwrap_or_default(), enhanced: self.enhanced, text: self.text.into() }
    }
}

/// The code of a line, whether it is the last one, and what follows; none where it has no code.
fn parse_line(line: &[u8]) -> Option<(u16, LinePlace, &[u8])> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else { return None };
    let code = [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'));
    match rest {
        [] => Some((code, LinePlace::Last, rest)),
        [b' ', text @ ..] => Some((code, LinePlace::Last, text)),
        [b'-', text @ ..] => Some((code, LinePlace::Middle, text)),
        _ => None,
    }
}

macro_rules! ready_made {
    ($($(#[$doc:meta])* $name:ident: $code:literal ($class:literal, $subject:literal, $detail:literal) $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Reply = Reply {
            code: $code,
            enhanced: Some(EnhancedCode($class, $subject, $detail)),
            text: Cow::Borrowed($text),
        };)*
    };
}

ready_made! {
    /// To RSET, NOOP.
    OK: 250 (2, 0, 0) "ok";
    /// To MAIL.
    SENDER_OK: 250 (2, 1, 0) "sender ok";
    /// To RCPT.
    RECIPIENT_OK: 250 (2, 1, 5) "recipient ok";
    /// To BDAT without LAST.
    CHUNK_OK: 250 (2, 0, 0) "chunk received";
    /// To QUIT.
    BYE: 221 (2, 0, 0) "bye";
    /// To VRFY and EXPN.
    CANNOT_VERIFY: 252 (2, 5, 0) "send some mail, I will try my best";
    /// To HELP.
    HELP: 214 (2, 0, 0) "see RFC 5321; this relay takes one-time codes, login links and password resets";
    /// To an unknown verb.
    UNKNOWN_COMMAND: 500 (5, 5, 2) "command not recognized";
    /// To a verb in the wrong place.
    BAD_SEQUENCE: 503 (5, 5, 1) "bad sequence of commands";
    /// To a command before EHLO.
    EHLO_FIRST: 503 (5, 5, 1) "say EHLO first";
    /// To MAIL before AUTH.
    AUTHENTICATION_REQUIRED: 530 (5, 7, 0) "authentication required";
    /// To AUTH without TLS.
    ENCRYPTION_REQUIRED: 538 (5, 7, 11) "encryption required for this authentication mechanism";
    /// To a wrong user name or password.
    BAD_CREDENTIALS: 535 (5, 7, 8) "authentication credentials invalid";
    /// When passwords cannot be checked now.
    AUTHENTICATION_BUSY: 454 (4, 7, 0) "temporary authentication failure";
    /// To what should be base64 (RFC 4954 section 4).
    NOT_BASE64: 501 (5, 5, 2) "not base64";
    /// To a cancelled AUTH.
    AUTHENTICATION_CANCELLED: 501 (5, 7, 0) "authentication cancelled";
    /// To an unknown mechanism.
    UNKNOWN_MECHANISM: 504 (5, 5, 4) "authentication mechanism not supported";
    /// To a good AUTH.
    AUTHENTICATED: 235 (2, 7, 0) "authentication succeeded";
    /// To an address that needs SMTPUTF8 where that was not asked for (RFC 6531 section 3.5).
    SMTPUTF8_NEEDED: 553 (5, 6, 7) "an address that is not ASCII needs SMTPUTF8";
    /// To too much content.
    TOO_BIG: 552 (5, 3, 4) "message size exceeds the limit";
    /// To too many RCPTs.
    TOO_MANY_RECIPIENTS: 452 (4, 5, 3) "too many recipients";
    /// To DATA without a valid RCPT.
    NO_RECIPIENTS: 554 (5, 5, 1) "no valid recipients";
    /// To `RCPT TO:<postmaster>`: nobody's mail ends here.
    NO_POSTMASTER: 550 (5, 1, 1) "no mailboxes here; give postmaster a domain";
    /// To parameters that were not offered.
    UNKNOWN_PARAMETER: 555 (5, 5, 4) "MAIL or RCPT parameter not recognized";
    /// When the idle time is over.
    IDLE_TIMEOUT: 421 (4, 4, 2) "idle for too long, closing";
    /// While the relay shuts down.
    SHUTTING_DOWN: 421 (4, 3, 2) "shutting down, try again in a moment";
    /// To a client that makes error after error.
    TOO_MANY_ERRORS: 421 (4, 7, 0) "too many errors, closing";
    /// At MAIL, when the user was removed or its password changed since it logged in.
    LOGIN_ENDED: 421 (4, 7, 0) "this login does not hold any more, log in again";
    /// To a connection beyond the limits.
    TOO_MANY_CONNECTIONS: 421 (4, 7, 0) "too many connections";
    /// When the disk or the queue is full.
    STORAGE_FULL: 452 (4, 3, 1) "no room for more mail now, try again later";
    /// When something here failed.
    INTERNAL_ERROR: 451 (4, 3, 0) "local error, try again later";
}

#[cfg(test)]
mod tests;
