//! Transcript files: reading, not playing.

use std::fmt;
use std::time::Duration;

/// Which of our sessions is played into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Submission,
    Delivery,
}

/// A whole file.
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) side: Side,
    /// Lines that start with `#`, at the head.
    pub(crate) settings: Vec<String>,
    pub(crate) lines: Vec<Line>,
}

/// `tag: text`, or `= text`.
pub(crate) struct Line {
    pub(crate) number: usize,
    tag: char,
    text: String,
}

/// Something that happens to a session.
pub(crate) enum Act<'a> {
    /// Octets from the other side.
    Arrive(&'a [u8]),
    /// `T:` time passes.
    Wait(Duration),
    /// `X:` something from outside the dialogue.
    Outside(&'a str),
    /// `M:` of a delivery script: a command whose arguments describe the message.
    Message(&'a str),
}

impl Script {
    /// Reads a file; its folder says which side it is for.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let side = if name.contains("submission/") { Side::Submission } else { Side::Delivery };
        let mut script = Self { name: name.to_owned(), side, settings: Vec::new(), lines: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            if let (Some(setting), true) = (line.strip_prefix("# "), script.lines.is_empty()) {
                script.settings.push(setting.to_owned());
                continue;
            }
            let (head, text) = tag_and_text(line).ok_or_else(|| format!("{name}:{number} unknown line: {line}"))?;
            let (tag, count) = head.split_once('*').unwrap_or((head, "1"));
            let tag = tag.chars().next().unwrap_or(' ');
            let count: usize = count.parse().map_err(|_| format!("{name}:{number} how often? {line}"))?;
            script.lines.extend((0..count).map(|_| Line { number, tag, text: text.to_owned() }));
        }
        Ok(script)
    }

    /// Whether a setting without a value is there.
    pub(crate) fn is_set(&self, setting: &str) -> bool {
        self.settings.iter().any(|known| known == setting)
    }

    /// What the line lets arrive at our side.
    pub(crate) fn octets(&self, line: &Line) -> Result<Option<Vec<u8>>, String> {
        match (self.side, line.tag) {
            (Side::Submission, 'C') | (Side::Delivery, 'S') => Ok(Some(format!("{}\r\n", line.text).into_bytes())),
            (_, 'R') => unescape(&line.text).map(Some),
            _ => Ok(None),
        }
    }

    /// What else the line lets happen; none if it says what the session does.
    pub(crate) fn act<'a>(&self, line: &'a Line) -> Result<Option<Act<'a>>, String> {
        match (self.side, line.tag) {
            (_, 'T') => seconds(&line.text).map(|span| Some(Act::Wait(span))),
            (_, 'X') => Ok(Some(Act::Outside(&line.text))),
            (Side::Delivery, 'M') => Ok(Some(Act::Message(&line.text))),
            _ => Ok(None),
        }
    }
}

impl Line {
    /// Whether this is what the session did; a final `*` stands for any rest.
    pub(crate) fn matches(&self, done: &str) -> bool {
        let expected = self.to_string();
        match expected.strip_suffix('*') {
            Some(start) => done.starts_with(start),
            None => done == expected,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tag == '=' { write!(f, "= {}", self.text) } else { write!(f, "{}: {}", self.tag, self.text) }
    }
}

fn tag_and_text(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("= ") {
        return Some(("=", text));
    }
    let (head, text) = line.split_once(':')?;
    let tag = head.split_once('*').map_or(head, |(tag, _)| tag);
    matches!(tag, "C" | "S" | "R" | "T" | "X" | "M").then(|| (head, text.strip_prefix(' ').unwrap_or(text)))
}

/// `+300s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_prefix('+').and_then(|text| text.strip_suffix('s'));
    number.and_then(|n| n.parse().ok()).map(Duration::from_secs).ok_or_else(|| format!("not +seconds s: {text}"))
}

/// `\r`, `\n`, `\t`, `\0`, `\\`, `\xff`, and `\(text*3)` for a text three times.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut octets, mut rest) = (Vec::new(), text);
    while let Some((plain, escape)) = rest.split_once('\\') {
        octets.extend_from_slice(plain.as_bytes());
        let kind = escape.chars().next().ok_or("a back-slash at the end")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            't' => octets.push(b'\t'),
            '0' => octets.push(0),
            '\\' => octets.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).ok_or("\\x needs two digits")?;
                octets.push(u8::from_str_radix(digits, 16).map_err(|_| format!("not hexadecimal: {digits}"))?);
                rest = &rest[2..];
            }
            '(' => {
                let (inner, behind) = rest.split_once(')').ok_or("\\( without )")?;
                let (text, count) = inner.rsplit_once('*').ok_or("\\(text*count)")?;
                octets.extend(unescape(text)?.repeat(count.parse().map_err(|_| format!("not a count: {count}"))?));
                rest = behind;
            }
            other => return Err(format!("unknown escape \\{other}")),
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Ok(octets)
}
