//! At the API.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::configured;
use crate::support::http::Http;
use crate::{Bench, LISTENERS, SECRET, expect};

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_request_leaves_a_line() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"1/10m\"\n[submission]\nmessage_size_max = \"64KiB\"\n").await;
    let (shop, address) = (&bench.http, bench.http.address);
    let bank = Http { address, token: "token of bank".to_owned() };
    let nobody = Http { address, token: SECRET.to_owned() };
    let code = |from: &str, to: &str| json!({"from": from, "to": to, "otp": {"code": "481516"}});
    let statuses = [
        nobody.get("/v1/messages/x").await.status,
        shop.post("/v1/messages", code("ceo@bank.test", "alice@example.test")).await.status,
        shop.ask("PATCH", "/v1/events", "", "").await.status,
        shop.ask("POST", "/v1/messages", "", &format!("{{\"{SECRET}\":1}}")).await.status,
        shop.get(&format!("/v1/queue?{SECRET}=1")).await.status,
        shop.post("/v1/messages", code("otp@app.test", "alice@gone.test")).await.status,
        shop.ask("POST", "/v1/messages", "", &SECRET.repeat(100_000)).await.status,
        shop.ask("POST", "/v1/messages", "X: ", &format!("\r\n\u{1}{SECRET}")).await.status,
    ];
    assert_eq!(statuses[..6], [401, 403, 405, 422, 422, 422]);
    assert_eq!(statuses[6], 413);
    let once = shop.post("/v1/messages", code("otp@app.test", "bob@example.test")).await;
    assert_eq!(once.status, 202, "{}", once.body);
    assert_eq!(shop.post("/v1/messages", code("otp@app.test", "bob@example.test")).await.status, 429);
    let id = once.id();
    assert_eq!(bank.get(&format!("/v1/messages/{id}")).await.status, 404);
    let key = "Idempotency-Key: one\r\n";
    let with_key = |to: &str| code("otp@app.test", to).to_string();
    assert_eq!(shop.ask("POST", "/v1/messages", key, &with_key("dave@example.test")).await.status, 202);
    let two =
        json!({"from": "otp@app.test", "to": ["erin@example.test", "mallory@example.test"], "otp": {"code": "481516"}});
    assert_eq!(shop.ask("POST", "/v1/messages", key, &two.to_string()).await.status, 409);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{SECRET}\r\n\r\n").as_bytes()).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let lines = bench.end().await;
    for expected in [
        json!({"door": "http", "user": "unknown user", "stage": "messages", "code": 401, "reason": "token"}),
        json!({"user": "shop", "stage": "messages", "code": 403, "reason": "sender", "limit": "user.senders"}),
        json!({"stage": "events", "code": 405, "reason": "method"}),
        json!({"user": "shop", "stage": "messages", "code": 422, "reason": "invalid"}),
        json!({"stage": "messages", "code": 422, "reason": "domain", "recipient": "a***e@gone.test",
            "text": "no such domain"}),
        json!({"stage": "messages", "code": 413, "reason": "size", "limit": "submission.message_size_max"}),
        json!({"user": "shop", "stage": "messages", "code": 429, "reason": "budget",
            "limit": "otp.recipient_budget", "recipient": "b***b@example.test"}),
        json!({"user": "bank", "stage": "messages", "code": 404, "reason": "not_found"}),
        json!({"user": "shop", "code": 409, "reason": "idempotency", "recipient": "e***n@example.test",
            "more_recipients": 1}),
        json!({"user": "unknown user", "stage": "request", "code": 400, "reason": "syntax"}),
    ] {
        expect(&lines, &expected);
    }
    assert!(!serde_json::to_string(&lines).unwrap().contains("481516"));
}

/// Says this, and hears what comes until the relay closes.
async fn says(bench: &Bench, from: &str, octets: &str) -> String {
    let listener = bench.addresses.len() - 1;
    let mut stream = bench.connect(from, listener).await;
    stream.write_all(octets.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let _ = stream.read_to_string(&mut heard).await;
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_the_api_looks_at_it_leaves_a_line() {
    let bench = Bench::new("").await;
    let with_token = "Authorization: Bearer token of shop\r\nConnection: close\r\n";
    let post = format!("POST /v1/messages HTTP/1.1\r\nHost: relay\r\n{with_token}");
    let packed = format!("{post}Content-Encoding: br\r\nContent-Length: 6\r\n\r\n{SECRET}");
    assert!(says(&bench, "127.0.0.64", &packed).await.starts_with("HTTP/1.1 415 "));
    let elsewhere = "GET /v1/queue HTTP/1.1\r\nHost: S3CRET.example\r\n\r\n";
    assert!(says(&bench, "127.0.0.65", elsewhere).await.starts_with("HTTP/1.1 421 "));
    let long = format!("{post}X: {}\r\n\r\n", SECRET.repeat(5000));
    assert!(says(&bench, "127.0.0.66", &long).await.starts_with("HTTP/1.1 431 "));
    let path = format!("GET /v1/{SECRET} HTTP/1.1\r\nHost: relay\r\n{with_token}\r\n");
    assert!(says(&bench, "127.0.0.67", &path).await.starts_with("HTTP/1.1 404 "));
    // One that does not come to the point: it is cut off, which is waited for here.
    assert_eq!(says(&bench, "127.0.0.68", "GET /v1/queue HTTP/1.1\r\nHost: S3CRET").await, "");
    let metrics = bench.operator.get("/metrics").await.body;
    for labels in [
        "stage=\"messages\",reason=\"media_type\"",
        "stage=\"queue\",reason=\"host\"",
        "stage=\"request\",reason=\"head\"",
        "stage=\"request\",reason=\"too_slow\"",
    ] {
        assert!(metrics.contains(&format!("otp_relay_refused_total{{door=\"http\",{labels}}} 1\n")), "{labels}");
    }
    let lines = bench.end().await;
    for expected in [
        json!({"peer": "127.0.0.64", "user": "shop", "stage": "messages", "code": 415, "reason": "media_type",
            "text": "Content-Encoding: gzip or none; the body is packed in another way"}),
        json!({"peer": "127.0.0.65", "user": "unknown user", "stage": "queue", "code": 421, "reason": "host",
            "limit": "http.hosts"}),
        json!({"peer": "127.0.0.66", "stage": "request", "code": 431, "reason": "head", "limit": null}),
        json!({"peer": "127.0.0.67", "user": "shop", "stage": "other", "code": 404, "reason": "not_found"}),
        json!({"peer": "127.0.0.68", "stage": "request", "code": null, "reason": "too_slow", "limit": null}),
    ] {
        expect(&lines, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_user_was_removed_is_told_in_the_log_too() {
    let bench = Bench::new("").await;
    let mut stream = bench.http.follow("/v1/events", "").await;
    // The same configuration without the users.
    let text = format!("{LISTENERS}[log]\nformat = \"json\"\n");
    bench.relay.reload(configured(bench.folder.path(), bench.mx.address, &text, "")).unwrap();
    let (_, name, data) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &data["reason"]), ("bye", &json!("this token is not valid any more")));
    assert!(stream.next().await.is_none());
    let lines = bench.end().await;
    let expected = json!({"door": "http", "user": "shop", "stage": "events", "code": null, "reason": "login_ended",
        "text": "this token is not valid any more"});
    expect(&lines, &expected);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "login_ended").count(), 1);
}
