//! Octets to and from a host, within time limits.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::Error as TlsError;

use crate::net::BoxStream;
use crate::smtp::client_session::{Event, WRITE_TIMEOUT};
use crate::tls::wording;

/// Octets read at once.
const READ_LEN: usize = 4096;
/// Octets of content written within one [`WRITE_TIMEOUT`].
const WRITE_LEN: usize = 64 << 10;
/// How long QUIT may take to be sent.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Buffer = Box<[u8; READ_LEN]>;

/// A connection's stream, and what was read from it last.
pub(super) struct Wire {
    stream: BoxStream,
    buffer: Buffer,
}

/// What came while one listened.
pub(super) enum Input {
    Octets(usize),
    /// The peer ended TLS with an alert that says why.
    Alert(String),
    Closed,
    Timeout,
}

impl Wire {
    pub(super) fn new(stream: BoxStream) -> Self {
        Self { stream, buffer: Box::new([0; READ_LEN]) }
    }

    /// The stream, to be encrypted, and the buffer for what it becomes.
    pub(super) fn into_parts(self) -> (BoxStream, Buffer) {
        (self.stream, self.buffer)
    }

    /// A stream with the buffer of another.
    pub(super) fn with(stream: BoxStream, buffer: Buffer) -> Self {
        Self { stream, buffer }
    }

    /// The first `len` octets that were read last.
    pub(super) fn octets(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }

    /// Returns when the peer says something or ends the connection.
    pub(super) async fn read(&mut self) -> Input {
        match self.stream.read(self.buffer.as_mut_slice()).await {
            Ok(0) => Input::Closed,
            Ok(len) => Input::Octets(len),
            Err(error) => ended_by(&error),
        }
    }

    /// Sends octets.
    pub(super) async fn write(&mut self, octets: &[u8]) -> Result<(), Event<'static>> {
        for part in octets.chunks(WRITE_LEN) {
            let write = async {
                self.stream.write_all(part).await?;
                self.stream.flush().await
            };
            match tokio::time::timeout(WRITE_TIMEOUT, write).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Event::Closed),
                Err(_) => return Err(Event::Timeout),
            }
        }
        Ok(())
    }

    /// Sends the last octets and ends the connection; whether they arrive changes nothing.
    pub(super) async fn close_with(&mut self, octets: &[u8]) {
        let _ = tokio::time::timeout(QUIT_TIMEOUT, self.stream.write_all(octets)).await;
        let _ = tokio::time::timeout(QUIT_TIMEOUT, self.stream.shutdown()).await;
    }
}

/// An alert of the peer tells more than that the connection ended.
fn ended_by(error: &io::Error) -> Input {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    tls.map_or(Input::Closed, |error| Input::Alert(wording::of_host(error)))
}
