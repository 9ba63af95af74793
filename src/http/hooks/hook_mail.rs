//! A mail that a call asks for, whoever called; and how what they send is made safe to write.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Lane, Mailbox, Problem, Purpose, Texts};
use crate::intake::options;

/// Longest code, in characters; identity servers let apps set their own.
const CODE_LEN_MAX: usize = 64;
/// Longest link, in octets.
const LINK_LEN_MAX: usize = 4096;
/// Longest text of a server's own, in characters.
const TEXT_LEN_MAX: usize = 4000;

/// A mail that a call asks for.
#[derive(Clone)]
pub(crate) struct HookMail {
    pub(crate) to: Mailbox,
    pub(crate) code: Option<Zeroizing<String>>,
    pub(crate) link: Option<String>,
    pub(crate) tag: Arc<str>,
    pub(crate) lane: Lane,
    pub(crate) purpose: Purpose,
    pub(crate) locale: Option<String>,
    pub(crate) texts: Option<Texts>,
}

impl std::fmt::Debug for HookMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HookMail({:?}, {}, {})", self.purpose, self.tag, self.lane.name())
    }
}

/// A text that says something.
pub(super) fn filled(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A code as it can stand in a subject.
pub(super) fn code(text: Option<String>) -> Result<Option<Zeroizing<String>>, Problem> {
    let Some(code) = filled(text).map(Zeroizing::new) else { return Ok(None) };
    let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
    if code.len() > CODE_LEN_MAX || !code.chars().all(is_printable) {
        return Err(Problem::invalid("the code: at most 64 printable ASCII characters"));
    }
    Ok(Some(code))
}

/// An address of the web that people may follow.
pub(super) fn link(text: Option<String>) -> Result<Option<String>, Problem> {
    let Some(link) = filled(text) else { return Ok(None) };
    let scheme = link.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_clean = link.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '<' | '>' | '"'));
    if link.len() > LINK_LEN_MAX || !is_clean || !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err(Problem::invalid("the link: an http or https address of at most 4096 characters"));
    }
    Ok(Some(link))
}

/// The label of a kind of mail, in the characters that a label may have.
pub(super) fn tag(kind: &str) -> Arc<str> {
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    let text: String = kind.chars().filter(is_allowed).take(options::TAG_LEN_MAX).collect();
    options::tag(&text).unwrap_or_else(|_| "hook".into())
}

/// A language that looks like one.
pub(super) fn locale(text: Option<&str>) -> Option<String> {
    let text = text?.trim();
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (!text.is_empty() && text.len() <= 35 && text.chars().all(is_allowed)).then(|| text.to_owned())
}

/// A server's own text without markup: what stands in brackets is left out, a line break stays.
pub(super) fn plain(text: Option<String>) -> Option<String> {
    let text = filled(text)?;
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find('<') {
        plain.push_str(&rest[..start]);
        let tag_end = rest[start..].find('>').map(|end| start + end + 1);
        let name = rest[start + 1..].trim_start_matches('/');
        let is_tag = name.starts_with(|c: char| c.is_ascii_alphabetic()) && tag_end.is_some();
        match tag_end.filter(|_| is_tag) {
            Some(end) => {
                let is_break = name.len() >= 2 && name.is_char_boundary(2) && name[..2].eq_ignore_ascii_case("br");
                plain.push_str(if is_break { "\n" } else { "" });
                rest = &rest[end..];
            }
            None => {
                plain.push('<');
                rest = &rest[start + 1..];
            }
        }
    }
    plain.push_str(rest);
    let plain = plain.replace("&nbsp;", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let plain: String = plain.chars().filter(|c| *c == '\n' || !c.is_control()).take(TEXT_LEN_MAX).collect();
    filled(Some(plain))
}

/// The same on one line, for a subject.
pub(super) fn one_line(text: Option<String>) -> Option<String> {
    let text = plain(text)?;
    let text: String = text.replace('\n', " ").chars().take(200).collect();
    filled(Some(text))
}
