//! An app's side of SMTP: says lines, hears replies.

use std::net::SocketAddr;

use otp_relay::testing::net::BoxStream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tokio_rustls::rustls::pki_types::ServerName;

use super::PATIENCE;

/// A connection to the relay.
pub struct Client {
    stream: BufReader<BoxStream>,
}

impl Client {
    /// Connects and says EHLO.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_only("127.0.0.1", address).await;
        client.greet().await;
        client
    }

    /// Connects from one of this machine's addresses.
    pub async fn connect_only(from: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of this machine");
        let stream = socket.connect(address).await.expect("the relay listens");
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    /// Hears the banner and says EHLO.
    pub async fn greet(&mut self) {
        let banner = self.hear().await;
        assert!(banner.starts_with("220 "), "{banner}");
        assert!(self.say("EHLO client.test").await.starts_with("250"));
    }

    /// The same under TLS, whatever certificate the relay has.
    pub async fn connect_encrypted(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        assert!(client.say("STARTTLS").await.starts_with("220"));
        let connector = otp_relay::testing::tls::opportunistic_connector().unwrap();
        let name = ServerName::try_from("relay.test").unwrap();
        let stream = connector.connect(name, client.stream.into_inner()).await.expect("a handshake");
        let mut client = Self { stream: BufReader::new(Box::new(stream)) };
        assert!(client.say("EHLO client.test").await.starts_with("250"));
        client
    }

    /// Sends a line and returns the last line of the reply.
    pub async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.hear().await
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the relay reads");
    }

    /// The last line of the next reply; empty if the connection was closed.
    pub async fn hear(&mut self) -> String {
        let hear = async {
            loop {
                let mut line = String::new();
                if self.stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return String::new();
                }
                if line.as_bytes().get(3) != Some(&b'-') {
                    return line.trim_end().to_owned();
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.expect("the relay answers")
    }

    /// Whether the relay has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(tokio::time::timeout(PATIENCE, self.stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    }

    /// One message to each recipient; returns the reply to the content.
    pub async fn submit(&mut self, recipients: &[&str], content: &str) -> String {
        assert!(self.say("MAIL FROM:<otp@app.test>").await.starts_with("250"));
        for recipient in recipients {
            let reply = self.say(&format!("RCPT TO:<{recipient}>")).await;
            assert!(reply.starts_with("250"), "{reply}");
        }
        assert!(self.say("DATA").await.starts_with("354"));
        self.say(&format!("{content}\r\n.")).await
    }
}

/// A small message.
pub fn mail(subject: &str) -> String {
    format!("From: App <otp@app.test>\r\nTo: user\r\nSubject: {subject}\r\n\r\nhello")
}
