//! Listening sockets: who is let in, and how many at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, HANDSHAKE_TIMEOUT, IdentifiedClient, Shared, share_in_use};
use super::proxy_header::{self, HeaderFault, Origin, Progress};
use crate::accounts::credentials::Credentials;
use crate::accounts::throttle::Throttle;
use crate::accounts::user::TRUSTED;
use crate::base::clock::Clock;
use crate::base::named::named;
use crate::base::shares::Sharing;
use crate::delivery::Delivery;
use crate::intake::door::Door;
use crate::intake::options::LIFE;
use crate::net::BoxStream;
use crate::net::places::{ConnectionPlace, Limits, Places};
use crate::report::reasons::{Door as DoorName, Reason, Stage};
use crate::report::refusals::{Refusals, Refused};
use crate::smtp::reply::{self, Reply};
use crate::smtp::server_session::{Access, Peer, SessionSettings};
use crate::tls::handshake;

/// Connections that the kernel may hold for us.
const BACKLOG: u32 = 1024;
/// How long to rest when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a proxy's header may take; the specification asks for at least 3 s, for a packet that is lost.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// For streams that came over no network.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const TOO_MANY: &str = "too many connections";

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where.
    pub address: SocketAddr,
    /// With which TLS.
    pub tls: ListenerTls,
    /// Networks that need not authenticate.
    pub trusted_networks: Vec<IpNet>,
    /// Networks of proxies, which have to say whose connection it is; nobody else is believed.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// The port of a listener where nothing else is configured.
const PORT: u16 = 2525;

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            tls: ListenerTls::StartTls,
            trusted_networks: Vec::new(),
            proxy_protocol_from: Vec::new(),
        }
    }
}

impl ListenerSettings {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&address))
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|network| network.contains(&address))
    }
}

named! {
    /// When TLS begins.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ListenerTls: name {
        /// Never.
        None = "none",
        /// With STARTTLS, if the client wants.
        StartTls = "starttls",
        /// With the first byte.
        Implicit = "implicit",
    }
}

/// What can change while clients are served.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// For the sessions; `starttls` is each listener's own.
    pub session: SessionSettings,
    /// How much is let in.
    pub limits: Limits,
    /// Whether several users share that.
    pub sharing: Sharing,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            session: SessionSettings { deliver_by: LIFE, ..SessionSettings::default() },
            limits: Limits { connections_max: 2000, connections_per_address_max: 100 },
            sharing: Sharing::default(),
        }
    }
}

/// The submission side of the relay.
pub struct Submission {
    shared: Arc<Shared>,
    settings: ArcSwap<LiveSettings>,
    acceptor: ArcSwap<TlsAcceptor>,
    /// What a CA is answered that comes to a listener with TLS from the first byte, while one is expected.
    answer: ArcSwapOption<ServerConfig>,
    places: Arc<Places>,
    tasks: TaskTracker,
}

/// Binds a listening socket, so that a port in use ends the program before anything is said to be ready.
///
/// An IPv6 address takes IPv4 clients too where it stands for all, unless one of `others` is an IPv4 address with the
/// same port (RFC 3493 section 5.3).
///
/// # Errors
/// What the system says, with the address.
pub(crate) fn bind(address: SocketAddr, others: &[SocketAddr]) -> io::Result<TcpListener> {
    let listened = bound(address, others).and_then(|socket| socket.listen(BACKLOG));
    listened.map_err(|error| described(address, &error))
}

/// Whether [`bind`] would do; nobody can connect meanwhile.
pub(crate) fn try_out(address: SocketAddr, others: &[SocketAddr]) -> io::Result<()> {
    bound(address, others).map(drop).map_err(|error| described(address, &error))
}

fn bound(address: SocketAddr, others: &[SocketAddr]) -> io::Result<TcpSocket> {
    let has_ipv4 = others.iter().any(|other| other.is_ipv4() && other.port() == address.port());
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() && has_ipv4 {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

fn described(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}{}", mend(address, error)))
}

/// Ports below this are the system's, unless it says otherwise.
const PRIVILEGED_PORTS: u16 = 1024;

/// What to do about it, where that is known.
fn mend(address: SocketAddr, error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied && address.port() < PRIVILEGED_PORTS {
        return "; a port below 1024 takes a right of its own: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of the \
                service, `setcap cap_net_bind_service=+ep` on the program's file, or a port from 1024 on";
    }
    ""
}

impl Submission {
    /// Ready to serve; ends when `draining` is cancelled.
    pub fn new(
        (door, delivery): (Arc<Door>, Arc<Delivery>),
        credentials: Arc<Credentials>,
        (clock, refusals): (Arc<dyn Clock>, Arc<Refusals>),
        settings: LiveSettings,
        acceptor: TlsAcceptor,
        draining: CancellationToken,
    ) -> Arc<Self> {
        let shared = Shared { door, delivery, credentials, throttle: Throttle::default(), clock, refusals, draining };
        Arc::new(Self {
            shared: Arc::new(shared),
            settings: ArcSwap::from_pointee(settings),
            acceptor: ArcSwap::from_pointee(acceptor),
            answer: ArcSwapOption::empty(),
            places: Arc::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Changes what can change; sessions under way keep what they have.
    pub(crate) fn reconfigure(&self, settings: LiveSettings, acceptor: TlsAcceptor) {
        self.settings.store(Arc::new(settings));
        self.acceptor.store(Arc::new(acceptor));
    }

    /// Shows another certificate to those who come from now on.
    pub(crate) fn show(&self, acceptor: TlsAcceptor) {
        self.acceptor.store(Arc::new(acceptor));
    }

    /// Answers a CA's challenge (tls-alpn-01) from now on; with none, no more.
    pub fn answer(&self, config: Option<Arc<ServerConfig>>) {
        self.answer.store(config);
    }

    /// Accepts clients until draining.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, settings: ListenerSettings) {
        // The port may have been left to the system.
        let address = listener.local_addr().unwrap_or(settings.address);
        let settings = Arc::new(ListenerSettings { address, ..settings });
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
    pub(crate) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Serves one client that need not log in over a stream that is no connection of a listener, until it is done.
    pub async fn converse_with_trusted(&self, stream: BoxStream) {
        let live = self.settings.load_full();
        let Some(place) = self.places.take(NOBODY.ip(), live.limits) else { return };
        let portion = live.sharing.of(live.limits.connections_max);
        let peer = Peer { access: Access::Trusted, encrypted: false, loopback: true };
        let session = Arc::new(SessionSettings { starttls: false, ..live.session.clone() });
        let identified = IdentifiedClient { address: NOBODY, listener: NOBODY, peer, place, portion };
        Connection::serve(self.shared.clone(), stream, identified, session, None).await;
    }

    async fn client(&self, stream: TcpStream, address: SocketAddr, listener: &ListenerSettings) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let live = self.settings.load_full();
        let Some(place) = self.places.take(address.ip(), live.limits) else {
            self.refused(listener, address, Stage::Connect, Reason::Connections, TOO_MANY);
            return turn_away(stream, &reply::TOO_MANY_CONNECTIONS).await;
        };
        let given_up = place.given_up();
        tokio::select! {
            biased;
            () = given_up.cancelled() => {
                let text = "too many connections; one without a login gives way";
                self.refused(listener, address, Stage::Connect, Reason::GaveWay, text);
            }
            () = self.converse(stream, address, listener, &live, place) => {}
        }
    }

    async fn converse(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        listener: &ListenerSettings,
        live: &LiveSettings,
        mut place: ConnectionPlace,
    ) {
        let Some(client) = self.who(&mut stream, peer, listener).await else { return };
        if !place.counts_for(client.address.ip(), live.limits) {
            self.refused(listener, client.address, Stage::Connect, Reason::ConnectionsOfAddress, TOO_MANY);
            return turn_away(stream, &reply::TOO_MANY_CONNECTIONS).await;
        }
        let portion = live.sharing.of(live.limits.connections_max);
        if client.is_trusted && place.belongs_to(&TRUSTED.into(), portion).is_err() {
            self.refused(listener, client.address, Stage::Connect, Reason::Share, "too many connections of one user");
            return turn_away(stream, &share_in_use(portion)).await;
        }
        // Replies are small and waited for; without this they would wait for company.
        let _ = stream.set_nodelay(true);
        let acceptor = self.acceptor.load_full();
        let mut boxed: BoxStream = Box::new(stream);
        if listener.tls == ListenerTls::Implicit {
            let accepted = match self.answer.load_full() {
                None => handshake::accept(&acceptor, boxed, HANDSHAKE_TIMEOUT).await.map(Some),
                Some(answer) => handshake::accept_or_answer(&acceptor, answer, boxed, HANDSHAKE_TIMEOUT).await,
            };
            match accepted {
                Ok(Some(encrypted)) => boxed = Box::new(encrypted),
                // The CA has seen what it came for.
                Ok(None) => return,
                Err(fault) => {
                    let reason = Reason::of_handshake(fault);
                    return self.refused(listener, client.address, Stage::Tls, reason, &fault.text());
                }
            }
        }
        let peer = Peer {
            access: self.shared.access(client.is_trusted),
            encrypted: listener.tls == ListenerTls::Implicit,
            loopback: client.is_local,
        };
        let starttls = listener.tls == ListenerTls::StartTls;
        let session = Arc::new(SessionSettings { starttls, ..live.session.clone() });
        let acceptor = starttls.then(|| (*acceptor).clone());
        let identified = IdentifiedClient { address: client.address, listener: listener.address, peer, place, portion };
        Connection::serve(self.shared.clone(), boxed, identified, session, acceptor).await;
    }

    /// Tells of a connection that does not come to a session.
    fn refused(&self, listener: &ListenerSettings, peer: SocketAddr, stage: Stage, reason: Reason, text: &str) {
        let reply = matches!(reason, Reason::Connections | Reason::ConnectionsOfAddress | Reason::Share)
            .then_some(&reply::TOO_MANY_CONNECTIONS);
        self.shared.refusals.report(&Refused {
            door: DoorName::Smtp,
            peer: peer.ip(),
            listener: listener.address,
            // Nobody else's share is looked at before a login.
            user: (reason == Reason::Share).then_some(TRUSTED),
            stage,
            code: reply.map(|reply| reply.code),
            enhanced: reply.and_then(|reply| reply.enhanced),
            reason,
            text,
            recipient: None,
            more_recipients: 0,
        });
    }

    /// Who is at the other end, by the connection itself or by what a proxy says of it; none: there is nobody to serve.
    async fn who(&self, stream: &mut TcpStream, peer: SocketAddr, listener: &ListenerSettings) -> Option<Client> {
        let is_local = peer.ip().is_loopback();
        if !listener.is_proxy(peer.ip()) {
            return Some(Client { address: peer, is_trusted: listener.trusts(peer.ip()), is_local });
        }
        let origin = tokio::select! {
            biased;
            () = self.shared.draining.cancelled() => return None,
            header = tokio::time::timeout(HEADER_TIMEOUT, read_header(stream)) => match header {
                Ok(Ok(origin)) => origin,
                Ok(Err(fault)) => {
                    self.refused(listener, peer, Stage::ProxyHeader, Reason::ProxyHeader, &fault.to_string());
                    return None;
                }
                Err(_) => {
                    let text = "no whole PROXY header in time";
                    self.refused(listener, peer, Stage::ProxyHeader, Reason::ProxyHeader, text);
                    return None;
                }
            },
        };
        Some(match origin {
            Origin::Client(address) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let is_trusted = listener.trusts(address.ip());
                // What is loopback to a proxy elsewhere is not to us.
                Client { address, is_trusted, is_local: is_local && address.ip().is_loopback() }
            }
            Origin::Proxy => Client { address: peer, is_trusted: listener.trusts(peer.ip()), is_local },
            // The proxy may be trusted; whoever is behind it need not be.
            Origin::Unknown => Client { address: peer, is_trusted: false, is_local: false },
        })
    }
}

/// Who is at the other end of a connection.
struct Client {
    address: SocketAddr,
    /// Need not authenticate.
    is_trusted: bool,
    /// On this machine, with nothing in between where anybody could listen.
    is_local: bool,
}

/// Reads a proxy's header and not an octet of what follows it.
async fn read_header(stream: &mut TcpStream) -> Result<Origin, HeaderFault> {
    let mut header = Vec::new();
    loop {
        let missing = match proxy_header::parse(&header)? {
            Progress::Complete(origin, _) => return Ok(origin),
            Progress::Needs(missing) => missing,
        };
        match stream.take(missing as u64).read_buf(&mut header).await {
            Ok(0) | Err(_) => return Err(HeaderFault::Missing),
            Ok(_) => {}
        }
    }
}

/// One word to a client for whom there is no room; it is not waited for.
async fn turn_away(mut stream: TcpStream, reply: &Reply) {
    let mut line = Vec::new();
    reply.write_to(&mut line);
    // Whether it reads the reply is its own affair.
    let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(&line)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_take_a_low_port_hears_what_to_do() {
        for (port, kind, expected) in [
            (25, io::ErrorKind::PermissionDenied, true),
            (1023, io::ErrorKind::PermissionDenied, true),
            (1024, io::ErrorKind::PermissionDenied, false),
            (25, io::ErrorKind::AddrInUse, false),
        ] {
            let told = mend(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &kind.into());
            assert_eq!(told.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), expected, "{port} {kind}");
        }
    }
}
