//! The guided story: one code on its way past a greylist, told as it happens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::mail::Mail;
use super::sample;
use super::stage::{PASSWORD, Stage, USER};
use crate::event::{Event, Kind};
use crate::report::output::say;

/// The sender's domain.
const DOMAIN: &str = "shop.test";
const RECIPIENT: &str = "greylisted.alice@example.test";
/// After this long the story has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells it.
///
/// # Errors
/// When the sample message is not delivered, or its signatures are not good.
pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    say("otp-relay demo. Everything happens on this machine; nothing leaves it.\n");
    say(&format!("  the relay      {}   where an app would send its codes", stage.smtp()));
    let greylist = stage.greylist;
    say(&format!(
        "  a mail host    mx.*.sandbox      of {RECIPIENT} alone; it greylists for {} s",
        greylist.as_secs_f64()
    ));
    say(&format!("  a name server  {}   knows them, and the relay's DKIM keys\n", stage.dns));
    let both_keys = tokio::time::timeout(PATIENCE, &mut stage.keys).await;
    both_keys.context("no key was found in time")???;
    say("1. An app submits a code, by plain SMTP\n");
    let code = sample::code()?;
    let from = format!("otp@{DOMAIN}");
    let message = sample::message(&from, RECIPIENT, &code)?;
    let show = |line: &str| say(&format!("     {line}"));
    sample::submit(stage.smtp(), (USER, PASSWORD), (&from, RECIPIENT), &message, show).await?;
    say("\n2. What the relay does with it, in milliseconds since it was accepted\n");
    let patience = PATIENCE + greylist;
    let delivered = tokio::time::timeout(patience, follow(stage)).await.context("not delivered in time")??;
    say("\n3. What arrived\n");
    let arrived = stage.inbox.of(RECIPIENT).pop().context("nothing arrived")?;
    show_verdicts(&arrived)?;
    let path = write_down(stage, &arrived)?;
    say(&format!("     {}  ({} bytes)\n", path.display(), arrived.content.len()));
    let since_accepted = delivered.head.since_accepted;
    say(&format!(
        "The code arrived {:.1} s after the app sent it, {:.1} s after the mail host stopped greylisting.",
        since_accepted.as_secs_f64(),
        since_accepted.saturating_sub(greylist).as_secs_f64()
    ));
    say("A mail server with usual settings comes back after 5 to 20 minutes, when the code is dead.");
    Ok(())
}

/// What can be done now.
pub(super) fn introduce(stage: &Stage) {
    let http = stage.http();
    say("\nThis stays up as a sandbox until Ctrl-C. Point an app or a test at it:\n");
    say(&format!("     SMTP      {}   any user and password, any sender, any recipient", stage.smtp()));
    say(&format!("     HTTP      http://{http}/   a page of what came; any token"));
    say(&format!("     a code    curl 'http://{http}/sandbox/code?to=alice@example.test&wait=20s'"));
    say("     failures  greylisted-30s.x@, busy-2.x@, slow-5s.x@, unknown.x@, full.x@ and more: docs/testing.md\n");
}

/// Tells each step until the message has ended.
async fn follow(stage: &mut Stage) -> anyhow::Result<Event> {
    loop {
        let event = stage.events.recv().await.context("the relay stopped")?;
        say(&format!(
            "     {:>6} ms  {:<10}  {}",
            event.head.since_accepted.as_millis(),
            event.kind().name(),
            explain(&event)
        ));
        if event.kind() == Kind::Delivered {
            return Ok(event);
        }
        anyhow::ensure!(!event.kind().is_end(), "the sample message was not delivered");
    }
}

fn show_verdicts(arrived: &Arc<Mail>) -> anyhow::Result<()> {
    for verdict in &arrived.how.verdicts {
        let result = match &verdict.result {
            Ok(()) => "verified against the published key".to_owned(),
            Err(error) => format!("FAILED: {error}"),
        };
        say(&format!("     DKIM signature d={} s={:<14} {result}", verdict.domain, verdict.selector));
    }
    anyhow::ensure!(arrived.is_signed(), "not every signature of the received message verified");
    Ok(())
}

fn write_down(stage: &Stage, arrived: &Mail) -> anyhow::Result<PathBuf> {
    let path = stage.folder.join("sample.eml");
    std::fs::write(&path, &arrived.content).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// What an event means, for somebody who sees it for the first time.
fn explain(event: &Event) -> String {
    let host = event.destination().unwrap_or("the mail host");
    let reply = event.reply().unwrap_or_default();
    match event.kind() {
        Kind::Accepted => format!("on disk and acknowledged, id {}", event.head.id),
        Kind::Attempted if event.head.attempt > 1 => format!("attempt {} at {host}", event.head.attempt),
        Kind::Attempted => format!("straight to {host}"),
        Kind::Greylisted | Kind::Deferred => {
            let wait = event.next_attempt_at().map(|at| at.since(event.head.time).as_secs_f64()).unwrap_or_default();
            format!("\"{reply}\": again in {wait:.1} s")
        }
        Kind::Delivered => format!("\"{reply}\""),
        Kind::Queued
        | Kind::AtRisk
        | Kind::Failed
        | Kind::Expired
        | Kind::Superseded
        | Kind::Cancelled
        | Kind::Bounced
        | Kind::Complained
        | Kind::Verified => reply.to_owned(),
    }
}
