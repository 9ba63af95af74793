//! Hooks of identity servers over real sockets: what they send, what they hear, and what arrives.

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};

use crate::support::fake_mx::FakeMx;
use crate::support::http::{Answer, Http};
use crate::support::{Events, start_relay};

const SECRET: &[u8] = b"0123456789abcdef01234567";

struct Bench {
    relay: Relay,
    events: Events,
    mx: FakeMx,
    http: Http,
    operator: Http,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(&["PIPELINING", "8BITMIME", "SIZE 10000000"]).await;
        let secret = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        };
        secret("supabase", format!("v1,whsec_{}\n", STANDARD.encode(SECRET)));
        secret("logto", "Bearer logto-value\n".to_owned());
        secret("zitadel", "zitadel-signing-key\n".to_owned());
        let mut more = format!(
            "[[user]]\nname = \"shop\"\ntoken_hash = \"{}\"\nsenders = [\"*@shop.test\"]\nsupersede = \"off\"\n",
            token_hash("token")
        );
        for kind in ["supabase", "logto", "zitadel"] {
            more += &format!(
                "[[hook]]\nname = \"{kind}\"\nkind = \"{kind}\"\nuser = \"shop\"\nfrom = \"Shop <otp@shop.test>\"\n\
                 app = \"Example Shop\"\nsecret_file = \"{kind}\"\nlife = \"5m\"\n"
            );
        }
        let (relay, events) = start_relay(folder.path(), mx.address, &more);
        let address = relay.http_address().unwrap();
        let operator = std::fs::read_to_string(folder.path().join("data/api.token")).unwrap();
        let http = |token: &str| Http { address, token: token.to_owned() };
        Self { relay, events, mx, http: http(""), operator: http(operator.trim()), _folder: folder }
    }

    async fn supabase(&self, id: &str, body: &Value) -> Answer {
        let (body, now) = (body.to_string(), now());
        let signed = [id.as_bytes(), b".", now.as_bytes(), b".", body.as_bytes()].concat();
        let signature = STANDARD.encode(hmac::sign(&hmac::Key::new(HMAC_SHA256, SECRET), &signed));
        let fields = format!("webhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: v1,{signature}\r\n");
        self.http.ask("POST", "/v1/hooks/supabase", &fields, &body).await
    }

    async fn logto(&self, body: &Value) -> Answer {
        self.http.ask("POST", "/v1/hooks/logto", "Authorization: Bearer logto-value\r\n", &body.to_string()).await
    }

    async fn zitadel(&self, body: &Value) -> Answer {
        let (body, now) = (body.to_string(), now());
        let key = hmac::Key::new(HMAC_SHA256, b"zitadel-signing-key");
        let mac = hmac::sign(&key, format!("{now}.{body}").as_bytes());
        let hex: String = mac.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
        let fields = format!("ZITADEL-Signature: t={now},v1={hex}\r\n");
        self.http.ask("POST", "/v1/hooks/zitadel", &fields, &body).await
    }

    /// Recipient, subject and text of all mails that came.
    fn mails(&self) -> Vec<(String, String, String)> {
        let of = |received: crate::support::fake_mx::Received| {
            let mail = mail_parser::MessageParser::default().parse(&received.content).unwrap();
            let to = mail.to().unwrap().first().unwrap().address().unwrap().to_owned();
            (to, mail.subject().unwrap().to_owned(), mail.body_text(0).unwrap().into_owned())
        };
        self.mx.received().into_iter().map(of).collect()
    }
}

fn now() -> String {
    let elapsed = std::time::UNIX_EPOCH.elapsed().unwrap();
    elapsed.as_secs().to_string()
}

fn signup(to: &str, code: &str) -> Value {
    json!({
        "metadata": {"uuid": "8484b834", "time": "2026-11-21T10:00:00Z", "name": "send-email", "ip_address": "192.0.2.7"},
        "user": {"id": "8484b834", "email": to, "user_metadata": {"lang": "de"}},
        "email_data": {"token": code, "token_hash": format!("hash-of-{code}"), "redirect_to": "http://localhost:3000",
            "email_action_type": "signup", "site_url": "https://auth.shop.test", "token_new": "", "token_hash_new": ""},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_code_becomes_a_mail() {
    let mut bench = Bench::new().await;
    let answer = bench.supabase("msg_1", &signup("alice@example.test", "481516")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{answer:?}");
    assert_eq!(answer.field("content-type"), "application/json");
    let delivered = bench.events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.tag.as_deref(), delivered.head.lane.name()), (Some("signup"), "otp"));
    assert_eq!(delivered.head.expires_at.since(delivered.head.time).as_secs().div_ceil(60), 5, "the server's own life");
    let body = json!({"to": "bob@example.test", "type": "ForgotPassword", "payload": {"code": "911119", "locale": "fr"}, "ip": "192.0.2.7"});
    let answer = bench.logto(&body).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
    assert_eq!(bench.events.next(Kind::Delivered).await.head.lane.name(), "reset");
    let body = json!({
        "contextInfo": {"eventType": "user.human.email.code.added", "provider": {"id": "1"}, "recipientEmailAddress": "carol@example.test"},
        "templateData": {"title": "E-Mail verifizieren", "subject": "Bitte verifizieren", "greeting": "Hallo Carol,",
            "text": "Code 777888", "url": "https://auth.shop.test/verify?code=777888", "buttonText": "Verifizieren"},
        "args": {"code": "777888", "firstName": "Carol"},
    });
    let answer = bench.zitadel(&body).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
    bench.events.next(Kind::Delivered).await;
    let mails = bench.mails();
    assert_eq!(mails[0].1, "481516 ist Ihr Code f\u{fc}r Example Shop");
    assert!(mails[0].2.contains(
        "https://auth.shop.test/verify?token=hash%2Dof%2D481516&type=signup&redirect_to=http%3A%2F%2Flocalhost%3A3000"
    ));
    assert_eq!(mails[1].1, "911119 est votre code pour Example Shop");
    assert_eq!(mails[2].1, "Bitte verifizieren");
    assert!(mails[2].2.contains("Hallo Carol,") && mails[2].2.contains("777888"), "{}", mails[2].2);
    bench.relay.shut_down().await;
}

/// Callers ask again where an answer was lost, each time with another id.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_the_same_message_and_a_newer_code_another() {
    let mut bench = Bench::new().await;
    for id in ["msg_1", "msg_2", "msg_3"] {
        assert_eq!(bench.supabase(id, &signup("alice@example.test", "481516")).await.status, 200);
    }
    bench.events.next(Kind::Delivered).await;
    assert_eq!(bench.supabase("msg_4", &signup("alice@example.test", "999999")).await.status, 200);
    bench.events.next(Kind::Delivered).await;
    let subjects: Vec<String> = bench.mails().into_iter().map(|(_, subject, _)| subject).collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_address_sends_two_mails_or_none() {
    let mut bench = Bench::new().await;
    let mut body = signup("old@example.test", "111111");
    body["user"]["new_email"] = json!("new@example.test");
    let data = json!({"email_action_type": "email_change", "token_new": "222222", "token_hash": "for-new", "token_hash_new": "for-old"});
    body["email_data"].as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    assert_eq!(bench.supabase("msg_1", &body).await.body, "{}");
    bench.events.next(Kind::Delivered).await;
    bench.events.next(Kind::Delivered).await;
    let mut mails = bench.mails();
    mails.sort();
    assert!(mails[0].0 == "new@example.test" && mails[0].2.starts_with("222222") && mails[0].2.contains("for%2Dnew"));
    assert!(mails[1].0 == "old@example.test" && mails[1].2.starts_with("111111") && mails[1].2.contains("for%2Dold"));
    assert_eq!(bench.operator.ask("PUT", "/v1/suppressions/gone@example.test", "", "{}").await.status, 200);
    body["user"]["new_email"] = json!("gone@example.test");
    let refused = bench.supabase("msg_2", &body).await;
    assert_eq!((refused.status, &refused.json()["error"]["http_code"]), (200, &json!(422)), "{refused:?}");
    assert_eq!(bench.relay.queue().depth().messages, 0, "neither is sent");
    assert_eq!(bench.mails().len(), 2);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_shape_of_their_caller() {
    let mut bench = Bench::new().await;
    // Without a proof nobody learns anything.
    let body = signup("alice@example.test", "481516").to_string();
    for (path, fields) in [
        ("/v1/hooks/supabase", ""),
        ("/v1/hooks/supabase", "webhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,AAAA\r\n"),
        ("/v1/hooks/logto", "Authorization: Bearer wrong-value\r\n"),
        ("/v1/hooks/logto", "Authorization: Bearer token\r\n"),
        ("/v1/hooks/zitadel", "ZITADEL-Signature: t=1,v1=00\r\n"),
    ] {
        let answer = bench.http.ask("POST", path, fields, &body).await;
        assert_eq!((answer.status, answer.body.lines().count()), (401, 1), "{path} {fields} {answer:?}");
        assert!(answer.field("retry-after").is_empty());
    }
    assert_eq!(bench.http.ask("POST", "/v1/hooks/other", "", &body).await.status, 404);
    assert_eq!(bench.http.ask("POST", "/v1/hooks/logto", "", &"x".repeat(70_000)).await.status, 413);
    assert_eq!(bench.http.ask("GET", "/v1/hooks/logto", "", "").await.status, 405);
    let unreadable = bench.supabase("msg_1", &json!({"user": {}})).await;
    assert_eq!((unreadable.status, &unreadable.json()["error"]["http_code"]), (200, &json!(422)));
    let answer = bench.logto(&json!({"to": "alice@example.test", "type": "SignIn", "payload": {}})).await;
    assert_eq!((answer.status, answer.body.lines().count()), (422, 1), "{answer:?}");
    // The budget, for the user's eyes.
    for code in 0..5 {
        assert_eq!(bench.supabase("m", &signup("many@example.test", &format!("48151{code}"))).await.body, "{}");
        // One that has not left gives its place back to the newer one.
        bench.events.next(Kind::Delivered).await;
    }
    let refused = bench.supabase("m", &signup("many@example.test", "481519")).await;
    assert_eq!((refused.status, &refused.json()["error"]["http_code"]), (200, &json!(429)), "{refused:?}");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("5 codes"), "{refused:?}");
    let body = json!({"to": "many@example.test", "type": "SignIn", "payload": {"code": "481519"}});
    let refused = bench.logto(&body).await;
    assert_eq!((refused.status, refused.field("retry-after").is_empty()), (429, false), "{refused:?}");
    bench.relay.shut_down().await;
}
