//! A mail host that does as it is told. Written apart from the relay's own sessions, so that a mistake in them is not
//! repeated here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// One message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The line of MAIL.
    pub mail: String,
    /// The line of RCPT.
    pub rcpt: String,
    /// The content without dot-stuffing.
    pub content: Vec<u8>,
}

/// User `relay`, password `secret`.
pub const LOGIN: &str = "AHJlbGF5AHNlY3JldA==";

/// What to do instead of taking a command.
#[derive(Debug, Clone)]
pub enum Trick {
    /// Say this.
    Say(&'static str),
    /// Close the connection.
    Close,
    /// Say nothing more, and keep the connection.
    Hang,
}

/// For a command that starts with a word (or "content" for its end), so many times.
struct Rule {
    word: &'static str,
    trick: Trick,
    left: usize,
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    rules: Mutex<Vec<Rule>>,
    connections: AtomicUsize,
    extensions: Mutex<Vec<&'static str>>,
    /// For STARTTLS, or for TLS before the banner.
    tls: Option<TlsAcceptor>,
    is_implicit: bool,
    /// Commands in the order they came, over all connections.
    log: Mutex<Vec<String>>,
}

/// The mail host.
#[derive(Clone)]
pub struct FakeMx {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl FakeMx {
    /// A host that takes everything and offers these extensions.
    pub async fn start(extensions: &[&'static str]) -> Self {
        Self::start_with(extensions, None).await
    }

    /// The same; it offers STARTTLS if it has something to do it with, and takes the login of [`LOGIN`] by AUTH PLAIN.
    pub async fn start_with(extensions: &[&'static str], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(listener, address, extensions, State { tls, ..State::default() })
    }

    /// The same where TLS begins with the connection.
    pub async fn start_implicit(extensions: &[&'static str], tls: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(listener, address, extensions, State { tls: Some(tls), is_implicit: true, ..State::default() })
    }

    fn serve(listener: TcpListener, address: SocketAddr, extensions: &[&'static str], state: State) -> Self {
        let state = Arc::new(state);
        state.extensions.lock().unwrap().extend(extensions);
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let state = shared.clone();
                // A broken connection is the relay's business, not the host's.
                tokio::spawn(async move { drop(serve(stream, &state).await) });
            }
        });
        Self { address, state }
    }

    /// Plays a trick on the next `times` commands that start with `word`.
    pub fn trick(&self, word: &'static str, trick: Trick, times: usize) {
        self.state.rules.lock().unwrap().push(Rule { word, trick, left: times });
    }

    /// What came so far.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Commands so far.
    pub fn log(&self) -> Vec<String> {
        self.state.log.lock().unwrap().clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl State {
    fn trick_for(&self, command: &str) -> Option<Trick> {
        self.log.lock().unwrap().push(command.trim_end().to_owned());
        let mut rules = self.rules.lock().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule.left > 0 && command.to_ascii_uppercase().starts_with(&rule.word.to_ascii_uppercase()))?;
        rule.left -= 1;
        Some(rule.trick.clone())
    }

    fn ehlo(&self, is_encrypted: bool) -> String {
        let extensions = self.extensions.lock().unwrap();
        let starttls = (self.tls.is_some() && !is_encrypted).then_some("STARTTLS");
        let mut reply: String = std::iter::once("mx.test")
            .chain(extensions.iter().copied())
            .chain(starttls)
            .map(|line| format!("250-{line}\r\n"))
            .collect();
        reply.push_str("250 HELP\r\n");
        reply
    }
}

async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    if let (true, Some(tls)) = (state.is_implicit, &state.tls) {
        let mut stream = BufReader::new(tls.accept(stream).await?);
        if greet(&mut stream, state).await? {
            dialog(&mut stream, state, true).await?;
        }
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    if !greet(&mut stream, state).await? {
        return Ok(());
    }
    if dialog(&mut stream, state, false).await? == Ending::Handshake
        && let Some(tls) = &state.tls
    {
        let mut stream = BufReader::new(tls.accept(stream.into_inner()).await?);
        dialog(&mut stream, state, true).await?;
    }
    Ok(())
}

/// The banner; says whether there is to be a dialog.
async fn greet<S: AsyncWrite + Unpin>(stream: &mut S, state: &State) -> std::io::Result<bool> {
    match state.trick_for("banner") {
        Some(Trick::Say(reply)) => stream.write_all(format!("{reply}\r\n").as_bytes()).await?,
        Some(Trick::Close) => return Ok(false),
        Some(Trick::Hang) => std::future::pending().await,
        None => stream.write_all(b"220 mx.test ESMTP\r\n").await?,
    }
    Ok(true)
}

#[derive(PartialEq)]
enum Ending {
    Close,
    Handshake,
}

async fn dialog<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    state: &State,
    is_encrypted: bool,
) -> std::io::Result<Ending> {
    let mut current = Received { mail: String::new(), rcpt: String::new(), content: Vec::new() };
    let mut rcpt_accepted = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(Ending::Close);
        }
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let trick = state.trick_for(&line);
        if verb == "BDAT" {
            current.content = read_chunk(stream, &line).await?;
        }
        let reply = match verb.as_str() {
            _ if trick.is_some() => match trick {
                Some(Trick::Say(reply)) => format!("{reply}\r\n"),
                Some(Trick::Hang) => std::future::pending().await,
                Some(Trick::Close) | None => return Ok(Ending::Close),
            },
            "EHLO" => state.ehlo(is_encrypted),
            "STARTTLS" if state.tls.is_some() && !is_encrypted => {
                stream.write_all(b"220 go ahead\r\n").await?;
                return Ok(Ending::Handshake);
            }
            "AUTH" if line.trim_end().ends_with(LOGIN) => "235 2.7.0 welcome\r\n".to_owned(),
            "AUTH" => "535 5.7.8 who are you?\r\n".to_owned(),
            "MAIL" => {
                (current.mail, rcpt_accepted) = (line.trim_end().to_owned(), false);
                "250 2.1.0 ok\r\n".to_owned()
            }
            "RCPT" => {
                (current.rcpt, rcpt_accepted) = (line.trim_end().to_owned(), true);
                "250 2.1.5 ok\r\n".to_owned()
            }
            "DATA" | "BDAT" if !rcpt_accepted => "554 5.5.1 no valid recipients\r\n".to_owned(),
            "DATA" | "BDAT" => {
                if verb == "DATA" {
                    stream.write_all(b"354 go ahead\r\n").await?;
                    current.content = read_dotted(stream).await?;
                }
                match end_of_content(state, &current) {
                    Some(reply) => reply,
                    None => return Ok(Ending::Close),
                }
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(Ending::Close);
            }
            "RSET" | "NOOP" | "HELO" => "250 ok\r\n".to_owned(),
            _ => "502 5.5.1 what?\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}

async fn read_chunk<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, line: &str) -> std::io::Result<Vec<u8>> {
    let size: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mut content = vec![0; size];
    stream.read_exact(&mut content).await?;
    Ok(content)
}

/// The reply to the content; none: close without one.
fn end_of_content(state: &State, current: &Received) -> Option<String> {
    match state.trick_for("content") {
        Some(Trick::Say(reply)) => Some(format!("{reply}\r\n")),
        Some(Trick::Close | Trick::Hang) => {
            // Taken, but the relay does not get to know.
            state.received.lock().unwrap().push(current.clone());
            None
        }
        None => {
            state.received.lock().unwrap().push(current.clone());
            Some("250 2.0.0 taken\r\n".to_owned())
        }
    }
}

async fn read_dotted(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(content);
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
