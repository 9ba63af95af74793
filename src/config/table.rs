//! What a table of keys is: from it follow reading, printing, and what a reload takes on.

use super::file::Section;
use super::kinds::Kind;

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    /// With SIGHUP.
    Live,
    Restart,
}

/// What the commented file says behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommentForm {
    /// The default, in the usual form.
    Default,
    /// The default, in this form.
    As(&'static str),
    /// An example: there is no default that is the same everywhere.
    Example(&'static str),
}

/// Where a value is among the settings `S`.
pub(super) struct Accessor<S, T> {
    pub(super) get: fn(&S) -> &T,
    pub(super) get_mut: fn(&mut S) -> &mut T,
}

/// The keys of a table, a row each: the name, where the value is among the settings, its kind, when a change takes effect,
/// help; then what else there is to say.
macro_rules! keys {
    ($settings:ty; $($name:ident => $($field:ident).+, $kind:expr, $reload:ident, $help:literal $(.$more:ident($text:expr))*;)+) => {
        vec![$({
            let place = $crate::config::table::Accessor::<$settings, _> {
                get: |settings| &settings.$($field).+,
                get_mut: |settings| &mut settings.$($field).+,
            };
            $crate::config::table::key(stringify!($name), place, $kind, $reload, $help)$(.$more($text))*
        }),+]
    };
}
pub(super) use keys;

/// A key with its value's type left out.
trait Field<S> {
    fn read(&self, section: &Section<'_>, key: &'static str, settings: &mut S);
    fn write(&self, settings: &S) -> Option<String>;
    fn copy(&self, from: &S, to: &mut S);
}

struct Bound<S, T, K> {
    place: Accessor<S, T>,
    kind: K,
}

impl<S, T: Clone, K: Kind<T>> Field<S> for Bound<S, T, K> {
    fn read(&self, section: &Section<'_>, key: &'static str, settings: &mut S) {
        if let Some(value) = self.kind.read(section, key) {
            *(self.place.get_mut)(settings) = value;
        }
    }

    fn write(&self, settings: &S) -> Option<String> {
        self.kind.write((self.place.get)(settings))
    }

    fn copy(&self, from: &S, to: &mut S) {
        *(self.place.get_mut)(to) = (self.place.get)(from).clone();
    }
}

pub(super) struct Key<S> {
    /// As the file writes it.
    pub(super) name: &'static str,
    /// What the commented file says about it.
    pub(super) help: &'static str,
    /// What the commented file says behind it.
    written: CommentForm,
    /// When a change takes effect.
    pub(super) reload: Reload,
    /// What to say where it is missing; none: it need not be there.
    required: Option<&'static str>,
    field: Box<dyn Field<S>>,
}

/// A key whose default is that of the settings.
pub(super) fn key<S: 'static, T: Clone + 'static>(
    name: &'static str,
    place: Accessor<S, T>,
    kind: impl Kind<T> + 'static,
    reload: Reload,
    help: &'static str,
) -> Key<S> {
    Key { name, help, written: CommentForm::Default, reload, required: None, field: Box::new(Bound { place, kind }) }
}

impl<S> Key<S> {
    /// With this in the commented file, in place of the default.
    pub(super) fn example(self, text: &'static str) -> Self {
        Self { written: CommentForm::Example(text), ..self }
    }

    /// With the default in this form.
    pub(super) fn written(self, text: &'static str) -> Self {
        Self { written: CommentForm::As(text), ..self }
    }

    /// It has to be there.
    pub(super) fn required(self, text: &'static str) -> Self {
        Self { required: Some(text), ..self }
    }

    /// Its value as the file would write it; none where that is a secret, or the file has no word for it.
    pub(super) fn write(&self, settings: &S) -> Option<String> {
        self.field.write(settings)
    }

    /// Takes its value over from other settings.
    pub(super) fn copy(&self, from: &S, to: &mut S) {
        self.field.copy(from, to);
    }

    fn read(&self, section: &Section<'_>, settings: &mut S) {
        if let Some(text) = self.required.filter(|_| !section.has(self.name)) {
            section.error(section.line(), self.name, text);
        }
        self.field.read(section, self.name, settings);
    }
}

/// How often a section can be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// `[name]`.
    Once,
    /// `[[name]]`.
    Many,
}

pub(super) struct Table<S> {
    /// As between the brackets; empty for the top of the file.
    pub(super) name: &'static str,
    pub(super) times: Times,
    /// What the commented file says about it.
    pub(super) help: &'static str,
    /// What can be in it.
    pub(super) keys: Vec<Key<S>>,
}

/// The value of a key that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// As the file writes it.
    pub(super) name: &'static str,
    /// As the file would write it; none: it is a secret that is set.
    pub(super) value: Option<String>,
}

impl<S> Table<S> {
    /// A section that is there once.
    pub(super) fn once(name: &'static str, help: &'static str, keys: Vec<Key<S>>) -> Self {
        Self { name, times: Times::Once, help, keys }
    }

    /// A section that is there for each of something.
    pub(super) fn many(name: &'static str, help: &'static str, keys: Vec<Key<S>>) -> Self {
        Self { name, times: Times::Many, help, keys }
    }

    /// Fills in what the section says.
    pub(super) fn read(&self, section: &Section<'_>, settings: &mut S) {
        for key in &self.keys {
            key.read(section, settings);
        }
    }

    /// What is in force.
    pub(super) fn rows(&self, section: &Section<'_>, settings: &S) -> Vec<Row> {
        let row = |key: &Key<S>| {
            let value = key.write(settings);
            (value.is_some() || section.has(key.name)).then_some(Row { name: key.name, value })
        };
        self.keys.iter().filter_map(row).collect()
    }

    /// The heading as the file writes it; empty for the top.
    pub(super) fn heading(&self) -> String {
        heading(self.name, self.times)
    }

    /// When changes take effect; none if that differs from key to key.
    fn reload(&self) -> Option<Reload> {
        let first = self.keys.first()?.reload;
        self.keys.iter().all(|key| key.reload == first).then_some(first)
    }
}

/// `[name]` or `[[name]]`; empty for the top.
pub(super) fn heading(name: &str, times: Times) -> String {
    match times {
        _ if name.is_empty() => String::new(),
        Times::Once => format!("[{name}]"),
        Times::Many => format!("[[{name}]]"),
    }
}

/// A section with the type of its settings left out, for whoever prints.
pub(super) struct SectionDescription {
    /// `[name]` or `[[name]]`; empty for the top.
    pub(super) heading: String,
    /// What is said about it.
    pub(super) help: &'static str,
    /// When changes of all its keys take effect, if that is the same.
    pub(super) reload: Option<Reload>,
    pub(super) keys: Vec<DescribedKey>,
}

pub(super) struct DescribedKey {
    /// As the file writes it.
    pub(super) name: &'static str,
    /// What is said about it.
    pub(super) help: &'static str,
    pub(super) value: String,
    /// Whether that is an example, and no default.
    pub(super) is_example: bool,
    /// When a change takes effect.
    pub(super) reload: Reload,
}

impl<S: Default> Table<S> {
    pub(super) fn described(&self) -> SectionDescription {
        let defaults = S::default();
        let described = |key: &Key<S>| DescribedKey {
            name: key.name,
            help: key.help,
            value: match key.written {
                CommentForm::Default => key.write(&defaults).unwrap_or_default(),
                CommentForm::As(text) | CommentForm::Example(text) => text.to_owned(),
            },
            is_example: matches!(key.written, CommentForm::Example(_)),
            reload: key.reload,
        };
        let keys = self.keys.iter().map(described).collect();
        SectionDescription { heading: self.heading(), help: self.help, reload: self.reload(), keys }
    }
}
