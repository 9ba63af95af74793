//! Commands as values (RFC 5321 section 4.1, and the extensions named at each parameter).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::client_name::NAME_LEN_MAX;
use crate::base::text::is_deceptive;
use crate::mail::address::{AddressError, ReversePath, parse_path};
use crate::mail::envelope::{DeliverBy, DeliverByMode, MailParameters, Notify, Recipient, Ret};

/// Longest `ENVID` and `ORCPT` value (RFC 3461 sections 4.2 and 4.4).
const XTEXT_MAX: usize = 500;

/// One command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `EHLO domain`.
    Ehlo(String),
    /// `HELO domain`.
    Helo(String),
    /// `MAIL FROM:<path> ...`.
    Mail(Box<Mail>),
    /// `RCPT TO:<path> ...`.
    Rcpt(Recipient),
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]` (RFC 3030).
    Bdat {
        /// Octets that follow.
        size: u64,
        /// Whether the content ends with them.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `VRFY`, never answered with knowledge.
    Vrfy,
    /// `EXPN`, never answered with knowledge.
    Expn,
    /// `HELP`.
    Help,
    /// `QUIT`.
    Quit,
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `AUTH mechanism [initial-response]` (RFC 4954).
    Auth {
        /// In upper case.
        mechanism: String,
        /// Decoded; empty for `=`.
        initial: Option<Vec<u8>>,
    },
}

/// The arguments of MAIL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// What travels with the message.
    pub parameters: MailParameters,
    /// `SIZE=` (RFC 1870), octets.
    pub size: Option<u64>,
}

/// Why a line is no command. The text is for the client and quotes nothing of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandError {
    /// No such verb: 500.
    UnknownVerb,
    /// The arguments: 501.
    Syntax(&'static str),
    /// The path of RCPT: 501.
    Path(AddressError),
    /// The path of MAIL: 501, with an enhanced status code of its own (RFC 3463 section 3.2).
    ReversePath(AddressError),
    /// `<postmaster>` without a domain (RFC 5321 section 4.5.1), whose mailbox would be here: 550.
    Postmaster,
    /// An address that is not ASCII, without SMTPUTF8: 553.
    NeedsSmtpUtf8,
    /// An initial response that is not base64: 501.
    NotBase64,
    /// A parameter that was not offered: 555.
    UnknownParameter,
    /// A parameter's value: 501.
    Parameter(&'static str),
    /// BDAT whose size cannot be read: 501. Nobody knows where its octets end, so nothing behind it is a command.
    ChunkSize,
}

impl Command {
    /// Reads a line without its CRLF.
    ///
    /// # Errors
    /// What is wrong with it, by RFC 5321 section 4.2.4.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let line = text(line)?;
        let line = line.as_ref();
        if line.bytes().any(|b| b.is_ascii_control()) {
            return Err(CommandError::Syntax("control characters in a command"));
        }
        let line = line.trim_end_matches(' ');
        let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => client_name(arguments).map(Self::Ehlo),
            "HELO" => client_name(arguments).map(Self::Helo),
            "MAIL" => mail(arguments).map(|mail| Self::Mail(Box::new(mail))),
            "RCPT" => rcpt(arguments).map(Self::Rcpt),
            "DATA" => without_arguments(arguments, Self::Data),
            "BDAT" => bdat(arguments),
            "RSET" => without_arguments(arguments, Self::Rset),
            "NOOP" => Ok(Self::Noop),
            "VRFY" => Ok(Self::Vrfy),
            "EXPN" => Ok(Self::Expn),
            "HELP" => Ok(Self::Help),
            "QUIT" => without_arguments(arguments, Self::Quit),
            "STARTTLS" => without_arguments(arguments, Self::StartTls),
            "AUTH" => auth(arguments),
            _ => Err(CommandError::UnknownVerb),
        }
    }
}

/// A line as text. The name of a client's machine may be in whatever its system writes; nothing but its own `?` comes of that.
fn text(line: &[u8]) -> Result<Cow<'_, str>, CommandError> {
    let is_greeting =
        line.get(..5).is_some_and(|verb| matches!(verb.to_ascii_uppercase().as_slice(), b"EHLO " | b"HELO "));
    match std::str::from_utf8(line) {
        Ok(text) => Ok(text.into()),
        Err(_) if is_greeting => Ok(String::from_utf8_lossy(line)),
        Err(_) => Err(CommandError::Syntax("not UTF-8")),
    }
}

fn without_arguments(arguments: &str, command: Command) -> Result<Command, CommandError> {
    if arguments.is_empty() { Ok(command) } else { Err(CommandError::Syntax("no argument allowed")) }
}

/// The name a client gives itself, whatever its machine is called; there has to be one (RFC 5321 section 4.1.1.1).
fn client_name(arguments: &str) -> Result<String, CommandError> {
    let name = arguments.trim_matches(' ');
    if name.is_empty() {
        return Err(CommandError::Syntax("the client's name is missing"));
    }
    if name.len() > NAME_LEN_MAX {
        return Err(CommandError::Syntax("a name of more than 255 bytes"));
    }
    Ok(name.to_owned())
}

fn mail(arguments: &str) -> Result<Mail, CommandError> {
    let rest = after_keyword(arguments, "FROM:").ok_or(CommandError::Syntax("expected MAIL FROM:<address>"))?;
    let (path, parameters) = split_path(rest).map_err(of_reverse_path)?;
    let reverse_path = ReversePath::parse(path).map_err(CommandError::ReversePath)?;
    let mut mail = Mail { reverse_path, parameters: MailParameters::default(), size: None };
    let mut seen = Vec::new();
    for (keyword, value) in keywords(parameters) {
        once(&mut seen, &keyword)?;
        mail_parameter(&mut mail, &keyword, value)?;
    }
    let is_ascii = mail.reverse_path.as_str().is_ascii();
    if !is_ascii && !mail.parameters.smtputf8 {
        return Err(CommandError::NeedsSmtpUtf8);
    }
    Ok(mail)
}

fn of_reverse_path(error: CommandError) -> CommandError {
    if let CommandError::Path(error) = error { CommandError::ReversePath(error) } else { error }
}

fn mail_parameter(mail: &mut Mail, keyword: &str, value: Option<&str>) -> Result<(), CommandError> {
    let parameters = &mut mail.parameters;
    match (keyword, value) {
        ("SIZE", Some(value)) => mail.size = Some(number(value, 20).ok_or(CommandError::Parameter("bad SIZE"))?),
        ("BODY", Some(value)) => match value.to_ascii_uppercase().as_str() {
            "7BIT" => parameters.eight_bit = false,
            "8BITMIME" => parameters.eight_bit = true,
            _ => return Err(CommandError::Parameter("BODY is 7BIT or 8BITMIME")),
        },
        ("SMTPUTF8", None) => parameters.smtputf8 = true,
        ("REQUIRETLS", None) => parameters.require_tls = true,
        ("RET", Some(value)) => parameters.ret = Some(ret(value)?),
        ("ENVID", Some(value)) => parameters.envid = Some(xtext(value)?.into()),
        ("BY", Some(value)) => parameters.deliver_by = Some(deliver_by(value)?),
        ("MT-PRIORITY", Some(value)) => parameters.priority = Some(priority(value)?),
        // RFC 4954 section 5: who authenticated elsewhere. Nothing here trusts it, and it goes nowhere.
        ("AUTH", Some(value)) => drop(xtext(value)?),
        _ => return Err(CommandError::UnknownParameter),
    }
    Ok(())
}

fn ret(value: &str) -> Result<Ret, CommandError> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(CommandError::Parameter("RET is FULL or HDRS")),
    }
}

/// `seconds;mode[T]` (RFC 2852 section 4).
fn deliver_by(value: &str) -> Result<DeliverBy, CommandError> {
    const BAD: CommandError = CommandError::Parameter("BY is seconds;R or seconds;N, with T behind for a trace");
    let (seconds, mode) = value.split_once(';').ok_or(BAD)?;
    let digits = seconds.strip_prefix(['+', '-']).unwrap_or(seconds);
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    let seconds: i32 = seconds.parse().map_err(|_| BAD)?;
    let (mode, trace) = match mode.to_ascii_uppercase().as_str() {
        "R" => (DeliverByMode::Return, false),
        "RT" => (DeliverByMode::Return, true),
        "N" => (DeliverByMode::Notify, false),
        "NT" => (DeliverByMode::Notify, true),
        _ => return Err(BAD),
    };
    if mode == DeliverByMode::Return && seconds <= 0 {
        return Err(CommandError::Parameter("BY with R needs a positive number of seconds"));
    }
    Ok(DeliverBy { seconds, mode, trace })
}

/// -9 to 9 (RFC 6710 section 4.1).
fn priority(value: &str) -> Result<i8, CommandError> {
    const BAD: CommandError = CommandError::Parameter("MT-PRIORITY is a number from -9 to 9");
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    if digits.len() != 1 {
        return Err(BAD);
    }
    value.parse().map_err(|_| BAD)
}

fn rcpt(arguments: &str) -> Result<Recipient, CommandError> {
    let rest = after_keyword(arguments, "TO:").ok_or(CommandError::Syntax("expected RCPT TO:<address>"))?;
    let (path, parameters) = split_path(rest)?;
    if path.eq_ignore_ascii_case("<postmaster>") {
        return Err(CommandError::Postmaster);
    }
    let mut recipient = Recipient::new(parse_path(path).map_err(CommandError::Path)?);
    let mut seen = Vec::new();
    for (keyword, value) in keywords(parameters) {
        once(&mut seen, &keyword)?;
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => recipient.notify = Some(notify(value)?),
            ("ORCPT", Some(value)) => recipient.orcpt = Some(orcpt(value)?.into()),
            _ => return Err(CommandError::UnknownParameter),
        }
    }
    Ok(recipient)
}

fn notify(value: &str) -> Result<Notify, CommandError> {
    const BAD: CommandError = CommandError::Parameter("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY");
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::default());
    }
    let mut notify = Notify::default();
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => return Err(BAD),
        }
    }
    Ok(notify)
}

/// `address-type;xtext`, or `utf-8;` with the encoding of RFC 6533 section 3, kept as sent.
fn orcpt(value: &str) -> Result<String, CommandError> {
    const BAD: CommandError = CommandError::Parameter("ORCPT is address-type;xtext");
    let (kind, address) = value.split_once(';').ok_or(BAD)?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !is_atom || address.is_empty() || value.len() > XTEXT_MAX {
        return Err(BAD);
    }
    if kind.eq_ignore_ascii_case("utf-8") {
        let is_encoded = address.chars().all(|c| !c.is_whitespace() && !is_deceptive(c) && c != '=');
        return if is_encoded { Ok(value.to_owned()) } else { Err(BAD) };
    }
    xtext(address)?;
    Ok(value.to_owned())
}

/// Checks xtext (RFC 3461 section 4) and keeps it as sent.
fn xtext(value: &str) -> Result<String, CommandError> {
    const BAD: CommandError = CommandError::Parameter("not xtext");
    if value.is_empty() || value.len() > XTEXT_MAX {
        return Err(BAD);
    }
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let is_hex = |b: Option<u8>| matches!(b, Some(b'0'..=b'9' | b'A'..=b'F'));
                if !is_hex(bytes.next()) || !is_hex(bytes.next()) {
                    return Err(BAD);
                }
            }
            b'=' => return Err(BAD),
            b'!'..=b'~' => {}
            _ => return Err(BAD),
        }
    }
    Ok(value.to_owned())
}

fn bdat(arguments: &str) -> Result<Command, CommandError> {
    const BAD: CommandError = CommandError::ChunkSize;
    let (size, last) = match arguments.split_once(' ') {
        Some((size, last)) if last.trim_start().eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return Err(BAD),
        None => (arguments, false),
    };
    Ok(Command::Bdat { size: number(size, 19).ok_or(BAD)?, last })
}

fn auth(arguments: &str) -> Result<Command, CommandError> {
    let (mechanism, initial) = match arguments.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim_start())),
        None => (arguments, None),
    };
    let is_name =
        |m: &str| matches!(m.len(), 1..=20) && m.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_name(mechanism) {
        return Err(CommandError::Syntax("expected AUTH mechanism [initial-response]"));
    }
    let initial = match initial {
        None => None,
        Some("=") => Some(Vec::new()),
        Some(text) => Some(BASE64.decode(text).map_err(|_| CommandError::NotBase64)?),
    };
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial })
}

fn after_keyword<'a>(arguments: &'a str, keyword: &str) -> Option<&'a str> {
    let head = arguments.get(..keyword.len())?;
    // Many clients put a space behind the colon; it cannot be mistaken for anything.
    head.eq_ignore_ascii_case(keyword).then(|| arguments[keyword.len()..].trim_start_matches(' '))
}

/// Takes `<path>` off the front, minding quoted strings; what follows is empty or starts behind a space.
fn split_path(text: &str) -> Result<(&str, &str), CommandError> {
    let mut quoted = false;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let (path, rest) = text.split_at(index + 1);
                return match rest.strip_prefix(' ') {
                    Some(parameters) => Ok((path, parameters)),
                    None if rest.is_empty() => Ok((path, "")),
                    None => Err(CommandError::Syntax("a space belongs behind the path")),
                };
            }
            _ => {}
        }
    }
    Err(CommandError::Path(AddressError::Brackets))
}

fn keywords(text: &str) -> impl Iterator<Item = (String, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
        None => (word.to_ascii_uppercase(), None),
    })
}

fn once(seen: &mut Vec<String>, keyword: &str) -> Result<(), CommandError> {
    if seen.iter().any(|s| s == keyword) {
        return Err(CommandError::Parameter("a parameter is given twice"));
    }
    seen.push(keyword.to_owned());
    Ok(())
}

fn number(text: &str, digits_max: usize) -> Option<u64> {
    let is_number = (1..=digits_max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
