//! The resolver: that it answers, how quickly, with DNSSEC, and the truth about names that do not exist.

use std::time::Duration;

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::destination::resolver::Dnssec;
use crate::mail::id::IdSource;

/// Slower than this, connections wait for names.
const SLOW: Duration = Duration::from_millis(500);
/// Answers from which a share can be told.
const ANSWERS_MIN: usize = 8;
/// Names that are told of those without an answer.
const NAMES_MAX: usize = 5;
const SUBJECT: &str = "[resolver]";

/// DNSSEC and honesty.
pub(super) async fn look(look: &Look<'_>) {
    tokio::join!(dnssec(look), honest(look));
}

async fn dnssec(look: &Look<'_>) {
    if look.config.resolver.dnssec == Dnssec::Off {
        return;
    }
    match look.names.validates().await {
        Ok(true) => {}
        Ok(false) => {
            let text = "[resolver] dnssec: the resolver does not carry DNSSEC, so that DANE is off";
            let finding = Finding::new(Severity::Warning, Check::Resolver, SUBJECT, text);
            look.add(finding.mend("use one that does, such as a local unbound"));
        }
        Err(error) => {
            let text = format!("[resolver] the resolver does not answer: {error}");
            look.add(
                Finding::new(Severity::Error, Check::Resolver, SUBJECT, text)
                    .mend("see to it, or set resolver.nameservers"),
            );
        }
    }
}

/// A name that nobody has registered does not exist.
async fn honest(look: &Look<'_>) {
    let random = IdSource::new().next(look.clock.wall()).to_string().to_ascii_lowercase();
    let name = format!("otp-relay-check-{random}.com");
    // Without an answer nothing is known; if there is none to anything, that is told.
    if let Ok(addresses) = look.names.ask(&name, Kind::A).await {
        let text = format!(
            "the resolver answers {} for a name that does not exist, so that codes go nowhere",
            addresses.join(", ")
        );
        let finding = Finding::new(Severity::Warning, Check::Resolver, SUBJECT, text);
        look.add(finding.mend("use one that tells the truth, such as a local unbound"));
    }
}

/// What nobody answered, and how long the rest took; last of all.
pub(super) fn unanswered(look: &Look<'_>) {
    let unanswered = look.unanswered();
    let is_told = look.has(Check::Resolver, Severity::Error);
    if !unanswered.is_empty() && !look.has_answers() && !is_told {
        let error = unanswered.values().next().map(ToString::to_string).unwrap_or_default();
        let text = format!("[resolver] the resolver does not answer: {error}");
        look.add(
            Finding::new(Severity::Error, Check::Resolver, SUBJECT, text)
                .mend("see to it, or set resolver.nameservers"),
        );
    } else if !unanswered.is_empty() && !is_told {
        let shown: Vec<String> =
            unanswered.iter().take(NAMES_MAX).map(|(name, error)| format!("{name} ({error})")).collect();
        let more = unanswered.len().saturating_sub(NAMES_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let text = format!("there was no answer for {}{more}: what they say was not looked at", shown.join(", "));
        look.add(Finding::new(Severity::Warning, Check::Resolver, SUBJECT, text).mend("run the check again"));
    }
    let mut took = look.names.took();
    took.sort();
    if let Some(p95) =
        took.get(took.len() * 95 / 100).filter(|p95| took.len() >= ANSWERS_MIN && **p95 > SLOW && look.was_answered())
    {
        let text = format!("one answer in twenty takes {} ms or longer", p95.as_millis());
        look.add(
            Finding::new(Severity::Note, Check::Resolver, SUBJECT, text)
                .mend("use a resolver close by, such as a local unbound"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    async fn texts(world: &World) -> Vec<(Check, Severity, String)> {
        let all = summary(world, |look| {
            Box::pin(async move {
                super::look(look).await;
                look.ask("a.test", Kind::A).await;
                unanswered(look);
            })
        });
        all.await
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_answers_soon_and_truly() {
        assert_eq!(texts(&World::sound()).await, []);
        let check = async |world: World, severity, expected: &str| {
            assert_one(&texts(&world).await, severity, expected);
        };
        check(World { validates: Some(false), ..World::sound() }, Severity::Warning, "does not carry DNSSEC").await;
        check(World { validates: None, ..World::sound() }, Severity::Error, "does not answer").await;
        check(World { rewrites: true, ..World::sound() }, Severity::Warning, "does not exist").await;
        check(World { took: vec![Duration::from_secs(1); 20], ..World::sound() }, Severity::Note, "1000 ms").await;
        let mut world = World::sound();
        world.broken("a.test");
        check(world, Severity::Error, "does not answer").await;
    }
}
