//! One endpoint: reads events, posts them, and writes down what was not taken yet together with its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::endpoint::{Endpoint, Key};
use super::pending_posts::{Next, PendingPosts, prefix};
use super::sender::{Post, PostResult, Sender};
use super::{Shared, Standing, Status, WAITING_MAX, body, signature};
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::StoreError;
use crate::ledger::latest::Confirmation;

/// Posts of one endpoint under way at once; only one while it fails.
const UNDER_WAY_MAX: usize = 16;
/// How long to rest between two tries while it fails.
const FAILING_PAUSE: Duration = Duration::from_millis(100);
/// Events read in one go.
const READ_MAX: usize = 256;
/// How often what waits is written down.
const WRITE_PAUSE: Duration = Duration::from_millis(500);
/// The same while it fails: nothing is taken then that a crash could make be posted again, and what is not written down is read
/// again.
const FAILING_WRITE_PAUSE: Duration = Duration::from_secs(5);
/// How often that is made sure of, so that its events may go.
const SYNC_PAUSE: Duration = Duration::from_secs(10);

/// How long the end waits for what is under way.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// What an endpoint is told to do.
pub(super) enum Order {
    /// Its settings are others; also, it is used again if it was gone.
    Replace(Endpoint),
    /// Post these again.
    Replay(Vec<Arc<Event>>),
    /// Take a recipient out of what waits.
    Erase(Arc<str>),
    /// Write down what waits, and end.
    Stop,
}

/// Where an endpoint's place is stored.
pub(super) fn cursor_key(key: Key) -> Vec<u8> {
    [&b"c"[..], &key].concat()
}

pub(super) struct Task {
    endpoint: Arc<Endpoint>,
    key: Key,
    shared: Shared,
    orders: mpsc::UnboundedReceiver<Order>,
    sender: Arc<Sender>,
    waiting: PendingPosts,
    at: Cursor,
    /// What is on disk of `at`.
    written: Cursor,
    confirmation: Confirmation,
    under_way: JoinSet<(u64, PostResult)>,
    status: Status,
    written_at: Instant,
    synced_at: Instant,
    /// Whether something was written since.
    is_unsynced: bool,
    /// While it fails.
    rest_until: Option<Instant>,
    is_stopping: bool,
}

impl Task {
    /// Reserves the events that it has not read.
    pub(super) fn new(endpoint: Endpoint, shared: Shared, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        let key = endpoint.key();
        let stored = shared.rows.get(&cursor_key(key)).ok().flatten();
        let stored = stored.and_then(|value| Some(Cursor::behind(u64::from_be_bytes(value.try_into().ok()?))));
        // A new one is told what happens from now on.
        let at = stored.unwrap_or_else(|| shared.queue.happened().newest());
        let mut waiting = PendingPosts::default();
        let rows = prefix(key)..[prefix(key), vec![u8::MAX; 9]].concat();
        let restored = shared.rows.scan(rows, &mut |row, value| {
            waiting.restore(row, value);
            true
        });
        if let Err(error) = restored {
            tracing::error!(%error, url = %endpoint.target.url, "what waits for a webhook cannot be read");
        }
        let confirmation = shared.queue.happened().register(at);
        let (sender, now) = (Sender::new(shared.tls.clone()), shared.clock.instant());
        Self {
            endpoint: Arc::new(endpoint),
            key,
            shared,
            orders,
            sender,
            waiting,
            at,
            // So that a new one's place is written at once.
            written: Cursor::default(),
            confirmation,
            under_way: JoinSet::new(),
            status: Status::default(),
            written_at: now,
            synced_at: now,
            is_unsynced: false,
            rest_until: None,
            is_stopping: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut news = self.shared.queue.happened().watch();
        // From now on nothing is missed.
        self.try_to(Self::write);
        loop {
            news.borrow_and_update();
            let has_more = self.read().await;
            self.post();
            self.show(has_more);
            if self.is_stopping {
                let ending = tokio::time::timeout(ENDING_MAX, async {
                    while let Some(Ok((number, tried))) = self.under_way.join_next().await {
                        self.tried(number, &tried);
                    }
                });
                // What was neither taken nor refused is posted again at the next start.
                let _ = ending.await;
                self.write_if_due(Duration::ZERO, Duration::ZERO);
                return;
            }
            let is_well = self.status.standing == Standing::Well;
            self.write_if_due(if is_well { WRITE_PAUSE } else { FAILING_WRITE_PAUSE }, SYNC_PAUSE);
            let pause = self.pause();
            tokio::select! {
                biased;
                order = self.orders.recv() => self.obey(order),
                Some(tried) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    if let Ok((number, tried)) = tried {
                        self.tried(number, &tried);
                    }
                }
                // One that fails is posted to at its own pace, and reads what is new with its next try: a commit does not wake it.
                _ = news.changed(), if is_well && !has_more => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long to do nothing, where nothing happens.
    fn pause(&self) -> Duration {
        let most = if self.status.standing == Standing::Well { UNDER_WAY_MAX } else { 1 };
        if self.under_way.len() >= most {
            return WRITE_PAUSE;
        }
        let now = self.shared.clock.now();
        let due = self.waiting.next_due().map_or(WRITE_PAUSE, |due| due.since(now));
        let rest =
            self.rest_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.shared.clock.instant()));
        due.max(rest).clamp(Duration::from_millis(1), WRITE_PAUSE)
    }

    /// Takes in what was committed since; says whether there is more than there is room for.
    async fn read(&mut self) -> bool {
        while self.waiting.len() < WAITING_MAX {
            let Ok(read) = self.shared.queue.events_after(self.at, READ_MAX).await else { return false };
            if read.has_missed {
                tracing::error!(url = %self.endpoint.target.url, "events are gone that were never posted to this webhook");
            }
            let now = self.shared.clock.now();
            for (_, event) in read.events {
                if self.status.standing != Standing::Gone && self.endpoint.wants(&event) {
                    self.waiting.add(event, now);
                }
            }
            if std::mem::replace(&mut self.at, read.at) == read.at {
                return false;
            }
        }
        true
    }

    /// Begins the tries that are due.
    fn post(&mut self) {
        let (now, instant) = (self.shared.clock.now(), self.shared.clock.instant());
        let most = match self.status.standing {
            Standing::Well => UNDER_WAY_MAX,
            Standing::Failing if self.rest_until.is_some_and(|at| at > instant) => 0,
            Standing::Failing => 1,
            Standing::Gone => 0,
        };
        while !self.is_stopping && self.under_way.len() < most {
            let Some((number, event)) = self.waiting.take(now) else { return };
            let post = Post { id: signature::id(&event), body: Bytes::from(body::body(self.endpoint.format, &event)) };
            let (sender, endpoint, wall) = (self.sender.clone(), self.endpoint.clone(), self.shared.clock.wall());
            self.under_way.spawn(async move { (number, sender.post(&endpoint, &post, wall).await) });
        }
    }

    fn tried(&mut self, number: u64, tried: &PostResult) {
        let url = self.endpoint.target.url.clone();
        self.status.last = Some((self.shared.clock.wall(), tried.text()));
        let was = self.status.standing;
        if tried.is_taken() {
            self.status.taken += 1;
            self.waiting.done(number);
            self.set_standing(Standing::Well);
        } else if tried.is_gone() {
            tracing::error!(%url, "a webhook answers 410: nothing is posted there before the next reload");
            self.waiting.clear();
            self.set_standing(Standing::Gone);
        } else {
            self.status.failed += 1;
            if self.waiting.failed(number, tried.retry_after, self.shared.clock.now()) == Some(Next::GivenUp) {
                self.status.given_up += 1;
                tracing::error!(%url, answer = %tried.text(), "a webhook did not take an event for 24 h, and is not told of it");
            }
            self.set_standing(Standing::Failing);
            self.rest_until = Some(self.shared.clock.instant() + FAILING_PAUSE);
            if was == Standing::Well {
                tracing::warn!(%url, answer = %tried.text(), "a webhook does not take events; they are posted again later");
            }
        }
    }

    fn set_standing(&mut self, standing: Standing) {
        if (self.status.standing, standing) == (Standing::Failing, Standing::Well) {
            tracing::info!(url = %self.endpoint.target.url, "a webhook takes events again");
        }
        // What was under way when it answered 410 says nothing else.
        if self.status.standing != Standing::Gone {
            self.status.standing = standing;
        }
    }

    fn obey(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Replace(endpoint)) => {
                self.endpoint = Arc::new(endpoint);
                if self.status.standing == Standing::Gone {
                    self.status.standing = Standing::Well;
                }
            }
            Some(Order::Replay(events)) => {
                let now = self.shared.clock.now();
                events.into_iter().for_each(|event| self.waiting.add(event, now));
            }
            Some(Order::Erase(plain)) => self.waiting.erase(&plain),
            Some(Order::Stop) | None => self.is_stopping = true,
        }
    }

    fn show(&mut self, is_behind: bool) {
        let step = self.shared.clock.step();
        self.status.waiting = self.waiting.len();
        self.status.oldest = self.waiting.oldest().map(|at| step.wall(at));
        self.status.is_behind = is_behind;
        if let Some((_, status)) = self.shared.statuses.lock().get_mut(&self.endpoint.target.url) {
            status.clone_from(&self.status);
        }
    }

    fn write_if_due(&mut self, write_pause: Duration, sync_pause: Duration) {
        let now = self.shared.clock.instant();
        if now >= self.written_at + write_pause {
            self.written_at = now;
            self.try_to(Self::write);
        }
        if self.is_unsynced && now >= self.synced_at + sync_pause {
            self.synced_at = now;
            self.try_to(Self::confirm);
        }
    }

    fn try_to(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        if let Err(error) = work(self) {
            tracing::warn!(%error, url = %self.endpoint.target.url, "what waits for a webhook cannot be written for now");
        }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let changes = self.waiting.changes(self.key);
        if self.written != self.at || !changes.is_empty() {
            let place = (cursor_key(self.key), Some(self.at.number().to_be_bytes().to_vec()));
            let all = changes.iter().cloned().chain([place]).collect();
            if let Err(error) = self.shared.rows.apply(all, None) {
                self.waiting.not_stored(&changes);
                return Err(error);
            }
            self.written = self.at;
            self.is_unsynced = true;
        }
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), StoreError> {
        self.shared.rows.sync()?;
        self.is_unsynced = false;
        self.confirmation.confirm(self.written);
        Ok(())
    }
}
