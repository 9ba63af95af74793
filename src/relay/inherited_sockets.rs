//! Listening sockets that the service manager holds and hands over (LISTEN_FDS): a restart refuses nobody, since the kernel keeps
//! who connects meanwhile. Each belongs to the listener of its address.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::net::TcpListener;

/// Sockets that were handed over and nobody has taken yet.
pub(super) struct InheritedSockets(Vec<(SocketAddr, std::net::TcpListener)>);

impl InheritedSockets {
    /// Those of this process; the next start of one finds none.
    pub(super) fn from_env() -> Self {
        let mut sockets = ListenFd::from_env();
        let all = (0..sockets.len()).filter_map(|index| sockets.take_tcp_listener(index).ok().flatten());
        let all: Vec<_> = all.filter_map(|socket| Some((socket.local_addr().ok()?, socket))).collect();
        Self(all)
    }

    /// The socket for an address, if there is one.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<io::Result<TcpListener>> {
        let at = self.0.iter().position(|(known, _)| is_same(*known, address))?;
        let (_, socket) = self.0.swap_remove(at);
        Some(socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)))
    }

    /// Names those that are left, which nobody listens at.
    pub(super) fn warn_of_rest(self) {
        for (address, _) in self.0 {
            tracing::warn!(%address, "the service manager hands over a socket for which there is no [[listener]]");
        }
    }
}

/// Scope and flow of an IPv6 address do not tell listeners apart.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_socket_goes_to_the_listener_of_its_address() {
        let socket = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (socket(), socket());
        let addresses = [&first, &second].map(|socket| socket.local_addr().unwrap());
        let mut given = InheritedSockets(vec![(addresses[0], first), (addresses[1], second)]);
        assert!(given.take("127.0.0.1:1".parse().unwrap()).is_none());
        let taken = given.take(addresses[1]).unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), addresses[1]);
        assert!(given.take(addresses[1]).is_none());
        assert_eq!(given.0.len(), 1);
    }
}
