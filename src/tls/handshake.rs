//! The handshake with a client, and what went wrong with it in words.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::acme;

/// Octets of a client's first message that say which version it speaks: record header, message header, version.
const START_LEN: usize = 11;
/// A record that belongs to a handshake.
const HANDSHAKE_RECORD: u8 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client does not believe the certificate; in its words.
    Untrusted(&'static str),
    /// It speaks no version that is spoken here.
    Version(&'static str),
    /// No cipher, key exchange or signature that both know.
    NothingInCommon(&'static str),
    /// What it sent is no TLS.
    PlainText,
    /// It closed the connection before it was shown anything.
    Closed,
    /// It closed the connection when it was shown the certificate, without a word.
    ClosedAtCertificate,
    /// It gave up when it was shown the certificate; with this alert, which names no reason.
    GaveUpAtCertificate(&'static str),
    TooSlow,
    /// It gave up for another reason.
    Alert,
    /// What it sent is not what a handshake has.
    Malformed,
}

impl Fault {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Untrusted(why) => format!("the client does not trust the certificate ({why})"),
            Self::Version(version) => format!("the client speaks {version} only"),
            Self::NothingInCommon(what) => format!("client and relay have no {what} in common"),
            Self::PlainText => "plain text where TLS was expected".to_owned(),
            Self::Closed => "closed during the handshake".to_owned(),
            Self::ClosedAtCertificate => {
                "the client closed when it saw the certificate, as clients do that do not trust it".to_owned()
            }
            Self::GaveUpAtCertificate(alert) => {
                format!("the client gave up when it saw the certificate ({alert}), as clients do that do not trust it")
            }
            Self::TooSlow => "the handshake took too long".to_owned(),
            Self::Alert => "the client gave the handshake up".to_owned(),
            Self::Malformed => "the client's part of the handshake is malformed".to_owned(),
        }
    }
}

/// Does the handshake with a client.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &TlsAcceptor,
    stream: S,
    timeout: Duration,
) -> Result<TlsStream<RecordedStream<S>>, Fault> {
    let watched = RecordedStream { stream, start: [0; START_LEN], seen: 0, has_answered: false };
    match tokio::time::timeout(timeout, acceptor.accept(watched).into_fallible()).await {
        Err(_) => Err(Fault::TooSlow),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, watched))) => Err(match fault(&error, &watched.start[..watched.seen]) {
            Fault::Closed => watched.at_the_end(),
            fault @ (Fault::Untrusted(_)
            | Fault::Version(_)
            | Fault::NothingInCommon(_)
            | Fault::PlainText
            | Fault::ClosedAtCertificate
            | Fault::GaveUpAtCertificate(_)
            | Fault::TooSlow
            | Fault::Alert
            | Fault::Malformed) => fault,
        }),
    }
}

/// As [`accept`], at a listener where a CA may come to look at the answer to its challenge, which is no session.
pub(crate) async fn accept_or_answer<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &TlsAcceptor,
    answer: Arc<ServerConfig>,
    stream: S,
    timeout: Duration,
) -> Result<Option<TlsStream<RecordedStream<S>>>, Fault> {
    let watched = RecordedStream { stream, start: [0; START_LEN], seen: 0, has_answered: false };
    let accepting = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), watched).await?;
        let is_ca = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == acme::ALPN));
        let config = if is_ca { answer } else { acceptor.config().clone() };
        Ok((start.into_stream(config).await?, is_ca))
    };
    match tokio::time::timeout(timeout, accepting).await {
        Err(_) => Err(Fault::TooSlow),
        Ok(Err(error)) => Err(fault(&error, &[])),
        Ok(Ok((stream, is_ca))) => Ok((!is_ca).then_some(stream)),
    }
}

fn fault(error: &io::Error, start: &[u8]) -> Fault {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else { return Fault::Closed };
    if start.first().is_some_and(|first| *first != HANDSHAKE_RECORD) {
        return Fault::PlainText;
    }
    if let Error::AlertReceived(alert) = error {
        return of_alert(*alert);
    }
    if let Error::PeerIncompatible(incompatible) = error {
        return of_incompatible(incompatible, start);
    }
    let is_no_record = matches!(error, Error::InvalidMessage(InvalidMessage::InvalidContentType));
    if is_no_record { Fault::PlainText } else { Fault::Malformed }
}

/// Before the certificate, which comes with the relay's first words, no client has a say. Programs that check the name in it
/// themselves, with OpenSSL below them (Perl's IO::Socket::SSL), have one of two alerts sent that name no reason.
fn of_alert(alert: AlertDescription) -> Fault {
    if let Some(words) = untrusted(alert) {
        return Fault::Untrusted(words);
    }
    let vague = [
        (AlertDescription::InternalError, "internal error"),
        (AlertDescription::HandshakeFailure, "handshake failure"),
    ];
    let words = vague.iter().find(|(known, _)| *known == alert).map(|(_, words)| *words);
    words.map_or(Fault::Alert, Fault::GaveUpAtCertificate)
}

/// The words of RFC 8446 section 6.2 for what concerns certificates.
fn untrusted(alert: AlertDescription) -> Option<&'static str> {
    let words = [
        (AlertDescription::UnknownCA, "unknown CA"),
        (AlertDescription::BadCertificate, "bad certificate"),
        (AlertDescription::CertificateExpired, "certificate expired"),
        (AlertDescription::CertificateRevoked, "certificate revoked"),
        (AlertDescription::CertificateUnknown, "certificate unknown"),
        (AlertDescription::UnsupportedCertificate, "unsupported certificate"),
        (AlertDescription::AccessDenied, "access denied"),
    ];
    words.iter().find(|(known, _)| *known == alert).map(|(_, words)| *words)
}

fn of_incompatible(incompatible: &PeerIncompatible, start: &[u8]) -> Fault {
    let what = [
        (PeerIncompatible::NoCipherSuitesInCommon, "cipher suite"),
        (PeerIncompatible::NoKxGroupsInCommon, "key exchange group"),
        (PeerIncompatible::NoSignatureSchemesInCommon, "signature scheme"),
    ];
    if let Some((_, what)) = what.iter().find(|(known, _)| known == incompatible) {
        return Fault::NothingInCommon(what);
    }
    match start.get(START_LEN - 2..) {
        Some([3, 0]) => Fault::Version("SSL 3.0"),
        Some([3, 1]) => Fault::Version("TLS 1.0"),
        Some([3, 2]) => Fault::Version("TLS 1.1"),
        _ => Fault::Version("other versions of TLS"),
    }
}

/// A stream whose first octets are kept.
#[derive(Debug)]
pub(crate) struct RecordedStream<S> {
    stream: S,
    start: [u8; START_LEN],
    seen: usize,
    /// Whether the relay has sent its part, with the certificate.
    has_answered: bool,
}

impl<S> RecordedStream<S> {
    /// What it means that it was closed.
    fn at_the_end(&self) -> Fault {
        if self.has_answered { Fault::ClosedAtCertificate } else { Fault::Closed }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RecordedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if self.seen < START_LEN {
            let new = into.filled().get(before..).unwrap_or_default();
            let (at, len) = (self.seen, new.len().min(START_LEN - self.seen));
            self.start[at..at + len].copy_from_slice(&new[..len]);
            self.seen += len;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RecordedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.has_answered = true;
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.has_answered = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::super::{provider, self_signed};
    use super::*;
    use crate::base::clock::Timestamp;

    /// A client's first message.
    fn hello() -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    #[test]
    fn alerts_have_their_meaning() {
        use AlertDescription as Alert;
        for (alert, expected) in [
            (Alert::UnknownCA, Fault::Untrusted("unknown CA")),
            (Alert::BadCertificate, Fault::Untrusted("bad certificate")),
            (Alert::InternalError, Fault::GaveUpAtCertificate("internal error")),
            (Alert::HandshakeFailure, Fault::GaveUpAtCertificate("handshake failure")),
            (Alert::ProtocolVersion, Fault::Alert),
            (Alert::IllegalParameter, Fault::Alert),
        ] {
            assert_eq!(fault(&io::Error::other(Error::AlertReceived(alert)), &[HANDSHAKE_RECORD]), expected);
        }
    }

    /// Some clients (Node's among them) send no alert when they do not trust what they see.
    #[tokio::test]
    async fn a_client_that_leaves_at_the_certificate_is_told_from_one_that_leaves_before() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        self_signed::ensure(&certificate, &key, "localhost", Timestamp::from_millis(0)).unwrap();
        let acceptor = super::super::acceptor(&certificate, &key).unwrap();
        let hello = hello();
        for (sent, expected) in
            [(&hello[..0], Fault::Closed), (&hello[..20], Fault::Closed), (&hello[..], Fault::ClosedAtCertificate)]
        {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let accepting = accept(&acceptor, server, Duration::from_secs(60));
            let leaving = async {
                client.write_all(sent).await.unwrap();
                if sent.len() == hello.len() {
                    client.read_u8().await.unwrap();
                }
                drop(client);
            };
            let (accepted, ()) = tokio::join!(accepting, leaving);
            assert_eq!(accepted.map(drop).unwrap_err(), expected, "{} octets", sent.len());
        }
    }
}
