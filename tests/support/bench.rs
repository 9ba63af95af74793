//! A relay with two users beside `trusted`, and the three ways to ask it.

use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::relay::Relay;

use super::fake_mx::FakeMx;
use super::http::Http;
use super::{Events, start_relay};

pub struct Bench {
    pub relay: Relay,
    pub events: Events,
    pub mx: FakeMx,
    pub operator: Http,
    pub shop: Http,
    pub bank: Http,
    pub folder: tempfile::TempDir,
}

impl Bench {
    /// `own` are further keys of each user, in which NAME stands for its name.
    pub fn on(folder: tempfile::TempDir, mx: FakeMx, own: &str, more: &str) -> Self {
        let user = |name: &str| {
            let (hash, own) = (token_hash(&format!("token of {name}")), own.replace("NAME", name));
            format!("[[user]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\n{own}\n")
        };
        let (relay, events) = start_relay(folder.path(), mx.address, &(user("shop") + &user("bank") + more));
        let address = relay.http_address().unwrap();
        let http = |token: &str| Http { address, token: token.to_owned() };
        let operator = http(std::fs::read_to_string(folder.path().join("data/api.token")).unwrap().trim());
        Self { relay, events, mx, operator, shop: http("token of shop"), bank: http("token of bank"), folder }
    }
}
