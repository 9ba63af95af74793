//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::Path;

use crate::base::named::named;
use crate::base::text::one_line;

named! {
    /// How bad a finding is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Severity: name {
        /// Worth knowing.
        Note = "note",
        /// The relay runs, but perhaps not as intended.
        Warning = "warning",
        /// The relay does not start.
        Error = "error",
    }
}

/// One thing to know, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file, if it is about a place in it; from 1.
    pub line: Option<usize>,
    /// What it is, with how to mend it.
    pub text: String,
}

/// The findings of one configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, severity: Severity, line: Option<usize>, text: impl Into<String>) {
        self.0.push(Finding { severity, line, text: text.into() });
    }

    /// Whether the relay cannot start like this.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The findings in the order of the file, those without a line last, one a line.
    pub fn lines(&self, path: Option<&Path>) -> Vec<String> {
        let mut sorted: Vec<&Finding> = self.0.iter().collect();
        sorted.sort_by_key(|finding| (finding.line.unwrap_or(usize::MAX), std::cmp::Reverse(finding.severity)));
        let file = path.map(|path| path.display().to_string());
        sorted
            .into_iter()
            .map(|finding| match (&file, finding.line) {
                (Some(file), Some(line)) => format!("{}: {file}:{line}: {}", finding.severity.name(), finding.text),
                _ => format!("{}: {}", finding.severity.name(), finding.text),
            })
            .map(|line| one_line(&line).into_owned())
            .collect()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(None).join("\n"))
    }
}
