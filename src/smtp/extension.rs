//! What a server offers in its answer to EHLO (RFC 5321 section 4.1.1.1).

use std::time::Duration;

use super::reply::Reply;
use crate::base::named::named;

named! {
    /// An extension that can be left out although the server offers it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Feature: keyword, ALL {
        /// CHUNKING: content goes by DATA.
        Chunking = "chunking",
        /// PIPELINING: one command at a time.
        Pipelining = "pipelining",
        /// STARTTLS: in clear text.
        StartTls = "starttls",
        /// 8BITMIME: 8-bit content goes undeclared.
        EightBitMime = "8bitmime",
        /// SMTPUTF8: what needs it cannot go.
        SmtpUtf8 = "smtputf8",
    }
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u8);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it is among them.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & Self::from(feature).0 != 0
    }

    /// These and those.
    #[must_use]
    pub fn and(self, others: impl Into<Self>) -> Self {
        Self(self.0 | others.into().0)
    }

    /// Whether all of those are among them.
    pub fn cover(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }
}

impl From<Feature> for Features {
    fn from(feature: Feature) -> Self {
        Self(1 << feature as u8)
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::NONE, Self::and)
    }
}

/// The keywords, `chunking, pipelining`.
impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.iter().map(Feature::keyword).collect::<Vec<_>>().join(", "))
    }
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// The extensions of a remote server that matter to a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub(crate) chunking: bool,
    /// RFC 6152.
    pub(crate) eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3461.
    pub(crate) dsn: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// RFC 1870: offered at all.
    pub size: bool,
    /// RFC 1870: the limit in octets, if one is named.
    pub(crate) size_max: Option<u64>,
    /// RFC 2852: offered, with the least time accepted.
    pub deliver_by: Option<Duration>,
    /// RFC 6710.
    pub(crate) mt_priority: bool,
    /// RFC 4954: mechanisms in upper case.
    pub(crate) auth: Vec<String>,
    /// RFC 9422: transactions per session.
    pub(crate) mail_max: Option<u32>,
}

impl Extensions {
    /// Reads the reply to EHLO; its first line is the server's name. What is not known is passed over.
    pub(crate) fn from_ehlo(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in reply.text.split('\n').skip(1) {
            // Some servers write AUTH=LOGIN for clients of the last century.
            let (keyword, parameters) = line.split_once([' ', '=']).unwrap_or((line, ""));
            extensions.add(&keyword.to_ascii_uppercase(), parameters.trim());
        }
        extensions
    }

    fn add(&mut self, keyword: &str, parameters: &str) {
        match keyword {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "STARTTLS" => self.starttls = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.require_tls = true,
            "MT-PRIORITY" => self.mt_priority = true,
            "SIZE" => {
                self.size = true;
                self.size_max = parameters.parse().ok().filter(|limit| *limit > 0);
            }
            "DELIVERBY" => self.deliver_by = Some(Duration::from_secs(parameters.parse().unwrap_or(0))),
            "AUTH" => self.auth.extend(parameters.split_whitespace().map(str::to_ascii_uppercase)),
            "LIMITS" => self.add_limits(parameters),
            _ => {}
        }
    }

    fn add_limits(&mut self, parameters: &str) {
        for (name, value) in parameters.split_whitespace().filter_map(|limit| limit.split_once('=')) {
            // A transaction has one recipient, so that RCPTMAX limits nothing.
            if name.eq_ignore_ascii_case("MAILMAX") {
                self.mail_max = value.parse().ok().filter(|value| *value > 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_ehlo_is_read() {
        let text = "mx.example.com at your service\nSIZE 35882577\n8bitmime\nSTARTTLS\nENHANCEDSTATUSCODES\nPIPELINING\n\
                    CHUNKING\nSMTPUTF8\nAUTH PLAIN LOGIN\nAUTH=LOGIN\nDELIVERBY 30\nMT-PRIORITY MIXER\nLIMITS RCPTMAX=20 MAILMAX=5";
        let extensions = Extensions::from_ehlo(&Reply::plain(250, text));
        assert!(extensions.pipelining && extensions.chunking && extensions.eight_bit_mime && extensions.smtputf8);
        assert!(extensions.starttls && extensions.mt_priority && !extensions.dsn && !extensions.require_tls);
        assert_eq!(extensions.size_max, Some(35_882_577));
        assert_eq!(extensions.deliver_by, Some(Duration::from_secs(30)));
        assert_eq!(extensions.auth, ["PLAIN", "LOGIN", "LOGIN"]);
        assert_eq!(extensions.mail_max, Some(5));
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let both = Features::from(Feature::Chunking).and(Feature::SmtpUtf8);
        assert!(both.has(Feature::Chunking) && both.has(Feature::SmtpUtf8) && !both.has(Feature::Pipelining));
        assert!(both.cover(Feature::Chunking.into()) && !Features::NONE.cover(both) && both.cover(Features::NONE));
        assert_eq!(both.to_string(), "chunking, smtputf8");
        assert_eq!(Feature::ALL.into_iter().collect::<Features>().iter().count(), Feature::ALL.len());
    }

    #[test]
    fn the_name_of_the_server_offers_nothing() {
        assert_eq!(Extensions::from_ehlo(&Reply::plain(250, "PIPELINING")), Extensions::default());
        let unlimited = Extensions::from_ehlo(&Reply::plain(250, "mx\nSIZE 0"));
        assert!(unlimited.size && unlimited.size_max.is_none());
    }
}
