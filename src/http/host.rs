//! The name under which a request reaches the relay. A web page whose owner lets its own name point at this address could
//! have a visitor's browser ask here (DNS rebinding); the browser then says the page's name.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{Request, Version, header};

use super::problem::Problem;

/// What a request says of the host that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestedHost {
    /// Nothing, as HTTP/1.0 may.
    Nothing,
    Address,
    /// A name, in lower case and without a dot at its end; it may be empty.
    Name(String),
}

impl RequestedHost {
    /// Reads it from the request's target or its field Host (RFC 9112 section 3.2).
    ///
    /// # Errors
    /// When there is no Host, more than one, or one that cannot be.
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Problem> {
        let mut fields = request.headers().get_all(header::HOST).iter();
        let text = match (fields.next(), fields.next()) {
            (None, _) if request.version() == Version::HTTP_10 => None,
            (None, _) => return Err(Problem::bad_request("a request needs the field Host")),
            (Some(_), Some(_)) => return Err(Problem::bad_request("a request has one field Host")),
            (Some(field), None) => Some(field.to_str().unwrap_or("?")),
        };
        // What the target says counts for more; the field has to be as it must all the same.
        let field = text.map_or(Ok(Self::Nothing), Self::read)?;
        request.uri().authority().map_or(Ok(field), |authority| Self::read(authority.as_str()))
    }

    fn read(text: &str) -> Result<Self, Problem> {
        Self::parse(text).ok_or_else(|| Problem::bad_request("Host is a name or an address, and maybe a port"))
    }

    fn parse(text: &str) -> Option<Self> {
        let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(Self::Address);
        }
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !is_name || !is_port(port) {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        Some(if name.parse::<IpAddr>().is_ok() { Self::Address } else { Self::Name(name) })
    }

    /// Whether nobody outside can make a browser say it: an address, a name without a dot (`localhost` is one), or one of
    /// `hosts`, which are in lower case.
    pub(super) fn is_known(&self, hosts: &[String]) -> bool {
        match self {
            Self::Nothing | Self::Address => true,
            Self::Name(name) => !name.is_empty() && (!name.contains('.') || hosts.contains(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_plain_names_and_configured_names_are_known() {
        let hosts = ["relay.example.com".to_owned(), "xn--bcher-kva.example".to_owned()];
        let check = |text: &str, expected: Option<bool>| {
            assert_eq!(RequestedHost::parse(text).map(|named| named.is_known(&hosts)), expected, "{text:?}");
        };
        for text in ["127.0.0.1", "127.0.0.1:8587", "[::1]", "[::1]:8587", "10.1.2.3:80", "192.0.2.1."] {
            check(text, Some(true));
        }
        for text in [
            "localhost",
            "LOCALHOST:8587",
            "localhost.",
            "relay",
            "otp_relay:8587",
            "relay.Example.COM.",
            "relay.example.com:443",
        ] {
            check(text, Some(true));
        }
        for text in [
            "evil.example",
            "relay.example.com.evil.example",
            "127.0.0.1.evil.example",
            "127.1",
            "localhost.evil.example:8587",
            "",
            ":8587",
            "sub.relay.example.com",
        ] {
            check(text, Some(false));
        }
        for text in [
            "a b",
            "user@localhost",
            "[::1",
            "[::1]8587",
            "[127.0.0.1]",
            "localhost:port",
            "localhost:123456",
            "::1",
            "localhost/",
            "b\u{fc}cher.example",
        ] {
            check(text, None);
        }
        assert!(RequestedHost::Nothing.is_known(&[]));
    }
}
