//! The floor: as many bytes as the data set's values have go from one process through a second one to a third over TCP
//! on the loopback, with no Kafka anywhere. The process in the middle reads into one buffer and writes it out again;
//! only its CPU counts. It shows what this machine takes for moving bytes between two sockets.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result};

/// One read's and write's worth, also at both ends.
const BUFFER_BYTES: usize = 256 * 1024;

/// What to connect.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) from: String,
    #[arg(long)]
    pub(crate) to: String,
}

/// Copies, and waits to be killed so that its CPU can be read.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut from = TcpStream::connect(&args.from)?;
    let mut to = TcpStream::connect(&args.to)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_all(bytes)?;
    }
    to.shutdown(std::net::Shutdown::Write)?;
    loop {
        std::thread::park();
    }
}

/// The two ends, listening.
pub(crate) struct Ends {
    feed: TcpListener,
    sink: TcpListener,
}

impl Ends {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self { feed: TcpListener::bind("127.0.0.1:0")?, sink: TcpListener::bind("127.0.0.1:0")? })
    }

    /// Where the process in the middle connects to, as `from` and `to`.
    pub(crate) fn addresses(&self) -> Result<(String, String)> {
        Ok((self.feed.local_addr()?.to_string(), self.sink.local_addr()?.to_string()))
    }

    /// Feeds `bytes` bytes and returns when they have all come out; `first` is called when the first ones have.
    pub(crate) fn pass(self, bytes: u64, mut first: impl FnMut()) -> Result<()> {
        let Self { feed, sink } = self;
        let feeder = std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = feed.accept()?;
            let buffer = vec![7; BUFFER_BYTES];
            let mut left = usize::try_from(bytes)?;
            while left > 0 {
                let now = buffer.get(..left.min(BUFFER_BYTES)).context("a short buffer")?;
                stream.write_all(now)?;
                left -= now.len();
            }
            Ok(())
        });
        let (mut stream, _) = sink.accept()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut seen = 0_u64;
        while seen < bytes {
            let count = stream.read(&mut buffer)?;
            anyhow::ensure!(count > 0, "the copying process ended after {seen} of {bytes} bytes");
            if seen == 0 {
                first();
            }
            seen += u64::try_from(count)?;
        }
        feeder.join().map_err(|_| anyhow::anyhow!("the feeding thread panicked"))?
    }
}
