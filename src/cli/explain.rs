//! `explain`: what the relay makes of a reply to RCPT, given as an argument or one a line on standard input.

use std::io::{BufRead, Read as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::client::{Access, Client, encoded, wait_for};
use super::say;
use crate::policy::action::Action;
use crate::policy::cause::{Verdict, fault_of_reply, of_reply};
use crate::smtp::client_session::Stage;
use crate::smtp::reply::{EnhancedCode, REPLY_MAX, Reply};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The reply, such as "450 4.2.0 Greylisted"; without it, each line of standard input is one
    #[arg(value_name = "REPLY")]
    reply: Vec<String>,
    /// What the running relay has learned about the hosts that serve this domain
    #[arg(long, value_name = "DOMAIN", conflicts_with = "reply")]
    destination: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(domain) = &options.destination {
        let client = Client::new(file, &options.access)?;
        let learned = wait_for(async { client.get(&format!("/v1/destinations/{}", encoded(domain))).await })?;
        say(&if options.json { learned.to_string() } else { destination_text(domain, &learned) });
        return Ok(ExitCode::SUCCESS);
    }
    if options.reply.is_empty() {
        each_line(std::io::stdin().lock(), |line| say(&answer(line, options.json)))?;
    } else {
        let line = options.reply.join(" ");
        ensure!(!line.trim().is_empty(), "the reply is empty; try `otp-relay explain \"450 4.2.0 Greylisted\"`");
        say(&answer(&line, options.json));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines that are not blank, none read beyond the length of a reply.
fn each_line(mut input: impl BufRead, mut show: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(REPLY_MAX).unwrap_or(u64::MAX);
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line).context("standard input cannot be read")?;
        if read == 0 {
            return Ok(());
        }
        ensure!(line.ends_with(b"\n") || read < REPLY_MAX, "a line is longer than {REPLY_MAX} bytes; no reply is");
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            show(&text);
        }
    }
}

fn answer(line: &str, is_json: bool) -> String {
    let reply = read_reply(line);
    let Some(verdict) = of_reply(Stage::Rcpt, &reply) else {
        return if is_json { json!({"cause": null}).to_string() } else { format!("{reply}\n{NO_REFUSAL}") };
    };
    if is_json {
        let wait_s = verdict.hint.map(|hint| hint.as_secs());
        let (fault, evidence) = fault_of_reply(Stage::Rcpt, &reply).unzip();
        return json!({
            "cause": verdict.cause.name(),
            "fault": fault,
            "evidence": evidence,
            "wait_s": wait_s,
            "action": action_json(&verdict.action),
        })
        .to_string();
    }
    let fault = fault_of_reply(Stage::Rcpt, &reply)
        .map_or_else(String::new, |(who, evidence)| format!("\n  fault   {who}; told by: {evidence}"));
    format!("{reply}\n{}{fault}", describe(&verdict))
}

/// What was learned about a destination, for people.
fn destination_text(domain: &str, learned: &Value) -> String {
    let hosts: Vec<&str> = learned["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut lines = vec![format!("{domain} is served by {}", hosts.join(", "))];
    for (host, tls) in hosts.iter().zip(learned["tls"].as_array().into_iter().flatten()) {
        lines.push(format!("  TLS             {host}: {}", tls.as_str().unwrap_or_default()));
    }
    let greylisting = &learned["greylisting"];
    if greylisting.is_null() {
        lines.push("  it is not known to greylist".to_owned());
        return lines.join("\n");
    }
    let seconds = |name: &str| greylisting[name].as_f64().map(|seconds| format!("{seconds:.1} s"));
    let (all, refused) = (&greylisting["first_contacts"], &greylisting["first_contacts_refused"]);
    lines.push(format!("  first contacts  {refused} of {all} were made to wait"));
    let delay = match (seconds("refused_after_s"), seconds("passed_after_s")) {
        (Some(refused), Some(passed)) => format!("refused after {refused}, passed after {passed}"),
        (Some(refused), None) => format!("still refused after {refused}"),
        (None, Some(passed)) => format!("passed after {passed}"),
        (None, None) => "not known yet".to_owned(),
    };
    let sure = if greylisting["confirmed"] == true { ", confirmed" } else { "" };
    lines.push(format!("  delay           {delay}{sure}"));
    lines.push(format!(
        "  hints           {}",
        match greylisting["hints"].as_str() {
            Some("kept") => "it passes when the wait that is asked for is over",
            Some("too_short") => "it passes later than the replies say",
            Some("too_long") => "it passes earlier than the replies say",
            _ => "none was put to the test",
        }
    ));
    if let Some(pause) = seconds("restart_pause_s") {
        lines.push(format!("  early attempts  begin the wait anew; it takes a pause of {pause}"));
    }
    lines.push(format!(
        "  a pass opens    {}",
        match greylisting["opens_for"].as_str() {
            Some("client") => "for all mail of this relay",
            Some("sender") => "for other recipients of the same sender",
            _ => "for that sender and recipient only, as far as was seen",
        }
    ));
    if let Some(window) = seconds("window_max_s") {
        lines.push(format!("  a first attempt is forgotten after less than {window}"));
    }
    lines.push(format!("  last seen       {}", greylisting["last_seen"].as_str().unwrap_or_default()));
    lines.join("\n")
}

/// Of a reply that is none.
pub(super) const NO_REFUSAL: &str = "  this is no refusal";

/// The verdict in three lines.
pub(super) fn describe(verdict: &Verdict) -> String {
    let wait = match verdict.hint {
        Some(hint) => format!("{} s, as the text says", hint.as_secs()),
        None => "the text says nothing that counts".to_owned(),
    };
    format!(
        "  cause   {}: {}\n  wait    {wait}\n  action  {}",
        verdict.cause.name(),
        verdict.cause.meaning(),
        action_text(&verdict.action)
    )
}

fn action_text(action: &Action) -> String {
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let seconds: Vec<String> = action.retry.seconds().iter().map(ToString::to_string).collect();
    let seconds = if seconds.is_empty() { String::new() } else { format!(" at {} s", seconds.join(", ")) };
    format!(
        "try again: {}{seconds}; next MX host: {}; next route: {}; suppress: {}; who can mend it: {}",
        action.retry.name(),
        yes_no(action.next_mx),
        yes_no(action.next_route),
        action.suppress.name(),
        action.blame.name()
    )
}

/// As in the JSON of `explain` and `plan`.
pub(super) fn action_json(action: &Action) -> Value {
    json!({
        "retry": action.retry.name(),
        "retry_s": action.retry.seconds(),
        "next_mx": action.next_mx,
        "next_route": action.next_route,
        "suppress": action.suppress.name(),
        "blame": action.blame.name(),
    })
}

/// Reads a reply as people have it: from the wire, or out of a log line with other words in front.
pub(super) fn read_reply(line: &str) -> Reply {
    let line = line.trim();
    let (code, rest) = split_code(line).unwrap_or_else(|| match EnhancedCode::split_from(line) {
        // Without a basic code the enhanced one says at least whether it is final.
        Some((enhanced, _)) => (u16::from(enhanced.0) * 100 + 50, line),
        None => (450, line),
    });
    let (enhanced, text) = match EnhancedCode::split_from(rest) {
        Some((enhanced, text)) if u16::from(enhanced.0) == code / 100 => (Some(enhanced), text),
        _ => (None, rest),
    };
    Reply { code, enhanced, text: text.to_owned().into() }
}

/// The first three digits that look like a code, and what follows; at the start if there is one there.
fn split_code(line: &str) -> Option<(u16, &str)> {
    let code_at = |at: usize| {
        let digits = line.get(at..at + 3)?;
        let is_code = digits.starts_with(['2', '3', '4', '5']) && digits.bytes().all(|b| b.is_ascii_digit());
        let rest = &line[at + 3..];
        let ends = rest.is_empty() || rest.starts_with([' ', '-', '\t']);
        if is_code && ends {
            Some((digits.parse().ok()?, rest.get(1..).unwrap_or_default().trim_start()))
        } else {
            None
        }
    };
    let starts = line.match_indices([' ', ':', '"', '(']).map(|(at, _)| at + 1);
    std::iter::once(0).chain(starts).find_map(code_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_people_have_them() {
        let check = |line: &str, code: u16, enhanced: Option<(u8, u16, u16)>, text: &str| {
            let reply = read_reply(line);
            let expected = enhanced.map(|(a, b, c)| EnhancedCode(a, b, c));
            assert_eq!((reply.code, reply.enhanced, reply.text.as_ref()), (code, expected, text), "{line}");
        };
        check("450 4.2.0 Greylisted\r\n", 450, Some((4, 2, 0)), "Greylisted");
        check("550-5.1.1 unknown", 550, Some((5, 1, 1)), "unknown");
        check("451", 451, None, "");
        check("550 4.1.1 odd", 550, None, "4.1.1 odd");
        check("host mx.example.com said: 451 4.7.1 later", 451, Some((4, 7, 1)), "later");
        check("5.1.1 user unknown", 550, Some((5, 1, 1)), "user unknown");
        check("Greylisted", 450, None, "Greylisted");
        check("1234 é 5", 450, None, "1234 é 5");
    }

    #[test]
    fn answers_are_one_object_a_line() {
        let answer: Value =
            serde_json::from_str(&answer("451 4.7.1 Greylisted, try again in 5 minutes", true)).unwrap();
        assert_eq!((&answer["cause"], &answer["wait_s"]), (&json!("greylisted"), &json!(300)));
        assert_eq!(answer["action"]["retry"], "ladder");
        assert_eq!(answer["fault"], "nobody");
        let mut lines = Vec::new();
        each_line(&b"450 a\n\n550 \xff\n421"[..], |line| lines.push(line.trim().to_owned())).unwrap();
        assert_eq!(lines, ["450 a", "550 \u{fffd}", "421"]);
        assert!(each_line(&vec![b'4'; REPLY_MAX + 1][..], |_| {}).is_err());
    }
}
