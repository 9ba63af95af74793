//! The story of a message for people who are asked "where is my code?".

use std::fmt::Write as _;

use serde::Deserialize;

use crate::event::Step;
use crate::event::json::EventJson;

/// A message, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) id: String,
    accepted_at: String,
    pub(super) expires_at: String,
    user: String,
    lane: String,
    tag: Option<String>,
    pub(super) entries: Vec<Entry>,
    #[serde(default)]
    events: Vec<EventJson>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) entry: String,
    pub(super) recipient: String,
    pub(super) state: String,
    pub(super) attempts: u32,
    pub(super) next_attempt_at: Option<String>,
    pub(super) last_reply: Option<String>,
    pub(super) cause: Option<String>,
    #[serde(default)]
    may_have_arrived: bool,
    #[serde(default)]
    pub(super) at_risk: bool,
    predicted_at: Option<String>,
}

/// `10:00:00.004` of an RFC 3339 time.
pub(super) fn clock_time(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// `2026-11-21 10:00:00` of an RFC 3339 time.
pub(super) fn date_and_time(time: &str) -> String {
    format!("{} {}", day(time), time.get(11..19).unwrap_or_default())
}

fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

impl Message {
    /// Whether it has reached everybody.
    pub(super) fn is_delivered(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| entry.state == "delivered")
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let tag = self.tag.as_ref().map(|tag| format!(", tag {tag}")).unwrap_or_default();
        let mut lines = vec![
            format!("message {}", self.id),
            format!(
                "  accepted {} {} UTC from {}, lane {}{tag}; expires at {}",
                day(&self.accepted_at),
                clock_time(&self.accepted_at),
                self.user,
                self.lane,
                clock_time(&self.expires_at),
            ),
        ];
        lines.extend(self.entries.iter().map(|entry| format!("  {}", entry.verdict())));
        lines.push(String::new());
        let several = self.entries.len() > 1;
        for event in &self.events {
            lines
                .extend(event.steps.iter().flat_map(|steps| steps.iter()).map(|step| format!("  {}", step_line(step))));
            lines.extend(line(event, several).map(|line| format!("  {line}")));
        }
        lines
    }
}

impl Entry {
    /// What came of it, in a sentence.
    pub(super) fn verdict(&self) -> String {
        let attempts = if self.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", self.attempts) };
        let mut verdict = format!("{}: {}, {attempts}", self.recipient, self.state);
        // Writing to a String cannot fail.
        if let Some(at) = &self.next_attempt_at {
            let _ = write!(verdict, ", the next at {}", clock_time(at));
        }
        if let Some(cause) = &self.cause {
            let _ = write!(verdict, ", {}", spoken(cause));
        }
        if let Some(at) = &self.predicted_at {
            let _ = write!(verdict, ", expected to pass at {}", clock_time(at));
        }
        if self.at_risk && self.state != "delivered" {
            verdict.push_str(", at risk of coming too late");
        }
        if self.may_have_arrived && self.state != "delivered" {
            verdict.push_str(", may have arrived all the same");
        }
        verdict
    }
}

/// One line; none for what tells people nothing.
pub(super) fn line(event: &EventJson, with_recipient: bool) -> Option<String> {
    let host = event.destination.as_deref().unwrap_or("the mail host");
    let cause_in = |before: &str| inserted(before, event.cause.as_deref().map(spoken));
    let note_in = |before: &str| inserted(before, event.note.as_deref());
    let notes = |beginning: &str| event.note.as_ref().is_some_and(|note| note.starts_with(beginning));
    let what = match &*event.event {
        "queued" | "" => return None,
        "accepted" => format!("accepted{}", note_in(", ")),
        "attempted" => format!("attempt {} begins at {host}", event.attempt),
        "delivered" if notes("in clear text") => format!("delivered: {host} took it{}", note_in(", ")),
        "delivered" => format!("delivered: {host} took it{}", note_in(", over ")),
        "greylisted" => format!("greylisted by {host}"),
        "deferred" if notes("not tried") => format!("put off{}", note_in(": ")),
        "deferred" => format!("put off{}", cause_in(": ")),
        "failed" => format!("failed{}", cause_in(": ")),
        "expired" => format!("expired{}", cause_in("; before, ")),
        "cancelled" => "cancelled by the app".to_owned(),
        "superseded" => "superseded: a newer message took its place".to_owned(),
        "verified" => "verified: the app saw the code being used".to_owned(),
        "at_risk" => format!("at risk{}{}", cause_in(": "), note_in("; ")),
        other => format!("{}{}", spoken(other), cause_in(": ")),
    };
    let mut line = format!("{}  {:>7} ms  {what}", clock_time(&event.time), event.ms);
    // Writing to a String cannot fail.
    if let Some(at) = &event.next_attempt_at {
        let _ = write!(line, "; next attempt at {}", clock_time(at));
    }
    let way = event.note.as_ref().filter(|_| notes("next "));
    if let Some(plan) = event.plan.as_ref().filter(|_| way.is_none()) {
        let _ = write!(line, " ({plan})");
    }
    if let Some(way) = way {
        let _ = write!(line, "; {way}");
    }
    if event.may_have_arrived {
        line.push_str("; may have arrived all the same");
    }
    if let Some(recipient) = event.recipient.as_ref().filter(|_| with_recipient && event.entry.is_some()) {
        let _ = write!(line, "  <{recipient}>");
    }
    if let Some(reply) = event.reply.as_ref().filter(|_| event.event != "attempted") {
        let _ = write!(line, "  \"{reply}\"");
    }
    Some(line)
}

fn inserted(before: &str, text: Option<impl std::fmt::Display>) -> String {
    text.map(|text| format!("{before}{text}")).unwrap_or_default()
}

fn step_line(step: &Step) -> String {
    format!("{:>15} + {:>5} ms    {:<8} {}  [{}]", "", step.ms, step.stage, step.result, step.host)
}

/// `bad_mailbox` as people say it.
fn spoken(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_tried_and_what_went_in_clear_text_is_told() {
        let check = |json: serde_json::Value, expected: &str| {
            let event: EventJson = serde_json::from_value(json).unwrap();
            assert_eq!(line(&event, false).unwrap().trim_start(), format!("0 ms  {expected}"));
        };
        check(
            serde_json::json!({"event": "deferred", "destination": "mx.test", "cause": "unreachable",
                "note": "not tried: nobody answers there; it is asked every 10 s whether it is back"}),
            "put off: not tried: nobody answers there; it is asked every 10 s whether it is back",
        );
        let delivered = |note| serde_json::json!({"event": "delivered", "destination": "mx.test", "note": note});
        check(delivered("in clear text"), "delivered: mx.test took it, in clear text");
        check(delivered("TLSv1.3 X, unverified"), "delivered: mx.test took it, over TLSv1.3 X, unverified");
    }

    #[test]
    fn a_story_reads_well() {
        let json = serde_json::json!({
            "id": "01M7YRRT9A0000000000000000", "accepted_at": "2026-11-21T10:00:00.004Z",
            "expires_at": "2026-11-21T10:10:00.004Z", "user": "shop", "lane": "otp",
            "entries": [{"entry": "01M7YRRT9A0000000000000000-1", "recipient": "alice@example.com", "state": "delivered",
                "attempts": 2, "may_have_arrived": false}],
            "events": [
                {"event": "accepted", "time": "2026-11-21T10:00:00.004Z", "ms": 0},
                {"event": "attempted", "time": "2026-11-21T10:00:00.005Z", "ms": 1, "entry": "x-1", "attempt": 1,
                    "destination": "mx.example.com"},
                {"event": "greylisted", "time": "2026-11-21T10:00:00.020Z", "ms": 16, "entry": "x-1", "attempt": 1,
                    "destination": "mx.example.com", "cause": "greylisted", "reply": "451 4.7.1 Greylisted",
                    "next_attempt_at": "2026-11-21T10:00:05.020Z", "plan": "the reply asks for this wait",
                    "steps": [{"stage": "RCPT", "host": "mx.example.com", "ms": 15, "result": "451 4.7.1 Greylisted"}]},
            ]
        });
        let message: Message = serde_json::from_value(json).unwrap();
        let expected = [
            "message 01M7YRRT9A0000000000000000",
            "  accepted 2026-11-21 10:00:00.004 UTC from shop, lane otp; expires at 10:10:00.004",
            "  alice@example.com: delivered, 2 attempts",
            "",
            "  10:00:00.004        0 ms  accepted",
            "  10:00:00.005        1 ms  attempt 1 begins at mx.example.com",
            "                  +    15 ms    RCPT     451 4.7.1 Greylisted  [mx.example.com]",
            "  10:00:00.020       16 ms  greylisted by mx.example.com; next attempt at 10:00:05.020 \
             (the reply asks for this wait)  \"451 4.7.1 Greylisted\"",
        ];
        assert_eq!(message.lines(), expected);
        assert!(message.is_delivered());
    }
}
