//! One conversation with a mail host, up to MAIL at most where it is somebody else's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::look::Look;
use crate::net::BoxStream;
use crate::smtp::reply::{Reply, ReplyReader};

/// How long a connection, and how long each reply, may take.
const CONNECT_MAX: Duration = Duration::from_millis(1_500);
const REPLY_MAX: Duration = Duration::from_millis(2_000);

pub(super) struct Talk {
    stream: BoxStream,
    reader: ReplyReader,
    pub(super) banner: Reply,
    /// The lines of the reply to EHLO; none where the banner was a refusal.
    pub(super) ehlo: Option<Reply>,
}

impl Talk {
    /// Connects, reads the banner, says EHLO.
    pub(super) async fn open(look: &Look<'_>, to: SocketAddr, source: Option<IpAddr>) -> Result<Self, String> {
        let connecting = tokio::time::timeout(CONNECT_MAX, look.network.connect(to, source)).await;
        let stream = connecting.map_err(|_| "no connection in time".to_owned())?.map_err(|error| error.to_string())?;
        let mut stream = stream;
        let mut reader = ReplyReader::default();
        let banner = read(&mut stream, &mut reader).await?;
        let mut talk = Self { stream, reader, banner, ehlo: None };
        if !talk.banner.is_refusal() {
            talk.ehlo = Some(talk.say(&format!("EHLO {}", look.config.delivery.hostname)).await?);
        }
        Ok(talk)
    }

    /// Says a line and reads the reply.
    pub(super) async fn say(&mut self, line: &str) -> Result<Reply, String> {
        let sent = self.stream.write_all(format!("{line}\r\n").as_bytes()).await;
        sent.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())?;
        read(&mut self.stream, &mut self.reader).await
    }

    pub(super) async fn quit(mut self) {
        let _ = self.say("QUIT").await;
    }
}

async fn read(stream: &mut BoxStream, reader: &mut ReplyReader) -> Result<Reply, String> {
    let mut buffer = [0; 2048];
    let reading = async {
        loop {
            if let Some(reply) = reader.next_reply().map_err(|error| error.to_string())? {
                return Ok(reply);
            }
            match stream.read(&mut buffer).await {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(count) => reader.feed(&buffer[..count]),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    tokio::time::timeout(REPLY_MAX, reading).await.unwrap_or_else(|_| Err("no reply in time".to_owned()))
}
