//! The file of a language: read, laid over what is built in, and compiled.

use std::collections::BTreeMap;

use minijinja::{Environment, Error};
use serde::Deserialize;

use super::Purpose;

/// Which file cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {text}")]
pub(crate) struct TemplateError {
    pub(super) file: String,
    pub(super) text: String,
}

pub(super) struct NamedFile {
    pub(super) file: String,
    pub(super) table: toml::Table,
}

impl NamedFile {
    pub(super) fn built_in(name: &str, text: &str) -> Self {
        Self { file: format!("{name}.toml"), table: text.parse().expect("a test reads what is built in") }
    }

    /// Laid over another file: what it does not say itself, that one says.
    pub(super) fn over(mut self, below: &toml::Table) -> Self {
        for (key, value) in below {
            match (self.table.get_mut(key), value) {
                (None, value) => _ = self.table.insert(key.clone(), value.clone()),
                (Some(toml::Value::Table(own)), toml::Value::Table(below)) => {
                    for (key, value) in below {
                        own.entry(key).or_insert_with(|| value.clone());
                    }
                }
                (Some(_), _) => {}
            }
        }
        self
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    language: String,
    direction: Direction,
    code_subject: String,
    code_intro: String,
    link_intro: String,
    button: String,
    valid: String,
    warning: String,
    link_warning: String,
    notice_warning: String,
    titles: BTreeMap<String, String>,
    units: Units,
    text: String,
    html: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Ltr,
    Rtl,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Units {
    /// An expression over `n`: which form of a unit it takes, from 0.
    plural: String,
    second: Vec<String>,
    minute: Vec<String>,
    hour: Vec<String>,
}

/// A language whose words are compiled, under its name.
pub(super) struct Language {
    pub(super) name: String,
    pub(super) direction: &'static str,
    file: String,
}

impl Language {
    pub(super) fn compiled(
        named: &NamedFile,
        layout: &NamedFile,
        environment: &mut Environment<'static>,
    ) -> Result<Self, TemplateError> {
        let fault = |text: String| TemplateError { file: named.file.clone(), text };
        let whole = NamedFile { file: named.file.clone(), table: named.table.clone() }.over(&layout.table);
        let words: Words =
            whole.table.try_into().map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if words.language.is_empty() || words.language.len() > 35 || !words.language.chars().all(is_name) {
            return Err(fault("language: a name like \"en\" or \"pt-BR\" is needed".to_owned()));
        }
        if let Some(unknown) =
            words.titles.keys().find(|title| Purpose::ALL.iter().all(|known| known.name() != **title))
        {
            return Err(fault(format!("titles.{unknown}: unknown; there are {}", purposes())));
        }
        if let Some(missing) = Purpose::ALL.iter().find(|purpose| !words.titles.contains_key(purpose.name())) {
            return Err(fault(format!("titles.{}: is missing", missing.name())));
        }
        let direction = match words.direction {
            Direction::Ltr => "ltr",
            Direction::Rtl => "rtl",
        };
        let name = words.language.clone();
        for (key, text) in words.templates() {
            let added = environment.add_template_owned(format!("{name}/{key}"), text);
            added.map_err(|error| fault(format!("{key}: {error}")))?;
        }
        Ok(Self { name, direction, file: named.file.clone() })
    }

    pub(super) fn fault(&self, error: &Error) -> TemplateError {
        let place = error.name().and_then(|name| name.split_once('/')).map_or("", |(_, key)| key);
        TemplateError { file: self.file.clone(), text: format!("{}: {error}", place.trim_end_matches(".html")) }
    }
}

impl Words {
    /// Each text with its name.
    fn templates(self) -> Vec<(String, String)> {
        let mut templates: Vec<(String, String)> = [
            ("code_subject", self.code_subject),
            ("code_intro", self.code_intro),
            ("link_intro", self.link_intro),
            ("button", self.button),
            ("valid", self.valid),
            ("warning", self.warning),
            ("link_warning", self.link_warning),
            ("notice_warning", self.notice_warning),
            ("text", self.text),
            ("html.html", self.html),
            ("units.plural", format!("{{{{ {} }}}}", self.units.plural)),
        ]
        .map(|(key, text)| (key.to_owned(), text))
        .into();
        templates.extend(self.titles.into_iter().map(|(key, text)| (format!("titles.{key}"), text)));
        let units = [("second", self.units.second), ("minute", self.units.minute), ("hour", self.units.hour)];
        for (unit, forms) in units {
            let named = forms.into_iter().enumerate().map(|(index, form)| (format!("units.{unit}.{index}"), form));
            templates.extend(named);
        }
        templates
    }
}

fn purposes() -> String {
    Purpose::ALL.map(Purpose::name).join(", ")
}
