//! Rules that make mail hosts fail for all tests alike: which recipients, what is said, where, for how long, how often.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::text::is_deceptive;
use crate::base::units;
use crate::mail::address::{Mailbox, domain_pattern_covers, pattern_covers};
use crate::smtp::reply::{EnhancedCode, Reply};

/// Rules at once.
const RULES_MAX: usize = 100;
/// Octets of a pattern, and of a reply.
const TEXT_MAX: usize = 400;
/// The longest delay.
const DELAY_MAX: Duration = Duration::from_secs(300);

/// Where a rule takes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum At {
    /// In the place of the banner.
    Connect,
    /// At EHLO or HELO.
    Ehlo,
    Starttls,
    Mail,
    Rcpt,
    /// In the place of the reply to the content.
    #[serde(alias = "content")]
    Data,
}

impl At {
    /// Whether the recipient is known by then.
    fn knows_recipient(self) -> bool {
        matches!(self, Self::Rcpt | Self::Data)
    }
}

/// The body of `PUT /sandbox/faults`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewFault {
    to: String,
    reply: Option<String>,
    #[serde(default = "at_rcpt")]
    at: At,
    r#for: Option<String>,
    times: Option<u32>,
    delay: Option<String>,
}

fn at_rcpt() -> At {
    At::Rcpt
}

#[derive(Debug, Clone)]
struct Fault {
    id: String,
    to: String,
    at: At,
    reply: Option<(String, Reply)>,
    delay: Duration,
    until: Option<Timestamp>,
    times_left: Option<u32>,
}

/// What a rule makes a host do: first wait, then say this.
#[derive(Debug, Clone, Default)]
pub(super) struct Effect {
    pub(super) delay: Duration,
    pub(super) reply: Option<Reply>,
}

/// A rule as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct FaultJson {
    id: String,
    to: String,
    at: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times_left: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<Fault>,
    made: u64,
}

impl Faults {
    /// Adds a rule; returns its id.
    pub(super) fn put(&self, new: NewFault, now: Timestamp) -> Result<String, String> {
        let span = |name: &str, text: Option<&str>| {
            let read = text.map(|text| units::duration(text).ok_or_else(|| format!("{name}: a time like \"30s\"")));
            read.transpose()
        };
        let to = new.to.trim().to_owned();
        let is_pattern =
            to == "*" || to.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
        if !is_pattern || to.len() > TEXT_MAX {
            return Err("to: \"*\", \"*@example.com\", \"*@*.example.com\" or one address".to_owned());
        }
        if !(new.at.knows_recipient() || to == "*" || to.starts_with("*@")) {
            return Err(
                "at: before RCPT a host does not know the recipient; with one address use \"rcpt\" or \"data\""
                    .to_owned(),
            );
        }
        let reply = new.reply.map(|text| Ok::<_, String>((text.clone(), reply(&text)?))).transpose()?;
        let delay = span("delay", new.delay.as_deref())?.unwrap_or_default();
        if delay > DELAY_MAX {
            return Err("delay: 300s at most".to_owned());
        }
        if reply.is_none() && delay.is_zero() {
            return Err("a reply, a delay, or both are needed".to_owned());
        }
        if new.times == Some(0) {
            return Err("times: from 1 on".to_owned());
        }
        let until = span("for", new.r#for.as_deref())?.map(|span| now.plus(span));
        let mut state = self.0.lock();
        state.forget(now);
        if state.rules.len() >= RULES_MAX {
            return Err(format!("{RULES_MAX} rules are there already"));
        }
        state.made += 1;
        let id = format!("fault-{}", state.made);
        let fault = Fault { id: id.clone(), to, at: new.at, reply, delay, until, times_left: new.times };
        state.rules.push(fault);
        Ok(id)
    }

    /// All that hold.
    pub(super) fn list(&self, now: Timestamp) -> Vec<FaultJson> {
        let mut state = self.0.lock();
        state.forget(now);
        let json = |fault: &Fault| FaultJson {
            id: fault.id.clone(),
            to: fault.to.clone(),
            at: fault.at,
            reply: fault.reply.as_ref().map(|(text, _)| text.clone()),
            delay: (!fault.delay.is_zero()).then(|| units::duration_text(fault.delay)),
            seconds_left: fault.until.map(|until| until.since(now).as_secs()),
            times_left: fault.times_left,
        };
        state.rules.iter().map(json).collect()
    }

    /// Removes one rule, or all; says whether there was any.
    pub(super) fn remove(&self, id: Option<&str>) -> bool {
        let mut state = self.0.lock();
        let before = state.rules.len();
        state.rules.retain(|fault| id.is_some_and(|id| fault.id != id));
        state.rules.len() < before
    }

    /// What a host for `domain` does at this place; counts as once. Of several rules the newest holds.
    pub(super) fn of_domain(&self, at: At, domain: &str, now: Timestamp) -> Effect {
        self.take(at, now, |pattern| match pattern.strip_prefix("*@") {
            Some(of_domain) => domain_pattern_covers(of_domain, domain),
            None => pattern == "*",
        })
    }

    /// The same for a recipient.
    pub(super) fn of(&self, at: At, recipient: &Mailbox, now: Timestamp) -> Effect {
        self.take(at, now, |pattern| pattern_covers(pattern, recipient))
    }

    fn take(&self, at: At, now: Timestamp, covers: impl Fn(&str) -> bool) -> Effect {
        let mut state = self.0.lock();
        if state.rules.is_empty() {
            return Effect::default();
        }
        state.forget(now);
        let rule = state.rules.iter_mut().rev().find(|fault| fault.at == at && covers(&fault.to));
        let Some(rule) = rule else { return Effect::default() };
        if let Some(left) = &mut rule.times_left {
            *left = left.saturating_sub(1);
        }
        Effect { delay: rule.delay, reply: rule.reply.as_ref().map(|(_, reply)| reply.clone()) }
    }
}

impl State {
    fn forget(&mut self, now: Timestamp) {
        self.rules.retain(|fault| fault.until.is_none_or(|until| until > now) && fault.times_left != Some(0));
    }
}

/// Reads `451 4.7.1 try again later`.
fn reply(text: &str) -> Result<Reply, String> {
    let wrong =
        || "reply: a code from 400 to 599, maybe an enhanced one, and a text, as in \"451 4.7.1 later\"".to_owned();
    if text.len() > TEXT_MAX || text.chars().any(is_deceptive) {
        return Err(wrong());
    }
    let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
    let code: u16 = code.parse().map_err(|_| wrong())?;
    if !(400..600).contains(&code) {
        return Err(wrong());
    }
    Ok(match EnhancedCode::split_from(rest) {
        Some((enhanced, words)) => Reply::new(code, enhanced, words.to_owned()),
        None => Reply::plain(code, rest.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: serde_json::Value) -> NewFault {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn rules_hold_so_often_and_so_long() {
        let (faults, now) = (Faults::default(), Timestamp::from_millis(1_000_000));
        let alice = Mailbox::parse("alice@b.test").unwrap();
        let other = Mailbox::parse("alice@c.test").unwrap();
        let json = serde_json::json!({"to": "*@b.test", "reply": "451 4.7.1 later", "for": "30s", "times": 2});
        faults.put(fault(json), now).unwrap();
        let said = |mailbox: &Mailbox, now| faults.of(At::Rcpt, mailbox, now).reply.map(|reply| reply.to_string());
        assert_eq!(said(&other, now), None);
        assert_eq!(faults.of(At::Data, &alice, now).reply, None);
        assert_eq!(said(&alice, now).as_deref(), Some("451 4.7.1 later"));
        assert_eq!(said(&alice, now).as_deref(), Some("451 4.7.1 later"));
        assert_eq!(said(&alice, now), None, "twice is over");
        assert!(faults.list(now).is_empty());
        faults.put(fault(serde_json::json!({"to": "*", "delay": "3s", "at": "connect", "for": "30s"})), now).unwrap();
        assert_eq!(faults.of_domain(At::Connect, "b.test", now).delay, Duration::from_secs(3));
        assert_eq!(faults.of_domain(At::Connect, "b.test", now.plus(Duration::from_secs(30))).delay, Duration::ZERO);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (faults, now) = (Faults::default(), Timestamp::from_millis(0));
        for json in [
            serde_json::json!({"to": "b.test", "reply": "451 x"}),
            serde_json::json!({"to": "*@b.test"}),
            serde_json::json!({"to": "*@b.test", "reply": "250 ok"}),
            serde_json::json!({"to": "*@b.test", "reply": "451 a\r\nb"}),
            serde_json::json!({"to": "*@b.test", "reply": "nonsense"}),
            serde_json::json!({"to": "*@b.test", "delay": "1d"}),
            serde_json::json!({"to": "*@b.test", "delay": "x"}),
            serde_json::json!({"to": "*@b.test", "delay": "1s", "times": 0}),
            serde_json::json!({"to": "a@b.test", "delay": "1s", "at": "connect"}),
        ] {
            assert!(faults.put(fault(json.clone()), now).is_err(), "{json}");
        }
        for _ in 0..RULES_MAX {
            faults.put(fault(serde_json::json!({"to": "*@b.test", "reply": "451 x"})), now).unwrap();
        }
        assert!(faults.put(fault(serde_json::json!({"to": "*@b.test", "reply": "451 x"})), now).is_err());
        assert!(faults.remove(Some("fault-3")) && !faults.remove(Some("fault-3")));
        assert!(faults.remove(None) && faults.list(now).is_empty());
    }
}
