//! `plan`: the attempts that would be made for a message whose every attempt is answered the same way, and why.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::explain::{NO_REFUSAL, action_json, describe, read_reply};
use super::say;
use crate::base::clock::Timestamp;
use crate::base::units::{duration, duration_text};
use crate::greylist::facts::Facts;
use crate::greylist::step::{History, Reason};
use crate::policy::cause::{Verdict, of_reply};
use crate::policy::next::{Next, decide};
use crate::smtp::client_session::Stage;

/// Shortest and longest life, as for messages.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));
/// Rows of the table at most.
const ROWS_MAX: usize = 200;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The life of the message, from 5s to 1d
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = ttl)]
    ttl: Duration,
    /// What every attempt is answered
    #[arg(long, value_name = "REPLY", default_value = "450 4.2.0 Greylisted")]
    reply: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    duration(text).filter(|ttl| (TTL.0..=TTL.1).contains(ttl)).ok_or_else(|| "5s to 1d, such as 90s or 5m".to_owned())
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let reply = read_reply(&options.reply);
    let verdict = of_reply(Stage::Rcpt, &reply);
    let plan = Plan::of(verdict, options.ttl);
    if options.json {
        say(&plan.json(verdict, options.ttl));
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "a life of {}, every attempt answered: {reply}\n{}\n",
        duration_text(options.ttl),
        verdict.map_or_else(|| NO_REFUSAL.to_owned(), |verdict| describe(&verdict))
    ));
    say(&plan.table(options.ttl));
    Ok(ExitCode::SUCCESS)
}

/// The attempts, counted from acceptance, with what each follows from.
struct Plan {
    attempts: Vec<(Duration, &'static str)>,
    end: &'static str,
}

impl Plan {
    /// `verdict`: on the refusal; none if it is delivered.
    fn of(verdict: Option<Verdict>, ttl: Duration) -> Self {
        let start = Timestamp::from_millis(0);
        let mut attempts = vec![(Duration::ZERO, "as soon as it is accepted")];
        let Some(verdict) = verdict else { return Self { attempts, end: "delivered" } };
        let (accepted_at, expires_at, first_deferred_at) = (start, start.plus(ttl), start);
        let mut history = History { accepted_at, expires_at, first_deferred_at, attempts: 1, spread: 0.0 };
        let facts = Facts::default();
        let mut now = start;
        loop {
            match decide(verdict, &history, &facts, now) {
                (Next::At(at), reason) if attempts.len() < ROWS_MAX => {
                    attempts.push((at.since(start), reason.text()));
                    (now, history.attempts) = (at, history.attempts + 1);
                }
                (Next::At(_), _) => return Self { attempts, end: "and so on" },
                (Next::GiveUp, _) => return Self { attempts, end: "failed" },
                (Next::Expire, reason) => {
                    debug_assert_eq!(reason, Reason::End);
                    return Self { attempts, end: "expired" };
                }
            }
        }
    }

    fn table(&self, ttl: Duration) -> String {
        let mut lines = vec![format!("{:>7}  {:>10}  {:>9}  why", "attempt", "at", "after")];
        let mut before = Duration::ZERO;
        for (number, (at, why)) in self.attempts.iter().enumerate() {
            let after = if number == 0 { String::new() } else { seconds(*at - before) };
            lines.push(format!("{:>7}  {:>10}  {after:>9}  {why}", number + 1, seconds(*at)));
            before = *at;
        }
        lines.push(match self.end {
            "expired" => format!("{:>7}  {:>10}  {:>9}  expired: it is sent no more", "", seconds(ttl), ""),
            "failed" => "failed: another attempt would be answered alike".to_owned(),
            end => end.to_owned(),
        });
        lines.join("\n")
    }

    fn json(&self, verdict: Option<Verdict>, ttl: Duration) -> String {
        let attempts: Vec<_> =
            self.attempts.iter().map(|(at, why)| json!({"at_s": at.as_secs_f64(), "why": why})).collect();
        json!({
            "life_s": ttl.as_secs(),
            "cause": verdict.map(|verdict| verdict.cause.name()),
            "wait_s": verdict.and_then(|verdict| verdict.hint).map(|hint| hint.as_secs()),
            "action": verdict.map(|verdict| action_json(&verdict.action)),
            "attempts": attempts,
            "end": self.end,
        })
        .to_string()
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(reply: &str, ttl_s: u64) -> Plan {
        Plan::of(of_reply(Stage::Rcpt, &read_reply(reply)), Duration::from_secs(ttl_s))
    }

    #[test]
    fn plans_are_shown() {
        let hinted = plan("451 4.7.1 Greylisted, try again in 200 seconds", 300);
        let at: Vec<f64> = hinted.attempts.iter().map(|(at, _)| at.as_secs_f64()).collect();
        assert_eq!(at, [0.0, 201.2, 206.2, 236.2, 275.0]);
        assert_eq!(hinted.end, "expired");
        assert_eq!(hinted.table(Duration::from_secs(300)).lines().count(), 7);
    }

    #[test]
    fn what_is_over_at_once_is_shown_so() {
        assert_eq!(
            (plan("550 5.1.1 no such user", 300).attempts.len(), plan("550 no such user", 300).end),
            (1, "failed")
        );
        assert_eq!(plan("250 ok", 300).end, "delivered");
    }

    #[test]
    fn lives_are_as_for_messages() {
        assert!(ttl("5s").is_ok() && ttl("1d").is_ok());
        assert!(ttl("4s").is_err() && ttl("2d").is_err() && ttl("soon").is_err());
    }
}
