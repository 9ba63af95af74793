//! How many sessions at once a destination was seen to allow: up slowly, down by half (additive increase, multiplicative
//! decrease). Who chooses a recipient must not be able to lower it for others: one domain halves it once a minute, and
//! never below what others' messages needed in the last minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::judged_failure::JudgedFailure;
use crate::event::cause::Cause;
use crate::smtp::client_session::{Fault, Stage};
use crate::smtp::reply::{EnhancedCode, Reply};

/// Sessions at once with a destination of which nothing is known.
const FIRST: f64 = 4.0;
/// How long what was taken speaks for the host, and how long one domain's word that it was overloaded is the last.
const SPAN: Duration = Duration::from_secs(60);
/// Messages taken that are remembered.
const TAKEN_MAX: usize = 512;

/// Sessions at once with one destination.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    size: f64,
    /// Messages that were taken lately.
    taken: VecDeque<TookMail>,
    /// When the host last said that it was overloaded.
    overloaded_at: Option<Instant>,
    /// The reductions of the last minute, each by another domain.
    reduced: Vec<(Arc<str>, Instant)>,
    /// Where it was before one domain alone lowered it, and which: others get back there at once.
    good: Option<(f64, Arc<str>)>,
}

#[derive(Debug)]
struct TookMail {
    domain: Arc<str>,
    began: Instant,
    ended: Instant,
}

impl Window {
    /// Nothing is known; `most`: at most.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            size: FIRST.min(as_f64(most)),
            taken: VecDeque::new(),
            overloaded_at: None,
            reduced: Vec::new(),
            good: None,
        }
    }

    pub(super) fn limit(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
    }

    /// Sessions at once that the operator allows.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Sessions at once at most, 1 or more.
    pub(super) fn sessions_max(&self) -> usize {
        // The size is between 1 and `most`.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let size = self.size as usize;
        size.clamp(1, self.most)
    }

    /// A message for a registrable domain was taken, at an attempt that began at `began`. If all sessions were needed,
    /// there may be more; says whether there may be one more now.
    pub(super) fn succeeded(&mut self, domain: &Arc<str>, is_full: bool, began: Instant, now: Instant) -> bool {
        let before = self.sessions_max();
        self.forget(now);
        if self.taken.len() == TAKEN_MAX {
            self.taken.pop_front();
        }
        self.taken.push_back(TookMail { domain: domain.clone(), began, ended: now });
        // While the host was overloaded at the same time, this says nothing.
        let is_clean = self.overloaded_at.is_none_or(|at| at < began);
        if is_full && is_clean {
            let was_good = self.good.as_ref().is_some_and(|(good, by)| self.size < *good && by != domain);
            let step = if was_good { 1.0 } else { 1.0 / self.size };
            self.size = (self.size + step).min(as_f64(self.most));
        }
        self.sessions_max() > before
    }

    /// The host said that it was overloaded, at an attempt for a registrable domain that began at `began`. What began before
    /// the last reduction says nothing new.
    pub(super) fn overloaded(&mut self, domain: &Arc<str>, began: Instant, now: Instant) {
        self.overloaded_at = Some(now);
        self.forget(now);
        if self.reduced.iter().any(|(_, at)| began < *at) {
            return;
        }
        let has_others = self.taken.iter().any(|taken| taken.domain != *domain);
        let has_spoken = self.reduced.iter().any(|(by, _)| by == domain);
        if has_others && has_spoken {
            return;
        }
        let is_alone = self.reduced.iter().all(|(by, _)| by == domain);
        let before = self.size;
        self.size = (self.size / 2.0).max(as_f64(self.needed_by_others(domain))).clamp(1.0, before.max(1.0));
        self.good = match self.good.take() {
            // Several say so: then it is where it is good.
            _ if !is_alone => None,
            Some((good, by)) if by == *domain => Some((good.max(before), by)),
            Some(_) | None => Some((before, domain.clone())),
        };
        self.reduced.retain(|(by, _)| by != domain);
        self.reduced.push((domain.clone(), now));
    }

    /// The most messages for other domains that were under way at once and were taken.
    fn needed_by_others(&self, domain: &Arc<str>) -> usize {
        let others = || self.taken.iter().filter(|taken| taken.domain != *domain);
        let mut changes: Vec<(Instant, isize)> = others().flat_map(|one| [(one.began, 1), (one.ended, -1)]).collect();
        // At the same moment, ends come first.
        changes.sort_unstable();
        let mut at_once = 0;
        let most = changes.iter().map(|(_, change)| {
            at_once += change;
            at_once
        });
        most.max().and_then(|most| usize::try_from(most).ok()).unwrap_or(0)
    }

    fn forget(&mut self, now: Instant) {
        let is_past = |at: Instant| now.saturating_duration_since(at) >= SPAN;
        while self.taken.front().is_some_and(|taken| is_past(taken.ended)) {
            self.taken.pop_front();
        }
        self.reduced.retain(|(_, at)| !is_past(*at));
    }
}

/// Whether a failure says that the host was overloaded, or that we are: what is about one recipient says nothing of
/// others.
pub(super) fn is_overload(JudgedFailure { failure, verdict }: &JudgedFailure) -> bool {
    match &failure.fault {
        Fault::Reply(reply) => {
            let is_meant = matches!(verdict.cause, Cause::RateLimited | Cause::ServerBusy);
            reply.code == 421 || speaks_of_host(reply, failure.stage) || is_meant && is_before_recipient(failure.stage)
        }
        Fault::Timeout => failure.stage != Stage::Connect && is_before_recipient(failure.stage),
        Fault::Closed | Fault::Malformed(_) | Fault::Unsupported(_) | Fault::Tls(_) | Fault::Ours(_) => false,
    }
}

/// RFC 3463: x.3.2, the system does not accept messages; x.4.5, congestion. Some only use words. Once the recipient is named they
/// may be about it, and what is quoted of it is written by whoever chose it.
fn speaks_of_host(reply: &Reply, stage: Stage) -> bool {
    if !(400..500).contains(&reply.code) {
        return false;
    }
    if matches!(reply.enhanced, Some(EnhancedCode(4, 3, 2) | EnhancedCode(4, 4, 5))) {
        return true;
    }
    let text = reply.text.to_ascii_lowercase();
    if is_before_recipient(stage) {
        return ["connections", "concurrent", "simultaneous"].iter().any(|word| text.contains(word));
    }
    let is_of_address = matches!(reply.enhanced, Some(EnhancedCode(_, 1 | 2, _)));
    let mut words = text.split_whitespace().filter(|word| !word.contains(['@', '<', '>']));
    let names_mailbox = ["mailbox", "recipient", "user"].iter().any(|word| text.contains(word));
    !is_of_address && !names_mailbox && words.any(|word| word.contains("connections"))
}

/// Up to MAIL the host does not know whom it is about.
fn is_before_recipient(stage: Stage) -> bool {
    match stage {
        Stage::Connect
        | Stage::Tls
        | Stage::Banner
        | Stage::Ehlo
        | Stage::StartTls
        | Stage::Auth
        | Stage::Reset
        | Stage::Mail => true,
        Stage::Rcpt | Stage::Data | Stage::Content => false,
    }
}

fn as_f64(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use crate::smtp::client_session::Failure;

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(200);

    fn start() -> Instant {
        SystemClock::default().instant()
    }

    fn domains() -> (Arc<str>, Arc<str>, Arc<str>) {
        ("one.test".into(), "two.test".into(), "evil.test".into())
    }

    /// So many messages for a domain that are under way at once, and taken; how many sessions there may be then.
    fn succeed(window: &mut Window, domain: &Arc<str>, at_once: usize, now: Instant) -> usize {
        for _ in 0..at_once {
            window.succeeded(domain, true, now, now + MOMENT);
        }
        window.sessions_max()
    }

    fn grown(most: usize, domain: &Arc<str>, now: Instant) -> Window {
        let mut window = Window::new(most);
        while window.sessions_max() < most {
            window.succeeded(domain, true, now, now);
        }
        window
    }

    #[test]
    fn sessions_go_up_one_by_one_and_down_by_half() {
        let (mut window, start, (one, ..)) = (Window::new(20), start(), domains());
        assert_eq!(window.sessions_max(), 4);
        assert!(!window.succeeded(&one, false, start, start), "nobody waited");
        assert_eq!((0..5).filter(|_| window.succeeded(&one, true, start, start)).count(), 1);
        assert_eq!(window.sessions_max(), 5);
        let mut window = grown(20, &one, start);
        let now = start + SECOND;
        window.overloaded(&one, now, now);
        window.overloaded(&one, start, now);
        assert_eq!(window.sessions_max(), 10, "attempts that ran together count once");
        (2..20).for_each(|n| window.overloaded(&one, start + SECOND * n, start + SECOND * n));
        assert_eq!(window.sessions_max(), 1, "never none");
        for (limit, sessions_max) in [(3, 3), (30, 3), (0, 1)] {
            window.limit(limit);
            let later = start + SPAN * 2;
            (0..200).for_each(|_| _ = window.succeeded(&one, true, later, later));
            assert_eq!(window.sessions_max(), sessions_max, "limited to {limit}");
        }
    }

    #[test]
    fn a_domain_alone_at_its_hosts_goes_back_up_slowly() {
        let (start, (one, ..)) = (start(), domains());
        let mut window = grown(20, &one, start);
        window.overloaded(&one, start + SECOND, start + SECOND);
        assert_eq!(succeed(&mut window, &one, 10, start + SECOND * 2), 10, "each adds a tenth");
        assert_eq!(succeed(&mut window, &one, 1, start + SECOND * 2), 11);
    }

    #[test]
    fn one_domain_halves_once_a_minute_where_there_are_others() {
        let (start, (one, _, evil)) = (start(), domains());
        let mut window = grown(20, &one, start);
        let sizes: Vec<usize> = (1..=50)
            .map(|second| {
                window.overloaded(&evil, start + SECOND * second, start + SECOND * second);
                window.sessions_max()
            })
            .collect();
        assert_eq!(sizes, [10; 50]);
    }

    #[test]
    fn it_never_goes_below_what_others_needed_and_is_back_within_a_round() {
        let (start, (one, two, evil)) = (start(), domains());
        let mut window = grown(20, &one, start);
        let now = start + SECOND * 100;
        for domain in [&one, &two] {
            succeed(&mut window, domain, 7, now);
        }
        window.overloaded(&evil, now + SECOND, now + SECOND);
        assert_eq!(window.sessions_max(), 14, "of both together");
        succeed(&mut window, &one, 6, now + SECOND * 2);
        assert_eq!(window.sessions_max(), 20, "one more for each message");
        // In a quiet hour there is nothing to go by.
        for minute in 1..10 {
            let now = now + SPAN * minute * 2;
            window.overloaded(&evil, now, now);
        }
        assert_eq!(window.sessions_max(), 1);
        let now = now + SPAN * 30;
        let rounds = (1u32..).find(|round| {
            let at_once = window.sessions_max();
            succeed(&mut window, &one, at_once, now + SECOND * *round) == 20
        });
        assert_eq!(rounds, Some(5), "twice as many each round");
    }

    #[test]
    fn what_several_domains_say_is_believed() {
        let (start, (one, two, evil)) = (start(), domains());
        let mut window = grown(20, &one, start);
        window.overloaded(&one, start + SECOND, start + SECOND);
        window.overloaded(&two, start + SECOND * 2, start + SECOND * 2);
        assert_eq!(window.sessions_max(), 5);
        succeed(&mut window, &evil, 5, start + SECOND * 3);
        assert_eq!(window.sessions_max(), 5, "slowly from there");
        let mut window = grown(20, &one, start);
        window.overloaded(&one, start + SECOND, start + SECOND);
        window.succeeded(&two, true, start, start + SECOND * 2);
        assert_eq!(window.sessions_max(), 10, "what was under way then says nothing");
    }

    #[test]
    fn only_what_speaks_of_the_host_counts() {
        let check = |stage, reply: &str, expected| {
            let (code, text) = reply.split_once(' ').unwrap();
            let (enhanced, text) =
                EnhancedCode::split_from(text).map_or((None, text), |(code, text)| (Some(code), text));
            let reply = Reply { code: code.parse().unwrap(), enhanced, text: text.to_owned().into() };
            let failure = Failure { stage, fault: Fault::Reply(reply) };
            assert_eq!(is_overload(&failure.clone().into()), expected, "{failure:?}");
        };
        check(
            Stage::Rcpt,
            "450 4.2.1 The user you are trying to contact is receiving mail at a rate that is too high",
            false,
        );
        check(Stage::Rcpt, "452 4.2.2 The recipient's mailbox is over quota", false);
        check(Stage::Rcpt, "450 4.7.1 You have exceeded the rate limit for this recipient", false);
        check(Stage::Content, "451 4.7.0 too many messages for this user, slow down", false);
        check(Stage::Rcpt, "451 4.3.0 temporary system problem", false);
        check(Stage::Banner, "450 4.7.0 you are sending too fast", true);
        check(Stage::Mail, "450 4.7.1 rate limit exceeded", true);
        check(Stage::Mail, "451 4.1.8 sender domain does not resolve", false);
        check(Stage::Rcpt, "421 4.7.0 try again later", true);
        check(Stage::Rcpt, "451 4.4.5 congestion", true);
        check(Stage::Content, "452 4.3.2 not now", true);
        check(Stage::Rcpt, "450 4.7.0 too many connections from your address", true);
        check(Stage::Content, "452 4.7.0 too many connections, slow down", true);
        check(Stage::Mail, "450 4.2.0 too many concurrent deliveries", true);
        // What one recipient is told, or quoted with, says nothing of the others.
        check(Stage::Rcpt, "450 4.2.0 <too-many-connections@shared.test>: greylisted", false);
        check(Stage::Rcpt, "450 4.7.1 concurrent.connections@shared.test rejected, come back later", false);
        check(Stage::Rcpt, "450 4.2.1 too many connections", false);
        check(Stage::Rcpt, "451 4.3.0 too many connections for this mailbox", false);
        check(Stage::Content, "451 4.3.0 Too many concurrent deliveries for user", false);
        check(Stage::Content, "451 4.3.0 too many simultaneous deliveries", false);
        check(Stage::Rcpt, "550 5.7.1 connections from here are refused", false);
        for (stage, expected) in
            [(Stage::Connect, false), (Stage::Banner, true), (Stage::Mail, true), (Stage::Content, false)]
        {
            assert_eq!(is_overload(&Failure { stage, fault: Fault::Timeout }.into()), expected, "{stage:?}");
        }
    }
}
