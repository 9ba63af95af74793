//! Changing a domain's DKIM keys: a pure state machine over the time and over what the domain's authoritative name servers show.
//!
//! A next pair waits until all of them have shown its records for a day, counted from the first sight, which is kept; then it
//! signs. What was accepted before goes on being signed with the keys of before, whose private halves go a day later: no life
//! is longer. Their records can go a week after that change, when nobody verifies their signatures any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);
/// How long all authoritative servers have shown the next records before they are relied on: caches of older denials end.
pub(crate) const SHOWN_FOR: Duration = DAY;
/// How long the private keys of before are kept: the longest life.
pub(crate) const KEPT_FOR: Duration = DAY;
/// How long the records of before have to stay in DNS.
pub(crate) const RECORDS_FOR: Duration = Duration::from_secs(7 * 86_400);
/// How long they are listed as removable.
const LISTED_FOR: Duration = Duration::from_secs(90 * 86_400);
/// How long ahead the change is written down: what is being accepted at the moment counts as before it.
const NOTICE: Duration = Duration::from_secs(60);
/// Version of the stored form.
const VERSION: u8 = 1;

/// How far a domain's rotation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rotation {
    version: u8,
    /// In lower case, A-labels.
    pub domain: String,
    /// The keys that wait for their records to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// The keys of the last change; none: those of the configuration sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) active: Option<Active>,
    /// Those of before, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) retired: Vec<RetiredKeys>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Next {
    /// Under which names they are published.
    pub(crate) selectors: Vec<String>,
    pub(crate) made_at: Timestamp,
    /// Since when all servers have shown them without one that was seen not to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seen_since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Active {
    /// Under which names they are published.
    pub(crate) selectors: Vec<String>,
    /// They sign what is accepted from then on.
    pub since: Timestamp,
}

/// Keys that sign nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetiredKeys {
    /// Under which names they were published.
    pub(crate) selectors: Vec<String>,
    /// From when on they signed; none: they were those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    pub until: Timestamp,
    /// Whether the private keys are gone.
    #[serde(default)]
    pub(crate) is_destroyed: bool,
    /// Whether it was told that the records may go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_told: bool,
}

impl RetiredKeys {
    /// From when on its records may go.
    pub(crate) fn removable_at(&self) -> Timestamp {
        self.until.plus(RECORDS_FOR)
    }
}

/// What the authoritative servers show of the next records, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Each server has all of them.
    Shown,
    /// At least one answered that it has not.
    Missing,
    /// Not all answered, and none said that it has not.
    Unknown,
}

/// What a step comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// All servers show the next records, for the first time or again.
    Seen {
        /// When the keys will sign if that stays so.
        signs_at: Timestamp,
    },
    /// A server no longer shows them; the day begins anew.
    Lost,
    /// The next keys sign what is accepted from this time on.
    Changed {
        /// A moment ahead.
        since: Timestamp,
    },
    /// The private keys of these selectors are needed no more.
    Destroy(Vec<String>),
    /// The records of these selectors may be taken out of DNS.
    Removable(Vec<String>),
}

/// Why no next keys are begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("keys that were made before still wait for their records to be seen")]
pub(crate) struct UnderWay;

impl Rotation {
    pub(crate) fn new(domain: &str) -> Self {
        Self { version: VERSION, domain: domain.to_owned(), next: None, active: None, retired: Vec::new() }
    }

    /// Reads what was stored.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        let rotation: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if rotation.version > VERSION {
            return Err(format!("it has version {}, which a newer otp-relay wrote", rotation.version));
        }
        Ok(rotation)
    }

    pub(crate) fn to_json(&self) -> String {
        // It has no maps and nothing else that could fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Notes keys that were made.
    ///
    /// # Errors
    /// When others wait already.
    pub(crate) fn begin(&mut self, selectors: Vec<String>, now: Timestamp) -> Result<(), UnderWay> {
        if self.next.is_some() {
            return Err(UnderWay);
        }
        self.next = Some(Next { selectors, made_at: now, seen_since: None });
        Ok(())
    }

    /// One look. `sight` is of the next records, `configured` the selectors that the configuration names.
    pub(crate) fn step(&mut self, sight: Sight, configured: &[String], now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.look_at_next(sight, configured, now, &mut effects);
        for retired in &mut self.retired {
            if !retired.is_destroyed && retired.until.plus(KEPT_FOR) <= now {
                retired.is_destroyed = true;
                effects.push(Effect::Destroy(retired.selectors.clone()));
            }
        }
        for retired in self.retired.iter_mut().filter(|retired| !retired.is_told && retired.removable_at() <= now) {
            retired.is_told = true;
            effects.push(Effect::Removable(retired.selectors.clone()));
        }
        self.retired.retain(|retired| now.since(retired.removable_at()) < LISTED_FOR);
        effects
    }

    fn look_at_next(&mut self, sight: Sight, configured: &[String], now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(next) = &mut self.next else { return };
        match (sight, next.seen_since) {
            (Sight::Unknown, _) | (Sight::Missing, None) => {}
            (Sight::Missing, Some(_)) => {
                next.seen_since = None;
                effects.push(Effect::Lost);
            }
            (Sight::Shown, None) => {
                next.seen_since = Some(now);
                effects.push(Effect::Seen { signs_at: now.plus(SHOWN_FOR) });
            }
            (Sight::Shown, Some(seen)) if now.since(seen) < SHOWN_FOR => {}
            (Sight::Shown, Some(_)) => {
                let since = now.plus(NOTICE);
                effects.push(Effect::Changed { since });
                self.change(configured, since);
            }
        }
    }

    fn change(&mut self, configured: &[String], since: Timestamp) {
        let Some(next) = self.next.take() else { return };
        let before = self.active.replace(Active { selectors: next.selectors, since });
        let (selectors, from) = match before {
            Some(active) => (active.selectors, Some(active.since)),
            None => (configured.to_vec(), None),
        };
        if !selectors.is_empty() {
            self.retired.push(RetiredKeys {
                selectors,
                since: from,
                until: since,
                is_destroyed: false,
                is_told: false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    fn begun() -> (Rotation, Vec<String>) {
        let mut rotation = Rotation::new("app.test");
        rotation.begin(vec!["next".into()], START).unwrap();
        (rotation, vec!["otp1".to_owned()])
    }

    fn at(hours: u32) -> Timestamp {
        START.plus(HOUR * hours)
    }

    #[test]
    fn the_next_pair_signs_after_a_day_of_sight() {
        let (mut rotation, configured) = begun();
        let mut step = |sight, hours| rotation.step(sight, &configured, at(hours));
        assert_eq!(step(Sight::Missing, 1), []);
        assert_eq!(step(Sight::Shown, 2), [Effect::Seen { signs_at: at(26) }]);
        assert_eq!(step(Sight::Unknown, 10), [], "a server that does not answer does not count against them");
        assert_eq!(step(Sight::Shown, 25), []);
        assert_eq!(step(Sight::Unknown, 27), [], "nor does it count for them");
        let since = at(28).plus(NOTICE);
        assert_eq!(step(Sight::Shown, 28), [Effect::Changed { since }]);
        assert_eq!(rotation.active, Some(Active { selectors: vec!["next".into()], since }));
        assert_eq!((rotation.retired[0].selectors[0].as_str(), rotation.retired[0].since), ("otp1", None));
    }

    /// One secondary has the zone of yesterday.
    #[test]
    fn a_lagging_server_begins_the_day_anew() {
        let (mut rotation, configured) = begun();
        let mut step = |sight, hours| rotation.step(sight, &configured, at(hours));
        assert_eq!(step(Sight::Shown, 0).len(), 1);
        assert_eq!(step(Sight::Missing, 23), [Effect::Lost]);
        assert_eq!(step(Sight::Missing, 30), []);
        assert_eq!(step(Sight::Shown, 31), [Effect::Seen { signs_at: at(55) }]);
        assert_eq!(step(Sight::Shown, 54), []);
        assert!(matches!(step(Sight::Shown, 55)[..], [Effect::Changed { .. }]));
    }

    #[test]
    fn what_was_before_goes_after_a_day_and_a_week() {
        let (mut rotation, configured) = begun();
        rotation.step(Sight::Shown, &configured, at(0));
        rotation.step(Sight::Shown, &configured, at(24));
        let until = rotation.retired[0].until;
        let old = vec!["otp1".to_owned()];
        assert_eq!(rotation.step(Sight::Unknown, &configured, until.plus(DAY).minus(Duration::from_millis(1))), []);
        assert_eq!(rotation.step(Sight::Unknown, &configured, until.plus(DAY)), [Effect::Destroy(old.clone())]);
        assert_eq!(rotation.step(Sight::Unknown, &configured, until.plus(6 * DAY)), []);
        assert_eq!(rotation.step(Sight::Unknown, &configured, until.plus(7 * DAY)), [Effect::Removable(old)]);
        assert_eq!(rotation.step(Sight::Unknown, &configured, until.plus(96 * DAY)), [], "told once");
        assert_eq!(rotation.retired.len(), 1, "listed as removable");
        rotation.step(Sight::Unknown, &configured, until.plus(97 * DAY));
        assert!(rotation.retired.is_empty());
    }

    #[test]
    fn the_first_sight_is_kept_over_restarts() {
        let (mut rotation, configured) = begun();
        rotation.step(Sight::Shown, &configured, at(3));
        let mut again = Rotation::from_json(&rotation.to_json()).unwrap();
        assert_eq!(again, rotation);
        assert!(matches!(again.step(Sight::Shown, &configured, at(27))[..], [Effect::Changed { .. }]));
        let newer = rotation.to_json().replace("\"version\": 1", "\"version\": 2");
        assert!(Rotation::from_json(&newer).unwrap_err().contains("a newer otp-relay wrote"));
    }

    #[test]
    fn a_second_change_retires_the_first() {
        let (mut rotation, configured) = begun();
        assert!(rotation.begin(vec!["third".into()], START).is_err());
        rotation.step(Sight::Shown, &configured, at(0));
        rotation.step(Sight::Shown, &configured, at(24));
        rotation.begin(vec!["third".into()], at(25)).unwrap();
        rotation.step(Sight::Shown, &configured, at(26));
        rotation.step(Sight::Shown, &configured, at(51));
        let names: Vec<&str> = rotation.retired.iter().map(|retired| retired.selectors[0].as_str()).collect();
        assert_eq!(names, ["otp1", "next"]);
        assert_eq!(rotation.retired[1].since, Some(at(24).plus(NOTICE)));
    }
}
