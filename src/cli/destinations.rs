//! `destinations`: what was sent to each recipient domain since the relay's start.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Deserialize;

use super::client::{Access, Client, wait_for};
use super::say;
use super::timeline::date_and_time;

/// Options of `destinations`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// At most so many, those with most mail waiting first
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Deserialize)]
struct Row {
    destination: String,
    sent: u64,
    waiting: u64,
    failed: u64,
    expired: u64,
    p50_ms: Option<u64>,
    p99_ms: Option<u64>,
    last_refusal: Option<LastRefusal>,
}

#[derive(Debug, Deserialize)]
struct LastRefusal {
    at: String,
    host: Option<String>,
    cause: Option<String>,
    reply: Option<String>,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let mut answer = wait_for(client.get("/v1/destinations"))?;
    if options.json {
        if let Some(rows) = answer["destinations"].as_array_mut() {
            rows.truncate(options.limit);
        }
        say(&answer.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Row> = serde_json::from_value(answer["destinations"].take()).context("what answers is no relay")?;
    table(&rows, options.limit).iter().for_each(|line| say(line));
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row], limit: usize) -> Vec<String> {
    if rows.is_empty() {
        return vec!["nothing was sent since the relay's start".to_owned()];
    }
    let line = |destination: &str, columns: [&str; 6], last: &str| {
        let [sent, waiting, failed, expired, p50, p99] = columns;
        format!("{destination:<32} {sent:>8} {waiting:>8} {failed:>8} {expired:>8} {p50:>10} {p99:>10}  {last}")
    };
    let heading = ["sent", "waiting", "failed", "expired", "p50", "p99"];
    let mut lines = vec![line("destination", heading, "last refusal")];
    for row in rows.iter().take(limit) {
        let counts = [row.sent, row.waiting, row.failed, row.expired].map(|count| count.to_string());
        let times = [row.p50_ms, row.p99_ms].map(|ms| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")));
        let [sent, waiting, failed, expired] = counts.each_ref().map(String::as_str);
        let [p50, p99] = times.each_ref().map(String::as_str);
        let last = row.last_refusal.as_ref().map_or_else(|| "-".to_owned(), LastRefusal::line);
        lines.push(line(&row.destination, [sent, waiting, failed, expired, p50, p99], &last));
    }
    if rows.len() > limit {
        lines.push(format!("{} destinations; {limit} shown", rows.len()));
    }
    lines
}

impl LastRefusal {
    fn line(&self) -> String {
        let cause = self.cause.as_deref().unwrap_or("-");
        let host = self.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
        let reply = self.reply.as_ref().map(|reply| format!(": {reply}")).unwrap_or_default();
        format!("{} {cause}{host}{reply}", date_and_time(&self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_well() {
        let rows = serde_json::json!([
            {"destination": "example.net", "sent": 12, "waiting": 1, "failed": 2, "expired": 0, "p50_ms": 14, "p99_ms": 2100,
                "last_refusal": {"at": "2026-11-21T10:00:00.042Z", "host": "mx.example.net", "cause": "bad_mailbox",
                    "reply": "550 5.1.1 no"}},
            {"destination": "example.org", "sent": 0, "waiting": 1, "failed": 0, "expired": 0},
        ]);
        let rows: Vec<Row> = serde_json::from_value(rows).unwrap();
        let lines = table(&rows, 1);
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].starts_with("destination  ") && lines[0].ends_with("p50        p99  last refusal"),
            "{}",
            lines[0]
        );
        assert!(
            lines[1].ends_with("14 ms    2100 ms  2026-11-21 10:00:00 bad_mailbox at mx.example.net: 550 5.1.1 no"),
            "{}",
            lines[1]
        );
        assert_eq!(lines[2], "2 destinations; 1 shown");
        assert!(table(&rows, 9)[2].ends_with("-          -  -"));
    }
}
