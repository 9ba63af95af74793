//! MTA-STS policies: fetched when a domain announces a new one, kept on disk, fetched anew daily. What was fetched stays in
//! force until its `max_age`, whatever DNS and the web server say meanwhile (RFC 8461 sections 3.3 and 5.1).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::by_owner::ByOwner;
use super::fetch::Fetch;
use super::mta_sts::{FetchedPolicy, POLICY_LEN_MAX, Policy, announced_id};
use super::resolver::Dns;
use crate::base::clock::{Clock, Timestamp};
use crate::base::files::sync_folder;
use crate::mail::address::domain_key;

/// Policies kept at most. Beyond, of the registrable domain that has most, one goes: of those that were not used for a day yet,
/// else of all, the one used longest ago.
const POLICIES_MAX: usize = 10_000;
/// A policy that was used over this time is of a domain to which mail goes again and again.
const PROVEN: Duration = Duration::from_secs(24 * 3600);
/// How long a policy that could not be fetched is not asked for again.
const FAILED_PAUSE: Duration = Duration::from_secs(300);
/// After this time a policy is fetched anew, if its domain was sent to lately.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// What lately means.
const LATELY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is looked what is due.
const ROUND: Duration = Duration::from_secs(3600);
/// In front of the name of a file that is being written. No domain begins so.
const UNFINISHED: &str = ".";

struct CachedPolicy {
    fetched: FetchedPolicy,
    policy: Arc<Policy>,
    /// When it was used first and last.
    used_since: Timestamp,
    used_at: Timestamp,
}

impl CachedPolicy {
    /// What a clock wrote that was ahead counts as of now.
    fn taken_up(mut self, now: Timestamp) -> Self {
        for at in [&mut self.fetched.at, &mut self.used_since, &mut self.used_at] {
            *at = now.min(*at);
        }
        self
    }

    /// What goes first where there are too many is worth least.
    fn worth(&self) -> (bool, Timestamp) {
        (self.used_at.since(self.used_since) >= PROVEN, self.used_at)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredPolicy {
    domain: String,
    id: String,
    at: Timestamp,
    used_at: Timestamp,
    /// Version 0.1 did not write it: its policies count as used for long.
    #[serde(default)]
    used_since: Timestamp,
    policy: String,
}

#[derive(Default)]
struct State {
    known: ByOwner<CachedPolicy>,
    /// Ids whose policy could not be fetched, and when.
    failed: ByOwner<(String, Timestamp)>,
}

/// The policies of all domains.
pub(crate) struct Policies {
    dns: Arc<dyn Dns>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    /// One file a domain.
    folder: PathBuf,
    state: Mutex<State>,
}

impl Policies {
    /// Those in a folder, which is made if there is none. Damaged files are passed over.
    pub(crate) fn open(
        folder: PathBuf,
        dns: Arc<dyn Dns>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let now = clock.now();
        let mut state = State::default();
        for entry in fs::read_dir(&folder)?.take(2 * POLICIES_MAX) {
            let entry = entry?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                remove(&path);
                continue;
            }
            match read(&path).map(|(domain, known)| (domain, known.taken_up(now))) {
                Ok((domain, known)) if known.fetched.is_in_force(now) && state.known.len() < POLICIES_MAX => {
                    state.known.insert(domain, known);
                }
                Ok(_) => remove(&path),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "a stored MTA-STS policy is damaged; passed over");
                    remove(&path);
                }
            }
        }
        Ok(Arc::new(Self { dns, fetch, clock, folder, state: Mutex::new(state) }))
    }

    /// The policy that is in force for a domain, given in lower case and A-labels; fetched first if there is a new one.
    pub(crate) async fn of(&self, domain: &str) -> Option<Arc<Policy>> {
        let known = self.in_force(domain);
        let announced = match self.dns.txt(&format!("_mta-sts.{domain}")).await {
            Ok(found) => announced_id(&found.records).map(str::to_owned),
            Err(_) => None,
        };
        let Some(id) = announced.filter(|id| known.as_ref().is_none_or(|(known, _)| known != id)) else {
            return known.map(|(_, policy)| policy);
        };
        let _ = self.renew(domain, &id).await;
        self.in_force(domain).map(|(_, policy)| policy)
    }

    fn in_force(&self, domain: &str) -> Option<(String, Arc<Policy>)> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let known = state.known.get_mut(domain).filter(|known| known.fetched.is_in_force(now))?;
        known.used_at = now;
        Some((known.fetched.id.clone(), known.policy.clone()))
    }

    /// Fetches the policy announced by an id and keeps it. Whether there is a new one.
    async fn renew(&self, domain: &str, id: &str) -> bool {
        let now = self.clock.now();
        let has_failed = self
            .state
            .lock()
            .failed
            .get(domain)
            .is_some_and(|(failed, at)| failed == id && now < at.plus(FAILED_PAUSE));
        if has_failed {
            return false;
        }
        let fetched = match self.fetch.fetch(domain).await {
            Ok(text) => Policy::parse(&text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let now = self.clock.now();
        match fetched {
            Ok(policy) => {
                self.keep(domain, FetchedPolicy { id: id.to_owned(), policy, at: now }, now).await;
                true
            }
            Err(error) => {
                tracing::info!(domain, error, "the MTA-STS policy cannot be fetched");
                let failed = &mut self.state.lock().failed;
                failed.insert(domain.to_owned(), (id.to_owned(), now));
                failed.shrink(POLICIES_MAX, |(_, at)| *at);
                false
            }
        }
    }

    async fn keep(&self, domain: &str, fetched: FetchedPolicy, now: Timestamp) {
        let policy = Arc::new(fetched.policy.clone());
        let used = self.state.lock().known.get(domain).map(|known| (known.used_since, known.used_at));
        let (used_since, used_at) = used.unwrap_or((now, now));
        let stored = StoredPolicy {
            domain: domain.to_owned(),
            id: fetched.id.clone(),
            at: fetched.at,
            used_at,
            used_since,
            policy: policy.to_string(),
        };
        let forgotten = {
            let mut state = self.state.lock();
            state.failed.remove(domain);
            state.known.insert(domain.to_owned(), CachedPolicy { fetched, policy, used_since, used_at });
            state.known.shrink(POLICIES_MAX, CachedPolicy::worth)
        };
        let folder = self.folder.clone();
        let write = move || {
            if let Some(domain) = forgotten {
                remove(&folder.join(domain));
            }
            if let Err(error) = write(&folder, &stored) {
                tracing::error!(domain = stored.domain, %error, "the MTA-STS policy cannot be stored");
            }
        };
        // Waiting for it keeps writes to one file apart. A panic is a bug of its own.
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Fetches policies anew before they end, for as long as it is polled.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.freshen().await;
        }
    }

    /// Fetches anew what is a day old and was used lately; forgets what is over.
    async fn freshen(&self) {
        let now = self.clock.now();
        let (due, over) = {
            let mut state = self.state.lock();
            let over = state.known.retain(|known| known.fetched.is_in_force(now));
            let is_due = |known: &CachedPolicy| known.fetched.at.plus(FRESH) <= now && now < known.used_at.plus(LATELY);
            let due = state.known.iter().filter(|(_, known)| is_due(known));
            let due: Vec<(String, String)> =
                due.map(|(domain, known)| (domain.clone(), known.fetched.id.clone())).collect();
            (due, over)
        };
        over.iter().for_each(|domain| remove(&self.folder.join(domain)));
        for (domain, id) in due {
            let announced = self.dns.txt(&format!("_mta-sts.{domain}")).await;
            let announced = announced.ok().and_then(|found| announced_id(&found.records).map(str::to_owned));
            // The id may be new; nobody announcing anything is no reason to look.
            if let Some(announced) = announced {
                tracing::debug!(domain, is_new = announced != id, "fetching the MTA-STS policy anew");
                self.renew(&domain, &announced).await;
            }
        }
    }
}

fn read(path: &Path) -> Result<(String, CachedPolicy), &'static str> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|_| "it cannot be read")?;
    let limit = 2 * POLICY_LEN_MAX as u64;
    file.take(limit).read_to_string(&mut text).map_err(|_| "it is no text")?;
    let stored: StoredPolicy = serde_json::from_str(&text).map_err(|_| "it is not JSON as it should be")?;
    let policy = Policy::parse(stored.policy.as_bytes()).map_err(|_| "it holds no policy")?;
    let is_its_file = path.file_name().is_some_and(|name| name == stored.domain.as_str());
    if !is_its_file || domain_key(&stored.domain).as_ref() != Some(&stored.domain) {
        return Err("it is another domain's");
    }
    let known = CachedPolicy {
        policy: Arc::new(policy.clone()),
        fetched: FetchedPolicy { id: stored.id, policy, at: stored.at },
        used_since: stored.used_since,
        used_at: stored.used_at,
    };
    Ok((stored.domain, known))
}

/// All of it or nothing, readable by its owner only.
fn write(folder: &Path, stored: &StoredPolicy) -> io::Result<()> {
    let unfinished = folder.join(format!("{UNFINISHED}{}", stored.domain));
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    fs::rename(unfinished, folder.join(&stored.domain))?;
    sync_folder(folder)
}

fn remove(path: &Path) {
    // What stays behind is passed over, or removed another time.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::unix::fs::PermissionsExt as _;

    use bytes::Bytes;

    use super::super::fetch::{FetchError, Fetching};
    use super::super::mta_sts::Mode;
    use super::super::resolver::{Answer, DnsError, MxRecord, Records};
    use super::*;
    use crate::base::clock::ManualClock;

    /// What is announced, what is fetched, and how often.
    #[derive(Default)]
    struct World {
        announced: Mutex<Option<String>>,
        published: Mutex<Option<String>>,
        fetched: Mutex<u32>,
    }

    impl World {
        fn set(&self, id: Option<&str>, mode: Option<&str>) {
            *self.announced.lock() = id.map(|id| format!("v=STSv1; id={id};"));
            let text = |mode| format!("version: STSv1\nmode: {mode}\nmx: mx.example\nmax_age: 604800\n");
            *self.published.lock() = mode.map(text);
        }
    }

    impl Dns for World {
        fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
            Box::pin(async { Err(DnsError::NoRecords) })
        }
        fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
            Box::pin(async { Err(DnsError::NoRecords) })
        }
        fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
            assert_eq!(name, "_mta-sts.example");
            let found = self.announced.lock().clone().ok_or(DnsError::Timeout);
            let ttl = Duration::from_secs(60);
            Box::pin(async move { Ok(Records { records: vec![found?], ttl, secure: false }) })
        }
    }

    impl Fetch for World {
        fn fetch<'a>(&'a self, _: &'a str) -> Fetching<'a> {
            *self.fetched.lock() += 1;
            let found = self.published.lock().clone().map(Bytes::from);
            Box::pin(async move { found.ok_or(FetchError::Timeout) })
        }
    }

    struct Fixture {
        world: Arc<World>,
        clock: Arc<ManualClock>,
        folder: tempfile::TempDir,
        policies: Arc<Policies>,
    }

    impl Fixture {
        fn new() -> Self {
            let (world, folder) = (Arc::new(World::default()), tempfile::tempdir().unwrap());
            let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
            let policies = open(&folder, &world, &clock);
            Self { world, clock, folder, policies }
        }

        async fn mode(&self) -> Option<Mode> {
            self.policies.of("example").await.map(|policy| policy.mode)
        }

        fn fetched(&self) -> u32 {
            *self.world.fetched.lock()
        }
    }

    fn open(folder: &tempfile::TempDir, world: &Arc<World>, clock: &Arc<ManualClock>) -> Arc<Policies> {
        Policies::open(folder.path().join("mta-sts"), world.clone(), world.clone(), clock.clone()).unwrap()
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn a_policy_is_fetched_once_for_an_id() {
        let place = Fixture::new();
        assert_eq!(place.mode().await, None);
        place.world.set(Some("1"), Some("enforce"));
        assert_eq!(
            (place.mode().await, place.mode().await, place.fetched()),
            (Some(Mode::Enforce), Some(Mode::Enforce), 1)
        );
        place.world.set(Some("2"), Some("testing"));
        assert_eq!((place.mode().await, place.fetched()), (Some(Mode::Testing), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_stays_in_force_when_nobody_announces_or_serves_it_any_more() {
        let place = Fixture::new();
        place.world.set(Some("1"), Some("enforce"));
        assert_eq!(place.mode().await, Some(Mode::Enforce));
        place.world.set(None, None);
        assert_eq!(place.mode().await, Some(Mode::Enforce));
        place.world.set(Some("2"), None);
        assert_eq!(
            (place.mode().await, place.mode().await, place.fetched()),
            (Some(Mode::Enforce), Some(Mode::Enforce), 2)
        );
        place.clock.advance(FAILED_PAUSE);
        assert_eq!((place.mode().await, place.fetched()), (Some(Mode::Enforce), 3));
        let again = open(&place.folder, &place.world, &place.clock);
        assert_eq!(again.of("example").await.map(|policy| policy.mode), Some(Mode::Enforce), "after a restart");
        place.clock.advance(7 * DAY);
        assert_eq!(place.mode().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn policies_are_kept_fresh() {
        let place = Fixture::new();
        place.world.set(Some("1"), Some("enforce"));
        assert_eq!(place.mode().await, Some(Mode::Enforce));
        place.policies.freshen().await;
        assert_eq!(place.fetched(), 1);
        place.clock.advance(DAY);
        place.policies.freshen().await;
        place.policies.freshen().await;
        assert_eq!(place.fetched(), 2, "daily");
        place.clock.advance(8 * DAY);
        place.policies.freshen().await;
        assert_eq!(place.fetched(), 2, "what is over is forgotten");
        assert_eq!(fs::read_dir(place.folder.path().join("mta-sts")).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_new_policies_do_not_push_out_those_of_busy_domains() {
        let place = Fixture::new();
        place.world.set(Some("1"), Some("enforce"));
        place.mode().await;
        place.clock.advance(DAY);
        place.mode().await;
        place.clock.advance(Duration::from_secs(60));
        let now = place.clock.now();
        let fetched = || {
            let policy = Policy::parse(b"version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 604800\n").unwrap();
            FetchedPolicy { id: "1".to_owned(), policy, at: now }
        };
        let new = |domain: String| {
            let fetched = fetched();
            let policy = Arc::new(fetched.policy.clone());
            (domain, CachedPolicy { fetched, policy, used_since: now, used_at: now })
        };
        for number in 0..POLICIES_MAX {
            let (domain, known) = new(format!("registered{number}.test"));
            let mut state = place.policies.state.lock();
            state.known.insert(domain, known);
            state.known.shrink(POLICIES_MAX, CachedPolicy::worth);
        }
        place.policies.keep("one-more.test", fetched(), now.plus(Duration::from_secs(1))).await;
        let known = &place.policies.state.lock().known;
        assert_eq!(known.len(), POLICIES_MAX);
        assert!(known.get("example").is_some() && known.get("one-more.test").is_some());
    }

    /// As version 0.1 wrote it.
    #[tokio::test(start_paused = true)]
    async fn a_policy_of_version_0_1_is_read() {
        let place = Fixture::new();
        let text = "version: STSv1\\nmode: enforce\\nmx: mx.example\\nmax_age: 604800\\n";
        let stored =
            format!("{{\"domain\":\"example\",\"id\":\"1\",\"at\":1000000,\"used_at\":1000000,\"policy\":\"{text}\"}}");
        fs::write(place.folder.path().join("mta-sts/example"), stored).unwrap();
        let again = open(&place.folder, &place.world, &place.clock);
        assert_eq!(again.of("example").await.map(|policy| policy.mode), Some(Mode::Enforce));
    }

    /// A clock that was ahead by a year does not make a policy hold for a year.
    #[tokio::test(start_paused = true)]
    async fn a_policy_fetched_by_a_clock_that_was_ahead_holds_no_longer_than_it_says() {
        let place = Fixture::new();
        let text = "version: STSv1\\nmode: enforce\\nmx: mx.example\\nmax_age: 604800\\n";
        let at = place.clock.now().plus(365 * DAY).as_millis();
        let stored =
            format!("{{\"domain\":\"example\",\"id\":\"1\",\"at\":{at},\"used_at\":{at},\"policy\":\"{text}\"}}");
        fs::write(place.folder.path().join("mta-sts/example"), stored).unwrap();
        let again = open(&place.folder, &place.world, &place.clock);
        assert_eq!(again.of("example").await.map(|policy| policy.mode), Some(Mode::Enforce));
        place.clock.advance(8 * DAY);
        assert!(again.of("example").await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_private_and_damaged_ones_passed_over() {
        let place = Fixture::new();
        place.world.set(Some("1"), Some("enforce"));
        assert_eq!(place.mode().await, Some(Mode::Enforce));
        let folder = place.folder.path().join("mta-sts");
        let path = folder.join("example");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(folder.join("other.example"), &text).unwrap();
        fs::write(folder.join(".third.example"), &text).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let again = open(&place.folder, &place.world, &place.clock);
        assert_eq!(again.state.lock().known.len(), 0);
        assert_eq!(again.of("example").await.map(|policy| policy.mode), Some(Mode::Enforce));
        assert_eq!(place.fetched(), 2);
    }
}
