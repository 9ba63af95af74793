//! A mailbox that somebody floods with codes through an app's login form, by spelling its address in many ways or by asking
//! several apps.

use otp_relay::testing::event::Kind;

use crate::malice::doors::{Doors, letter};

/// One mailbox in 33 spellings: plain, and in quotes with a back-slash before some of its letters or none.
fn quoted() -> Vec<String> {
    let quoted = (0..32).map(|pattern: u32| {
        let letter =
            |(index, letter)| if pattern >> index & 1 == 1 { format!("\\{letter}") } else { format!("{letter}") };
        format!("\"{}\"@victim.test", "alice".chars().enumerate().map(letter).collect::<String>())
    });
    quoted.chain(["alice@victim.test".to_owned()]).collect()
}

/// One mailbox at Gmail: dots, case, tags, and both of its domains.
fn dotted() -> Vec<String> {
    let locals = [
        "henry",
        "Henry",
        "h.enry",
        "h.e.n.r.y",
        "henry+1",
        "h.enry+x.y",
        "\".henry\"",
        "\"hen..ry.\"",
        "\"henry+ x\"",
    ];
    let domains = ["gmail.com", "googlemail.com", "GMAIL.com"];
    domains.iter().flat_map(|domain| locals.iter().map(move |local| format!("{local}@{domain}"))).collect()
}

/// In version 0.1 the first had 165 codes within ten minutes, the second 20.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_has_a_budget_of_its_own() {
    let mut doors = Doors::open("").await;
    for spellings in [quoted(), dotted()] {
        // Another user has five of its own.
        let (mut by_smtp, mut by_http) = (0, 0);
        for spelling in (0..5).flat_map(|_| &spellings) {
            let reply = doors.code(spelling).await;
            assert!(reply.starts_with("250") || reply.starts_with("450 4.7.28"), "{spelling}: {reply}");
            by_smtp += usize::from(reply.starts_with("250"));
            let answer = doors.http_code(spelling).await;
            assert!(answer.status == 202 || answer.status == 429, "{spelling}: {}", answer.body);
            by_http += usize::from(answer.status == 202);
        }
        assert_eq!((by_smtp, by_http), (5, 5), "{}", spellings[0]);
    }
    // Who is somebody else has a budget of his own: a look-alike's, a neighbour's.
    doors
        .pass(&[
            "henryk@gmail.com",
            "h.enry@victim.test",
            "henry@victim.test",
            "\u{212a}ate@gmail.com",
            "kate@gmail.com",
        ])
        .await;
    doors.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_has_a_budget_over_all_users() {
    let limits = "[otp]\nrecipient_budget = \"4/10m\"\nrecipient_budget_total = \"6/10m\"\n";
    let mut doors = Doors::open(limits).await;
    for _ in 0..4 {
        doors.ends("kate@victim.test", Kind::Delivered).await;
    }
    // Who used up a budget of its own is told so, with its own count.
    let reply = doors.code("kate@victim.test").await;
    assert!(
        reply.starts_with("450 4.7.28 4 codes in 10m for this recipient (otp.recipient_budget); next in "),
        "{reply}"
    );
    let bank = doors.bank.clone();
    let by_bank = async |recipient: &str| bank.post("/v1/messages", letter("bank", recipient)).await;
    for _ in 0..2 {
        assert_eq!(by_bank("kate@victim.test").await.status, 202);
        doors.end("kate@victim.test", Kind::Delivered).await;
    }
    // The six are used up. What the bank hears of the others is nothing.
    let refused = by_bank("KATE+x@victim.test").await;
    let problem = refused.json();
    assert_eq!((refused.status, &problem["type"]), (429, &"urn:otp-relay:budget".into()));
    assert_eq!(problem["detail"], "too many codes for this recipient");
    assert_eq!(refused.field("retry-after"), "60");
    // The first two of yet another user pass, whatever the others did; its third does not.
    for expected in [202, 202, 429] {
        assert_eq!(doors.http_code("kate@victim.test").await.status, expected);
    }
    doors.pass(&["alice@victim.test"]).await;
    doors.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_smtp_the_budget_of_all_says_no_more() {
    let limits = "[otp]\nrecipient_budget = \"3/10m\"\nrecipient_budget_total = \"3/10m\"\n";
    let mut doors = Doors::open(limits).await;
    for _ in 0..3 {
        assert_eq!(doors.http_code("kate@victim.test").await.status, 202);
        doors.end("kate@victim.test", Kind::Delivered).await;
    }
    for _ in 0..2 {
        doors.ends("kate@victim.test", Kind::Delivered).await;
    }
    assert_eq!(doors.code("kate@victim.test").await, "450 4.7.28 too many codes for this recipient");
    doors.pass(&["alice@victim.test"]).await;
    doors.relay.shut_down().await;
}
