//! A connection whose peer has to say what it wants, and to take what it is sent: one that begins a request and does not
//! finish its head is cut off, and so is one that stops reading. Whoever still sends what was refused hears the refusal.

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

/// How long what is still sent after a refusal is read, and passed over.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing may come of it.
const LINGER_PAUSE: Duration = Duration::from_secs(2);

/// Where a conversation stands, said by whoever answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request's head is under way. The first is so from the beginning.
    Head,
    /// A request is answered; its body may still be under way.
    Answer,
    /// It was answered, and nothing of the next has come.
    Rest,
    /// The same, and the answer was a refusal; the request's body may still be under way.
    Refused,
}

/// A stream with a bound on waiting for heads, and for the peer to read.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    phase: Arc<Mutex<Phase>>,
    head: Option<Pin<Box<Sleep>>>,
    /// Something of the head has come.
    has_begun: bool,
    stalled: Option<Pin<Box<Sleep>>>,
    end: End,
}

/// How far the end of a connection is.
#[derive(Debug)]
enum End {
    /// The relay's side is open.
    Open,
    /// It is closed; what the peer still sends is passed over until it closes its own, or one of these times is over.
    Lingering {
        all: Pin<Box<Sleep>>,
        pause: Pin<Box<Sleep>>,
    },
    Over,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, phase: Arc<Mutex<Phase>>) -> Self {
        Self { stream, phase, head: None, has_begun: false, stalled: None, end: End::Open }
    }

    /// Looks at the time that a head takes, where one is under way.
    fn watch_head(&mut self, has_read: bool, context: &mut Context<'_>) -> io::Result<()> {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Rest | Phase::Refused) && has_read {
            *phase = Phase::Head;
        }
        if *phase != Phase::Head {
            (self.head, self.has_begun) = (None, false);
            return Ok(());
        }
        self.has_begun |= has_read;
        let head = self.head.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
        if head.as_mut().poll(context).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Whether the peer may still be sending what nobody will read. If the connection were closed at once, the peer's system
    /// would throw away the answer that it has not read yet (RFC 9112 section 9.6).
    fn is_sent_more(&self) -> bool {
        match *self.phase.lock() {
            Phase::Refused => true,
            Phase::Head => self.has_begun,
            Phase::Answer | Phase::Rest => false,
        }
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

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Passes over what still comes.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let End::Lingering { all, pause } = &mut self.end else { return Poll::Ready(()) };
        let mut octets = [0; 4096];
        // A peer that sends faster than this reads gives way to others now and then.
        for _ in 0..16 {
            let mut into = ReadBuf::new(&mut octets);
            match Pin::new(&mut self.stream).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    pause.as_mut().set(sleep(LINGER_PAUSE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let is_over = all.as_mut().poll(context).is_ready() | pause.as_mut().poll(context).is_ready();
                    return if is_over { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        }
        if all.as_mut().poll(context).is_pending() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, octets);
        self.watch(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.end, End::Open) {
            let polled = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.watch(polled, context))?;
            self.end = if self.is_sent_more() {
                End::Lingering { all: Box::pin(sleep(LINGER_TIMEOUT)), pause: Box::pin(sleep(LINGER_PAUSE)) }
            } else {
                End::Over
            };
        }
        ready!(self.poll_linger(context));
        self.end = End::Over;
        Poll::Ready(Ok(()))
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

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "simulated time")]
    async fn what_still_comes_behind_a_refusal_is_passed_over_for_a_while() {
        // How long it takes, in seconds.
        let lingers = async |phase: Phase, every: Duration, count: usize| {
            let (mut client, server) = duplex(64);
            let mut guarded = Guarded::new(server, Arc::new(Mutex::new(phase)));
            let sending = tokio::spawn(async move {
                for _ in 0..count {
                    sleep(every).await;
                    if client.write_all(b"x").await.is_err() {
                        break;
                    }
                }
            });
            let since = tokio::time::Instant::now();
            guarded.shutdown().await.unwrap();
            let took = since.elapsed().as_secs();
            drop(guarded);
            sending.await.unwrap();
            took
        };
        let second = Duration::from_secs(1);
        assert_eq!(lingers(Phase::Rest, second, 9).await, 0);
        assert_eq!(lingers(Phase::Head, second, 9).await, 0, "nothing of a request has come");
        assert_eq!(lingers(Phase::Refused, second, 3).await, 3, "until the peer closes");
        assert_eq!(lingers(Phase::Refused, second, 99).await, LINGER_TIMEOUT.as_secs());
        assert_eq!(lingers(Phase::Refused, 3 * LINGER_PAUSE, 9).await, LINGER_PAUSE.as_secs());
    }
}
