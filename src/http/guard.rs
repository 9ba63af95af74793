//! A connection whose peer has to say what it wants, and to take what it is sent: one that begins a request and does not
//! finish its head is cut off, and so is one that stops reading.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a conversation stands, said by whoever answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request's head is under way. The first is so from the beginning.
    Head,
    /// A request is answered; its body may still be under way.
    Answer,
    /// It was answered, and nothing of the next has come.
    Rest,
}

/// A stream with a bound on waiting for heads, and for the peer to read.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    phase: Arc<Mutex<Phase>>,
    head: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, phase: Arc<Mutex<Phase>>) -> Self {
        Self { stream, phase, head: None, stalled: None }
    }

    /// Looks at the time that a head takes, where one is under way.
    fn watch_head(&mut self, has_read: bool, context: &mut Context<'_>) -> io::Result<()> {
        let mut phase = self.phase.lock();
        if *phase == Phase::Rest && has_read {
            *phase = Phase::Head;
        }
        if *phase != Phase::Head {
            self.head = None;
            return Ok(());
        }
        let head = self.head.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
        if head.as_mut().poll(context).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        let has_read = into.filled().len() > before;
        match self.watch_head(has_read, context) {
            Ok(()) => polled,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, octets);
        self.watch(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(polled, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Time passes by itself where everybody waits.
    #[tokio::test(start_paused = true)]
    async fn a_head_has_so_much_time_and_nothing_else_has() {
        let (mut client, server) = duplex(64);
        let phase = Arc::new(Mutex::new(Phase::Head));
        let mut guarded = Guarded::new(server, phase.clone());
        let mut octet = [0];
        let long = 10 * HEAD_TIMEOUT;
        client.write_all(b"G").await.unwrap();
        guarded.read_exact(&mut octet).await.unwrap();
        // A body, then a rest between two requests: other timers see to those.
        for other in [Phase::Answer, Phase::Rest] {
            *phase.lock() = other;
            assert!(tokio::time::timeout(long, guarded.read_exact(&mut octet)).await.is_err());
        }
        client.write_all(b"G").await.unwrap();
        guarded.read_exact(&mut octet).await.unwrap();
        assert_eq!(*phase.lock(), Phase::Head);
        // Octet by octet does not help.
        let drip = async {
            loop {
                sleep(HEAD_TIMEOUT / 3).await;
                client.write_all(b"E").await.unwrap();
            }
        };
        let read = async {
            let mut count = 0;
            loop {
                match guarded.read_exact(&mut octet).await {
                    Ok(_) => count += 1,
                    Err(error) => return (count, error.kind()),
                }
            }
        };
        let ended = tokio::select! { ended = read => ended, () = drip => unreachable!("it drips for ever") };
        assert_eq!(ended, (2, io::ErrorKind::TimedOut));
    }
}
