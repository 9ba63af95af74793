//! A reply's text taken apart, once: what is said, for which reason, what only points to help, and the tags of providers.
//! Bounded by what [`folded`] lets through, and linear in it.

use std::sync::LazyLock;

use regex::bytes::{Captures, Regex, RegexBuilder};

use super::spelling::{spelled, with_names_apart};
use super::wording::folded;

/// Who keeps lists of bad clients: a link to one of them says what happened, as no other link does.
const LISTS: &str = "spamhaus|spamcop|sorbs|barracuda|abusix|surbl|uribl|abuseat|senderbase|senderscore|uceprotect|mailspike|manitu|invaluement|blocklist|dnsbl|rbl|blacklist|proofpoint|talosintelligence|trustedsource|spfbl|cloudmark|sender.office|dnswl|truncate|backscatterer|psbl";

struct Patterns {
    link: Regex,
    list: Regex,
    tag: Regex,
    purpose: Regex,
    cut: Regex,
    help: Regex,
    not_help: Regex,
    reason: Regex,
    bland: Regex,
    opening: Regex,
    again: Regex,
    refused: Regex,
    state: Regex,
    other: Regex,
}

// A test takes a reply apart, so that no pattern that is not sound can be shipped.
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern: &str| {
        RegexBuilder::new(pattern).unicode(false).build().expect("the patterns of a reply's parts are sound")
    };
    Patterns {
        link: regex(r#"(?:https?://|www\.)([^\s<>()"/]*)[^\s<>()"]*"#),
        list: regex(LISTS),
        tag: regex(
            r"\[[a-z]{1,5}[-_]?\d{1,4}\]|\((?:[a-z]{2,4}:[a-z0-9]{1,5}|s\d{4}|dyn:t\d?)\)|(?:^| )(?:hvu|hvc|hl|mi|rp|rtr|rly|dyn|con|snd|dt|wm|sc|dy|ou|cs)[:-][a-z0-9]{2,5}(?:$|[ :,])|\[[a-z]+(?:-[a-z]+)*-\d+\]|as\(\d{4}\)",
        ),
        purpose: regex(
            r"\b(?:in order )?to (?:best |better |further )?(?:protect|reduce|prevent|limit|fight|combat|avoid)\b[^,.;]*, ?",
        ),
        cut: regex(r"[.!?;] +| -{1,2} |\burl +"),
        help: regex(
            r"^(?:for (?:more |further )?(?:information|details|help|explanation|assistance)|(?:please )?(?:see|visit|refer|consult|go to|read)\b.*(?:url|http|/|our|page|document|article|faq|\bhelp\b)|(?:please )?(?:contact|ask|check|verify|make sure|ensure)\b|more (?:info|details)|learn more|to learn|further info|help:|if you (?:think|believe|need|feel)|pour plus|weitere info|mas info|voir )",
        ),
        not_help: regex(&format!(r"\b(?:since|because|as your|list)|{LISTS}")),
        reason: regex(
            r"\b(?:due to|because of|because|reason:|reason is|caused by|as a result of|wegen|a cause d|debido a)(?:\b| )",
        ),
        bland: regex(
            r"\b(?:deferred|delayed|rejected|refused|denied|declined|bounced|failed|accepted|delivered|returned|reason|unavailable|blocked)\b[^.]{0,20}$",
        ),
        opening: regex(
            r"^(?:@ ?[:,] ?|<[^>]*>:? ?)?(?:sorry|error|smtp|fatal)?[,:]? ?(?:your |the |this |our )?(?:(?:message|e-?mail|mail|connection|access|service|delivery|request|transaction|authentication|(?:email )?relay(?:ing)?(?: access)?|requested (?:mail )?action|recipient address|it|we) ?)?(?:is |was |has been |have been |temporarily |permanently )*(?:refused|rejected|denied|failed|failure|blocked|deferred|not taken|aborted|not accepted|bounced|dropped)(?: temporarily| permanently| [0-9.]+)?(?:: mailbox unavailable)?(?:[.:;!,] ?| -+ )",
        ),
        again: regex(r"^(?:please )?(?:try|retry|come back|wait|resend|send|contact|see|visit)\b"),
        refused: regex(r"\b(?:not (?:allowed|permitted|accepted|authori[sz]ed)|denied|refuse[sd]?|forbidden|access)\b"),
        state: regex(
            r"unknown|no such|no one|nobody|not? (?:exist|found|known|recogni[sz]ed|valid|local|listed)|invalid|n.?exist|disabl|suspend|inactiv|closed|terminat|expired|deactiv|unavailable|deleted|inconnu|unbekannt|desconoc|desconhec|sconosciut|inexist|mapped",
        ),
        other: regex(
            r"\b(?:ips?|spam\w*|junk|virus\w*|relay\w*|rate|reputation|(?:black|block) ?-?list\w*|spf|dkim|dmarc|tls|starttls|helo|ehlo|ptr|rdns|dns|host ?names?|gr[ae]y ?-?list\w*|too (?:many|much|large|big|long|fast)|connections?|authenticat\w*|commands?|fully.?qualified|permission|content|attachments?|polic\w+|senders?|clients?|loop\w*|(?:from )?your (?:\w+ )?(?:ips?|hosts?|servers?|domain|account|address|network|mailbox|provider|user|postmaster)|you (?:send|sent|are|use|used|have|must|should|need|write)|may not|sending|address books?|guests?|pending|until|temporar\w*|verifications?|maintenance|reception|notifications?|outside\w*|external|literal|look-?ups?|headers?|fields?|quotas?|preferences?|settings?|profiles?|budget|replicas?|anonymous|(?:hosting|service) provider|server account|(?:allow|white|safe) ?-?lists?\w*|load|resend|tomorrow)\b",
        ),
    }
});

/// What a text is made of, each part [`folded`] and [`spelled`] one way.
#[derive(Debug)]
pub(super) struct Parts {
    pub whole: String,
    /// Its sentences without tags, purposes ("to protect our users, ...") and pointers to help; of links only that there
    /// is one, or whose list it leads to.
    pub said: String,
    /// The tags of providers and gateways.
    pub(crate) tags: String,
    /// Where in `said` the reason begins for which something is refused or put off: behind a word that gives one, else
    /// behind an opening that only refuses ("Message rejected: ...").
    reason: Option<usize>,
}

impl Parts {
    pub(super) fn of(text: &str) -> Self {
        let whole = spelled(&folded(&with_names_apart(text)));
        let without_links = PATTERNS.link.replace_all(whole.as_bytes(), |link: &Captures<'_>| {
            let host = &link[1];
            if PATTERNS.list.is_match(host) { host.to_vec() } else { b"url".to_vec() }
        });
        let text_of = |part: &[u8]| String::from_utf8_lossy(part).trim().to_owned();
        let tags: Vec<String> = PATTERNS.tag.find_iter(&without_links).map(|tag| text_of(tag.as_bytes())).collect();
        let tags = tags.join(" ");
        let without_tags = PATTERNS.tag.replace_all(&without_links, &b" "[..]);
        let plain = PATTERNS.purpose.replace_all(&without_tags, &b""[..]);
        let said = without_help(&plain);
        let reason = reason_of(&said).or_else(|| behind_opening(&said));
        Self { whole, said, tags, reason }
    }

    /// The reason, where what is refused or put off says nothing itself.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.and_then(|start| self.said.get(start..))
    }

    /// Whether it also speaks of what is no matter of the recipient's, or of what one may do and not of how the mailbox
    /// is.
    pub(super) fn speaks_of_others(&self) -> bool {
        let said = self.said.as_bytes();
        PATTERNS.other.is_match(said) || (PATTERNS.refused.is_match(said) && !PATTERNS.state.is_match(said))
    }
}

fn without_help(text: &[u8]) -> String {
    let mut said = Vec::with_capacity(text.len());
    let mut start = 0;
    for end in PATTERNS.cut.find_iter(text).map(|cut| cut.end()).chain([text.len()]) {
        let sentence = &text[start..end];
        let skipped = sentence.iter().take_while(|byte| b" -:(".contains(byte)).count();
        if !PATTERNS.help.is_match(&sentence[skipped..]) || PATTERNS.not_help.is_match(sentence) {
            said.extend_from_slice(sentence);
        }
        start = end;
    }
    let said = String::from_utf8_lossy(&said);
    said.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn reason_of(said: &str) -> Option<usize> {
    let said = said.as_bytes();
    let reason = PATTERNS.reason.find_iter(said).last()?;
    let is_needed = reason.as_bytes().starts_with(b"reason") || PATTERNS.bland.is_match(&said[..reason.start()]);
    is_needed.then_some(reason.end())
}

fn behind_opening(said: &str) -> Option<usize> {
    let end = PATTERNS.opening.find(said.as_bytes())?.end();
    let rest = said.get(end..)?;
    (!rest.trim().is_empty() && !PATTERNS.again.is_match(rest.as_bytes())).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let check = |text: &str, said: &str, tags: &str, reason: Option<&str>| {
            let parts = Parts::of(text);
            assert_eq!((&*parts.said, &*parts.tags), (said, tags), "{text}");
            assert_eq!(parts.reason().map(str::trim), reason, "{text}");
        };
        check("User unknown", "user unknown", "", None);
        check("[TSS04] Too large", "too large", "[tss04]", None);
        check("HVU:B1 no such user", "no such user", "hvu:b1", None);
        check("No such user. See https://example.com/spam", "no such user.", "", None);
        check("Refused, see https://www.spamhaus.org/sbl", "refused, see www.spamhaus.org", "", None);
        check("Learn more at https://example.com. User unknown", "user unknown", "", None);
        check("To protect our users from spam, it was refused", "it was refused", "", None);
        check(
            "Message deferred due to a full mailbox",
            "message deferred due to a full mailbox",
            "",
            Some("a full mailbox"),
        );
        check("Rejected. Reason: user unknown", "rejected. reason: user unknown", "", Some("user unknown"));
        check("rate limited because of spam", "rate limited because of spam", "", None);
        check("Message rejected: user unknown", "message rejected: user unknown", "", Some("user unknown"));
        check("Access denied. Please try again later", "access denied. please try again later", "", None);
        check("Message rejected", "message rejected", "", None);
        check("Message refused by the filter", "message refused by the filter", "", None);
        check("User dosn't exsist", "user does not exist", "", None);
        check("", "", "", None);
    }

    #[test]
    fn a_long_text_is_bounded() {
        for unit in ["see http://a.test/b. ", "[bl21] ", "due to ", "to avoid x, ", "refused - ", "é"] {
            let parts = Parts::of(&unit.repeat(100_000));
            assert!(parts.whole.len() + parts.said.len() + parts.tags.len() <= 8_000, "{unit}");
        }
    }

    #[test]
    fn other_matters_are_seen() {
        for text in [
            "Mailbox not found: your IP is listed",
            "user unknown, spam",
            "Sender unknown",
            "That recipient is not allowed",
            "The account you send from is disabled",
            "User settings not found",
        ] {
            assert!(Parts::of(text).speaks_of_others(), "{text}");
        }
        for text in ["No such user here", "Recipient address rejected: User unknown", "Account is disabled"] {
            assert!(!Parts::of(text).speaks_of_others(), "{text}");
        }
    }
}
