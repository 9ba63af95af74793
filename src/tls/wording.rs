//! Why a handshake with a host failed, in words: the library's errors have names for programmers.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// What went wrong between this machine and a host, by what ended the stream.
pub(crate) fn of_stream(error: &io::Error) -> String {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    of_tls.map_or_else(|| error.to_string(), of_host)
}

/// What went wrong in a session with a host.
pub(crate) fn of_host(error: &Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told in the library's words")]
    let words = match error {
        Error::AlertReceived(alert) => return of_alert(*alert),
        Error::PeerIncompatible(why) => of_incompatible(why),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "what the host sends is no TLS",
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerSentOversizedRecord
        | Error::PeerMisbehaved(_) => "the host breaks the rules of TLS",
        Error::NoCertificatesPresented => "the host shows no certificate",
        Error::DecryptError => "what the host sends cannot be decrypted",
        Error::InvalidCertificate(fault) => return format!("invalid peer certificate: {}", of_certificate(fault)),
        other => return other.to_string(),
    };
    words.to_owned()
}

/// What a host says when it ends TLS; the numbers are RFC 8446's.
fn of_alert(alert: AlertDescription) -> String {
    let words = [
        (AlertDescription::CloseNotify, "the host ended TLS"),
        (
            AlertDescription::HandshakeFailure,
            "the host has no cipher or key exchange in common with this relay, or wants \
                                              something else that it does not name",
        ),
        (AlertDescription::InsufficientSecurity, "the host wants stronger ciphers than are spoken here"),
        (AlertDescription::ProtocolVersion, "the host speaks no version of TLS that is spoken here"),
        (AlertDescription::InappropriateFallback, "the host takes the version of TLS for too low"),
        (AlertDescription::NoCertificate, "the host wants a client certificate"),
        (AlertDescription::CertificateRequired, "the host wants a client certificate"),
        (AlertDescription::BadCertificate, "the host does not believe the client's certificate"),
        (AlertDescription::UnsupportedCertificate, "the host does not believe the client's certificate"),
        (AlertDescription::CertificateRevoked, "the host does not believe the client's certificate"),
        (AlertDescription::CertificateExpired, "the host does not believe the client's certificate"),
        (AlertDescription::CertificateUnknown, "the host does not believe the client's certificate"),
        (AlertDescription::UnknownCA, "the host does not believe the client's certificate"),
        (AlertDescription::AccessDenied, "the host denies access"),
        (AlertDescription::UnrecognisedName, "the host does not know itself by the name that it was called"),
        (AlertDescription::NoApplicationProtocol, "the host speaks no application protocol in common"),
        (AlertDescription::InternalError, "the host has an internal error"),
        (AlertDescription::UserCanceled, "the host gave the handshake up"),
        (AlertDescription::UnexpectedMessage, "the host does not understand this relay's part of TLS"),
        (AlertDescription::BadRecordMac, "the host does not understand this relay's part of TLS"),
        (AlertDescription::RecordOverflow, "the host does not understand this relay's part of TLS"),
        (AlertDescription::IllegalParameter, "the host does not understand this relay's part of TLS"),
        (AlertDescription::DecodeError, "the host does not understand this relay's part of TLS"),
        (AlertDescription::DecryptError, "the host does not understand this relay's part of TLS"),
        (AlertDescription::MissingExtension, "the host does not understand this relay's part of TLS"),
        (AlertDescription::UnsupportedExtension, "the host does not understand this relay's part of TLS"),
    ];
    let known = words.iter().find(|(known, _)| *known == alert).map(|(_, words)| *words);
    format!("{} (alert {})", known.unwrap_or("the host ended TLS"), u8::from(alert))
}

fn of_incompatible(why: &PeerIncompatible) -> &'static str {
    let words = [
        (PeerIncompatible::ServerDoesNotSupportTls12Or13, "the host speaks no version of TLS that is spoken here"),
        (
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            "the host speaks no version of TLS that is spoken here",
        ),
        (PeerIncompatible::NoCipherSuitesInCommon, "the host has no cipher in common with this relay"),
        (PeerIncompatible::NoKxGroupsInCommon, "the host has no key exchange in common with this relay"),
        (PeerIncompatible::NoSignatureSchemesInCommon, "the host has no kind of signature in common with this relay"),
    ];
    words
        .iter()
        .find(|(known, _)| known == why)
        .map_or("the host lacks something of TLS that is needed here", |(_, words)| words)
}

/// What has a context tells it in words itself.
fn of_certificate(fault: &CertificateError) -> String {
    let words = [
        (CertificateError::UnknownIssuer, "no authority that is trusted here issued it"),
        (CertificateError::Expired, "it has expired"),
        (CertificateError::NotValidYet, "it is not valid yet"),
        (CertificateError::Revoked, "it was revoked"),
        (CertificateError::BadEncoding, "it is malformed"),
        (CertificateError::BadSignature, "its signature is wrong"),
        (CertificateError::NotValidForName, "it is for another name"),
        (CertificateError::InvalidPurpose, "it is not for servers"),
        (CertificateError::UnhandledCriticalExtension, "it has a critical extension that is not known here"),
    ];
    let known = words.iter().find(|(known, _)| known == fault);
    known.map_or_else(|| fault.to_string(), |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_tls_is_said_in_words() {
        use AlertDescription as Alert;
        for (error, expected) in [
            (
                Error::AlertReceived(Alert::ProtocolVersion),
                "the host speaks no version of TLS that is spoken here (alert 70)",
            ),
            (Error::AlertReceived(Alert::CertificateRequired), "the host wants a client certificate (alert 116)"),
            (Error::AlertReceived(Alert::Unknown(200)), "the host ended TLS (alert 200)"),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
                "the host speaks no version of TLS that is spoken here",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NullCompressionRequired),
                "the host lacks something of TLS that is needed here",
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "what the host sends is no TLS"),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "invalid peer certificate: no authority that is trusted here issued it",
            ),
        ] {
            assert_eq!(of_stream(&io::Error::other(error)), expected);
        }
        assert_eq!(of_stream(&io::ErrorKind::ConnectionReset.into()), "connection reset");
    }

    /// Every alert that has a name has words: none is told by a number alone.
    #[test]
    fn no_name_of_the_library_is_told() {
        for code in 0..=u8::MAX {
            let alert = AlertDescription::from(code);
            let told = of_alert(alert);
            assert!(told.starts_with("the host ") && !told.contains(&format!("{alert:?}")), "{told}");
        }
    }
}
