//! Greylisting programs that can be told by how they refuse, and the delay that each is shipped with.

use std::time::Duration;

use super::wording::folded;
use crate::smtp::client_session::Stage;
use crate::smtp::reply::Reply;

/// How a program's refusal reads.
struct Program {
    says: Says,
    /// Whether it looks at the content first.
    is_after_content: bool,
    /// The delay it is shipped with, in seconds.
    delay_s: u64,
}

/// Of a folded text.
enum Says {
    /// This and nothing else.
    Just(&'static str),
    /// This among other things.
    Within(&'static str),
}

const fn program(says: Says, is_after_content: bool, delay_s: u64) -> Program {
    Program { says, is_after_content, delay_s }
}

/// Postgrey; rspamd; Haraka's plugin; milter-greylist that names no time; spamd; iRedAPD; ASSP; Mimecast. Of wordings that
/// name no time those that are nobody else's, as far as is known. The last one is Plesk's, though filters in trouble say
/// the same: of all programs that were read, Plesk alone can be set to make early attempts cost.
const PROGRAMS: [Program; 9] = [
    program(Says::Within("postgrey.schweikert.ch/help/"), false, 300),
    program(Says::Just("try again later"), true, 300),
    program(Says::Just("greylisted. please come back later."), false, 850),
    program(Says::Within("greylisting in action, please come back later"), false, 1800),
    program(Says::Just("temporary failure, please try again later."), true, 1500),
    program(Says::Within("intentional policy rejection, please try again later"), false, 900),
    program(Says::Just("please try again later"), false, 300),
    program(Says::Within("internal resources are temporarily unavailable"), false, 60),
    program(Says::Just("service unavailable - try again later"), true, 300),
];

/// The delay that the program is shipped with which refuses so.
pub(super) fn usual_delay(stage: Stage, reply: &Reply) -> Option<Duration> {
    let text = folded(&reply.text);
    let is_it = |program: &&Program| {
        let says_so = match program.says {
            Says::Just(all) => text == all,
            Says::Within(part) => text.contains(part),
        };
        says_so && (!program.is_after_content || stage == Stage::Content)
    };
    PROGRAMS.iter().find(is_it).map(|program| Duration::from_secs(program.delay_s))
}

#[cfg(test)]
mod tests {
    use super::super::cause::of_reply;
    use super::*;

    #[test]
    fn programs_are_told_by_their_words() {
        let check = |stage: Stage, code: u16, text: &'static str, expected: Option<u64>| {
            let verdict = of_reply(stage, &Reply { code, enhanced: None, text: text.into() });
            assert_eq!(verdict.usual.map(|delay| delay.as_secs()), expected, "{text}");
        };
        let postgrey = "<a@b.example>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/b.example.html";
        check(Stage::Rcpt, 450, postgrey, Some(300));
        check(Stage::Rcpt, 550, postgrey, None);
        check(Stage::Content, 451, "Try again later", Some(300));
        check(Stage::Rcpt, 451, "Try again later", None);
        check(Stage::Content, 451, "Greylisting in action, please come back later", Some(1800));
        check(Stage::Rcpt, 451, "Greylisted. Please come back later.", Some(850));
        check(Stage::Rcpt, 451, "Greylisted, please come back later.", None);
        check(Stage::Rcpt, 451, "Please try again later", Some(300));
        check(Stage::Content, 451, "Service unavailable - try again later", Some(300));
        check(Stage::Rcpt, 451, "Service unavailable - try again later", None);
        check(Stage::Rcpt, 451, "Greylisted", None);
    }
}
