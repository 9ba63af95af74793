//! Connections that fail for want of something on this machine: that says nothing of the host at the other end.

use std::io;
use std::net::{IpAddr, UdpSocket};

use nix::errno::Errno;

/// What this machine lacks or forbids, for people; none if the error is about the other end or the way there. `source` is
/// the address that was chosen to send from.
pub(crate) fn own_fault(error: &io::Error, source: Option<IpAddr>) -> Option<String> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    let what = match (errno, source) {
        (Errno::EMFILE | Errno::ENFILE, _) => "has no free file descriptors".to_owned(),
        (Errno::EADDRNOTAVAIL, Some(source)) => {
            format!("does not have the address {source} of delivery.source_addresses")
        }
        (Errno::EADDRNOTAVAIL | Errno::EADDRINUSE, _) => "has no free port".to_owned(),
        (Errno::EACCES | Errno::EPERM, _) => "forbids the connection".to_owned(),
        (Errno::ENOBUFS | Errno::ENOMEM, _) => "has no memory for the connection".to_owned(),
        _ => return None,
    };
    Some(format!("this machine {what} ({errno:?})"))
}

/// Those of some addresses that this machine does not have.
pub(crate) fn missing(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_missing = |address: &IpAddr| {
        UdpSocket::bind((*address, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    addresses.iter().copied().filter(is_missing).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Network as _, TcpNetwork};
    use super::*;

    /// Documentation has it; no machine does.
    const NOBODYS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 77));
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn what_is_ours_has_a_name() {
        let check = |errno: Errno, source, expected: Option<&str>| {
            let error = io::Error::from_raw_os_error(errno as i32);
            assert_eq!(own_fault(&error, source).as_deref(), expected, "{errno}");
        };
        check(Errno::EMFILE, None, Some("this machine has no free file descriptors (EMFILE)"));
        check(Errno::ENFILE, Some(NOBODYS), Some("this machine has no free file descriptors (ENFILE)"));
        check(Errno::EADDRNOTAVAIL, None, Some("this machine has no free port (EADDRNOTAVAIL)"));
        check(Errno::EADDRINUSE, Some(NOBODYS), Some("this machine has no free port (EADDRINUSE)"));
        check(Errno::EACCES, None, Some("this machine forbids the connection (EACCES)"));
        check(Errno::EPERM, None, Some("this machine forbids the connection (EPERM)"));
        check(Errno::ENOBUFS, None, Some("this machine has no memory for the connection (ENOBUFS)"));
        for theirs in
            [Errno::ECONNREFUSED, Errno::ETIMEDOUT, Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::ECONNRESET]
        {
            check(theirs, Some(NOBODYS), None);
        }
        assert_eq!(own_fault(&io::ErrorKind::ConnectionRefused.into(), None), None);
    }

    #[tokio::test]
    async fn an_address_that_this_machine_does_not_have_is_named() {
        let listener = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let Err(error) = TcpNetwork.connect(to, Some(NOBODYS)).await else { panic!("connected from {NOBODYS}") };
        let expected = "this machine does not have the address 192.0.2.77 of delivery.source_addresses (EADDRNOTAVAIL)";
        assert_eq!(own_fault(&error, Some(NOBODYS)).as_deref(), Some(expected));
        assert!(TcpNetwork.connect(to, Some(LOOPBACK)).await.is_ok());
        assert_eq!(missing(&[LOOPBACK, NOBODYS]), [NOBODYS]);
    }
}
