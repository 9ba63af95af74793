//! An app's side of HTTP, written apart from the relay's own client.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PATIENCE;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The head in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The id of what was made.
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {}", self.body)).to_owned()
    }

    /// A header field; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        let of_name = |line: &&str| line.starts_with(&format!("{name}:"));
        self.head.lines().find(of_name).map_or("", |line| line[name.len() + 1..].trim())
    }
}

/// Where to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Http {
    pub address: SocketAddr,
    pub token: String,
}

impl Http {
    /// One request on a connection of its own; `fields` are header lines.
    pub async fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let ask = async {
            let mut stream = self.send(method, path, fields, body).await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
        };
        tokio::time::timeout(PATIENCE, ask).await.expect("the API answers")
    }

    async fn send(&self, method: &str, path: &str, fields: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await.expect("the API listens");
        let token = match self.token.as_str() {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n{token}{fields}");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, "", &body.to_string()).await
    }

    /// A stream of events.
    pub async fn follow(&self, path: &str, fields: &str) -> Stream {
        let mut stream = Stream(self.send("GET", path, fields, "").await);
        while !stream.line().await.expect("a head").is_empty() {}
        stream
    }
}

/// Server-sent events.
pub struct Stream(BufReader<TcpStream>);

impl Stream {
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("the stream goes on");
        (read.unwrap_or(0) > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event: its id, its name and its data; none at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut id, mut name) = (String::new(), String::new());
        loop {
            let line = self.line().await?;
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut name);
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some((id, name, serde_json::from_str(text).unwrap()));
            }
        }
    }
}
