//! Webhooks (Standard Webhooks): events posted to URLs that the configuration names, tried again over 24 hours.
//!
//! Each endpoint is a reader of the committed events with a place of its own, so one that is dead delays itself only. Its
//! posts that were not taken yet are rows in a database beside the queue's, committed together with its place: a crash
//! repeats what was posted a moment before, with the same id, and loses nothing. All of it works on a thread of its own.

pub(crate) mod body;
pub(crate) mod endpoint;
mod pending_posts;
mod sender;
mod signature;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use crate::base::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::ledger::embedded::store::StoreError;
use crate::ledger::embedded::store::sled::reader_rows::ReaderRows;
use crate::queue::Queue;
use endpoint::{Endpoint, Key};
use sender::Sender;
use task::{Task, cursor_key};

/// Endpoints at most.
pub(crate) const ENDPOINTS_MAX: usize = 16;
/// Posts of one endpoint in memory; further events wait where they are committed.
pub(crate) const WAITING_MAX: usize = 10_000;
/// Events replayed with one request.
pub(crate) const REPLAYED_MAX: usize = 10_000;
/// How long the end waits for posts that are under way.
const ENDING_MAX: Duration = Duration::from_secs(2);

/// How an endpoint stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It takes posts.
    #[default]
    Well,
    /// The last try failed.
    Failing,
    /// It answered 410: nothing is posted before the next reload.
    Gone,
}

impl Standing {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Failing => "failing",
            Self::Gone => "gone",
        }
    }
}

/// What can be seen of an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Posts that wait.
    pub(crate) waiting: usize,
    /// Whether more events wait behind these.
    pub(crate) is_behind: bool,
    /// Since when the oldest waits.
    pub(crate) oldest: Option<Timestamp>,
    /// How it stands.
    pub standing: Standing,
    /// The last answer, or why there was none, and when.
    pub last: Option<(Timestamp, String)>,
    /// Posts taken, tries that failed, posts given up, since the start.
    pub taken: u64,
    pub(crate) failed: u64,
    pub(crate) given_up: u64,
}

/// The endpoints by their URL, as the configuration has them.
type Statuses = Arc<Mutex<BTreeMap<Arc<str>, (Endpoint, Status)>>>;

/// What came of a test: the URL, whether it was taken, and what it said.
#[derive(Debug, Clone)]
pub struct TestResult {
    pub(crate) url: Arc<str>,
    /// Whether it answered 2xx.
    pub(crate) is_taken: bool,
    /// What it said, or why it said nothing.
    pub answer: String,
}

enum Command {
    Reload(Vec<Endpoint>),
    Replay(Vec<Arc<Event>>, Option<Arc<str>>, oneshot::Sender<usize>),
    Test(Option<Arc<str>>, oneshot::Sender<Vec<TestResult>>),
    Erase(Arc<str>),
    Close,
}

/// What all endpoints work with.
#[derive(Clone)]
struct Shared {
    rows: Arc<ReaderRows>,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    tls: TlsConnector,
    statuses: Statuses,
}

/// All endpoints.
pub struct Webhooks {
    commands: mpsc::UnboundedSender<Command>,
    statuses: Statuses,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Webhooks {
    /// Starts the thread. The folder is made when there is an endpoint; what it holds of others goes.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        folder: &Path,
        endpoints: Vec<Endpoint>,
        queue: &Arc<Queue>,
        clock: Arc<dyn Clock>,
        tls: TlsConnector,
    ) -> std::io::Result<Arc<Self>> {
        let (commands, received) = mpsc::unbounded_channel();
        let statuses = Statuses::default();
        // Before anything can be swept.
        let mut work = Work {
            folder: folder.to_owned(),
            queue: queue.clone(),
            clock,
            tls,
            statuses: statuses.clone(),
            shared: None,
            tasks: HashMap::new(),
            new: Vec::new(),
        };
        work.take_on(endpoints);
        let thread = std::thread::Builder::new().name("webhooks".into()).spawn(move || work.run(received))?;
        Ok(Arc::new(Self { commands, statuses, thread: Mutex::new(Some(thread)) }))
    }

    /// Takes on other endpoints. One that is named anew begins with what happens from now on.
    pub(crate) fn reload(&self, endpoints: Vec<Endpoint>) {
        // After the end nobody listens.
        let _ = self.commands.send(Command::Reload(endpoints));
    }

    /// The endpoints and how they stand.
    pub(crate) fn statuses(&self) -> Vec<(Endpoint, Status)> {
        self.statuses.lock().values().cloned().collect()
    }

    /// Whether there is an endpoint with this URL.
    pub(crate) fn knows(&self, url: &str) -> bool {
        self.statuses.lock().contains_key(url)
    }

    /// Posts events again, to one endpoint or to all that want them; returns how many posts that makes.
    pub async fn replay(&self, events: Vec<Arc<Event>>, url: Option<Arc<str>>) -> usize {
        let (answer, replayed) = oneshot::channel();
        let _ = self.commands.send(Command::Replay(events, url, answer));
        replayed.await.unwrap_or_default()
    }

    /// Posts a test to one endpoint or to all, once, and says what they answer.
    pub async fn test(&self, url: Option<Arc<str>>) -> Vec<TestResult> {
        let (answer, tested) = oneshot::channel();
        let _ = self.commands.send(Command::Test(url, answer));
        tested.await.unwrap_or_default()
    }

    /// Takes a recipient out of what waits, soon.
    pub(crate) fn erase(&self, plain: &str) {
        let _ = self.commands.send(Command::Erase(plain.into()));
    }

    /// Writes down what waits and ends the thread.
    pub fn close(&self) {
        let _ = self.commands.send(Command::Close);
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that posts to webhooks panicked");
        }
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's own.
struct Work {
    folder: std::path::PathBuf,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    tls: TlsConnector,
    statuses: Statuses,
    shared: Option<Shared>,
    tasks: HashMap<Key, Handle>,
    /// Those that do not run yet.
    new: Vec<(Key, Task)>,
}

/// An endpoint's task.
struct Handle {
    orders: mpsc::UnboundedSender<task::Order>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Work {
    /// Opens the folder, and reserves the events that the endpoints have not read.
    fn prepare(&mut self, endpoints: &[Endpoint]) {
        if self.shared.is_some() || endpoints.is_empty() && !self.folder.exists() {
            return;
        }
        let rows = match ReaderRows::open(&self.folder) {
            Ok(rows) => Arc::new(rows),
            Err(error) => {
                let folder = self.folder.display();
                tracing::error!(%error, "{folder} cannot be opened, so nothing is posted to webhooks; remove it to begin anew");
                return;
            }
        };
        let (queue, clock, tls) = (self.queue.clone(), self.clock.clone(), self.tls.clone());
        let shared = Shared { rows, queue, clock, tls, statuses: self.statuses.clone() };
        if let Err(error) = shared.forget_all_but(endpoints) {
            tracing::warn!(%error, "what former webhooks left behind cannot be removed");
        }
        self.shared = Some(shared);
    }

    fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "nothing is posted to webhooks"),
        };
        runtime.block_on(async {
            self.begin();
            while let Some(command) = commands.recv().await {
                match command {
                    Command::Reload(endpoints) => self.reload(endpoints).await,
                    Command::Replay(events, url, answer) => drop(answer.send(self.replay(&events, url.as_deref()))),
                    Command::Test(url, answer) => self.test(url.as_deref(), answer),
                    Command::Erase(plain) => self.tasks.values().for_each(|task| {
                        let _ = task.orders.send(task::Order::Erase(plain.clone()));
                    }),
                    Command::Close => break,
                }
            }
            self.stop_all().await;
        });
        if let Some(shared) = &self.shared {
            shared.rows.close();
        }
    }

    async fn reload(&mut self, endpoints: Vec<Endpoint>) {
        let keys: Vec<Key> = endpoints.iter().map(Endpoint::key).collect();
        let gone: Vec<Key> = self.tasks.keys().filter(|key| !keys.contains(key)).copied().collect();
        for key in gone {
            if let Some(running) = self.tasks.remove(&key).and_then(|task| task.running) {
                running.abort();
                let _ = running.await;
            }
            if let Some(Err(error)) = self.shared.as_ref().map(|shared| shared.forget(key)) {
                tracing::warn!(%error, "what waits for a former webhook cannot be removed");
            }
        }
        self.take_on(endpoints);
        self.begin();
    }

    /// Makes tasks of endpoints that have none, and tells the others their settings.
    fn take_on(&mut self, endpoints: Vec<Endpoint>) {
        self.prepare(&endpoints);
        let Some(shared) = self.shared.clone() else { return };
        self.statuses.lock().retain(|url, _| endpoints.iter().any(|endpoint| endpoint.target.url == *url));
        for endpoint in endpoints {
            let (key, url) = (endpoint.key(), endpoint.target.url.clone());
            let new = || (endpoint.clone(), Status::default());
            self.statuses.lock().entry(url).or_insert_with(new).0 = endpoint.clone();
            match self.tasks.get(&key) {
                Some(task) => drop(task.orders.send(task::Order::Replace(endpoint))),
                None => {
                    let (orders, received) = mpsc::unbounded_channel();
                    self.new.push((key, Task::new(endpoint, shared.clone(), received)));
                    self.tasks.insert(key, Handle { orders, running: None });
                }
            }
        }
    }

    fn begin(&mut self) {
        for (key, task) in self.new.drain(..) {
            if let Some(handle) = self.tasks.get_mut(&key) {
                handle.running = Some(tokio::spawn(task.run()));
            }
        }
    }

    fn replay(&self, events: &[Arc<Event>], url: Option<&str>) -> usize {
        let mut replayed = 0;
        for (endpoint, _) in self.statuses.lock().values() {
            let is_meant = url.is_none_or(|url| *url == *endpoint.target.url);
            let Some(task) = self.tasks.get(&endpoint.key()).filter(|_| is_meant) else { continue };
            let wanted: Vec<Arc<Event>> = events.iter().filter(|event| endpoint.wants(event)).cloned().collect();
            replayed += wanted.len();
            let _ = task.orders.send(task::Order::Replay(wanted));
        }
        replayed
    }

    /// Beside what else is posted, so that nobody waits for it.
    fn test(&self, url: Option<&str>, answer: oneshot::Sender<Vec<TestResult>>) {
        let statuses = self.statuses.lock();
        let meant = statuses.values().map(|(endpoint, _)| endpoint.clone());
        let meant: Vec<Endpoint> =
            meant.filter(|endpoint| url.is_none_or(|url| *url == *endpoint.target.url)).collect();
        let (tls, now) = (self.tls.clone(), self.clock.wall());
        tokio::spawn(async move {
            let mut tested = Vec::new();
            for endpoint in meant {
                let post = sender::Post {
                    id: format!("msg_test_{}", now.as_millis()),
                    body: body::test(endpoint.format, now.rfc3339()).into(),
                };
                let tried = Sender::new(tls.clone()).post(&endpoint, &post, now).await;
                let (url, is_taken, answer) = (endpoint.target.url.clone(), tried.is_taken(), tried.text());
                tested.push(TestResult { url, is_taken, answer });
            }
            let _ = answer.send(tested);
        });
    }

    async fn stop_all(&mut self) {
        for task in self.tasks.values() {
            let _ = task.orders.send(task::Order::Stop);
        }
        let ending = async {
            for running in self.tasks.drain().filter_map(|(_, task)| task.running) {
                let _ = running.await;
            }
        };
        let _ = tokio::time::timeout(ENDING_MAX, ending).await;
    }
}

impl Shared {
    /// Removes all that is stored for an endpoint.
    fn forget(&self, key: Key) -> Result<(), StoreError> {
        let mut gone = vec![(cursor_key(key), None)];
        let prefix = pending_posts::prefix(key);
        self.rows.scan(prefix.clone()..[prefix, vec![u8::MAX; 9]].concat(), &mut |row, _| {
            gone.push((row.to_vec(), None));
            true
        })?;
        self.rows.apply(gone, None)
    }

    /// Removes what is stored for endpoints that the configuration does not name any more.
    fn forget_all_but(&self, endpoints: &[Endpoint]) -> Result<(), StoreError> {
        let kept: Vec<Key> = endpoints.iter().map(Endpoint::key).collect();
        let mut former = std::collections::BTreeSet::new();
        self.rows.scan(b"c".to_vec()..b"d".to_vec(), &mut |row, _| {
            let key = row.get(1..9).and_then(|key| Key::try_from(key).ok());
            former.extend(key.filter(|key| !kept.contains(key)));
            true
        })?;
        former.into_iter().try_for_each(|key| self.forget(key))
    }
}
