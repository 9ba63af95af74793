//! Which command does what, and what EHLO offers.

use std::time::Instant;

use super::{ServerSession, State, Step};
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::{self, EnhancedCode, Reply};

impl ServerSession {
    pub(super) fn command(&mut self, command: Command, more_follows: bool, now: Instant) -> Option<Step> {
        match command {
            Command::Ehlo(name) => self.ehlo(name),
            Command::Helo(name) => self.helo(name),
            Command::StartTls => self.starttls(more_follows),
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial.as_deref()),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Data => self.data(now),
            Command::Bdat { size, last } => self.bdat(size, last, now),
            Command::Rset => {
                self.state = State::Ready;
                self.say(&reply::OK)
            }
            Command::Noop => self.say(&reply::OK),
            Command::Vrfy | Command::Expn => self.say(&reply::CANNOT_VERIFY),
            Command::Help => self.say(&reply::HELP),
            Command::Quit => Some(self.refuse_all(&reply::BYE)),
        }
    }

    fn ehlo(&mut self, name: String) -> Option<Step> {
        self.state = State::Ready;
        self.client_name = Some(name);
        self.extended = true;
        let settings = &self.settings;
        let mut lines = vec![
            settings.hostname.clone(),
            "PIPELINING".to_owned(),
            format!("SIZE {}", settings.message_size_max),
            "8BITMIME".to_owned(),
            "SMTPUTF8".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
            "CHUNKING".to_owned(),
            "DSN".to_owned(),
            format!("DELIVERBY {}", settings.deliver_by.0.as_secs()),
            "MT-PRIORITY".to_owned(),
            format!("LIMITS RCPTMAX={}", settings.recipients_max),
        ];
        if settings.starttls && !self.peer.encrypted {
            lines.push("STARTTLS".to_owned());
        }
        if self.peer.encrypted {
            lines.push("REQUIRETLS".to_owned());
        }
        if self.may_authenticate() {
            lines.push(format!("AUTH {}", self.mechanisms().join(" ")));
        }
        self.say(&Reply::plain(250, lines.join("\n")))
    }

    fn helo(&mut self, name: String) -> Option<Step> {
        self.state = State::Ready;
        self.client_name = Some(name);
        self.extended = false;
        self.say(&Reply::plain(250, self.settings.hostname.clone()))
    }
}

pub(super) fn command_error(error: CommandError) -> Reply {
    match error {
        CommandError::UnknownVerb => reply::UNKNOWN_COMMAND,
        CommandError::Syntax(text) | CommandError::Parameter(text) => Reply::new(501, EnhancedCode(5, 5, 4), text),
        CommandError::UnknownParameter => reply::UNKNOWN_PARAMETER,
        CommandError::Path(error) => Reply::new(501, EnhancedCode(5, 1, 3), error.to_string()),
        CommandError::ReversePath(error) => Reply::new(501, EnhancedCode(5, 1, 7), error.to_string()),
        CommandError::Postmaster => reply::NO_POSTMASTER,
        CommandError::NeedsSmtpUtf8 => reply::SMTPUTF8_NEEDED,
        CommandError::NotBase64 => reply::NOT_BASE64,
        CommandError::ChunkSize => Reply::new(501, EnhancedCode(5, 5, 4), "expected BDAT size [LAST]"),
    }
}
