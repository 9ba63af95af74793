//! How commands end. Scripts and service managers tell the ways apart by the exit status; docs/commands.md lists them.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What `--help` says of them.
pub(super) const HELP: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not delivered, 69 the relay cannot be \
                               reached, 77 not allowed, 78 the configuration is wrong";

/// Why a command did not do what it was asked for. 69, 77 and 78 are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Whatever has no status of its own; errors among the findings of `check`.
    Failed = 1,
    /// The command line cannot be meant like this.
    Usage = 2,
    /// No such message, entry, address or key.
    NotFound = 3,
    /// `send`: it was taken and did not arrive.
    NotDelivered = 4,
    /// No relay answers.
    Unreachable = 69,
    /// Files or ports of others, a wrong token, a sender that is not the user's.
    NotAllowed = 77,
    /// The configuration has errors, or is not there.
    Configuration = 78,
}

impl Exit {
    /// The status of a command that ends with this error.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let failure = error.chain().find_map(|error| error.downcast_ref::<Failure>());
        let is_forbidden = |error: &(dyn std::error::Error + 'static)| {
            error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        match failure {
            Some(failure) => failure.exit,
            None if error.chain().any(is_forbidden) => Self::NotAllowed,
            None => Self::Failed,
        }
    }

    /// An error that ends a command with this status.
    pub(super) fn because(self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        Failure { exit: self, error: error.into() }.into()
    }

    /// The same, in words.
    pub(super) fn saying(self, text: impl Into<String>) -> anyhow::Error {
        self.because(anyhow::Error::msg(text.into()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Gives what went wrong a status.
pub(super) trait OrExit<T> {
    /// The value, or an error that ends the command with this status.
    fn or_exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| exit.because(error))
    }
}

/// An error with its status.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_keeps_its_status_and_its_words() {
        let check = |error: anyhow::Error, exit: Exit, words: &str| {
            assert_eq!((Exit::of(&error), format!("{error:#}").as_str()), (exit, words));
        };
        let denied = || io::Error::new(io::ErrorKind::PermissionDenied, "denied");
        check(anyhow::anyhow!("a"), Exit::Failed, "a");
        check(Exit::NotFound.saying("a"), Exit::NotFound, "a");
        let outer = Err::<(), _>(Exit::Unreachable.saying("a").context("b")).or_exit(Exit::Configuration);
        check(outer.context("c").unwrap_err(), Exit::Configuration, "c: b: a");
        check(Exit::Usage.saying("a").context("b"), Exit::Usage, "b: a");
        check(anyhow::Error::new(denied()).context("b"), Exit::NotAllowed, "b: denied");
        check(Exit::Configuration.because(denied()), Exit::Configuration, "denied");
    }
}
