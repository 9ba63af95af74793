//! The log: one line an event, for people who tail it or for programs, by way of `tracing`.
//!
//! All of them, those of libraries too, go into the buffer of an [`Output`]; nobody waits for whoever reads them.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::journald;
pub use super::output::Output;
use super::recipients::Recipients;
use crate::base::clock::{Clock, SystemClock, Timestamp};
use crate::base::text::one_line;
use crate::event::cause::Cause;
use crate::event::json::EventJson;
use crate::event::{Event, Kind};

/// The target of lines that are events; their message is the whole line.
const EVENT_TARGET: &str = "otp_relay::event";

/// By which name the journal files what is said here.
const IDENTIFIER: &str = "SYSLOG_IDENTIFIER=otp-relay\n";

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Aligned, for people.
    #[default]
    Text,
    /// An object a line.
    Json,
    /// Fields for the journal.
    Journald,
}

/// What the log needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// How much of recipients is told.
    pub recipients: Recipients,
    /// The least severe level of our own lines.
    pub level: Level,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, recipients: Recipients::default(), level: Level::INFO }
    }
}

/// Libraries are heard from `warn` on. The DNS library warns at each answer that has no signature, with all of it; what
/// comes of that is for us to say.
const LIBRARIES: &str = "warn,hickory_net::dnssec=error";

/// Sets the process's log up.
pub fn init(settings: &Settings, output: Output) {
    let filter = EnvFilter::new(format!("{LIBRARIES},otp_relay={}", settings.level.as_str().to_ascii_lowercase()));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(output)
        .event_format(LineFormat {
            format: settings.format,
            recipients: settings.recipients.clone(),
            clock: SystemClock::default(),
            has_levels: settings.format != Format::Journald && journald::is_stdout(),
        })
        .finish();
    // A second call, as from several tests in one process, keeps the first log.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Turns events into lines.
#[derive(Debug)]
pub struct EventLog {
    format: Format,
    recipients: Recipients,
}

impl EventLog {
    /// Lines as configured, into the output that [`init`] was given.
    pub fn new(settings: &Settings) -> Self {
        Self { format: settings.format, recipients: settings.recipients.clone() }
    }

    /// Writes an event's line.
    pub fn write(&self, event: &Event) {
        if is_detail(event.kind()) {
            if tracing::enabled!(target: EVENT_TARGET, Level::DEBUG) {
                tracing::debug!(target: EVENT_TARGET, "{}", self.line(event));
            }
        } else {
            tracing::info!(target: EVENT_TARGET, "{}", self.line(event));
        }
    }

    /// The line of an event.
    pub fn line(&self, event: &Event) -> String {
        let (recipient, time) = (event.head.recipient.as_ref(), event.head.time);
        let told = |text: &Arc<str>| Arc::from(self.recipients.render_in(text, recipient, time));
        let mut json = EventJson::alone(event);
        json.recipient = recipient.map(|mailbox| self.recipients.render(mailbox, time));
        json.reply = json.reply.as_ref().map(told);
        json.note = json.note.as_ref().map(told);
        match self.format {
            Format::Text => text_line(event, &json),
            Format::Json => serde_json::to_string(&json).unwrap_or_default(),
            Format::Journald => self.fields(event, &json),
        }
    }

    /// The same as fields: `journalctl ENTRY=...` finds what became of a code.
    fn fields(&self, event: &Event, json: &EventJson) -> String {
        let mut message = String::new();
        let mut add = |name: &str, value: Option<&str>| {
            value.into_iter().for_each(|value| journald::field(&mut message, name, value))
        };
        add("MESSAGE", Some(text_line(event, json).split_whitespace().skip(2).collect::<Vec<_>>().join(" ").as_str()));
        add("EVENT", Some(json.event.as_ref()));
        add("MESSAGE_OF", Some(&event.head.id.to_string()));
        add("ENTRY", json.entry.as_deref());
        add("LANE", Some(event.head.lane.name()));
        add("APP", Some(&event.head.user));
        add("TAG", event.head.tag.as_deref());
        add("CAUSE", event.cause().map(Cause::name));
        add("DESTINATION", json.destination.as_deref());
        add("REPLY", json.reply.as_deref());
        add("ATTEMPT", Some(&json.attempt.to_string()));
        add("DELAY_MS", Some(&json.ms.to_string()));
        let hash = event.head.recipient.as_ref().map(|mailbox| self.recipients.hashed(mailbox, event.head.time));
        add("RECIPIENT_HASH", hash.as_deref());
        message
    }
}

/// Steps on the way, of interest when something is looked for.
fn is_detail(kind: Kind) -> bool {
    matches!(kind, Kind::Queued | Kind::Attempted)
}

/// `id  time  what  lane  recipient  destination  milliseconds  why`, in columns.
fn text_line(event: &Event, json: &EventJson) -> String {
    let id = json.entry.clone().unwrap_or_else(|| event.head.id.to_string());
    let mut line = format!(
        "{id:<28} {} {:<10} {:<6} {:<28} {:<24} {:>7} ms",
        json.time,
        json.event,
        event.head.lane.name(),
        json.recipient.as_deref().unwrap_or("-"),
        json.destination.as_deref().unwrap_or("-"),
        json.ms,
    );
    // Writing to a String cannot fail.
    let _ = details(event, json, &mut line);
    // Whatever a peer managed to get into an event cannot start a line of its own.
    one_line(&line).into_owned()
}

fn details(event: &Event, json: &EventJson, line: &mut String) -> fmt::Result {
    if json.attempt > 1 {
        write!(line, "  attempt {}", json.attempt)?;
    }
    if let Some(cause) = &json.cause {
        write!(line, "  {cause}")?;
    }
    if let Some(at) = event.next_attempt_at() {
        write!(line, "  again in {:.1} s", at.since(event.head.time).as_secs_f64())?;
    }
    if let Some(plan) = &json.plan {
        write!(line, " ({plan})")?;
    }
    if json.may_have_arrived {
        line.push_str("  may have arrived");
    }
    if let Some(reply) = &json.reply {
        write!(line, "  \"{reply}\"")?;
    }
    if let Some(note) = &json.note {
        write!(line, "  {note}")?;
    }
    if event.kind() == Kind::Accepted {
        write!(line, "  by {}", event.head.user)?;
    }
    Ok(())
}

/// How lines of the process are written: those of events as they are, all others with time, level and fields.
#[derive(Debug)]
struct LineFormat {
    format: Format,
    recipients: Recipients,
    clock: SystemClock,
    /// Whether each line begins with its level, for the journal.
    has_levels: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut collected = LineFields::default();
        event.record(&mut collected);
        let metadata = event.metadata();
        let priority = journald::priority(*metadata.level());
        if metadata.target() == EVENT_TARGET {
            return match self.format {
                Format::Journald => writeln!(writer, "{IDENTIFIER}PRIORITY={priority}\n{}", collected.message),
                Format::Text | Format::Json if self.has_levels => writeln!(writer, "<{priority}>{}", collected.message),
                Format::Text | Format::Json => writeln!(writer, "{}", collected.message),
            };
        }
        let now = self.clock.wall();
        // An error's text may quote what somebody else has said.
        collected.write(&self.recipients, now);
        if self.has_levels {
            write!(writer, "<{priority}>")?;
        }
        match self.format {
            Format::Journald => {
                let mut message = format!("{IDENTIFIER}PRIORITY={priority}\n");
                let mut line = collected.message.clone();
                for (name, value) in &collected.fields {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    journald::field(&mut message, &journald::name(name), &value);
                    line += &format!("  {name}={value}");
                }
                journald::field(&mut message, "MESSAGE", &line);
                journald::field(&mut message, "CODE_MODULE", metadata.target());
                writeln!(writer, "{message}")
            }
            Format::Text => {
                write!(writer, "{:<28} {} {:<5}", "-", now.rfc3339(), metadata.level())?;
                write!(writer, " {}", one_line(&collected.message))?;
                for (name, value) in &collected.fields {
                    match value.as_str() {
                        Some(text) => write!(writer, "  {name}={}", one_line(text))?,
                        None => write!(writer, "  {name}={value}")?,
                    }
                }
                writeln!(writer)
            }
            Format::Json => {
                let mut object = serde_json::Map::new();
                object.insert("time".into(), now.rfc3339().into());
                object.insert("level".into(), metadata.level().as_str().to_ascii_lowercase().into());
                object.insert("target".into(), metadata.target().into());
                object.insert("message".into(), collected.message.into());
                object.extend(collected.fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
                writeln!(writer, "{}", Value::Object(object))
            }
        }
    }
}

/// What a line says, numbers as numbers.
#[derive(Default)]
struct LineFields {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl LineFields {
    fn write(&mut self, recipients: &Recipients, now: Timestamp) {
        let texts = self.fields.iter_mut().filter_map(|(_, value)| match value {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        });
        for text in texts.chain([&mut self.message]) {
            if let Cow::Owned(told) = recipients.render_in(text, None, now) {
                *text = told;
            }
        }
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Visit for LineFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    /// Milliseconds come so; none that is real needs more than 64 bits.
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, u64::try_from(value).unwrap_or(u64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Attempted, Happened, Head};
    use crate::mail::id::IdSource;

    fn event() -> Event {
        let time = Timestamp::from_millis(1_795_255_200_042);
        let head = Head {
            attempt: 2,
            since_accepted: Duration::from_millis(12),
            ..Head::sample(IdSource::with_random(|| 0).next(time), time)
        };
        let attempted = Attempted {
            destination: Some("mx.example.com".into()),
            cause: Some(Cause::Greylisted),
            reply: Some("450 4.2.0 Greylisted".into()),
            plan: Some("the reply asks for this wait".into()),
            ..Attempted::default()
        };
        let next_attempt_at = Some(time.plus(Duration::from_secs(5)));
        Event { head, what: Happened::Deferred { attempted, next_attempt_at } }
    }

    fn log(format: Format) -> EventLog {
        EventLog::new(&Settings { format, ..Settings::default() })
    }

    #[test]
    fn a_line_tells_the_story() {
        assert_eq!(
            log(Format::Text).line(&event()),
            "01M7YRRT9A0000000000000000-1 2026-11-21T10:00:00.042Z greylisted otp    a***e@example.com            \
             mx.example.com                12 ms  attempt 2  greylisted  again in 5.0 s (the reply asks for this wait)  \"450 4.2.0 Greylisted\""
        );
    }

    /// Each field is a line; nothing tells the address but its hash and, masked, the message.
    #[test]
    fn the_journal_gets_fields() {
        let text = log(Format::Journald).line(&event());
        for line in [
            "EVENT=greylisted",
            "ENTRY=01M7YRRT9A0000000000000000-1",
            "CAUSE=greylisted",
            "LANE=otp",
            "APP=shop",
            "DESTINATION=mx.example.com",
            "REPLY=450 4.2.0 Greylisted",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        assert!(text.lines().any(|line| line.starts_with("RECIPIENT_HASH=") && line.len() > 20), "{text}");
        assert!(text.lines().all(|line| line.contains('=')) && !text.contains("alice@"), "{text}");
    }

    #[test]
    fn json_has_the_documented_names() {
        let line = log(Format::Json).line(&event());
        let value: Value = serde_json::from_str(&line).unwrap();
        for name in [
            "event",
            "time",
            "id",
            "entry",
            "user",
            "lane",
            "recipient",
            "destination",
            "cause",
            "reply",
            "attempt",
            "next_attempt_at",
            "plan",
            "expires_at",
            "ms",
        ] {
            assert!(value.get(name).is_some(), "{name} is missing in {line}");
        }
        assert_eq!(value["event"], "greylisted");
        assert_eq!(value["recipient"], "a***e@example.com");
        assert_eq!(value["time"], "2026-11-21T10:00:00.042Z");
    }
}
