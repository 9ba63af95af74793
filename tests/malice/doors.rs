//! A relay with both of its doors open to the same app, and a mail host that answers as it is told.

use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::{Answer, Http};
use crate::support::{Events, start_relay};

const HOST: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8"];

/// The relay, from both sides.
pub struct Doors {
    pub relay: Relay,
    pub events: Events,
    pub mx: FakeMx,
    pub smtp: Client,
    pub shop: Http,
    pub bank: Http,
    _folder: tempfile::TempDir,
}

impl Doors {
    /// `more` is added to the configuration.
    pub async fn open(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(HOST).await;
        let user = |name: &str| {
            let hash = token_hash(&format!("token of {name}"));
            format!(
                "[[user]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@{name}.test\", \"*@gone.test\"]\n"
            )
        };
        let more = format!("{}{}{more}", user("shop"), user("bank"));
        let (relay, events) = start_relay(folder.path(), mx.address, &more);
        let smtp = Client::connect(relay.addresses()[0]).await;
        let address = relay.http_address().unwrap();
        let http = |name: &str| Http { address, token: format!("token of {name}") };
        Self { relay, events, mx, smtp, shop: http("shop"), bank: http("bank"), _folder: folder }
    }

    /// The mail host answers the next `times` RCPTs for this recipient so.
    pub fn refuse(&self, recipient: &str, reply: &'static str, times: usize) {
        self.mx.trick(format!("RCPT TO:<{recipient}").leak(), Trick::Say(reply), times);
    }

    /// What RCPT is told; nothing is sent.
    pub async fn rcpt(&mut self, recipient: &str) -> String {
        self.smtp.say("RSET").await;
        let utf8 = if recipient.is_ascii() { "" } else { " SMTPUTF8" };
        assert!(self.smtp.say(&format!("MAIL FROM:<otp@app.test>{utf8}")).await.starts_with("250"));
        self.smtp.say(&format!("RCPT TO:<{recipient}>")).await
    }

    /// A code over SMTP; the reply to RCPT if that refuses it, else to the content.
    pub async fn code(&mut self, recipient: &str) -> String {
        let reply = self.rcpt(recipient).await;
        if !reply.starts_with("250") {
            return reply;
        }
        assert!(self.smtp.say("DATA").await.starts_with("354"));
        self.smtp.say(&format!("{}\r\n.", mail("one"))).await
    }

    /// A code over HTTP.
    pub async fn http_code(&self, recipient: &str) -> Answer {
        self.shop.post("/v1/messages", letter("shop", recipient)).await
    }

    /// A code over SMTP that is taken and ends so.
    pub async fn ends(&mut self, recipient: &str, kind: Kind) -> Event {
        let reply = self.code(recipient).await;
        assert!(reply.starts_with("250"), "{recipient}: {reply}");
        self.end(recipient, kind).await
    }

    /// The end of a code that was taken.
    pub async fn end(&mut self, recipient: &str, kind: Kind) -> Event {
        loop {
            let event = self.events.next_end().await;
            if event.head.recipient.as_ref().is_some_and(|mailbox| mailbox.as_str() == recipient) {
                assert_eq!(event.kind(), kind, "{recipient}: {:?}", event.reply());
                return event;
            }
        }
    }

    /// Codes to these addresses are taken at both doors and arrive.
    pub async fn pass(&mut self, recipients: &[&str]) {
        for recipient in recipients {
            self.ends(recipient, Kind::Delivered).await;
            let answer = self.http_code(recipient).await;
            assert_eq!(answer.status, 202, "{recipient}: {}", answer.body);
            self.end(recipient, Kind::Delivered).await;
        }
    }
}

/// What a user posts.
pub fn letter(user: &str, recipient: &str) -> Value {
    json!({"from": format!("otp@{user}.test"), "to": recipient, "subject": "one", "text": "It is 481516.\n"})
}
