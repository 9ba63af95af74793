//! Webhooks: what is posted to an app, over real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::support::fake_mx::FakeMx;
use crate::support::http::Http;
use crate::support::{Events, PATIENCE, start_relay};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A post: its path, header fields in lower case, and body.
#[derive(Debug, Clone)]
struct Post {
    path: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Post {
    fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn is_signed(&self) -> bool {
        let (id, seconds) = (self.field("webhook-id"), self.field("webhook-timestamp"));
        let signed = [format!("{id}.{seconds}.").as_bytes(), &self.body].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(SECRET).unwrap());
        let tag = BASE64_STANDARD.encode(hmac::sign(&key, &signed).as_ref());
        self.field("webhook-signature").split(' ').any(|signature| signature == format!("v1,{tag}"))
    }
}

/// An app with a web server that answers with the status it is told.
#[derive(Clone)]
struct App {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    answer: Arc<Mutex<String>>,
}

impl App {
    async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            address: socket.local_addr().unwrap(),
            posts: Arc::default(),
            answer: Arc::new(Mutex::new("204 No Content\r\n".to_owned())),
        };
        let own = app.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(own.clone().serve(BufReader::new(stream)));
            }
        });
        app
    }

    async fn serve(self, mut stream: BufReader<TcpStream>) {
        while let Some(post) = read(&mut stream).await {
            self.posts.lock().push(post);
            let answer = format!("HTTP/1.1 {}Content-Length: 0\r\n\r\n", self.answer.lock());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Waits for so many posts to a path.
    async fn posts(&self, path: &str, count: usize) -> Vec<Post> {
        let waiting = async {
            loop {
                let posts = self.posts.lock().clone();
                let posts: Vec<Post> = posts.into_iter().filter(|post| post.path == path).collect();
                if posts.len() >= count {
                    return posts;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {count} posts: {:?}", self.posts))
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Post> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let field = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let fields: Vec<(String, String)> = lines.iter().skip(1).filter_map(field).collect();
    let mut post = Post { path, fields, body: Vec::new() };
    post.body.resize(post.field("content-length").parse().ok()?, 0);
    stream.read_exact(&mut post.body).await.ok()?;
    Some(post)
}

struct Bench {
    relay: Relay,
    events: Events,
    operator: Http,
    shop: Http,
}

impl Bench {
    fn on(folder: &Path, mx: &FakeMx, webhooks: &str) -> Self {
        std::fs::write(folder.join("hook.secret"), format!("whsec_{SECRET}\n")).unwrap();
        let hash = token_hash("token of shop");
        let more =
            format!("[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@shop.test\"]\n{webhooks}");
        let (relay, events) = start_relay(folder, mx.address, &more);
        let address = relay.http_address().unwrap();
        let token = std::fs::read_to_string(folder.join("data/api.token")).unwrap();
        let http = |token: &str| Http { address, token: token.trim().to_owned() };
        Self { relay, events, operator: http(&token), shop: http("token of shop") }
    }

    async fn submit(&mut self, to: &str) -> String {
        let body =
            json!({"from": "otp@shop.test", "to": to, "subject": "481516 is your code", "text": "It is 481516.\n"});
        let sent = self.shop.post("/v1/messages", body).await;
        self.events.next(Kind::Delivered).await;
        sent.id()
    }
}

fn webhook(app: &App, path: &str, more: &str) -> String {
    format!("[[webhook]]\nurl = \"http://{}{path}\"\nsecret_file = \"hook.secret\"\n{more}\n", app.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_posted_signed_in_their_order_also_after_a_restart() {
    let (folder, app, mx) = (tempfile::tempdir().unwrap(), App::start().await, FakeMx::start(&["PIPELINING"]).await);
    let events = "events = [\"accepted\", \"delivered\"]";
    let hooks = webhook(&app, "/all", events) + &webhook(&app, "/mail", "format = \"emails\"");
    let mut bench = Bench::on(folder.path(), &mx, &hooks);
    let id = bench.submit("alice@example.test").await;
    let posts = app.posts("/all", 2).await;
    assert!(posts.iter().all(Post::is_signed));
    let kinds: Vec<Value> = posts.iter().map(|post| post.json()["type"].clone()).collect();
    assert_eq!(kinds, ["message.accepted", "message.delivered"]);
    let (event, mails) = (posts[1].json(), app.posts("/mail", 2).await);
    assert_eq!((&event["id"], &event["recipient"]), (&json!(id), &json!("alice@example.test")));
    assert_eq!(event["timestamp"], event["time"]);
    assert!(posts.iter().chain(&mails).all(|post| !String::from_utf8_lossy(&post.body).contains("481516")));
    assert_eq!(mails[1].json()["type"], "email.delivered");
    assert_eq!(mails[1].field("svix-signature"), mails[1].field("webhook-signature"));
    let written = format!("Message-ID: {}\r\n", mails[1].json()["data"]["message_id"].as_str().unwrap());
    assert!(String::from_utf8_lossy(&mx.received()[0].content).contains(&written), "{written}");
    // The app is away; the relay stops and starts.
    app.answer.lock().replace_range(.., "503 Later\r\n");
    bench.submit("bob@example.test").await;
    app.posts("/all", 3).await;
    bench.relay.shut_down().await;
    app.answer.lock().replace_range(.., "204 No Content\r\n");
    let bench = Bench::on(folder.path(), &mx, &hooks);
    let posts = app.posts("/all", 5).await;
    let of_bob: Vec<Post> = posts.into_iter().filter(|post| post.json()["recipient"] == "bob@example.test").collect();
    assert_eq!(of_bob[0].field("webhook-id"), of_bob[1].field("webhook-id"), "all tries have one id");
    assert_eq!(of_bob.last().unwrap().json()["event"], "delivered");
    bench.relay.shut_down().await;
}

/// As the mail has it, whoever gave it; also where the author's domain is another than the reverse-path's, and in a replay.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_as_an_email_names_the_message_id_field() {
    let (folder, app, mx) = (tempfile::tempdir().unwrap(), App::start().await, FakeMx::start(&["PIPELINING"]).await);
    let hooks = webhook(&app, "/mail", "format = \"emails\"\nevents = [\"delivered\"]");
    let mut bench = Bench::on(folder.path(), &mx, &hooks);
    let with = |name: &str, value: Value| {
        let mut mail = json!({"from": "otp@shop.test", "to": "alice@example.test", "subject": "481516 is your code", "text": "It is 481516.\n"});
        mail[name] = value;
        mail
    };
    let raw = |more: &str| {
        let raw = format!("From: otp@shop.test\r\nSubject: 481516 is your code\r\n{more}\r\nIt is 481516.\r\n");
        json!({"from": "otp@shop.test", "to": "alice@example.test", "raw": raw})
    };
    let long = format!("Message-ID: <{}@shop.test>\r\n", "x".repeat(700));
    let mails = [
        with("tag", json!("login")),
        with("headers", json!({"Message-ID": "<1@app.shop.test>"})),
        raw(""),
        raw("Message-ID:\r\n <2@app.shop.test>\r\n"),
        raw(&long),
    ];
    let (mut ids, mut expected) = (Vec::new(), Vec::new());
    for (mail, given) in mails.into_iter().zip([None, Some("<1@app.shop.test>"), None, Some("<2@app.shop.test>"), None])
    {
        let sent = bench.shop.post("/v1/messages", mail).await;
        assert_eq!(sent.status, 202, "{}", sent.body);
        ids.push(sent.id());
        bench.events.next(Kind::Delivered).await;
        app.posts("/mail", ids.len()).await;
        let content = mx.received().pop().unwrap().content;
        let written = String::from_utf8(content).unwrap();
        let written = written.lines().find_map(|line| line.strip_prefix("Message-ID: ")).map(str::to_owned);
        expected.push(given.map(str::to_owned).or(written));
    }
    assert_eq!(expected[2], Some(format!("<{}@shop.test>", ids[2])));
    assert!(expected[4].take().unwrap().contains("xxx"), "what is too long to be told is not told");
    let told = |posts: Vec<Post>| -> Vec<Option<String>> {
        posts.iter().map(|post| post.json()["data"]["message_id"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(told(app.posts("/mail", 5).await), expected);
    for id in &ids {
        assert_eq!(bench.operator.post("/v1/webhooks/replay", json!({ "id": id })).await.status, 202);
        app.posts("/mail", expected.len() + 1).await;
        expected.push(expected[expected.len() - 5].clone());
    }
    assert_eq!(told(app.posts("/mail", 10).await), expected);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_replays_and_tests() {
    let (folder, app, mx) = (tempfile::tempdir().unwrap(), App::start().await, FakeMx::start(&["PIPELINING"]).await);
    let dead = "[[webhook]]\nurl = \"http://127.0.0.1:1/dead\"\nsecret_file = \"hook.secret\"\n";
    let hooks = webhook(&app, "/all", "events = [\"delivered\"]") + dead;
    let mut bench = Bench::on(folder.path(), &mx, &hooks);
    let id = bench.submit("alice@example.test").await;
    let first = app.posts("/all", 1).await;
    let url = format!("http://{}/all", app.address);
    let replay = |body: Value| bench.operator.post("/v1/webhooks/replay", body);
    let answer = replay(json!({"id": id, "endpoint": url})).await;
    assert_eq!((answer.status, answer.json()), (202, json!({"replayed": 1})));
    let again = app.posts("/all", 2).await;
    assert_eq!(first[0].field("webhook-id"), again[1].field("webhook-id"));
    assert_eq!(replay(json!({"since": "2020-01-01T00:00:00Z", "endpoint": url})).await.json()["replayed"], 1);
    for (body, status) in [
        (json!({"id": id, "endpoint": "https://elsewhere.example/"}), 422),
        (json!({}), 422),
        (json!({"since": "yesterday"}), 422),
        (json!({"id": "01M7YRRT9A0000000000000000"}), 404),
    ] {
        assert_eq!(replay(body.clone()).await.status, status, "{body}");
    }
    let seen = async {
        loop {
            let seen = bench.operator.get("/v1/webhooks").await.json();
            if seen["webhooks"][0]["state"] == "failing" && seen["webhooks"][0]["waiting"].as_u64() > Some(0) {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await.expect("the dead one fails");
    assert_eq!((&seen["webhooks"][1]["url"], &seen["webhooks"][1]["state"]), (&json!(url), &json!("well")));
    let tested = bench.operator.post("/v1/webhooks/test", json!({})).await.json();
    assert_eq!((&tested["tested"][0]["taken"], &tested["tested"][1]["taken"]), (&json!(false), &json!(true)));
    assert_eq!(bench.shop.get("/v1/webhooks").await.status, 403);
    assert_eq!(bench.shop.post("/v1/webhooks/replay", json!({"id": id})).await.status, 403);
    bench.relay.shut_down().await;
}
