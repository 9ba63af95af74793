//! What runs in a race: each contender is on one leg of the way at a time.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::super::pace::{News, Paces, Pulse};
use super::field::Runner;
use crate::smtp::client_session::{Failure, Framing};

/// What became of a part of the way.
pub(super) enum Leg {
    Session(Runner),
    /// And why the address is to be tried in clear text when no other is left.
    NoSession(Failure, Option<Arc<str>>),
    Content(Runner, Framing),
    Refused(Runner, Failure),
    GaveWay,
}

/// What came first, and from which number.
pub(super) enum RaceEvent {
    Ended(u32, Leg),
    News(u32, News),
    Time,
}

/// All legs that are run now.
pub(super) struct Legs {
    running: FuturesUnordered<BoxFuture<'static, (u32, Leg)>>,
    /// What the sessions tell, by number.
    teller: UnboundedSender<(u32, News)>,
    news: UnboundedReceiver<(u32, News)>,
}

impl Legs {
    pub(super) fn new() -> Self {
        let (teller, news) = unbounded_channel();
        Self { running: FuturesUnordered::new(), teller, news }
    }

    /// Runs one, until it gives way.
    pub(super) fn run(
        &mut self,
        number: u32,
        gives_way: CancellationToken,
        leg: impl Future<Output = Leg> + Send + 'static,
    ) {
        let leg = async move {
            tokio::select! {
                biased;
                () = gives_way.cancelled() => (number, Leg::GaveWay),
                leg = leg => (number, leg),
            }
        };
        self.running.push(leg.boxed());
    }

    /// How a session tells of its way.
    pub(super) fn pulse(&self, number: u32, paces: &Arc<Paces>) -> Pulse {
        Pulse { number, news: self.teller.clone(), paces: paces.clone() }
    }

    pub(super) fn clear(&mut self) {
        self.running = FuturesUnordered::new();
    }

    /// The next thing that happens, or that it is late enough.
    pub(super) async fn next(&mut self, until: Instant) -> RaceEvent {
        tokio::select! {
            biased;
            Some((number, leg)) = self.running.next() => RaceEvent::Ended(number, leg),
            Some((number, news)) = self.news.recv() => RaceEvent::News(number, news),
            () = tokio::time::sleep_until(until.into()) => RaceEvent::Time,
        }
    }
}
