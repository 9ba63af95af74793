//! STARTTLS (RFC 3207) and AUTH (RFC 4954).

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::{Access, ServerSession, State, Step};
use crate::smtp::reply::{self, EnhancedCode, Reply};
use crate::smtp::sasl::{Exchange, MECHANISMS, Progress, ScramVerifier};

impl ServerSession {
    /// A password must not cross a network in clear text.
    pub(super) fn may_authenticate(&self) -> bool {
        self.peer.encrypted || self.peer.loopback || self.peer.access == Access::Anybody
    }

    /// SCRAM proves that the server knows the password, too, which one that takes any does not.
    pub(super) fn mechanisms(&self) -> &'static [&'static str] {
        match self.peer.access {
            Access::AuthenticationRequired | Access::Trusted => &MECHANISMS,
            Access::Anybody => &["PLAIN", "LOGIN"],
        }
    }

    pub(super) fn starttls(&mut self, more_follows: bool) -> Option<Step> {
        if !self.settings.starttls || self.peer.encrypted || self.in_transaction() {
            return self.refuse(&reply::BAD_SEQUENCE);
        }
        if more_follows {
            // Commands sent in clear text behind STARTTLS would be carried out as if they had come encrypted.
            let reply = Reply::new(554, EnhancedCode(5, 5, 1), "nothing may follow STARTTLS before the handshake");
            return Some(self.drain(&reply));
        }
        self.reply(&Reply::new(220, EnhancedCode(2, 0, 0), "ready to start TLS"));
        self.state = State::AwaitTls;
        Some(Step::StartTls)
    }

    /// RFC 3207 section 4.2: what was said before the handshake is forgotten.
    pub(super) fn tls_established(&mut self, now: Instant) {
        self.peer.encrypted = true;
        self.client_name = None;
        self.user = None;
        self.input.clear();
        self.state = State::Ready;
        self.waiting_since = now;
    }

    pub(super) fn auth(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Option<Step> {
        if self.client_name.is_none() || !self.extended {
            return self.refuse(&reply::EHLO_FIRST);
        }
        if self.user.is_some() || self.in_transaction() {
            return self.refuse(&reply::BAD_SEQUENCE);
        }
        if !self.may_authenticate() {
            return self.refuse(&reply::ENCRYPTION_REQUIRED);
        }
        let is_offered = self.mechanisms().iter().any(|offered| offered.eq_ignore_ascii_case(mechanism));
        let Some((exchange, progress)) = Exchange::start(mechanism, initial).filter(|_| is_offered) else {
            return self.refuse(&reply::UNKNOWN_MECHANISM);
        };
        self.sasl_progress(exchange, progress)
    }

    pub(super) fn sasl_line(&mut self, line: &[u8]) -> Option<Step> {
        let State::Sasl(mut exchange) = std::mem::replace(&mut self.state, State::Ready) else {
            return None;
        };
        if line == b"*" {
            return self.refuse(&reply::AUTHENTICATION_CANCELLED);
        }
        let mut decoded = Zeroizing::new(Vec::new());
        if BASE64.decode_vec(line, &mut decoded).is_err() {
            return self.refuse(&reply::NOT_BASE64);
        }
        let progress = exchange.respond(&decoded);
        self.sasl_progress(exchange, progress)
    }

    pub(super) fn sasl_progress(&mut self, exchange: Exchange, progress: Progress) -> Option<Step> {
        match progress {
            Progress::Challenge(challenge) => {
                self.state = State::Sasl(exchange);
                self.say(&Reply::plain(334, BASE64.encode(challenge)))
            }
            Progress::CheckPassword { user, password } => {
                self.state = State::AwaitAuthentication(None);
                self.user = Some(user.clone());
                Some(Step::CheckPassword { user, password })
            }
            Progress::NeedVerifier { user } => {
                self.state = State::AwaitAuthentication(Some(exchange));
                Some(Step::NeedVerifier { user })
            }
            Progress::Proved { user } => {
                self.state = State::AwaitAuthentication(None);
                self.user = Some(user.clone());
                Some(Step::Proved { user, accepted: true })
            }
            Progress::Refused { user } => {
                self.state = State::AwaitAuthentication(None);
                Some(Step::Proved { user, accepted: false })
            }
            Progress::Malformed => {
                self.state = State::Ready;
                self.refuse(&Reply::new(501, EnhancedCode(5, 5, 2), "malformed authentication exchange"))
            }
        }
    }

    pub(super) fn verifier(&mut self, verifier: ScramVerifier, nonce: &str) -> Option<Step> {
        let State::AwaitAuthentication(Some(mut exchange)) = std::mem::replace(&mut self.state, State::Ready) else {
            return None;
        };
        let progress = exchange.verifier(verifier, nonce);
        self.sasl_progress(exchange, progress)
    }

    pub(super) fn authenticated(&mut self, result: Result<(), Reply>, now: Instant) -> Option<Step> {
        self.state = State::Ready;
        self.waiting_since = now;
        match result {
            Ok(()) => {
                self.idle_commands = 0;
                self.say(&reply::AUTHENTICATED)
            }
            Err(reply) => {
                self.user = None;
                if reply.code == 421 { Some(self.refuse_all(&reply)) } else { self.refuse(&reply) }
            }
        }
    }
}
