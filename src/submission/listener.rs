//! Listening sockets: who is let in, and how many at once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, Shared};
use super::credentials::Credentials;
use super::throttle::Throttle;
use crate::clock::Clock;
use crate::intake::door::Door;
use crate::net::BoxStream;
use crate::smtp::reply;
use crate::smtp::server_session::{Access, Peer, SessionSettings};

/// Connections that the kernel may hold for us.
const BACKLOG: u32 = 1024;
/// How long to rest when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a TLS handshake may take on a listener with implicit TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// One listening address.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Where.
    pub address: SocketAddr,
    /// With which TLS.
    pub tls: ListenerTls,
    /// Networks that need not authenticate.
    pub trusted_networks: Vec<IpNet>,
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    /// Never.
    None,
    /// With STARTTLS, if the client wants.
    StartTls,
    /// With the first byte.
    Implicit,
}

/// How much is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address.
    pub connections_per_address_max: usize,
}

/// What can change while clients are served.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// For the sessions; `starttls` is each listener's own.
    pub session: SessionSettings,
    /// How much is let in.
    pub limits: Limits,
}

/// The submission side of the relay.
pub struct Submission {
    shared: Arc<Shared>,
    settings: ArcSwap<LiveSettings>,
    acceptor: ArcSwap<TlsAcceptor>,
    open: Mutex<Open>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Submission")
    }
}

/// Binds a listening socket, so that a port in use ends the program before anything is said to be ready.
///
/// # Errors
/// What the system says, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

impl Submission {
    /// Ready to serve; ends when `draining` is cancelled.
    pub fn new(
        door: Arc<Door>,
        credentials: Arc<Credentials>,
        clock: Arc<dyn Clock>,
        settings: LiveSettings,
        acceptor: TlsAcceptor,
        draining: CancellationToken,
    ) -> Arc<Self> {
        let shared = Shared { door, credentials, throttle: Throttle::default(), clock, draining };
        Arc::new(Self {
            shared: Arc::new(shared),
            settings: ArcSwap::from_pointee(settings),
            acceptor: ArcSwap::from_pointee(acceptor),
            open: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Changes what can change; sessions under way keep what they have.
    pub fn reconfigure(&self, settings: LiveSettings, acceptor: TlsAcceptor) {
        self.settings.store(Arc::new(settings));
        self.acceptor.store(Arc::new(acceptor));
    }

    /// Accepts clients until draining.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, settings: ListenerSettings) {
        let settings = Arc::new(settings);
        let draining = self.shared.draining.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let submission = self.clone();
                    let settings = settings.clone();
                    self.tasks.spawn(async move { submission.client(stream, address, &settings).await });
                }
                Err(error) => {
                    tracing::warn!(%error, address = %settings.address, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until all clients are gone.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn client(self: Arc<Self>, stream: TcpStream, address: SocketAddr, listener: &ListenerSettings) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let live = self.settings.load_full();
        let Some(_place) = self.clone().take_place(address.ip(), live.limits) else {
            tracing::info!(peer = %address.ip(), "too many connections; one is refused");
            return refuse(stream).await;
        };
        // Replies are small and waited for; without this they would wait for company.
        let _ = stream.set_nodelay(true);
        let acceptor = self.acceptor.load_full();
        let mut boxed: BoxStream = Box::new(stream);
        if listener.tls == ListenerTls::Implicit {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(boxed)).await {
                Ok(Ok(encrypted)) => boxed = Box::new(encrypted),
                Ok(Err(_)) | Err(_) => return,
            }
        }
        let is_trusted = listener.trusted_networks.iter().any(|network| network.contains(&address.ip()));
        let peer = Peer {
            access: if is_trusted { Access::Trusted } else { Access::AuthenticationRequired },
            encrypted: listener.tls == ListenerTls::Implicit,
            loopback: address.ip().is_loopback(),
        };
        let starttls = listener.tls == ListenerTls::StartTls;
        let session = Arc::new(SessionSettings { starttls, ..live.session.clone() });
        let acceptor = starttls.then(|| (*acceptor).clone());
        Connection::serve(self.shared.clone(), boxed, address, session, acceptor, peer).await;
    }

    fn take_place(self: Arc<Self>, address: IpAddr, limits: Limits) -> Option<Place> {
        let mut open = self.open.lock();
        let from_address = open.by_address.get(&address).copied().unwrap_or(0);
        if open.total >= limits.connections_max || from_address >= limits.connections_per_address_max {
            return None;
        }
        open.total += 1;
        open.by_address.insert(address, from_address + 1);
        drop(open);
        Some(Place { submission: self, address })
    }
}

/// A connection that is counted.
struct Place {
    submission: Arc<Submission>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.submission.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// One word to a client for whom there is no room; it is not waited for.
async fn refuse(mut stream: TcpStream) {
    let mut line = Vec::new();
    reply::TOO_MANY_CONNECTIONS.write_to(&mut line);
    // Whether it reads the reply is its own affair.
    let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(&line)).await;
}
