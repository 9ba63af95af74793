//! The log: one line an event, for people who tail it or for programs, by way of `tracing`.
//!
//! Lines of events are written by the reporting thread and buffered while more are coming; all other lines go out at
//! once.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::json::EventJson;
use super::recipients::{Disclosure, Recipients};
use crate::clock::{Clock, SystemClock};
use crate::event::{Event, Kind};
use crate::mail::id::EntryId;
use crate::mail::text::one_line;

/// The target of lines that are events; their message is the whole line.
const EVENT_TARGET: &str = "otp_relay::event";

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Aligned, for people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// What the log needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// How much of recipients is told.
    pub recipients: Disclosure,
    /// The least severe level of our own lines.
    pub level: Level,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, recipients: Disclosure::Masked, level: Level::INFO }
    }
}

/// Where lines go.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(io::BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Somewhere else.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(writer))))
    }
}

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

/// Sends out what it was given when it is dropped, except for lines of events.
#[derive(Debug)]
pub struct Line {
    output: Output,
    is_event: bool,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_event {
            // There is nowhere to say that the log cannot be written.
            let _ = self.output.flush();
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { output: self.clone(), is_event: false }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Line {
        Line { output: self.clone(), is_event: metadata.target() == EVENT_TARGET }
    }
}

/// Sets the process's log up. Libraries are heard from `warn` on.
pub fn init(settings: &Settings, output: Output) {
    let filter = EnvFilter::new(format!("warn,otp_relay={}", settings.level.as_str().to_ascii_lowercase()));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(output)
        .event_format(LineFormat { format: settings.format, clock: SystemClock::default() })
        .finish();
    // A second call, as from several tests in one process, keeps the first log.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Turns events into lines.
#[derive(Debug)]
pub struct EventLog {
    format: Format,
    recipients: Recipients,
    output: Output,
}

impl EventLog {
    /// Lines as configured, into the output that [`init`] was given.
    pub fn new(settings: &Settings, output: Output) -> Self {
        Self { format: settings.format, recipients: Recipients::new(settings.recipients), output }
    }

    /// Writes an event's line.
    pub fn write(&self, event: &Event) {
        if is_detail(event.kind) {
            if tracing::enabled!(target: EVENT_TARGET, Level::DEBUG) {
                tracing::debug!(target: EVENT_TARGET, "{}", self.line(event));
            }
        } else {
            tracing::info!(target: EVENT_TARGET, "{}", self.line(event));
        }
    }

    /// Sends out what is buffered.
    pub fn flush(&self) {
        // There is nowhere to say that the log cannot be written.
        let _ = self.output.clone().flush();
    }

    /// The line of an event.
    pub fn line(&self, event: &Event) -> String {
        let recipient = event.recipient.as_ref().map(|mailbox| self.recipients.tell(mailbox, event.time));
        match self.format {
            Format::Text => text_line(event, recipient.as_deref()),
            Format::Json => serde_json::to_string(&EventJson::new(event, recipient)).unwrap_or_default(),
        }
    }
}

/// Steps on the way, of interest when something is looked for.
fn is_detail(kind: Kind) -> bool {
    matches!(kind, Kind::Queued | Kind::Attempted)
}

/// `id  time  what  lane  recipient  destination  milliseconds  why`, in columns.
fn text_line(event: &Event, recipient: Option<&str>) -> String {
    let id = match event.entry {
        Some(index) => EntryId { message: event.id, index }.to_string(),
        None => event.id.to_string(),
    };
    let time = event.time.rfc3339();
    let mut line = format!(
        "{id:<28} {} {:<10} {:<6} {:<28} {:<24} {:>7} ms",
        &time[11..23],
        event.kind.name(),
        event.lane.name(),
        recipient.unwrap_or("-"),
        event.destination.as_deref().unwrap_or("-"),
        event.since_accepted.as_millis(),
    );
    // Writing to a String cannot fail.
    let _ = details(event, &mut line);
    // Whatever a peer managed to get into an event cannot start a line of its own.
    one_line(&line)
}

fn details(event: &Event, line: &mut String) -> fmt::Result {
    if event.attempt > 1 {
        write!(line, "  attempt {}", event.attempt)?;
    }
    if let Some(cause) = event.cause {
        write!(line, "  {cause}")?;
    }
    if let Some(at) = event.next_attempt_at {
        write!(line, "  again in {:.1} s", at.since(event.time).as_secs_f64())?;
    }
    if let Some(plan) = event.plan {
        write!(line, " ({plan})")?;
    }
    if event.may_have_arrived {
        line.push_str("  may have arrived");
    }
    if let Some(reply) = &event.reply {
        write!(line, "  \"{reply}\"")?;
    }
    if let Some(note) = &event.note {
        write!(line, "  {note}")?;
    }
    if event.kind == Kind::Accepted {
        write!(line, "  by {}", event.user)?;
    }
    Ok(())
}

/// How lines of the process are written: those of events as they are, all others with time, level and fields.
#[derive(Debug)]
struct LineFormat {
    format: Format,
    clock: SystemClock,
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
        let mut collected = Collected::default();
        event.record(&mut collected);
        let metadata = event.metadata();
        if metadata.target() == EVENT_TARGET {
            return writeln!(writer, "{}", collected.message);
        }
        let time = self.clock.wall().rfc3339();
        match self.format {
            Format::Text => {
                write!(writer, "{:<28} {} {:<5}", "-", &time[11..23], metadata.level())?;
                write!(writer, " {}", one_line(&collected.message))?;
                for (name, value) in &collected.fields {
                    write!(writer, "  {name}={}", one_line(value))?;
                }
                writeln!(writer)
            }
            Format::Json => {
                let mut object = serde_json::Map::new();
                object.insert("time".into(), time.into());
                object.insert("level".into(), metadata.level().as_str().to_ascii_lowercase().into());
                object.insert("target".into(), metadata.target().into());
                object.insert("message".into(), collected.message.into());
                object.extend(collected.fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
                writeln!(writer, "{}", serde_json::Value::Object(object))
            }
        }
    }
}

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::lane::Lane;
    use crate::mail::address::Mailbox;
    use crate::mail::id::IdSource;

    fn event() -> Event {
        let time = Timestamp::from_millis(1_795_255_200_042);
        Event {
            kind: Kind::Greylisted,
            time,
            id: IdSource::with_random(|| 0).next(time),
            entry: Some(0),
            user: "shop".into(),
            lane: Lane::Otp,
            tag: None,
            recipient: Some(Mailbox::parse("alice@example.com").unwrap()),
            destination: Some("mx.example.com".into()),
            cause: Some("greylisted"),
            reply: Some("450 4.2.0 Greylisted".into()),
            attempt: 2,
            next_attempt_at: Some(time.plus(Duration::from_secs(5))),
            plan: Some("the reply asks for this wait"),
            expires_at: time.plus(Duration::from_secs(600)),
            since_accepted: Duration::from_millis(12),
            may_have_arrived: false,
            note: None,
            steps: None,
        }
    }

    fn log(format: Format) -> EventLog {
        EventLog::new(&Settings { format, ..Settings::default() }, Output::new(Vec::new()))
    }

    #[test]
    fn a_line_tells_the_story() {
        assert_eq!(
            log(Format::Text).line(&event()),
            "01M7YRRT9A0000000000000000-1 10:00:00.042 greylisted otp    a***e@example.com            \
             mx.example.com                12 ms  attempt 2  greylisted  again in 5.0 s (the reply asks for this wait)  \"450 4.2.0 Greylisted\""
        );
    }

    #[test]
    fn json_has_the_documented_names() {
        let line = log(Format::Json).line(&event());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
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
