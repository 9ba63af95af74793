//! Why something is refused, where, and by which setting: closed sets, for lines and counters.

use crate::intake::refusal::Refusal;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::server_session::Phase;
use crate::tls::handshake::Fault;

/// Which way somebody wanted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// Submission.
    Smtp,
    /// The API.
    Http,
}

impl Door {
    /// In lines and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Http => "http",
        }
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Connecting.
    Connect,
    /// The header that a proxy sends first.
    ProxyHeader,
    /// The TLS handshake.
    Tls,
    /// Something of an SMTP session.
    Smtp(Phase),
    /// A request.
    Http(Endpoint),
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// Nothing that could be read.
    Head,
    /// `/v1/messages` and what is below.
    Messages,
    /// `/v1/events`.
    Events,
    /// `/v1/queue` and what is below.
    Queue,
    /// `/v1/destinations` and what is below.
    Destinations,
    /// `/v1/suppressions` and what is below.
    Suppressions,
    /// `/v1/verifications` and what is below.
    Verifications,
    /// `/v1/hooks/` and what is below.
    Hooks,
    /// `/healthz`, `/readyz` and `/metrics`.
    Health,
    /// The compatible doors.
    Doors,
    /// Any other path.
    Other,
}

impl Endpoint {
    /// Of a request's path.
    pub fn of(path: &str) -> Self {
        let mut segments = path.trim_start_matches('/').split('/');
        match (segments.next(), segments.next()) {
            (Some("v1"), Some("messages")) => Self::Messages,
            (Some("v1"), Some("events")) => Self::Events,
            (Some("v1"), Some("queue")) => Self::Queue,
            (Some("v1"), Some("destinations")) => Self::Destinations,
            (Some("v1"), Some("suppressions")) => Self::Suppressions,
            (Some("v1"), Some("verifications")) => Self::Verifications,
            (Some("v1"), Some("hooks")) => Self::Hooks,
            (Some("email" | "emails" | "v3"), _) => Self::Doors,
            (Some("healthz" | "readyz" | "metrics"), None) => Self::Health,
            _ => Self::Other,
        }
    }
}

impl Stage {
    /// In lines and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::Smtp(phase) => phase.name(),
            Self::Http(endpoint) => match endpoint {
                Endpoint::Head => "request",
                Endpoint::Messages => "messages",
                Endpoint::Events => "events",
                Endpoint::Queue => "queue",
                Endpoint::Destinations => "destinations",
                Endpoint::Suppressions => "suppressions",
                Endpoint::Verifications => "verifications",
                Endpoint::Hooks => "hooks",
                Endpoint::Health => "health",
                Endpoint::Doors => "doors",
                Endpoint::Other => "other",
            },
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $label:literal $(by $setting:literal)?,)*) => {
        /// Why something is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// In lines and counters.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The setting that draws the line, as the configuration writes it.
            pub(crate) fn limit(self) -> Option<&'static str> {
                match self { $(Self::$name => reasons!(@setting $($setting)?),)* }
            }
        }
    };
    (@setting) => { None };
    (@setting $setting:literal) => { Some($setting) };
}

reasons! {
    /// No login before MAIL.
    Unauthenticated "unauthenticated",
    /// TLS is needed for what was asked.
    ClearText "clear_text",
    /// A wrong user or password.
    Credentials "credentials",
    /// No or a wrong token.
    Token "token",
    /// Too many logins at once.
    AuthBusy "auth_busy",
    /// A login that holds no more: its user was removed, or has another password.
    LoginEnded "login_ended",
    /// AUTH that did not come to an end.
    Auth "auth",
    /// An address that the user may not send as.
    Sender "sender" by "user.senders",
    /// A recipient outside of those that are served.
    OnlyTo "only_to" by "delivery.only_to",
    /// A recipient that is not sent to.
    Suppressed "suppressed",
    /// A recipient's domain that takes no mail.
    Domain "domain" by "submission.verify_domain",
    /// A recipient's domain whose mail hosts have private addresses only.
    PrivateHosts "private_hosts" by "delivery.allow_private_destinations",
    /// A recipient that cannot be one.
    Recipient "recipient",
    /// A recipient whose local part routes elsewhere.
    Routed "routed" by "submission.routed_addresses",
    /// A recipient that has had its messages.
    Budget "budget" by "otp.recipient_budget",
    /// A recipient that has had its messages of all users together.
    TotalBudget "total_budget" by "otp.recipient_budget_total",
    /// A user that has as much of something as it may have beside others.
    Share "share",
    /// A user that has sent its share.
    Rate "rate" by "user.rate",
    /// No place in the queue.
    QueueFull "queue_full" by "queue.entries_max",
    /// No place on the disk, or it fails.
    DiskFull "disk_full",
    /// Too large.
    Size "size" by "submission.message_size_max",
    /// A request whose head is too long.
    Head "head",
    /// Too many recipients.
    Recipients "recipients" by "submission.recipients_max",
    /// Content that is no message.
    Message "message",
    /// Content with a line that is too long.
    LongLine "long_line" by "submission.long_lines",
    /// A line that does not end in CRLF.
    LineEnds "line_ends",
    /// Mail that goes round in circles.
    Loop "loop",
    /// An option that cannot be understood.
    Option "option",
    /// Another message under a key that was used.
    Idempotency "idempotency",
    /// Something failed here.
    Internal "internal",
    /// The relay stops.
    ShuttingDown "shutting_down",
    /// Too many connections at once.
    Connections "connections" by "submission.connections_max",
    /// Too many connections of one address.
    ConnectionsOfAddress "connections_of_address" by "submission.connections_per_address_max",
    /// It gave way to somebody else.
    GaveWay "gave_way" by "submission.connections_max",
    /// Too many errors or commands.
    Errors "errors",
    /// Too slow.
    Timeout "timeout" by "submission.idle_timeout",
    /// Too slow before a login.
    LoginTimeout "login_timeout" by "submission.command_timeout",
    /// Too slow over HTTP.
    TooSlow "too_slow",
    /// Gone in the middle of a message.
    Closed "closed",
    /// A command or parameter that is not known, or malformed.
    Syntax "syntax",
    /// A command in the wrong place.
    Sequence "sequence",
    /// An address that needs an extension which was not asked for.
    SmtpUtf8 "smtputf8",
    /// No header of a proxy, or a malformed one.
    ProxyHeader "proxy_header" by "listener.proxy_protocol_from",
    /// The client does not believe the certificate.
    TlsUntrusted "tls_untrusted",
    /// The client is too old, or has nothing in common with us.
    TlsVersion "tls_version",
    /// Plain text where TLS was expected.
    TlsPlainText "tls_plain_text",
    /// Gone in the handshake.
    TlsClosed "tls_closed",
    /// Too slow in the handshake.
    TlsTimeout "tls_timeout",
    /// Another fault in the handshake.
    TlsOther "tls_other",
    /// Not for this user.
    Forbidden "forbidden",
    /// Nothing there, or nothing of one's own.
    NotFound "not_found",
    /// A method that the path does not have.
    Method "method",
    /// Content of another kind.
    MediaType "media_type",
    /// A request for another host.
    Host "host" by "http.hosts",
    /// A request that cannot be used.
    Invalid "invalid",
    /// Too many of something at once.
    TooMany "too_many",
    /// Not now.
    Unavailable "unavailable",
    /// Something else.
    Other "other",
}

impl Reason {
    /// Of what intake refuses.
    pub(crate) fn of_refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Sender { .. } => Self::Sender,
            Refusal::NoSuchDomain | Refusal::NullMx | Refusal::NoMailHost => Self::Domain,
            Refusal::PrivateHosts => Self::PrivateHosts,
            Refusal::AddressLiteral => Self::Recipient,
            Refusal::Routed => Self::Routed,
            Refusal::NotInOnlyTo => Self::OnlyTo,
            Refusal::Message(_) => Self::Message,
            Refusal::LongLine { .. } => Self::LongLine,
            Refusal::Option(_) => Self::Option,
            Refusal::IdempotencyConflict | Refusal::InWork => Self::Idempotency,
            Refusal::Suppressed { .. } => Self::Suppressed,
            Refusal::Budget { .. } => Self::Budget,
            Refusal::TotalBudget => Self::TotalBudget,
            Refusal::Rate { .. } => Self::Rate,
            Refusal::Loop => Self::Loop,
            Refusal::Share(_) => Self::Share,
            Refusal::QueueFull { .. } => Self::QueueFull,
            Refusal::DiskFull => Self::DiskFull,
            Refusal::Internal => Self::Internal,
            Refusal::ShuttingDown => Self::ShuttingDown,
        }
    }

    /// Of what an SMTP session refuses by itself.
    pub(crate) fn of_reply(phase: Phase, reply: &Reply) -> Self {
        let enhanced = reply.enhanced.map(|EnhancedCode(class, subject, detail)| (class, subject, detail));
        match (reply.code, enhanced) {
            (421, Some((4, 3, 2))) => Self::ShuttingDown,
            (421, Some((4, 4, 2))) => Self::Timeout,
            (421, _) => Self::Errors,
            (452, Some((4, 5, 3))) => Self::Recipients,
            (454, _) => Self::AuthBusy,
            (530, Some((5, 7, 0))) => Self::Unauthenticated,
            (530 | 538, _) => Self::ClearText,
            (535, _) => Self::Credentials,
            (503, _) | (554, Some((5, 5, _))) => Self::Sequence,
            (501 | 504, _) if phase == Phase::Auth => Self::Auth,
            (500..=502 | 504 | 555, _) => Self::Syntax,
            (550, _) => Self::Recipient,
            (552, _) => Self::Size,
            (553, _) => Self::SmtpUtf8,
            (554, Some((5, 6, _))) => Self::LineEnds,
            (451, _) => Self::Internal,
            _ => Self::Other,
        }
    }

    /// Of an answer of the API that says no more.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            400 => Self::Syntax,
            401 => Self::Token,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::Method,
            408 => Self::TooSlow,
            409 => Self::Idempotency,
            413 => Self::Size,
            431 => Self::Head,
            415 => Self::MediaType,
            421 => Self::Host,
            422 => Self::Invalid,
            429 => Self::TooMany,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }

    /// Of a handshake that failed.
    pub(crate) fn of_handshake(fault: Fault) -> Self {
        match fault {
            Fault::Untrusted(_) | Fault::ClosedAtCertificate | Fault::GaveUpAtCertificate(_) => Self::TlsUntrusted,
            Fault::Version(_) | Fault::NothingInCommon(_) => Self::TlsVersion,
            Fault::PlainText => Self::TlsPlainText,
            Fault::Closed => Self::TlsClosed,
            Fault::TooSlow => Self::TlsTimeout,
            Fault::Alert | Fault::Malformed => Self::TlsOther,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply;

    #[test]
    fn replies_have_their_reasons() {
        let check = |phase: Phase, reply: &Reply, expected: Reason| {
            assert_eq!(Reason::of_reply(phase, reply), expected, "{reply}");
        };
        check(Phase::Mail, &reply::AUTHENTICATION_REQUIRED, Reason::Unauthenticated);
        check(Phase::Auth, &reply::BAD_CREDENTIALS, Reason::Credentials);
        check(Phase::Auth, &reply::ENCRYPTION_REQUIRED, Reason::ClearText);
        check(Phase::Auth, &reply::AUTHENTICATION_CANCELLED, Reason::Auth);
        check(Phase::Auth, &reply::UNKNOWN_MECHANISM, Reason::Auth);
        check(Phase::Auth, &reply::AUTHENTICATION_BUSY, Reason::AuthBusy);
        check(Phase::Command, &reply::UNKNOWN_COMMAND, Reason::Syntax);
        check(Phase::Mail, &reply::UNKNOWN_PARAMETER, Reason::Syntax);
        check(Phase::Rcpt, &reply::BAD_SEQUENCE, Reason::Sequence);
        check(Phase::Rcpt, &reply::TOO_MANY_RECIPIENTS, Reason::Recipients);
        check(Phase::Rcpt, &reply::SMTPUTF8_NEEDED, Reason::SmtpUtf8);
        check(Phase::Rcpt, &reply::NO_POSTMASTER, Reason::Recipient);
        check(Phase::Data, &reply::NO_RECIPIENTS, Reason::Sequence);
        check(Phase::Content, &reply::TOO_BIG, Reason::Size);
        check(Phase::Content, &Reply::new(554, EnhancedCode(5, 6, 0), "bare LF"), Reason::LineEnds);
        check(Phase::Command, &reply::IDLE_TIMEOUT, Reason::Timeout);
        check(Phase::Command, &reply::SHUTTING_DOWN, Reason::ShuttingDown);
        check(Phase::Command, &reply::TOO_MANY_ERRORS, Reason::Errors);
    }

    #[test]
    fn requests_have_their_stages() {
        assert_eq!(Endpoint::of("/v1/messages/01M7YRRT9A0000000000000000"), Endpoint::Messages);
        assert_eq!(Endpoint::of("/v1/suppressions/alice@example.com"), Endpoint::Suppressions);
        assert_eq!(Endpoint::of("/v2/messages"), Endpoint::Other);
        assert_eq!(Endpoint::of(""), Endpoint::Other);
    }
}
