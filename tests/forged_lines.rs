//! Lines of the log that somebody else wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of one test program")]

// A process has one log, so this is a program of its own.
#[path = "support/mod.rs"]
mod support;

use otp_relay::testing::base::text::is_deceptive;
use otp_relay::testing::event::Kind;
use otp_relay::testing::report::log::{self, Output};

use crate::support::client::Client;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::lines::Lines;
use crate::support::start_relay_logging;

/// What tries to look like a line of its own.
const FORGED: &str = "\r\n01M7YRRT8000000000000000000 10:00:00.000 delivered FORGED";

/// LINE stands for that.
const COMMANDS: [&str; 8] = [
    "EHLO xLINE",
    "EHLO \u{1b}[2J",
    "EHLO x\u{2028}FORGED",
    "AUTH PLAIN AGEKRk9SR0VEAGI=\r\nMAIL FROM:<\"LINE\"@app.test>",
    "MAIL FROM:<\"\u{2028}FORGED\"@app.test> SMTPUTF8",
    "MAIL FROM:<\u{202e}FORGED@app.test> SMTPUTF8",
    "RCPT TO:<\"\u{1b}[2J\"@example.test>",
    "\u{1b}]0;FORGED\u{7}",
];

/// The log is the process's, so that the lines of all other tests here are looked at too.
#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_forged() {
    let kept = Lines::default();
    let output = Output::new(kept.clone());
    log::init(&log::Settings { level: tracing::Level::TRACE, ..log::Settings::default() }, output.clone());
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(&["PIPELINING", "SMTPUTF8", "8BITMIME"]).await;
    mx.trick(
        "RCPT",
        Trick::Say("550-5.1.1 no\r\n550-5.1.1 \u{1b}[2K\u{9b}1A\u{85}\r\n550 5.1.1 FORGED \u{2028}\u{202e}FORGED"),
        1,
    );
    let more = "[log]\nrecipients = \"full\"\n[otp]\nrecipient_budget = \"off\"\n";
    let (relay, mut events) = start_relay_logging(folder.path(), mx.address, more, output);
    for line in COMMANDS {
        let mut client = Client::connect(relay.addresses()[0]).await;
        client.send(format!("{}\r\nQUIT\r\n", line.replace("LINE", FORGED)).as_bytes()).await;
        while !client.hear().await.is_empty() {}
    }
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.say("MAIL FROM:<otp@app.test> SMTPUTF8 ENVID=a+0D+0AFORGED").await;
    for (path, is_taken) in [
        ("<\"\u{2028}FORGED\"@example.test>", false),
        ("<\u{202e}a@example.test>", false),
        ("<\"a\u{85}\"@example.test>", false),
        ("<größe@example.test> ORCPT=utf-8;a\u{202e}b", false),
        ("<größe@example.test>", true),
    ] {
        let reply = app.say(&format!("RCPT TO:{path}")).await;
        assert_eq!(reply.starts_with("250"), is_taken, "{}: {reply}", path.escape_debug());
    }
    app.say("DATA").await;
    let content = "From: otp@app.test\r\nX-OTP-Tag: a\r\n FORGED\r\nSubject: x\r\n\r\nx\r\n.";
    assert!(app.say(content).await.starts_with('5'), "a tag has no blanks");
    for content in
        ["X-OTP-Tag: a\u{1b}[2J", "X-OTP-Key: a\u{9b}b", "X-OTP-Lane: \u{1b}", "X-OTP-Idempotency-Key: \u{202e}"]
    {
        let reply = app.submit(&["a@example.test"], &format!("From: otp@app.test\r\n{content}\r\n\r\nx")).await;
        assert!(reply.starts_with('5'), "{reply}");
    }
    assert!(app.submit(&["alice@example.test"], "From: otp@app.test\r\nSubject: x\r\n\r\nx").await.starts_with("250"));
    events.next(Kind::Failed).await;
    relay.shut_down().await;
    let written = kept.text();
    assert!(
        written.contains("alice@example.test") && written.contains("FORGED"),
        "the refusal is told on one line: {written}"
    );
    for line in written.lines() {
        assert!(!line.contains(is_deceptive), "{}", line.escape_debug());
        let id = line.split(' ').next().unwrap();
        let is_ours = id == "-" || id.len() >= 26 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        assert!(is_ours && !line.starts_with("01M7YRRT8"), "{line}");
    }
}
