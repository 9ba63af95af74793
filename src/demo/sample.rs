//! The sample message, and the app that submits it: a handful of lines over a socket, shown as they are said.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_builder::MessageBuilder;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::relay::random::fill_random;

/// A code of six digits.
pub(super) fn code() -> anyhow::Result<String> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(format!("{:06}", u32::from_be_bytes(bytes) % 1_000_000))
}

/// A good OTP mail: the code first in subject and text, how long it holds, and nothing to click.
pub(super) fn message(from: &str, to: &str, code: &str) -> anyhow::Result<String> {
    let text = format!(
        "{code} is your code for Example Shop.\n\nIt is valid for 10 minutes. If you did not ask for it, ignore this mail \
         and tell nobody the code.\n"
    );
    let message = MessageBuilder::new()
        .from(("Example Shop", from))
        .to(to)
        .subject(format!("{code} is your code"))
        .header("Auto-Submitted", mail_builder::headers::raw::Raw::new("auto-generated"))
        .text_body(text);
    message.write_to_string().context("the sample message cannot be written")
}

/// Submits a message the way an app does; each line of the dialog goes to `show`.
pub(super) async fn submit(
    relay: SocketAddr,
    (user, password): (&str, &str),
    (from, to): (&str, &str),
    message: &str,
    mut show: impl FnMut(&str),
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(relay).await.context("the relay cannot be reached")?;
    let mut stream = BufReader::new(stream);
    expect(&mut stream, "220", &mut show).await?;
    let token = BASE64.encode(format!("\0{user}\0{password}"));
    let dialog = [
        ("EHLO app.example.test".to_owned(), "EHLO app.example.test", "250"),
        (format!("AUTH PLAIN {token}"), "AUTH PLAIN ***", "235"),
        (format!("MAIL FROM:<{from}>"), "", "250"),
        (format!("RCPT TO:<{to}>"), "", "250"),
        ("DATA".to_owned(), "", "354"),
    ];
    for (command, shown, code) in dialog {
        show(&format!("C: {}", if shown.is_empty() { &command } else { shown }));
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        expect(&mut stream, code, &mut show).await?;
    }
    show(&format!("C: (the message, {} bytes)", message.len()));
    stream.write_all(format!("{}\r\n.\r\n", message.trim_end()).as_bytes()).await?;
    expect(&mut stream, "250", &mut show).await?;
    stream.write_all(b"QUIT\r\n").await?;
    Ok(())
}

async fn expect(stream: &mut BufReader<TcpStream>, code: &str, show: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let mut extensions = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the relay closed the connection");
        let line = line.trim_end();
        ensure!(line.starts_with(code), "the relay said: {line}");
        if line.as_bytes().get(3) == Some(&b'-') {
            extensions.extend(line.get(4..).map(str::to_owned));
            continue;
        }
        if extensions.is_empty() {
            show(&format!("S: {line}"));
        } else {
            show(&format!("S: {}- {} (and {} extensions)", code, extensions[0], extensions.len()));
        }
        return Ok(());
    }
}
