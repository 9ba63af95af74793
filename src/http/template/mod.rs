//! The relay's own mail: a code, a link or a notice in the reader's language. The words of each language and the layout are
//! files (`templates/` in the repository, built in; own ones in `[http] templates`).
//!
//! The code comes first in subject and text. The mail loads nothing, and says how long the code is valid and what to do if one
//! did not ask for it. Its last line binds the code to the sender's domain, so that it is filled in only there.

mod language;
mod own;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use minijinja::{AutoEscape, Environment, Error, Output, State, UndefinedBehavior, Value, context};

use crate::base::named::named;
pub(crate) use language::TemplateError;
use language::{Language, NamedFile};

/// Steps that one template may take.
const FUEL: u64 = 50_000;
const LAYOUT: &str = include_str!("../../../templates/layout.toml");
/// The first is for whoever asks for a language that is not there.
const LANGUAGES: [(&str, &str); 10] = [
    ("en", include_str!("../../../templates/en.toml")),
    ("de", include_str!("../../../templates/de.toml")),
    ("fr", include_str!("../../../templates/fr.toml")),
    ("es", include_str!("../../../templates/es.toml")),
    ("pt", include_str!("../../../templates/pt.toml")),
    ("it", include_str!("../../../templates/it.toml")),
    ("nl", include_str!("../../../templates/nl.toml")),
    ("pl", include_str!("../../../templates/pl.toml")),
    ("ja", include_str!("../../../templates/ja.toml")),
    ("ar", include_str!("../../../templates/ar.toml")),
];

named! {
    /// What a mail is for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(crate) enum Purpose: name, ALL {
        #[default]
        Login = "login",
        Signup = "signup",
        Reset = "reset",
        Invite = "invite",
        EmailChange = "email_change",
        /// Any other code.
        Confirm = "confirm",
        PasswordChanged = "password_changed",
        EmailChanged = "email_changed",
        AccountChanged = "account_changed",
    }
}

impl Purpose {
    fn is_notice(self) -> bool {
        matches!(self, Self::PasswordChanged | Self::EmailChanged | Self::AccountChanged)
    }
}

/// Texts that the caller brings in place of the template's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) subject: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) greeting: Option<String>,
    pub(crate) body: Option<String>,
    pub(crate) button: Option<String>,
    pub(crate) footer: Option<String>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Mail<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) code: Option<&'a str>,
    /// An address with `http` or `https`.
    pub(crate) link: Option<&'a str>,
    pub(crate) app: Option<&'a str>,
    /// As `de-AT`; another language than those that are there means English.
    pub(crate) locale: &'a str,
    pub(crate) life: Duration,
    /// Where the code is to be filled in by itself.
    pub(crate) domain: &'a str,
    pub(crate) texts: Option<&'a Texts>,
}

#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct FilledTemplate {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

#[derive(Clone)]
pub struct Templates(Arc<Set>);

struct Set {
    environment: Environment<'static>,
    languages: Vec<Language>,
    /// As the configuration names it; empty: the built-in ones only.
    folder: String,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Templates({:?})", self.0.folder)
    }
}

impl Default for Templates {
    fn default() -> Self {
        let named = LANGUAGES.map(|(name, text)| NamedFile::built_in(name, text));
        Self::of(&NamedFile::built_in("layout", LAYOUT), &named, String::new()).expect("a test reads what is built in")
    }
}

impl Templates {
    /// Compiles and tries all of them.
    fn of(layout: &NamedFile, named: &[NamedFile], folder: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(
            |name| {
                if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
            },
        );
        environment.set_formatter(written);
        let mut languages = Vec::with_capacity(named.len());
        for file in named {
            languages.push(Language::compiled(file, layout, &mut environment)?);
        }
        let templates = Self(Arc::new(Set { environment, languages, folder }));
        templates.tried()?;
        Ok(templates)
    }

    /// Fills in each mail that there can be, so that a mistake is found before a reader finds it.
    fn tried(&self) -> Result<(), TemplateError> {
        let samples =
            [(Some("481516"), None), (None, Some("https://app.test/")), (Some("4815"), Some("https://app.test/"))];
        for language in &self.0.languages {
            for purpose in Purpose::ALL {
                for ((code, link), app) in
                    samples.into_iter().flat_map(|sample| [(sample, None), (sample, Some("Shop"))])
                {
                    let life = Duration::from_secs(600);
                    let mail = Mail { purpose, code, link, app, life, domain: "app.test", ..Mail::default() };
                    self.filled(language, &mail).map_err(|error| language.fault(&error))?;
                }
            }
            for seconds in [0, 1, 2, 3, 5, 11, 22, 101, 3600, 7200] {
                self.span(language, Duration::from_secs(seconds)).map_err(|error| language.fault(&error))?;
            }
        }
        Ok(())
    }

    /// Where own ones lie; empty: nowhere.
    pub(crate) fn folder(&self) -> &str {
        &self.0.folder
    }

    pub(crate) fn fill(&self, mail: &Mail<'_>) -> FilledTemplate {
        self.filled(self.language(mail.locale), mail).unwrap_or_else(|error| {
            // A text of the mail's own can use up what a template may take.
            tracing::warn!(fault = ?error.kind(), "a template cannot be filled in; the code goes by itself");
            let code = mail.code.or(mail.link).unwrap_or_default();
            FilledTemplate {
                subject: mail.app.unwrap_or(code).to_owned(),
                text: format!("{code}\n"),
                html: String::new(),
            }
        })
    }

    /// The language of a locale such as `de-AT`: that of just this name, else that of its first part, else the first.
    fn language(&self, locale: &str) -> &Language {
        let locale = locale.replace('_', "-");
        let first = locale.split('-').next().unwrap_or_default();
        let by_name = |name: &str| self.0.languages.iter().find(|language| language.name.eq_ignore_ascii_case(name));
        by_name(&locale).or_else(|| by_name(first)).unwrap_or(&self.0.languages[0])
    }

    fn filled(&self, language: &Language, mail: &Mail<'_>) -> Result<FilledTemplate, Error> {
        let own = mail.texts.cloned().unwrap_or_default();
        let life = self.span(language, mail.life)?;
        let known = context! { code => mail.code.unwrap_or_default(), app => mail.app, life => life };
        let word = |name: &str| self.rendered(language, name, &known);
        let title = own.title.map_or_else(|| word(&format!("titles.{}", mail.purpose.name())), Ok)?;
        let subject = match (own.subject, mail.code) {
            (Some(subject), _) => subject,
            (None, Some(_)) => word("code_subject")?,
            (None, None) => title.clone(),
        };
        let warning = match own.footer {
            Some(footer) => footer,
            None if mail.purpose.is_notice() => word("notice_warning")?,
            None => word(if mail.code.is_some() { "warning" } else { "link_warning" })?,
        };
        let is_usable = mail.code.is_some() || mail.link.is_some() && !mail.purpose.is_notice();
        let values = context! {
            language => &language.name,
            direction => language.direction,
            has_title => mail.purpose != Purpose::Login || mail.code.is_none(),
            title => title,
            code => mail.code.unwrap_or_default(),
            code_intro => word("code_intro")?,
            link => mail.link.unwrap_or_default(),
            link_intro => word("link_intro")?,
            button => own.button.map_or_else(|| word("button"), Ok)?,
            valid => if is_usable { word("valid")? } else { String::new() },
            warning => warning,
            greeting => own.greeting.unwrap_or_default(),
            body => own.body.unwrap_or_default(),
            domain => mail.domain,
            autofill => mail.code.map_or_else(String::new, |code| autofill(mail.domain, code)),
        };
        Ok(FilledTemplate {
            subject,
            text: self.rendered(language, "text", &values)?,
            html: self.rendered(language, "html.html", &values)?,
        })
    }

    fn rendered(&self, language: &Language, name: &str, values: &Value) -> Result<String, Error> {
        self.0.environment.get_template(&format!("{}/{name}", language.name))?.render(values)
    }

    /// A span in the largest unit that is exact.
    fn span(&self, language: &Language, span: Duration) -> Result<String, Error> {
        let (count, unit) = match span.as_secs() {
            s if s >= 3600 && s.is_multiple_of(3600) => (s / 3600, "hour"),
            s if s >= 60 && s.is_multiple_of(60) => (s / 60, "minute"),
            s => (s, "second"),
        };
        let index = self.rendered(language, "units.plural", &context! { n => count })?;
        self.rendered(language, &format!("units.{unit}.{}", index.trim()), &context! { n => count })
    }
}

/// Apple's and Android's form of a code that belongs to a domain: nothing else fills it in elsewhere.
fn autofill(domain: &str, code: &str) -> String {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    format!("@{domain} #{code}")
}

/// As minijinja writes values, but for `/`, which is no danger in HTML and a sign of spam where it is hidden.
fn written(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::Html) || value.is_safe() {
        return minijinja::escape_formatter(out, state, value);
    }
    let text = value.to_string();
    for c in text.chars() {
        let written = match c {
            '&' => out.write_str("&amp;"),
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '"' => out.write_str("&quot;"),
            '\'' => out.write_str("&#39;"),
            '\n' => out.write_str("<br>\n"),
            _ => out.write_char(c),
        };
        written.map_err(|error| Error::new(minijinja::ErrorKind::WriteFailure, error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
