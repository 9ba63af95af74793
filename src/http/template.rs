//! The built-in mail for a code: the code first in subject and text, large and easy to copy, how long it holds, what to
//! do if one did not ask for it, and nothing to click. It loads nothing and looks right without style sheets.

use std::time::Duration;

/// A filled template.
pub(super) struct Filled {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// The words of one language. `{code}`, `{app}` and `{life}` are filled in.
struct Words {
    language: &'static str,
    subject: &'static str,
    subject_for_app: &'static str,
    intro: &'static str,
    intro_for_app: &'static str,
    holds: &'static str,
    warning: &'static str,
    seconds: [&'static str; 2],
    minutes: [&'static str; 2],
    hours: [&'static str; 2],
}

const LANGUAGES: [Words; 4] = [
    Words {
        language: "en",
        subject: "{code} is your code",
        subject_for_app: "{code} is your code for {app}",
        intro: "Your code:",
        intro_for_app: "Your code for {app}:",
        holds: "It is valid for {life}.",
        warning: "Tell nobody this code. If you did not ask for it, ignore this mail.",
        seconds: ["second", "seconds"],
        minutes: ["minute", "minutes"],
        hours: ["hour", "hours"],
    },
    Words {
        language: "de",
        subject: "{code} ist Ihr Code",
        subject_for_app: "{code} ist Ihr Code f\u{fc}r {app}",
        intro: "Ihr Code:",
        intro_for_app: "Ihr Code f\u{fc}r {app}:",
        holds: "Er gilt {life}.",
        warning: "Geben Sie diesen Code niemandem weiter. Falls Sie ihn nicht angefordert haben, ignorieren Sie diese Mail.",
        seconds: ["Sekunde", "Sekunden"],
        minutes: ["Minute", "Minuten"],
        hours: ["Stunde", "Stunden"],
    },
    Words {
        language: "fr",
        subject: "{code} est votre code",
        subject_for_app: "{code} est votre code pour {app}",
        intro: "Votre code\u{a0}:",
        intro_for_app: "Votre code pour {app}\u{a0}:",
        holds: "Il est valable {life}.",
        warning: "Ne communiquez ce code \u{e0} personne. Si vous ne l\u{2019}avez pas demand\u{e9}, ignorez ce message.",
        seconds: ["seconde", "secondes"],
        minutes: ["minute", "minutes"],
        hours: ["heure", "heures"],
    },
    Words {
        language: "es",
        subject: "{code} es tu c\u{f3}digo",
        subject_for_app: "{code} es tu c\u{f3}digo de {app}",
        intro: "Tu c\u{f3}digo:",
        intro_for_app: "Tu c\u{f3}digo de {app}:",
        holds: "Es v\u{e1}lido durante {life}.",
        warning: "No compartas este c\u{f3}digo con nadie. Si no lo has pedido, ignora este mensaje.",
        seconds: ["segundo", "segundos"],
        minutes: ["minuto", "minutos"],
        hours: ["hora", "horas"],
    },
];

const FONT: &str = "-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";

/// Fills the template in the language of a locale such as `de-AT`; English where that language is not there.
pub(super) fn fill(code: &str, app: Option<&str>, locale: &str, life: Duration) -> Filled {
    let language = locale.split(['-', '_']).next().unwrap_or_default();
    let words = LANGUAGES.iter().find(|words| words.language.eq_ignore_ascii_case(language)).unwrap_or(&LANGUAGES[0]);
    let life = words.span(life);
    let put = |text: &str| text.replace("{life}", &life).replace("{app}", app.unwrap_or_default());
    let (subject, intro) = match app {
        Some(_) => (words.subject_for_app, words.intro_for_app),
        None => (words.subject, words.intro),
    };
    let (intro, holds, warning) = (put(intro), put(words.holds), words.warning);
    Filled {
        subject: put(&subject.replace("{code}", code)),
        // The code in the first words: that is what a notification shows.
        text: format!("{code}\n\n{intro} {code}\n{holds}\n\n{warning}\n"),
        html: html(words.language, code, &intro, &holds, warning),
    }
}

fn html(language: &str, code: &str, intro: &str, holds: &str, warning: &str) -> String {
    let (code, intro, holds) = (escaped(code), escaped(intro), escaped(holds));
    format!(
        "<!DOCTYPE html>\n\
         <html lang=\"{language}\">\n\
         <head>\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{code}</title>\n\
         </head>\n\
         <body style=\"margin:0;padding:24px;font-family:{FONT};font-size:16px;line-height:1.5\">\n\
         <table role=\"presentation\" align=\"center\" width=\"100%\" style=\"max-width:480px;margin:0 auto\">\n\
         <tr><td style=\"padding:8px 0\">{intro}</td></tr>\n\
         <tr><td align=\"center\" style=\"padding:20px 8px;border:1px solid #8886;border-radius:12px;\
         font-family:ui-monospace,Menlo,Consolas,monospace;font-size:36px;font-weight:700;letter-spacing:6px\">{code}</td></tr>\n\
         <tr><td style=\"padding:16px 0 4px\">{holds}</td></tr>\n\
         <tr><td style=\"padding:4px 0;font-size:14px;opacity:.75\">{warning}</td></tr>\n\
         </table>\n\
         </body>\n\
         </html>\n"
    )
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

impl Words {
    /// A span in the largest unit that is exact.
    fn span(&self, span: Duration) -> String {
        let seconds = span.as_secs();
        let (count, unit) = match seconds {
            s if s >= 3600 && s.is_multiple_of(3600) => (s / 3600, self.hours),
            s if s >= 60 && s.is_multiple_of(60) => (s / 60, self.minutes),
            s => (s, self.seconds),
        };
        format!("{count} {}", if count == 1 { unit[0] } else { unit[1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_fills_its_template() {
        for (locale, subject, holds) in [
            ("en", "481516 is your code for Shop", "It is valid for 10 minutes."),
            ("de-AT", "481516 ist Ihr Code f\u{fc}r Shop", "Er gilt 10 Minuten."),
            ("FR", "481516 est votre code pour Shop", "Il est valable 10 minutes."),
            ("es_MX", "481516 es tu c\u{f3}digo de Shop", "Es v\u{e1}lido durante 10 minutos."),
            ("tlh", "481516 is your code for Shop", "It is valid for 10 minutes."),
        ] {
            let filled = fill("481516", Some("Shop"), locale, Duration::from_secs(600));
            assert_eq!(filled.subject, subject);
            assert!(filled.text.starts_with("481516\n") && filled.text.contains(holds), "{}", filled.text);
            assert!(filled.html.contains(holds) && !filled.html.contains('{'), "{}", filled.html);
        }
    }

    #[test]
    fn names_cannot_become_markup() {
        let filled = fill("1234", Some("<b>\"A&B\""), "en", Duration::from_secs(3600));
        assert!(filled.html.contains("&lt;b&gt;&quot;A&amp;B&quot;") && !filled.html.contains("<b>"));
        assert!(filled.text.contains("It is valid for 1 hour."));
        assert_eq!(fill("1234", None, "en", Duration::from_secs(90)).subject, "1234 is your code");
    }
}
