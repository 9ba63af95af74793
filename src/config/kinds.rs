//! The kinds of values: how the file writes each, and what it becomes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::file::Section;
use crate::base::rate::Rate;
use crate::base::units::{self, duration_text, size_text};
use crate::mail::address::{Mailbox, domain_key};

/// How a value is written.
pub(super) trait Kind<T> {
    /// Reads it; none where the key is not there, or has a fault, which is noted.
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T>;

    /// Writes it; none where the file has no word for it.
    fn write(&self, value: &T) -> Option<String>;
}

/// `true` or `false`, with what each stands for.
pub(super) struct Flag<T>(pub(super) T, pub(super) T);

/// A plain flag.
pub(super) const FLAG: Flag<bool> = Flag(true, false);

impl<T: Copy + PartialEq> Kind<T> for Flag<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        section.flag(key).map(|flag| if flag { self.0 } else { self.1 })
    }

    fn write(&self, value: &T) -> Option<String> {
        Some((*value == self.0).to_string())
    }
}

/// A whole number from the first to the second.
pub(super) struct Number(pub(super) u64, pub(super) u64);

impl<T: Copy + TryFrom<u64> + ToString> Kind<T> for Number {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        section.number(key, (self.0, self.1)).and_then(|number| T::try_from(number).ok())
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// A span of time from the first to the second.
pub(super) struct Span(pub(super) Duration, pub(super) Duration);

impl Kind<Duration> for Span {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<Duration> {
        let form = format!("a time from {} to {}, like \"30s\",", duration_text(self.0), duration_text(self.1));
        let fits = |span: &Duration| (self.0..=self.1).contains(span);
        section.parsed(key, &form, |text| units::duration(text).filter(fits))
    }

    fn write(&self, value: &Duration) -> Option<String> {
        Some(quoted(&duration_text(*value)))
    }
}

/// A number of octets from the first to the second.
pub(super) struct Size(pub(super) u64, pub(super) u64);

impl Kind<u64> for Size {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<u64> {
        let form = format!("a size from {} to {} bytes, like \"1MiB\",", self.0, self.1);
        section.parsed(key, &form, |text| units::size(text).filter(|size| (self.0..=self.1).contains(size)))
    }

    fn write(&self, value: &u64) -> Option<String> {
        Some(quoted(&size_text(*value)))
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind<T> for Choice<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        let words: Vec<String> = self.0.iter().map(|(word, _)| quoted(word)).collect();
        let find = |text: &str| self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        section.parsed(key, &format!("one of {}", words.join(", ")), find)
    }

    fn write(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, choice)| choice == value).map(|(word, _)| quoted(word))
    }
}

/// A text of some form.
pub(super) struct Text<T> {
    /// What it should look like.
    pub(super) form: &'static str,
    pub(super) parse: fn(&str) -> Option<T>,
    pub(super) write: fn(&T) -> String,
}

impl<T> Kind<T> for Text<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        section.parsed(key, self.form, self.parse)
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(quoted(&(self.write)(value)))
    }
}

/// A list of texts of some form.
pub(super) struct List<T>(pub(super) Text<T>);

impl<T> Kind<Vec<T>> for List<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<Vec<T>> {
        section.parsed_list(key, self.0.form, self.0.parse)
    }

    fn write(&self, value: &Vec<T>) -> Option<String> {
        let items: Vec<String> = value.iter().map(|item| quoted(&(self.0.write)(item))).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// What need not be there.
pub(super) struct Maybe<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<Option<T>> {
        self.0.read(section, key).map(Some)
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.write(value))
    }
}

/// A text that stands for none, or a text of some form.
pub(super) struct NoneBy<T>(pub(super) &'static str, pub(super) Text<T>);

impl<T> Kind<Option<T>> for NoneBy<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<Option<T>> {
        section.parsed(
            key,
            self.1.form,
            |text| if text == self.0 { Some(None) } else { (self.1.parse)(text).map(Some) },
        )
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        Some(quoted(&value.as_ref().map_or_else(|| self.0.to_owned(), self.1.write)))
    }
}

/// What nobody else is told.
pub(super) struct Secret<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<T> for Secret<K> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        self.0.read(section, key)
    }

    fn write(&self, _: &T) -> Option<String> {
        None
    }
}

/// A value with a way of its own.
pub(super) struct Own<T> {
    pub(super) read: fn(&Section<'_>, &'static str) -> Option<T>,
    pub(super) write: fn(&T) -> Option<String>,
}

impl<T> Kind<T> for Own<T> {
    fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        (self.read)(section, key)
    }

    fn write(&self, value: &T) -> Option<String> {
        (self.write)(value)
    }
}

pub(super) const ANY: Text<String> =
    Text { form: "a text", parse: |text| Some(text.to_owned()), write: |text| text.clone() };

/// A file, beside the configuration unless it is an absolute path.
pub(super) const FILE: Own<PathBuf> =
    Own { read: |section, key| section.path(key).map(|path| path.value), write: |path| Some(shown(path)) };

/// The same, with something in it that nobody else may read.
pub(super) const SECRET_FILE: Own<PathBuf> =
    Own { read: |section, key| section.secret_path(key).map(|path| path.value), write: |path| Some(shown(path)) };

/// So many in such a time.
pub(super) const RATE: Text<Rate> =
    Text { form: "a rate like \"50/s\" or \"5/10m\"", parse: units::rate, write: |rate| units::rate_text(*rate) };

/// A domain, or all below one, or all.
pub(super) const DOMAINS: List<String> = List(Text {
    form: "a pattern like \"*.example.com\"",
    parse: |text| is_domain_pattern(text).then(|| text.to_owned()),
    write: String::clone,
});

pub(super) const ADDRESSES: List<String> = List(Text {
    form: "a pattern like \"*@example.com\"",
    parse: |text| is_address_pattern(text).then(|| text.to_owned()),
    write: String::clone,
});

/// An address with a port; each key has a form of its own.
pub(super) const SOCKET: Text<SocketAddr> =
    Text { form: "an IP address with a port", parse: |text| text.parse().ok(), write: SocketAddr::to_string };

/// Names of hosts, as DNS compares them.
pub(super) const HOST_NAMES: List<String> = List(Text {
    form: "a host name like \"relay.example.com\"",
    parse: |text| domain_key(text).filter(|name| !name.starts_with('[')),
    write: String::clone,
});

/// Networks, none of which may be the whole internet.
pub(super) const NETWORKS: Own<Vec<IpNet>> = Own {
    read: |section, key| section.has(key).then(|| networks(section, key)),
    write: |networks| {
        let items: Vec<String> = networks.iter().map(|network| quoted(&network.to_string())).collect();
        Some(format!("[{}]", items.join(", ")))
    },
};

fn networks(section: &Section<'_>, key: &'static str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.texts(key) {
        let network = text.value.parse::<IpNet>().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) if network.prefix_len() == 0 => {
                section.error(text.line, key, "a whole address family is not a network to trust");
            }
            Ok(network) => networks.push(network.trunc()),
            Err(_) => section.error(text.line, key, "a network like \"192.0.2.0/24\" is needed"),
        }
    }
    networks
}

/// `*`, `*@domain`, `*@*.domain`, `domain` or an address.
pub(super) fn is_address_pattern(pattern: &str) -> bool {
    let domain = match pattern.rsplit_once('@') {
        Some(("*", domain)) => domain,
        Some(_) => return Mailbox::parse(pattern).is_ok(),
        None => pattern,
    };
    is_domain_pattern(domain)
}

/// `*`, `domain` or `*.domain`.
fn is_domain_pattern(pattern: &str) -> bool {
    pattern == "*" || domain_key(pattern.strip_prefix("*.").unwrap_or(pattern)).is_some()
}

fn shown(path: &std::path::Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A file that is there and fit for its purpose, or nothing.
pub(super) mod usable_file {
    use std::path::{Path, PathBuf};

    use super::super::file::Section;
    use super::quoted;

    /// Nothing where the text is empty.
    pub(in crate::config) fn read(
        section: &Section<'_>,
        key: &'static str,
        check: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Option<Option<PathBuf>> {
        if section.text(key)?.value.is_empty() {
            return Some(None);
        }
        let path = section.path(key)?;
        if let Err(error) = check(&path.value) {
            section.error(path.line, key, &error);
        }
        Some(Some(path.value))
    }

    /// An empty text for nothing.
    #[expect(clippy::ref_option, reason = "a value where it lies")]
    pub(in crate::config) fn write(path: &Option<PathBuf>) -> Option<String> {
        Some(quoted(&path.as_deref().map(Path::to_string_lossy).unwrap_or_default()))
    }
}
