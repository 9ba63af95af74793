//! Commands inside of what is no command, and header fields inside of what is no header field.

use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use serde_json::json;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::Trick;
use crate::support::http::Http;
use crate::support::start_with_host;

#[tokio::test(flavor = "multi_thread")]
async fn commands_behind_starttls_are_not_carried_out() {
    let (_folder, _mx, relay, _events) = start_with_host(&[], "").await;
    for injected in ["MAIL FROM:<otp@app.test>\r\n", "RSET\r\n", "N", "\0", "\r\n"] {
        let mut client = Client::connect(relay.addresses()[0]).await;
        client.send(format!("STARTTLS\r\n{injected}").as_bytes()).await;
        assert!(client.hear().await.starts_with("554 5.5.1 nothing may follow STARTTLS"), "{injected:?}");
        assert_eq!(client.hear().await, "");
    }
    // Too late to be in one piece with it, so part of the handshake, which fails.
    let mut client = Client::connect(relay.addresses()[0]).await;
    assert!(client.say("STARTTLS").await.starts_with("220 "));
    client.send(b"EHLO client.test\r\nMAIL FROM:<otp@app.test>\r\n").await;
    let reply = client.hear().await;
    assert!(!reply.starts_with("250"), "{reply}");
    assert!(client.is_closed().await);
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_a_chunk_are_content() {
    let (_folder, mx, relay, _events) = start_with_host(&[], "[submission]\nmessage_size_max = \"16KiB\"\n").await;
    let smuggled = "RSET\r\nMAIL FROM:<otp@app.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\n";
    let padded = format!("{smuggled}{}", "x".repeat((20 << 10) - smuggled.len()));
    // Chunks that are refused for different reasons are read over all the same.
    for (before, size, chunk, refusal) in [
        ("", smuggled.len(), smuggled, "503 5.5.1"),
        ("MAIL FROM:<otp@app.test>", smuggled.len(), smuggled, "554 5.5.1"),
        ("MAIL FROM:<otp@app.test>\r\nRCPT TO:<a@example.test>", 20 << 10, padded.as_str(), "552 5.3.4"),
    ] {
        let mut client = Client::connect(relay.addresses()[0]).await;
        for line in before.lines() {
            client.say(line).await;
        }
        client.send(format!("BDAT {size} LAST\r\n{chunk}NOOP\r\n").as_bytes()).await;
        let reply = client.hear().await;
        assert!(reply.starts_with(refusal), "{reply}");
        assert_eq!(client.hear().await, "250 2.0.0 ok", "one reply to the chunk, then the one to NOOP");
    }
    // Where a chunk ends is not known: nothing behind it counts.
    for size in
        ["99999999999999999999", "-1", "0x10", "1 FIRST", "1 LAST LAST", "1,000", "", "9223372036854775807 LAST"]
    {
        let mut client = Client::connect(relay.addresses()[0]).await;
        client.send(format!("BDAT {size}\r\n{smuggled}").as_bytes()).await;
        let reply = client.hear().await;
        assert!(reply.starts_with("501 5.5.4") || reply.starts_with("503 5.5.1"), "{size}: {reply}");
        assert_eq!(client.hear().await, "", "{size}");
    }
    relay.shut_down().await;
    assert!(mx.received().is_empty());
}

/// What an app's request can hold of its own user's words gets into no header section but as the text that it is.
#[tokio::test(flavor = "multi_thread")]
async fn no_header_field_by_http() {
    let hash = token_hash("token of shop");
    let user = format!("[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@shop.test\"]\n");
    let more = format!("{user}[otp]\nrecipient_budget = \"off\"\n");
    let (_folder, mx, relay, mut events) = start_with_host(&["PIPELINING", "8BITMIME", "SMTPUTF8"], &more).await;
    let shop = Http { address: relay.http_address().unwrap(), token: "token of shop".to_owned() };
    let good =
        json!({"from": "Shop <otp@shop.test>", "to": "alice@example.test", "otp": {"code": "481516", "app": "Shop"}});
    let with = |name: &str, value: &str| {
        let mut request = good.clone();
        match name.strip_prefix("otp/") {
            Some(name) => request["otp"][name] = json!(value),
            None => request[name] = json!(value),
        }
        request
    };
    let mut taken = 0;
    for end in ["\r\n", "\n", "\r", "\u{85}", "\u{2028}", "\0", "\r\n "] {
        let evil = format!("x{end}Bcc: victim@example.test{end}{end}x");
        for (path, text) in [
            ("from", format!("{evil} <otp@shop.test>")),
            ("from", format!("otp@shop.test{end}Bcc: <victim@example.test>")),
            ("from", format!("Shop <\"{evil}\"@shop.test>")),
            ("to", format!("{evil} <alice@example.test>")),
            ("to", format!("alice@example.test{end}")),
            ("to", format!("\"{evil}\"@example.test")),
            ("subject", evil.clone()),
            ("otp/app", evil.clone()),
            ("otp/code", evil.clone()),
            ("otp/locale", evil.clone()),
            ("tag", evil.clone()),
            ("key", evil.clone()),
            ("life", format!("60{end}")),
            ("lane", format!("otp{end}")),
        ] {
            let answer = shop.post("/v1/messages", with(path, &text)).await;
            if answer.status == 202 {
                taken += 1;
                events.next(Kind::Delivered).await;
                continue;
            }
            // 403: what is left for an address is somebody else's.
            assert!(matches!(answer.status, 422 | 403), "{}: {path} with {}", answer.status, text.escape_debug());
        }
    }
    relay.shut_down().await;
    let received = mx.received();
    assert!(received.len() >= taken);
    for message in received {
        assert!(message.rcpt.to_lowercase().contains("alice@example.test"), "{}", message.rcpt);
        let text = String::from_utf8(message.content).unwrap().to_lowercase();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("bcc") || line.starts_with("x-evil")), "{head}");
    }
}

/// xtext may stand for a line end; a notification that repeats it does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_header_field_by_smtp_parameters() {
    let (_folder, mx, relay, mut events) = start_with_host(&["PIPELINING", "DSN"], "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    mx.trick("RCPT", Trick::Say("550 5.1.1 \u{1b}[2Jnobody\u{9b}31m\u{202e}here"), 1);
    let reply = app.say("MAIL FROM:<otp@app.test> ENVID=a+0D+0AX-Evil:+201+0D+0A+0D+0Ab AUTH=e+0D+0AX-Evil:1").await;
    assert!(reply.starts_with("250"), "{reply}");
    let reply = app.say("RCPT TO:<alice@example.test> NOTIFY=FAILURE ORCPT=rfc822;a+0D+0AX-Evil:+201+1B[2J").await;
    assert!(reply.starts_with("250"), "{reply}");
    app.say("DATA").await;
    app.say(&format!("{}\r\n.", mail("one"))).await;
    let failed = events.next(Kind::Failed).await;
    assert_eq!(failed.reply(), Some("550 5.1.1  [2Jnobody 31m here"));
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    let told = String::from_utf8(mx.received()[0].content.clone()).unwrap();
    assert!(told.contains("Original-Envelope-Id: a X-Evil: 1 b\r\n"), "{told}");
    assert!(!told.lines().any(|line| line.to_lowercase().starts_with("x-evil")), "{told}");
    assert!(!told.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n')), "{told}");
    for line in ["ENVID=a b", "ENVID=a\tb", "ENVID=", "ENVID=a+0d", "AUTH=a=b", "AUTH"] {
        let refused =
            otp_relay::testing::smtp::command::Command::parse(format!("MAIL FROM:<otp@app.test> {line}").as_bytes());
        assert!(refused.is_err(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_are_refused() {
    let (_folder, _mx, relay, _events) = start_with_host(&[], "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    for (bomb, expected) in [
        ("X: y\r\n".repeat(1100), "554 5.6.0 more than 1000 header fields"),
        ("X: y\r\n".repeat(100_000), "554 5.6.0 a header section of more than 128 KiB"),
        (format!("X: {}\r\n", "y".repeat(1_000_000)), "554 5.6.0 a header section of more than 128 KiB"),
        (format!("X:\r\n{}", " y\r\n".repeat(200_000)), "554 5.6.0 a header section of more than 128 KiB"),
    ] {
        let reply = app.submit(&["alice@example.test"], &format!("{bomb}{}", mail("one"))).await;
        assert_eq!(reply, expected);
    }
    assert!(app.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
    relay.shut_down().await;
}

/// A client may call itself anything; what becomes of it in the Received field is one word.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_name_stays_in_its_place() {
    let (_folder, mx, relay, mut events) = start_with_host(&[], "[submission]\nreceived_client = true\n").await;
    let by = "\r\n\tby relay.test (otp-relay) with ESMTP id ";
    for (name, expected) in [
        ("client.test", "client.test ([127.0.0.1])"),
        ("Bob's-MacBook.local", "[127.0.0.1] (helo=Bob's-MacBook.local)"),
        (
            "x) by bank.test with ESMTPS id 1; Sat, 21 Nov 2026 10:00:00 +0000 (",
            "[127.0.0.1] (helo=x??by?bank.test?with?ESMTPS?id?1??Sat??21?Nov?2026?10:00:00?\
             ?0000??)",
        ),
        ("x\u{85}X-Injected: yes\u{2028}\\\"", "[127.0.0.1] (helo=x?X-Injected:?yes???)"),
    ] {
        let mut client = Client::connect(relay.addresses()[0]).await;
        assert!(client.say(&format!("EHLO {name}")).await.starts_with("250 "));
        assert!(client.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
        events.next(Kind::Delivered).await;
        let content = String::from_utf8(mx.received().pop().unwrap().content).unwrap();
        assert!(content.starts_with(&format!("Received: from {expected}{by}")), "{content}");
    }
    relay.shut_down().await;
}
