//! `otp-relay demo --no-sample` as an app's tests use it: a process, asked over HTTP.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::http::{Answer, Http, Stream};
use crate::support::process::Process;

/// A sandbox of its own for each test, on free ports.
struct Sandbox {
    http: Http,
    smtp: String,
    ready: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Sandbox {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_otp-relay"))
            .args(["demo", "--no-sample", "--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(more)
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let field = |name: &str| {
            let words = ready.split_whitespace();
            words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).unwrap().1.to_owned()
        };
        let http = Http { address: field("http").parse().unwrap(), token: "any".to_owned() };
        Self { http, smtp: field("smtp"), ready, _process: Process(process), _folder: folder }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// Submits a code; returns the answer.
    async fn submit(&self, to: &str, code: &str) -> Answer {
        let body = json!({"from": "otp@shop.example", "to": to, "otp": {"code": code, "app": "Shop"}});
        self.http.post("/v1/messages", body).await
    }

    /// Submits a code that is taken; returns the message's id.
    async fn accept(&self, to: &str, code: &str) -> String {
        let answer = self.submit(to, code).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.id()
    }

    async fn code(&self, to: &str) -> Value {
        self.get(&format!("/sandbox/code?to={to}&wait=20s")).await
    }

    async fn advance(&self, span: &str) {
        let answer = self.http.post("/sandbox/clock", json!({ "advance": span })).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn events(&self, id: &str) -> Stream {
        self.http.follow(&format!("/v1/events?message={id}"), "").await
    }

    /// The events of a message up to its end; at each that puts it off, a minute passes.
    async fn story(&self, id: &str) -> Vec<Value> {
        self.story_in_steps(id, "1m").await
    }

    async fn story_in_steps(&self, id: &str, step: &str) -> Vec<Value> {
        let (mut stream, mut story) = (self.events(id).await, Vec::new());
        while let Some((_, name, event)) = stream.next().await {
            if name == "deferred" || name == "greylisted" {
                self.advance(step).await;
            }
            story.push(event);
        }
        story
    }

    /// The one mail to an address.
    async fn only_mail(&self, to: &str) -> Value {
        let list = self.get(&format!("/sandbox/messages?to={to}")).await;
        let mails = list["messages"].as_array().unwrap();
        assert_eq!(mails.len(), 1, "{list}");
        mails[0].clone()
    }
}

fn names(story: &[Value]) -> Vec<&str> {
    story.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn said<'a>(story: &'a [Value], event: &str) -> Vec<&'a str> {
    let of_kind = story.iter().filter(|known| known["event"] == event);
    of_kind.map(|event| event["reply"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn greylisted_waits_from_the_first_try() {
    let sandbox = Sandbox::start();
    let to = "greylisted-30s.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    let story = sandbox.story(&id).await;
    assert_eq!(names(&story), ["accepted", "attempted", "greylisted", "attempted", "delivered"]);
    assert!(said(&story, "greylisted")[0].starts_with("451 4.7.1 Greylisted, please try again in 30"), "{story:?}");
    let code = sandbox.code(to).await;
    assert_eq!((&code["code"], &code["attempts"]), (&json!("481516"), &json!(2)));
}

#[tokio::test]
async fn busy_says_so_twice_and_then_takes_it() {
    let sandbox = Sandbox::start();
    let to = "busy-2.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    let story = sandbox.story(&id).await;
    assert_eq!(said(&story, "deferred"), ["421 4.3.2 too busy now, try again later"; 2], "{story:?}");
    assert_eq!(names(&story).last(), Some(&"delivered"));
    assert_eq!(sandbox.code(to).await["attempts"], 3);
}

#[tokio::test]
async fn slow_answers_everything_late() {
    let sandbox = Sandbox::start();
    let to = "slow-400ms.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    assert_eq!(sandbox.code(to).await["code"], "481516");
    let message = sandbox.get(&format!("/v1/messages/{id}")).await;
    assert_eq!(message["entries"][0]["state"], "delivered", "what the code's answer says is so for the relay, too");
    let steps = message["events"].as_array().unwrap().iter().find_map(|event| event["steps"].as_array()).unwrap();
    let of = |stage: &str| steps.iter().find(|step| step["stage"] == stage).unwrap()["ms"].as_u64().unwrap();
    assert!(of("banner") >= 390 && of("EHLO") >= 390 && of("MAIL") >= 390, "{steps:?}");
}

#[tokio::test]
async fn lost_takes_the_content_and_closes() {
    let sandbox = Sandbox::start();
    let to = "lost-1.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    let story = sandbox.story(&id).await;
    let deferred = story.iter().find(|event| event["event"] == "deferred").unwrap();
    assert_eq!(
        (&deferred["cause"], &deferred["may_have_arrived"]),
        (&json!("outcome_unknown"), &json!(true)),
        "{deferred}"
    );
    let list = sandbox.get(&format!("/sandbox/messages?to={to}")).await;
    let marks: Vec<&Value> = list["messages"].as_array().unwrap().iter().map(|mail| &mail["lost"]).collect();
    assert_eq!(marks, [false, true], "the newest first: {list}");
}

#[tokio::test]
async fn notls_is_delivered_to_in_clear_text() {
    let sandbox = Sandbox::start();
    let to = "notls.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    let story = sandbox.story(&id).await;
    assert_eq!(story.last().unwrap()["note"], "in clear text", "{story:?}");
    assert_eq!(sandbox.only_mail(to).await["tls"], "off");
    sandbox.accept("alice@example.test", "112233").await;
    sandbox.code("alice@example.test").await;
    assert_eq!(sandbox.only_mail("alice@example.test").await["tls"], "on", "others have TLS");
}

#[tokio::test]
async fn badtls_shows_a_bad_certificate() {
    let sandbox = Sandbox::start();
    let to = "badtls.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    let story = sandbox.story(&id).await;
    assert!(story.last().unwrap()["note"].as_str().unwrap().contains("not verified"), "{story:?}");
    assert_eq!(sandbox.only_mail(to).await["tls"], "bad_certificate");
}

#[tokio::test]
async fn hidden_is_delivered_and_nobody_sees_it() {
    let sandbox = Sandbox::start();
    let to = "hidden.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    assert_eq!(names(&sandbox.story(&id).await).last(), Some(&"delivered"));
    let answer = sandbox.http.get(&format!("/sandbox/code?to={to}")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["arrived"][0]["hidden"], true, "{}", answer.body);
    assert_eq!(sandbox.only_mail(to).await["hidden"], true);
}

#[tokio::test]
async fn unknown_is_refused_for_good_and_not_learned() {
    let sandbox = Sandbox::start();
    for code in ["481516", "112233"] {
        let id = sandbox.accept("unknown.x@example.test", code).await;
        let story = sandbox.story(&id).await;
        assert_eq!(said(&story, "failed"), ["550 5.1.1 no such user here"]);
        assert_eq!(story.last().unwrap()["cause"], "bad_mailbox");
    }
}

#[tokio::test]
async fn full_is_put_off() {
    let sandbox = Sandbox::start();
    let id = sandbox.accept("full.x@example.test", "481516").await;
    let story = sandbox.story_in_steps(&id, "5m").await;
    assert_eq!(said(&story, "deferred"), ["452 4.2.2 mailbox full"], "{story:?}");
    assert_eq!(said(&story, "failed"), ["452 4.2.2 mailbox full"], "{story:?}");
    assert_eq!(story.last().unwrap()["cause"], "mailbox_full");
}

#[tokio::test]
async fn spam_is_refused_behind_the_content() {
    let sandbox = Sandbox::start();
    let id = sandbox.accept("spam.x@example.test", "481516").await;
    let story = sandbox.story(&id).await;
    assert_eq!(said(&story, "failed"), ["550 5.7.1 this looks like spam"]);
    assert_eq!(story.last().unwrap()["cause"], "content_rejected");
}

#[tokio::test]
async fn silent_says_nothing_until_the_code_has_expired() {
    let sandbox = Sandbox::start();
    let id = sandbox.accept("silent.x@example.test", "481516").await;
    let mut events = sandbox.events(&id).await;
    assert_eq!(events.next().await.unwrap().1, "accepted");
    sandbox.advance("11m").await;
    let mut last = Value::Null;
    while let Some((_, _, event)) = events.next().await {
        last = event;
    }
    assert_eq!(last["event"], "expired", "{last}");
    assert_eq!(sandbox.get("/sandbox/messages?to=silent.x@example.test").await["messages"], json!([]));
}

#[tokio::test]
async fn bounced_is_taken_and_bounces_later() {
    let sandbox = Sandbox::start();
    let mut events = sandbox.http.follow("/v1/events", "").await;
    sandbox.accept("bounced-1s.x@example.test", "481516").await;
    let mut happened = Vec::new();
    while happened.last().is_none_or(|name| name != "bounced") {
        let (_, name, event) = events.next().await.unwrap();
        assert_eq!(event["recipient"], "bounced-1s.x@example.test");
        happened.push(name);
    }
    assert_eq!(happened[happened.len() - 2..], ["delivered", "bounced"]);
}

#[tokio::test]
async fn nodomain_is_refused_at_once() {
    let sandbox = Sandbox::start();
    let answer = sandbox.submit("nodomain.x@example.test", "481516").await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert!(answer.json()["detail"].as_str().unwrap().contains("no such domain"), "{}", answer.body);
    assert_eq!(sandbox.submit("suppressed.x@example.test", "481516").await.status, 422);
    let budget = sandbox.submit("budget.x@example.test", "481516").await;
    assert_eq!(budget.status, 429, "{}", budget.body);
    assert!(!budget.field("retry-after").is_empty());
}

/// Each under the name of its kind, without a secret, as an identity server in a developer's compose file has it.
#[tokio::test]
async fn hooks_of_every_kind_are_taken_without_proof() {
    let sandbox = Sandbox::start();
    let nobody = Http { token: String::new(), ..sandbox.http.clone() };
    let supabase = json!({"user": {"email": "supabase@example.test", "user_metadata": {"lang": "de"}},
        "email_data": {"token": "481516", "token_hash": "7d5b", "redirect_to": "http://localhost:3000",
                       "email_action_type": "magiclink", "site_url": "https://auth.app.test"}});
    let logto = json!({"to": "logto@example.test", "type": "SignIn", "payload": {"code": "112233"}});
    let zitadel = json!({"contextInfo": {"eventType": "user.human.otp.email.code.added",
                                         "recipientEmailAddress": "zitadel@example.test"},
        "templateData": {"subject": "Anmelden", "text": "Ihr Code ist 778899."}, "args": {"otp": "778899"}});
    for (kind, body, status, code) in
        [("supabase", supabase, 200, "481516"), ("logto", logto, 204, "112233"), ("zitadel", zitadel, 204, "778899")]
    {
        let answer = nobody.post(&format!("/v1/hooks/{kind}"), body).await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.body);
        let mail = sandbox.code(&format!("{kind}@example.test")).await;
        assert_eq!((&mail["code"], &mail["signed"]), (&json!(code), &json!(true)), "{kind}: {mail}");
    }
    let refused = nobody.post(
        "/v1/hooks/logto",
        json!({"to": "nodomain.x@example.test", "type": "SignIn",
                                                        "payload": {"code": "112233"}}),
    );
    assert_eq!(refused.await.status, 422);
    assert_eq!(nobody.post("/v1/hooks/another", json!({})).await.status, 404);
}

/// What could make a relay ask somebody else: an address literal, this machine's mail server, a URL in a mail, a webhook.
#[tokio::test]
async fn nothing_that_is_asked_for_leaves_the_machine() {
    let sandbox = Sandbox::start();
    for to in ["x@[127.0.0.1]", "x@[192.0.2.1]", "x@[IPv6:2001:db8::1]"] {
        assert_eq!(sandbox.submit(to, "481516").await.status, 422, "{to}");
    }
    for to in ["x@localhost.test", "x@gmail.com", "x@xn--bcher-kva.example"] {
        sandbox.accept(to, "481516").await;
        assert_eq!(sandbox.code(to).await["code"], "481516", "a mail host of the sandbox has it");
    }
    assert_eq!(sandbox.get("/v1/webhooks").await, json!({"webhooks": []}));
    let endpoint = json!({"endpoint": "https://hooks.example/"});
    assert_eq!(sandbox.http.post("/v1/webhooks/test", endpoint).await.status, 422);
    let attachment = json!({"from": "otp@shop.example", "to": ["x@example.test"], "subject": "a", "text": "b",
                            "attachments": [{"filename": "a", "path": "https://files.example/a"}]});
    assert_eq!(sandbox.http.post("/emails", attachment).await.status, 422);
    // A picture that the mail points to is not loaded where somebody looks at it.
    let html = json!({"from": "otp@shop.example", "to": "pixel@example.test", "subject": "481516 is your code",
                      "html": "<p>481516</p><img src=\"https://pixel.example/1.png\">"});
    assert_eq!(sandbox.http.post("/v1/messages", html).await.status, 202);
    let id = sandbox.code("pixel@example.test").await["id"].as_str().unwrap().to_owned();
    for path in [format!("/sandbox/messages/{id}/html"), "/view/latest.html".to_owned()] {
        let policy = sandbox.http.get(&path).await.field("content-security-policy").to_owned();
        assert!(policy.starts_with("sandbox; default-src 'none'") && !policy.contains("http"), "{path}: {policy}");
    }
}

/// One address that fails touches no other, also none of the same domain.
#[tokio::test]
async fn what_one_address_does_touches_no_other() {
    let sandbox = Sandbox::start();
    for to in ["silent.x@example.test", "busy-9.x@example.test", "full.x@example.test", "greylisted-1h.x@example.test"]
    {
        sandbox.accept(to, "000000").await;
    }
    sandbox.accept("alice@example.test", "481516").await;
    let code = sandbox.code("alice@example.test").await;
    assert_eq!(
        (&code["code"], &code["attempts"], &code["signed"]),
        (&json!("481516"), &json!(1), &json!(true)),
        "{code}"
    );
}

#[tokio::test]
async fn a_code_is_waited_for_and_told_in_short() {
    let sandbox = Sandbox::start();
    let (to, waits) = ("alice+1@example.test", sandbox.http.clone());
    let waiting = tokio::spawn(async move { waits.get("/sandbox/code?to=alice%2B1@example.test&wait=20s").await });
    sandbox.accept(to, "481516").await;
    let first = waiting.await.unwrap().json();
    assert_eq!((&first["code"], &first["from"]), (&json!("481516"), &json!("otp@shop.example")));
    assert_eq!(first["subject"], "481516 is your code for Shop");
    for after in
        [first["id"].as_str().unwrap(), first["received_at"].as_str().unwrap(), first["message"].as_str().unwrap()]
    {
        let answer = sandbox.http.get(&format!("/sandbox/code?to={to}&after={after}")).await;
        assert_eq!(answer.status, 404, "{after}: {}", answer.body);
        assert_eq!(answer.json()["arrived"][0]["before_after"], true);
    }
    let body = json!({"from": "otp@shop.example", "to": to, "tag": "signup", "subject": "Sign in",
                      "text": "Sign in: https://app.example/magic?token=abcdef0123456789"});
    assert_eq!(sandbox.http.post("/v1/messages", body).await.status, 202);
    let path = format!("/sandbox/code?to={to}&after={}&tag=signup&wait=20s", first["id"].as_str().unwrap());
    let second = sandbox.get(&path).await;
    assert_eq!(
        (&second["code"], &second["link"]),
        (&Value::Null, &json!("https://app.example/magic?token=abcdef0123456789"))
    );
    assert_eq!(sandbox.http.get(&format!("/sandbox/code?to={to}&tag=reset")).await.status, 404);
    let plain = sandbox.http.ask("GET", &format!("/sandbox/code?to={to}"), "Accept: text/plain\r\n", "").await;
    assert_eq!(plain.body, "https://app.example/magic?token=abcdef0123456789");
    for path in [
        "/sandbox/code",
        "/sandbox/code?to=",
        "/sandbox/code?to=a@b.test&wait=61s",
        "/sandbox/code?to=a@b.test&wait=x",
        "/sandbox/code?to=a@b.test&after=x",
    ] {
        assert_eq!(sandbox.http.get(path).await.status, 422, "{path}");
    }
}

#[tokio::test]
async fn two_hundred_and_fifty_six_wait_at_once() {
    let sandbox = Sandbox::start();
    let waits: Vec<_> = (0..256)
        .map(|number| {
            let http = sandbox.http.clone();
            tokio::spawn(async move { http.get(&format!("/sandbox/code?to=user{number}@example.test&wait=60s")).await })
        })
        .collect();
    // Whoever waits does not keep anybody from sending.
    for number in 0..256 {
        sandbox.accept(&format!("user{number}@example.test"), &format!("{:06}", 481_000 + number)).await;
    }
    for (number, waiting) in waits.into_iter().enumerate() {
        let answer = waiting.await.unwrap();
        assert_eq!(answer.status, 200, "{number}: {}", answer.body);
        assert_eq!(answer.json()["code"], format!("{:06}", 481_000 + number));
    }
}

#[tokio::test]
async fn messages_are_listed_shown_and_removed() {
    let sandbox = Sandbox::start();
    let to = "alice@example.test";
    let message = sandbox.accept(to, "481516").await;
    let id = sandbox.code(to).await["id"].as_str().unwrap().to_owned();
    let mail = sandbox.get(&format!("/sandbox/messages/{id}")).await;
    assert_eq!((&mail["codes"], &mail["message"]), (&json!(["481516"]), &json!(message)));
    assert!(mail["text"].as_str().unwrap().starts_with("481516") && mail["html"].as_str().unwrap().contains("<table"));
    assert!(mail["headers"].as_array().unwrap().iter().any(|field| field["name"] == "DKIM-Signature"));
    assert!(mail["signatures"].as_array().unwrap().iter().all(|verdict| verdict["passed"] == true), "{mail}");
    assert_eq!(
        sandbox.get(&format!("/sandbox/messages/{message}")).await["id"],
        json!(id),
        "the relay's id does as well"
    );
    let raw = sandbox.http.get(&format!("/sandbox/messages/{id}/raw")).await;
    assert!(
        raw.body.starts_with("DKIM-Signature: ") && raw.field("content-type").starts_with("text/plain"),
        "{}",
        raw.body
    );
    let html = sandbox.http.get(&format!("/sandbox/messages/{id}/html")).await;
    assert!(html.field("content-security-policy").starts_with("sandbox; default-src 'none'"), "{}", html.head);
    sandbox.accept("bob@example.test", "112233").await;
    sandbox.code("bob@example.test").await;
    assert_eq!(sandbox.http.delete(&format!("/sandbox/messages?to={to}")).await.json()["removed"], 1);
    assert_eq!(sandbox.http.get(&format!("/sandbox/messages/{id}")).await.status, 404);
    assert_eq!(sandbox.only_mail("bob@example.test").await["code"], "112233");
    assert_eq!(sandbox.http.delete("/sandbox/messages").await.json()["removed"], 1);
    assert_eq!(sandbox.get("/sandbox/messages").await["messages"], json!([]));
}

#[tokio::test]
async fn an_inbox_streams_its_mails() {
    let sandbox = Sandbox::start();
    let mut stream = sandbox.http.follow("/sandbox/inboxes/alice@example.test/stream", "").await;
    sandbox.accept("bob@example.test", "112233").await;
    sandbox.accept("alice@example.test", "481516").await;
    let (id, name, mail) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &mail["code"], &mail["id"]), ("mail", &json!("481516"), &json!(id)));
    sandbox.accept("alice@example.test", "654321").await;
    let last = format!("Last-Event-ID: {id}\r\n");
    let mut again = sandbox.http.follow("/sandbox/inboxes/alice@example.test/stream", &last).await;
    assert_eq!(again.next().await.unwrap().2["code"], "654321");
}

#[tokio::test]
async fn rules_make_hosts_fail_for_all() {
    let sandbox = Sandbox::start();
    let put = async |rule: Value| sandbox.http.ask("PUT", "/sandbox/faults", "", &rule.to_string()).await;
    let answer = put(json!({"to": "*@b.test", "reply": "451 4.7.1 not now", "at": "rcpt", "times": 1})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = answer.id();
    assert_eq!(sandbox.get("/sandbox/faults").await["faults"][0]["id"], json!(id));
    let message = sandbox.accept("x@b.test", "481516").await;
    let story = sandbox.story(&message).await;
    assert_eq!(said(&story, "deferred"), ["451 4.7.1 not now"], "{story:?}");
    assert_eq!(names(&story).last(), Some(&"delivered"));
    for (at, domain) in [("connect", "c.test"), ("ehlo", "d.test"), ("mail", "e.test"), ("data", "f.test")] {
        let rule = json!({"to": format!("*@{domain}"), "reply": "550 5.7.1 go away", "at": at, "for": "1h"});
        assert_eq!(put(rule).await.status, 200);
        let message = sandbox.accept(&format!("x@{domain}"), "481516").await;
        let mut events = sandbox.events(&message).await;
        let reply = loop {
            let (_, _, event) = events.next().await.unwrap();
            if let Some(reply) = event["reply"].as_str() {
                break reply.to_owned();
            }
        };
        assert_eq!(reply, "550 5.7.1 go away", "{at}");
    }
    assert_eq!(put(json!({"to": "*@b.test"})).await.status, 422);
    assert_eq!(put(json!({"to": "*@b.test", "reply": "250 ok"})).await.status, 422);
    let rules = sandbox.get("/sandbox/faults").await;
    assert_eq!(rules["faults"].as_array().unwrap().len(), 4, "{rules}");
    let first = rules["faults"][0]["id"].as_str().unwrap();
    assert_eq!(sandbox.http.delete(&format!("/sandbox/faults/{first}")).await.status, 204);
    assert_eq!(sandbox.http.delete(&format!("/sandbox/faults/{first}")).await.status, 404);
    assert_eq!(sandbox.http.delete("/sandbox/faults").await.status, 204);
    assert_eq!(sandbox.get("/sandbox/faults").await["faults"], json!([]));
}

#[tokio::test]
async fn any_login_any_sender_and_no_budget() {
    let sandbox = Sandbox::start();
    assert!(
        sandbox.ready.starts_with("ready smtp=") && sandbox.ready.contains(" user=app password="),
        "{}",
        sandbox.ready
    );
    for number in 0..30 {
        let id = sandbox.accept("alice@example.test", &format!("{:06}", 100_000 + number)).await;
        assert_eq!(names(&sandbox.story(&id).await).last(), Some(&"delivered"));
    }
    let other = Http { token: "another".to_owned(), ..sandbox.http.clone() };
    assert_eq!(other.get("/v1/suppressions").await.status, 200);
    let nobody = Http { token: String::new(), ..sandbox.http.clone() };
    assert_eq!(nobody.get("/v1/suppressions").await.status, 401, "an app that sends no token hears of it");
    assert_eq!(nobody.get("/readyz").await.status, 200);
    let (smtp, to) = (sandbox.smtp.clone(), "bob@example.test");
    for login in ["", "AUTH PLAIN AG1heWJlAHNlY3JldA==\r\n", "AUTH LOGIN bWF5YmU=\r\nc2VjcmV0\r\n"] {
        let smtp = smtp.clone();
        let dialog =
            format!("EHLO app.test\r\n{login}MAIL FROM:<any@body.example>\r\nRCPT TO:<{to}>\r\nDATA\r\nQUIT\r\n");
        let replies = tokio::task::spawn_blocking(move || talk(&smtp, &dialog)).await.unwrap();
        assert!(replies.iter().any(|reply| reply.starts_with("250 2.0.0 accepted id=")), "{replies:?}");
        assert!(!replies.iter().any(|reply| reply.contains("SCRAM") || reply.contains("STARTTLS")), "{replies:?}");
    }
    let code = sandbox.code(to).await;
    assert_eq!((&code["code"], &code["signed"]), (&json!("778899"), &json!(true)), "{code}");
}

/// Says line after line, each after the reply to the one before; returns all lines of replies.
fn talk(address: &str, dialog: &str) -> Vec<String> {
    use std::io::Write as _;
    let mut stream = BufReader::new(std::net::TcpStream::connect(address).unwrap());
    let mut replies = Vec::new();
    let hear = |stream: &mut BufReader<std::net::TcpStream>, replies: &mut Vec<String>| loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        replies.push(line.trim_end().to_owned());
        if is_last {
            return;
        }
    };
    hear(&mut stream, &mut replies);
    for line in dialog.lines() {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        hear(&mut stream, &mut replies);
        if line == "DATA" {
            let content = "From: any@body.example\r\nSubject: 778899 is your code\r\n\r\nHello\r\n.\r\n";
            stream.get_mut().write_all(content.as_bytes()).unwrap();
            hear(&mut stream, &mut replies);
        }
    }
    replies
}

/// With a clock that is an hour ahead, what is signed and stamped has the machine's time.
#[tokio::test]
async fn lives_pass_and_dates_stay() {
    let sandbox = Sandbox::start_with(&["--clock-rate", "60"]);
    sandbox.advance("1h").await;
    let clock = sandbox.get("/sandbox/clock").await;
    assert!(clock["ahead_s"].as_u64().unwrap() >= 3600, "{clock}");
    let to = "greylisted-30s.x@example.test";
    let id = sandbox.accept(to, "481516").await;
    // Half a minute of greylisting is half a second now.
    let code = sandbox.code(to).await;
    assert_eq!((&code["attempts"], &code["signed"]), (&json!(2), &json!(true)), "a signature from the future is none");
    let (wall, received) = (clock["wall"].as_str().unwrap(), code["received_at"].as_str().unwrap());
    assert_eq!(wall[..13], received[..13], "an hour ahead would show");
    let message = sandbox.get(&format!("/v1/messages/{id}")).await;
    let last = message["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["event"], "delivered");
    assert!(last["ms"].as_u64().unwrap() >= 30_000, "{last}");
    let expiring = sandbox.accept("silent.x@example.test", "112233").await;
    sandbox.advance("9m").await;
    assert_eq!(names(&sandbox.story(&expiring).await).last(), Some(&"expired"), "the last of ten minutes is a second");
    for advance in ["", "x", "25h"] {
        assert_eq!(sandbox.http.post("/sandbox/clock", json!({ "advance": advance })).await.status, 422);
    }
}

#[tokio::test]
async fn suites_for_mailpit_run_unchanged() {
    let sandbox = Sandbox::start();
    let nobody = Http { token: String::new(), ..sandbox.http.clone() };
    assert_eq!((nobody.get("/livez").await.status, nobody.get("/readyz").await.status), (200, 200));
    assert_eq!(nobody.get("/api/v1/message/latest").await.status, 404);
    for (to, code) in [("alice@example.test", "481516"), ("bob@example.test", "112233")] {
        sandbox.accept(to, code).await;
        sandbox.code(to).await;
    }
    let list = nobody.get("/api/v1/messages").await.json();
    for (name, expected) in
        [("total", 2), ("unread", 2), ("count", 2), ("messages_count", 2), ("messages_unread", 2), ("start", 0)]
    {
        assert_eq!(list[name], expected, "{name}: {list}");
    }
    assert_eq!(list["messages"][0]["To"], json!([{"Name": "", "Address": "bob@example.test"}]), "the newest first");
    let page = nobody.get("/api/v1/messages?start=1&limit=1").await.json();
    assert_eq!((&page["count"], &page["messages"][0]["Subject"]), (&json!(1), &json!("481516 is your code for Shop")));
    let found = nobody.get("/api/v1/search?query=to:alice@example.test").await.json();
    assert_eq!((&found["messages_count"], &found["total"]), (&json!(1), &json!(2)));
    let id = found["messages"][0]["ID"].as_str().unwrap();
    let message = nobody.get(&format!("/api/v1/message/{id}")).await.json();
    assert_eq!(
        (&message["Subject"], &message["From"]["Address"]),
        (&json!("481516 is your code for Shop"), &json!("otp@shop.example"))
    );
    assert!(
        message["Text"].as_str().unwrap().contains("481516") && message["HTML"].as_str().unwrap().contains("481516")
    );
    assert_eq!((&message["Attachments"], &message["ReturnPath"]), (&json!([]), &json!("otp@shop.example")));
    assert_eq!(nobody.get("/api/v1/messages").await.json()["unread"], 1, "whoever looks has read it");
    let latest = nobody.get("/api/v1/message/latest").await.json();
    assert_eq!(latest["To"][0]["Address"], "bob@example.test");
    let text = nobody.get("/view/latest.txt?query=to:alice@example.test").await;
    assert!(text.body.starts_with("481516"), "{}", text.body);
    assert!(nobody.get("/view/latest.html").await.body.contains("112233"));
    assert_eq!(nobody.get("/view/latest.txt?query=to:carol@example.test").await.status, 404);
    let fields = nobody.get(&format!("/api/v1/message/{id}/headers")).await.json();
    assert_eq!(fields["Subject"], json!(["481516 is your code for Shop"]));
    let body = json!({ "IDs": [id] }).to_string();
    assert_eq!(nobody.ask("DELETE", "/api/v1/messages", "", &body).await.body, "ok");
    assert_eq!(nobody.get("/api/v1/messages").await.json()["total"], 1);
    assert_eq!(nobody.delete("/api/v1/messages").await.body, "ok");
    assert_eq!(nobody.get("/api/v1/messages").await.json()["messages"], json!([]));
}

/// A message to two recipients is two mails, and one message to whoever knows Mailpit.
#[tokio::test]
async fn a_message_to_several_is_one_for_mailpit() {
    let sandbox = Sandbox::start();
    let body =
        json!({"from": "otp@shop.example", "to": ["alice@example.test", "bob@example.org"], "otp": {"code": "481516"}});
    assert_eq!(sandbox.http.post("/v1/messages", body).await.status, 202);
    for to in ["alice@example.test", "bob@example.org"] {
        assert_eq!(sandbox.code(to).await["code"], "481516");
    }
    let list = sandbox.get("/api/v1/messages").await;
    assert_eq!(list["total"], 1, "{list}");
    assert_eq!(sandbox.get("/api/v1/search?query=to:bob@example.org").await["messages_count"], 1);
    let id = list["messages"][0]["ID"].as_str().unwrap();
    sandbox.http.ask("DELETE", "/api/v1/messages", "", &json!({ "IDs": [id] }).to_string()).await;
    assert_eq!(sandbox.get("/sandbox/messages").await["messages"], json!([]));
}

#[tokio::test]
async fn the_page_runs_nothing_inline() {
    let sandbox = Sandbox::start();
    let page = sandbox.http.get("/").await;
    let policy = page.field("content-security-policy").to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for inline in ["<style", " style=", " onclick", " onload", "<script>"] {
        assert!(!page.body.contains(inline), "{inline}");
    }
    for (path, kind) in [("/sandbox/page.js", "text/javascript"), ("/sandbox/page.css", "text/css")] {
        let answer = sandbox.http.get(path).await;
        assert!(answer.status == 200 && answer.field("content-type").starts_with(kind), "{}", answer.head);
    }
    assert_eq!(sandbox.http.post("/sandbox/messages", json!({})).await.status, 405);
    // What is not the sandbox's own is the relay's.
    assert_eq!(sandbox.http.get("/v1/queue").await.status, 200);
    assert_eq!(sandbox.http.get("/nothing").await.status, 404);
}
