//! The rows of the statistics: by minute or hour, by what, whose, and which name.
//!
//! Keys: `m` or `h`, a letter for what they are by, the begin of the step, the user, NUL, the name. `n`, the letter and a
//! name: when it was last seen; so names are bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::counts::{Counts, blames_sender};
use crate::base::clock::Timestamp;
use crate::event::{Event, Kind};
use crate::mail::address::Mailbox;
use crate::mail::registrable::registrable_domain;

/// Destinations, tags and providers with a name of their own.
pub(crate) const NAMES_MAX: usize = 200;
/// The name of the rest.
pub(crate) const OTHER: &str = "other";
/// How long a name is kept that is not seen any more: as long as the hours.
const NAME_KEPT_FOR: u64 = 30 * 86_400;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Resolution {
    /// For a day, and two hours more: what is compared with the same hour of yesterday is then there.
    Minutes,
    /// For thirty days.
    Hours,
}

impl Resolution {
    /// Seconds of one step.
    pub(crate) fn step_s(self) -> u64 {
        match self {
            Self::Minutes => 60,
            Self::Hours => 3600,
        }
    }

    /// How long steps are kept.
    pub(crate) fn kept_for(self) -> Duration {
        match self {
            Self::Minutes => Duration::from_secs(26 * 3600),
            Self::Hours => Duration::from_secs(30 * 86_400),
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Minutes => b'm',
            Self::Hours => b'h',
        }
    }

    /// Where the step of this time begins, in seconds.
    pub(crate) fn step(self, at: Timestamp) -> u64 {
        at.as_secs() / self.step_s() * self.step_s()
    }
}

/// What entries are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// Their lane.
    Lane,
    /// Their user.
    User,
    /// Their tag.
    Tag,
    /// The registrable domain of the host that took or refused them.
    Provider,
    /// The recipient's domain.
    Destination,
}

/// All of them.
pub(crate) const BYS: [By; 5] = [By::Lane, By::User, By::Tag, By::Provider, By::Destination];

impl By {
    /// As in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::User => "user",
            Self::Tag => "tag",
            Self::Provider => "provider",
            Self::Destination => "destination",
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Lane => b'l',
            Self::User => b'u',
            Self::Tag => b't',
            Self::Provider => b'p',
            Self::Destination => b'd',
        }
    }
}

/// What a row's key begins with, from a step on.
pub(crate) fn row_prefix(resolution: Resolution, by: By, step: u64) -> Vec<u8> {
    [&[resolution.letter(), by.letter()][..], &step.to_be_bytes()].concat()
}

fn row_key(resolution: Resolution, by: By, step: u64, (user, name): (&str, &str)) -> Vec<u8> {
    [&row_prefix(resolution, by, step)[..], user.as_bytes(), &[0], name.as_bytes()].concat()
}

/// Step, user and name of a row's key.
pub(crate) fn parts(key: &[u8]) -> Option<(u64, &str, &str)> {
    let step = u64::from_be_bytes(key.get(2..10)?.try_into().ok()?);
    let (user, name) = std::str::from_utf8(key.get(10..)?).ok()?.split_once('\0')?;
    Some((step, user, name))
}

/// What the rows of one entry have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    minute: u64,
    user: Arc<str>,
    lane: &'static str,
    tag: Option<Arc<str>>,
    provider: Option<Arc<str>>,
    destination: Option<Arc<str>>,
}

impl RowKey {
    /// The entries that an event is about; none where it does not count.
    pub(crate) fn of(event: &Event) -> Vec<Self> {
        let is_refused = blames_sender(event).is_some();
        // What the relay writes itself has no sender.
        if event.head.from.is_none() || !(counts(event.kind()) || is_refused) {
            return Vec::new();
        }
        let host = event.destination().filter(|_| event.kind().is_end() || is_refused);
        let first = Self {
            minute: Resolution::Minutes.step(event.head.time),
            user: event.head.user.clone(),
            lane: event.head.lane.name(),
            tag: event.head.tag.clone(),
            provider: host.map(|host| registrable_domain(host).into()),
            destination: event.head.recipient.as_ref().map(|to: &Mailbox| to.domain_key().into()),
        };
        let others = event.what.others().iter().map(|domain| {
            let destination = Some(domain.clone()).filter(|domain| !domain.is_empty());
            Self { destination: destination.or_else(|| Some(OTHER.into())), ..first.clone() }
        });
        let others: Vec<Self> = others.collect();
        std::iter::once(first).chain(others).collect()
    }

    /// The keys of its rows, with names that `names` admits.
    pub(crate) fn keys(&self, names: &mut Names) -> Vec<Vec<u8>> {
        let mut keys = Vec::with_capacity(2 * BYS.len());
        for by in BYS {
            let name: Option<Arc<str>> = match by {
                By::Lane => Some(self.lane.into()),
                By::User => Some(self.user.clone()),
                By::Tag => self.tag.as_ref().map(|tag| names.admit(by, tag, self.minute)),
                By::Provider => self.provider.as_ref().map(|name| names.admit(by, name, self.minute)),
                By::Destination => self.destination.as_ref().map(|name| names.admit(by, name, self.minute)),
            };
            let Some(name) = name else { continue };
            let at = Timestamp::from_millis(self.minute * 1000);
            for resolution in [Resolution::Minutes, Resolution::Hours] {
                keys.push(row_key(resolution, by, resolution.step(at), (&self.user, &name)));
            }
        }
        keys
    }
}

fn counts(kind: Kind) -> bool {
    kind.is_end() || matches!(kind, Kind::Accepted | Kind::AtRisk | Kind::Verified)
}

/// By provider an entry counts as accepted when it ends: its host is not known before.
pub(crate) fn is_by_provider(key: &[u8]) -> bool {
    key.get(1) == Some(&By::Provider.letter())
}

/// Adds to a row what entries came to, `ended` of which ended.
pub(crate) fn add_to_row(key: &[u8], row: &mut Counts, counts: &Counts) {
    row.merge(counts);
    if is_by_provider(key) {
        let ended = counts.delivered + counts.failed.values().sum::<u64>();
        row.accepted += ended + counts.expired + counts.superseded + counts.cancelled;
    }
}

/// The names that have rows of their own.
#[derive(Debug, Default)]
pub(crate) struct Names {
    seen: HashMap<(By, Arc<str>), u64>,
    /// Which have to be stored.
    changed: Vec<(By, Arc<str>)>,
}

impl Names {
    /// What is stored of one.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) {
        let by = key.get(1).and_then(|letter| BYS.into_iter().find(|by| by.letter() == *letter));
        let name = key.get(2..).and_then(|name| std::str::from_utf8(name).ok());
        let seen = value.try_into().ok().map(u64::from_be_bytes);
        if let (Some(by), Some(name), Some(seen)) = (by, name, seen) {
            self.seen.insert((by, name.into()), seen);
        }
    }

    fn admit(&mut self, by: By, name: &Arc<str>, at: u64) -> Arc<str> {
        let key = (by, name.clone());
        if let Some(seen) = self.seen.get_mut(&key) {
            if at > *seen + 3600 {
                *seen = at;
                self.changed.push(key);
            }
            return name.clone();
        }
        if self.seen.keys().filter(|(other, _)| *other == by).count() >= NAMES_MAX {
            let oldest = self.seen.iter().filter(|((other, _), _)| *other == by).min_by_key(|(_, seen)| **seen);
            match oldest.filter(|(_, seen)| **seen + NAME_KEPT_FOR < at).map(|(key, _)| key.clone()) {
                Some(oldest) => {
                    self.seen.remove(&oldest);
                    self.changed.push(oldest);
                }
                None => return OTHER.into(),
            }
        }
        self.seen.insert(key.clone(), at);
        self.changed.push(key);
        name.clone()
    }

    /// The rows of names that changed.
    pub(crate) fn changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let row = |key: (By, Arc<str>)| {
            let seen = self.seen.get(&key).map(|seen| seen.to_be_bytes().to_vec());
            ([&[b'n', key.0.letter()][..], key.1.as_bytes()].concat(), seen)
        };
        std::mem::take(&mut self.changed).into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_names_have_rows_and_the_rest_share_one() {
        let mut names = Names::default();
        let mut admit = |number: u64, at: u64| names.admit(By::Tag, &Arc::from(format!("t{number}")), at).to_string();
        (0..200).for_each(|number| assert_eq!(admit(number, 1000), format!("t{number}")));
        assert_eq!(admit(200, 1000), OTHER);
        assert_eq!(admit(7, 1000), "t7");
        let later = 1000 + NAME_KEPT_FOR + 4000;
        assert_eq!(admit(7, later), "t7");
        assert_eq!(admit(200, later), "t200", "one that is not seen any more made room");
        let mut again = Names::default();
        names.changes().iter().for_each(|(key, value)| again.restore(key, value.as_deref().unwrap_or_default()));
        assert_eq!(again.seen.len(), 200);
        assert_eq!(&*again.admit(By::Tag, &"t201".into(), 1000), OTHER);
    }

    #[test]
    fn a_key_is_read_again() {
        let key = row_key(Resolution::Hours, By::Destination, 7200, ("shop", "example.com"));
        assert_eq!(parts(&key), Some((7200, "shop", "example.com")));
        assert!(key.starts_with(&row_prefix(Resolution::Hours, By::Destination, 7200)));
    }
}
