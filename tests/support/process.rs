//! The relay as a process of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Child;

/// Ends with the test, however that ends.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port at loopback on which nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
