//! Connections of a gRPC server, with the limits that the HTTP/2 stack does not have.
//!
//! Owns three rules: so many connections and no more; a client that does not open HTTP/2 in time is
//! dropped; and once the server is over, no connection outlives it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

/// The client preface (24 bytes) and the header of its SETTINGS frame (9 bytes).
const OPENING_BYTES: usize = 33;

/// How long to wait after the system refused a connection, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections, each with its limits.
pub(super) struct Incoming {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    opening_timeout: Duration,
    ended: CancellationToken,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// `ended` cuts every connection that was accepted here.
    pub(super) fn new(
        listener: TcpListener,
        connections_max: usize,
        opening_timeout: Duration,
        ended: CancellationToken,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(connections_max));
        Self { listener, slots, opening_timeout, ended, pause: None }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            debug!(%peer, "too many gRPC connections, closing this one");
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "the connection was gone before it was used");
            return None;
        }
        Some(Connection {
            stream,
            ended: Box::pin(self.ended.clone().cancelled_owned()),
            opening: Some((Box::pin(tokio::time::sleep(self.opening_timeout)), 0)),
            _slot: slot,
        })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, peer)) => {
                    if let Some(connection) = self.admit(stream, peer) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a gRPC connection");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// One connection of a client.
pub(super) struct Connection {
    stream: TcpStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until the client has opened HTTP/2: when it must have, and the bytes that came so far.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// An error once the server is over.
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has ended")),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_opening(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some((deadline, _)) = &mut self.opening else { return Ok(()) };
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not open HTTP/2 in time"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        self.poll_opening(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some((_, read)) = &mut self.opening {
            *read += buffer.filled().len().saturating_sub(before);
            if *read >= OPENING_BYTES {
                self.opening = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
