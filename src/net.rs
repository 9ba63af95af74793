//! Byte streams, whatever carries them: TCP, TLS over it, or a pipe in simulation. The HTTP client (`http`). And what counts as
//! one address, and who gives way when there is no place for one more connection.

pub(crate) mod http;
pub(crate) mod own_addresses;
pub(crate) mod own_faults;
pub mod places;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Some connection.
pub type BoxStream = Box<dyn Stream>;

/// A connection being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send + 'a>>;

/// What connects.
pub trait Network: Send + Sync {
    /// Connects to `to`, from `source` if one is given. The caller bounds the time.
    fn connect(&self, to: SocketAddr, source: Option<IpAddr>) -> Connecting<'_>;
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TcpNetwork;

impl Network for TcpNetwork {
    fn connect(&self, to: SocketAddr, source: Option<IpAddr>) -> Connecting<'_> {
        Box::pin(async move {
            let stream = match source {
                None => TcpStream::connect(to).await?,
                Some(source) => {
                    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                    socket.bind(SocketAddr::new(source, 0))?;
                    socket.connect(to).await?
                }
            };
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

/// What limits and delays count as one address: one customer commonly has a whole IPv6 /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}
