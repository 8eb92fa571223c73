//! Free TCP ports on the loopback address that stay ours while we hold them.
//!
//! Owns the reservation; must not know who listens in the end.
//!
//! A port that was only looked up may be taken by anyone before it is used, and a stopped broker's port may become the
//! source port of an outgoing connection. A socket that is bound but does not listen keeps the kernel from giving the
//! port away, while a program that sets `SO_REUSEADDR` (Java, tokio and std do) can still bind it and listen.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// A reserved port of 127.0.0.1; free again when dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _socket: Socket,
}

impl PortLease {
    /// Reserves a port that nobody uses now.
    pub fn reserve() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
            .context("cannot make a socket to reserve a port")?;
        socket.set_reuse_address(true).context("cannot set SO_REUSEADDR to reserve a port")?;
        socket
            .bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).into())
            .context("cannot bind 127.0.0.1:0 to reserve a port")?;
        let port = socket
            .local_addr()
            .context("cannot read the address of a reserved port")?
            .as_socket_ipv4()
            .context("a reserved port has no IPv4 address")?
            .port();
        Ok(Self { port, _socket: socket })
    }

    /// The port's number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn leases_differ_and_can_be_listened_on() {
        let leases: Vec<_> = (0..200).map(|_| PortLease::reserve().unwrap()).collect();
        let ports: BTreeSet<_> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), leases.len());
        let listener = TcpListener::bind(leases[7].address()).unwrap();
        let _client = TcpStream::connect(leases[7].address()).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_lease_outlives_its_listener() {
        let lease = PortLease::reserve().unwrap();
        drop(TcpListener::bind(lease.address()).unwrap());
        // Nobody else is given the port, and the next listener gets it.
        for _ in 0..100 {
            assert_ne!(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(), lease.port());
        }
        TcpListener::bind(lease.address()).unwrap();
    }
}
