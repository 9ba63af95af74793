//! The commands that talk to a running relay, as the operator types them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::{Events, start_relay};
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::Value;

/// A relay, and a configuration file that leads to it.
struct Bench {
    relay: Relay,
    events: Events,
    mx: FakeMx,
    folder: tempfile::TempDir,
}

/// What a command came to.
struct Done {
    status: i32,
    out: String,
    err: String,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(&["PIPELINING"]).await;
        let (relay, events) = start_relay(folder.path(), mx.address, "");
        let config = format!(
            "data_dir = \"data\"\n[[user]]\nname = \"trusted\"\nsenders = [\"*@app.test\"]\n[http]\naddress = \"{}\"\n",
            relay.http_address().unwrap()
        );
        std::fs::write(folder.path().join("relay.toml"), config).unwrap();
        Self { relay, events, mx, folder }
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        self.run_reading(arguments, "").await
    }

    /// With something on standard input.
    async fn run_reading(&self, arguments: &[&str], input: &'static str) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
        command.args(arguments).arg("-c").arg(self.folder.path().join("relay.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn().unwrap();
            // One that reads nothing may be gone already.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        Done { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn id_of(out: &str) -> String {
    out.lines().find_map(|line| line.strip_prefix("message ")).unwrap_or_else(|| panic!("{out}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_sent_and_followed() {
    let bench = Bench::new().await;
    bench.mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    let sent = bench.run(&["send", "--to", "alice@example.test", "--code", "481516", "--ttl", "60s"]).await;
    assert_eq!((sent.status, sent.err.as_str()), (0, ""), "{}", sent.out);
    for part in [
        "accepted",
        "attempt 1 begins",
        "greylisted by ",
        "attempt 2 begins",
        "alice@example.test: delivered, 2 attempts",
    ] {
        assert!(sent.out.contains(part), "{part} is missing in {}", sent.out);
    }
    let received = &bench.mx.received()[0];
    assert!(received.mail.starts_with("MAIL FROM:<otp@app.test>"));
    assert!(String::from_utf8_lossy(&received.content).contains("Subject: 481516 is your code\r\n"));
    let learned = bench.run(&["explain", "--destination", "example.test"]).await;
    assert_eq!((learned.status, learned.err.as_str()), (0, ""));
    for part in ["example.test is served by mx.test", "1 of 1 were made to wait", "passed after 1.", "none was put"] {
        assert!(learned.out.contains(part), "{part} is missing in {}", learned.out);
    }
    let learned = bench.run(&["explain", "--destination", "example.test", "--json"]).await;
    let learned: Value = serde_json::from_str(&learned.out).unwrap();
    assert_eq!(learned["greylisting"]["opens_for"], "triplet");
    assert_eq!(bench.run(&["explain", "--destination", "gone.test"]).await.status, 1);
    let id = id_of(&sent.out);
    let by_id = bench.run(&["trace", &id]).await;
    let by_recipient = bench.run(&["trace", "Alice@example.test"]).await;
    assert_eq!((by_id.status, &by_id.out), (0, &by_recipient.out));
    for part in [
        "alice@example.test: delivered",
        "RCPT     451 4.7.1 Greylisted  [mx.test]",
        "content  250 2.0.0 taken",
        " (behind a delay that greylisting software uses)",
    ] {
        assert!(by_id.out.contains(part), "{part} is missing in {}", by_id.out);
    }
    assert!(!by_id.out.contains("481516"));
    let json: Value = serde_json::from_str(&bench.run(&["trace", &id, "--json"]).await.out).unwrap();
    assert_eq!(json["entries"][0]["state"], "delivered");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_delivered_fails_the_command() {
    let bench = Bench::new().await;
    bench.mx.trick("RCPT", Trick::Say("550 5.1.1 no such user"), 1);
    let sent = bench.run(&["send", "--to", "bob@example.test", "--from", "code@app.test", "--json"]).await;
    assert_eq!(sent.status, 4);
    let json: Value = serde_json::from_str(&sent.out).unwrap();
    assert_eq!((&json["entries"][0]["state"], &json["entries"][0]["cause"]), (&"failed".into(), &"bad_mailbox".into()));
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_shown_and_steered() {
    let mut bench = Bench::new().await;
    bench.mx.trick("RCPT", Trick::Say("451 4.3.0 later"), 2);
    let token = std::fs::read_to_string(bench.folder.path().join("data/api.token")).unwrap();
    let http =
        crate::support::http::Http { address: bench.relay.http_address().unwrap(), token: token.trim().to_owned() };
    let mut ids = Vec::new();
    for recipient in ["alice@a.test", "bob@b.test"] {
        let body = serde_json::json!({"from": "otp@app.test", "to": recipient, "otp": {"code": "1234"}});
        ids.push(http.post("/v1/messages", body).await.id());
        bench.events.next(Kind::Deferred).await;
    }
    let list = bench.run(&["queue", "list"]).await.out;
    assert!(list.contains(&ids[0]) && list.contains("bob@b.test") && list.ends_with("\n2 entries\n"), "{list}");
    let heading = list.lines().next().unwrap();
    assert!(heading.starts_with("entry ") && heading.contains(" expires ") && heading.contains(" at risk "), "{list}");
    let column = heading.find("expires").unwrap();
    let expiry = list.lines().nth(1).unwrap().get(column..column + 12).unwrap();
    assert!(expiry.chars().filter(char::is_ascii_digit).count() == 9 && expiry.contains(':'), "{list}");
    let sent = bench.run(&["destinations"]).await.out;
    assert!(sent.starts_with("destination ") && sent.lines().count() == 3, "{sent}");
    let row = sent.lines().find(|line| line.starts_with("a.test ")).unwrap();
    assert!(row.contains("at mx.test: 451 4.3.0 later"), "{sent}");
    let list = bench.run(&["queue", "list", "--destination", "a.test", "--state", "deferred"]).await.out;
    assert!(list.contains("451 4.3.0 later") && list.ends_with("\n1 entry\n"), "{list}");
    let show = bench.run(&["queue", "show", &ids[1]]).await.out;
    assert!(show.contains("bob@b.test: deferred, 1 attempt, the next at "), "{show}");
    let cancelled = bench.run(&["queue", "cancel", &ids[1]]).await.out;
    assert!(cancelled.ends_with("bob@b.test: cancelled, and will not arrive\n"), "{cancelled}");
    let retried = bench.run(&["queue", "--json", "retry", "--destination", "a.test"]).await;
    assert_eq!(retried.out, format!("{{\"retried\":[\"{}-1\"]}}\n", ids[0]));
    bench.events.next(Kind::Delivered).await;
    let sent = http.get("/v1/destinations").await.json();
    let of = |name: &str| {
        let rows = sent["destinations"].as_array().unwrap();
        rows.iter().find(|row| row["destination"] == name).unwrap_or_else(|| panic!("{name} in {sent}"))
    };
    assert_eq!((&of("a.test")["sent"], &of("a.test")["waiting"]), (&1.into(), &0.into()), "{sent}");
    assert!(of("a.test")["p50_ms"].is_u64() && of("b.test")["p50_ms"].is_null(), "{sent}");
    assert_eq!((&of("b.test")["sent"], &of("b.test")["waiting"]), (&0.into(), &0.into()), "it was cancelled: {sent}");
    assert_eq!(of("b.test")["last_refusal"]["reply"], "451 4.3.0 later");
    assert_eq!(bench.run(&["queue", "retry", &ids[0]]).await.out, "nothing was waiting for its next attempt\n");
    bench.relay.shut_down().await;
}

/// So that they stand in no list of processes.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_files_or_standard_input() {
    let bench = Bench::new().await;
    let url = format!("http://{}", bench.relay.http_address().unwrap());
    let token = bench.folder.path().join("data/api.token").display().to_string();
    let code = bench.folder.path().join("code");
    std::fs::write(&code, "481516\n").unwrap();
    let send = ["send", "--to", "alice@example.test", "--from", "otp@app.test", "--url", &url, "--token-file", &token];
    let code = code.display().to_string();
    for (more, input) in [(["--code-file", &code], ""), (["--code-file", "-"], "481516\r\nmore\n")] {
        let sent = bench.run_reading(&[&send[..], &more].concat(), input).await;
        assert_eq!((sent.status, sent.err.as_str()), (0, ""), "{}", sent.out);
        assert!(!sent.out.contains("481516"), "{}", sent.out);
    }
    for message in bench.mx.received() {
        assert!(String::from_utf8_lossy(&message.content).contains("Subject: 481516 is your code\r\n"));
    }
    assert_eq!(bench.mx.received().len(), 2);
    let list = bench.run_reading(&["queue", "list", "--token-file", "-"], "wrong\n").await;
    assert!(list.status == 77 && list.err.contains("401"), "{}", list.err);
    for (arguments, status, told) in [
        (&["send", "--to", "a@example.test", "--code-file", "-", "--token-file", "-"][..], 2, "holds one secret"),
        (&["send", "--to", "a@example.test", "--code-file", "-"], 1, "there is no code in standard input"),
        (&["queue", "list", "--token-file", "/nowhere"], 1, "the token cannot be read from /nowhere"),
    ] {
        let done = bench.run(arguments).await;
        assert!(done.status == status && done.err.contains(told), "{}", done.err);
    }
    let both = bench.run(&["send", "--to", "a@example.test", "--code", "1", "--code-file", "-"]).await;
    assert_eq!(both.status, 2, "{}", both.err);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_ends_a_command_quietly() {
    let bench = Bench::new().await;
    let config = bench.folder.path().join("relay.toml");
    for arguments in [&["queue", "list"], &["destinations"][..], &["plan"], &["explain", "450 later"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
        command.args(arguments).arg("-c").arg(&config).stdout(writer);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!((done.status.code(), done.stderr.as_slice()), (Some(141), &b""[..]), "{arguments:?}: {done:?}");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_one_line_that_says_what_to_do() {
    let bench = Bench::new().await;
    let address = format!("http://{}", bench.relay.http_address().unwrap());
    for (arguments, status, told) in [
        (&["trace", "01M7YRRT9A0000000000000000"][..], 3, "the relay says 404: no message with this id"),
        (&["trace", "nobody@example.test"], 3, "no message to nobody@example.test is known"),
        (&["queue", "cancel", "01M7YRRT9A0000000000000000"], 3, "the relay says 404: no message with this id"),
        (&["suppression", "remove", "nobody@example.test"], 3, "the relay says 404: this address is not suppressed"),
        (&["send", "--to", "a@gone.test"], 1, "the relay says 422: a@gone.test: no such domain"),
        (&["send", "--to", "a@example.test", "--from", "ceo@bank.test"], 77, "the relay says 403: no user's senders"),
        (&["queue", "list", "--url", &address, "--token", "wrong"], 77, "the relay says 401: this token is not valid"),
        (&["queue", "list", "--url", "ftp://relay"], 2, "ftp:// is not spoken here"),
        (&["queue", "list", "--url", "http://127.0.0.1:1"], 69, "no relay answers at 127.0.0.1:1"),
    ] {
        let done = bench.run(arguments).await;
        assert_eq!((done.status, done.out.as_str()), (status, ""), "{arguments:?}");
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        assert!(done.err.starts_with("otp-relay: ") && done.err.contains(told), "{}", done.err);
    }
    assert_eq!(bench.run(&["queue", "retry"]).await.status, 2);
    bench.relay.shut_down().await;
}

/// A command with a configuration of its own, without a relay.
fn alone(folder: &std::path::Path, arguments: &[&str], config: &str) -> Done {
    let file = folder.join("relay.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
    let output = command.args(arguments).arg("-c").arg(&file).stdin(Stdio::null()).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    Done { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Beside those of the commands above: 0, 1, 2, 3, 4, 69 and 77 of a running relay.
#[test]
fn each_way_to_fail_has_its_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], config: &str| alone(folder.path(), arguments, config);
    let nobody = "[http]\naddress = \"127.0.0.1:1\"\n";
    let wrong = "hostnam = \"relay.test\"\n";
    for (arguments, config, status, told) in [
        (&["serve"][..], wrong, 78, "the configuration has errors; nothing was started"),
        (&["queue", "list"], wrong, 78, "the configuration has errors, `otp-relay check --offline` tells which"),
        (&["dkim", "record", "app.test"], wrong, 78, "otp-relay: the configuration has errors\n"),
        (&["config", "--effective"], wrong, 78, "otp-relay: the configuration has errors\n"),
        (&["queue", "list"], "[http]\naddress = \"off\"\n", 78, "the HTTP API is off in the configuration"),
        (&["queue", "list"], nobody, 69, "the token file is missing: "),
        (&["queue", "list", "--token", "t"], nobody, 69, "no relay answers at 127.0.0.1:1"),
        (&["dkim", "record", "app.test"], nobody, 3, "no [[dkim]] key for app.test in the configuration"),
        (&["dkim", "generate", "no domain", "otp1"], "", 2, "\"no domain\" is not a domain"),
        (&["queue", "retry"], "", 2, "required arguments"),
        (&["user", "hash"], "", 1, "there is no password"),
    ] {
        let done = run(arguments, config);
        assert_eq!(done.status, status, "{arguments:?}: {}", done.err);
        assert!(done.err.contains(told), "{arguments:?}: {}", done.err);
    }
    let checked = run(&["check", "--offline"], wrong);
    assert!(checked.status == 1 && checked.err.is_empty(), "a wrong configuration is a finding: {}", checked.err);
    assert_eq!(run(&["check", "--offline"], "hostname = \"relay.test\"\n").status, 0);
    let missing =
        Command::new(env!("CARGO_BIN_EXE_otp-relay")).args(["serve", "-c", "/nowhere/relay.toml"]).output().unwrap();
    let told = String::from_utf8(missing.stderr).unwrap();
    let expected = "otp-relay: the configuration cannot be read: /nowhere/relay.toml: No such file or directory\n";
    assert_eq!((missing.status.code(), told.as_str()), (Some(78), expected));
    let help = String::from_utf8(run(&["--help"], "").out.into_bytes()).unwrap().replace('\n', " ");
    for status in [0, 1, 2, 3, 4, 69, 77, 78] {
        assert!(help.split("Exit status:").nth(1).unwrap().contains(&format!(" {status} ")), "{status} in {help}");
    }
}

/// Nothing is sent from an address that the machine does not have.
#[test]
fn a_source_address_that_the_machine_does_not_have_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let run = |command: &str, listener: &str, source: &str| {
        let text = format!(
            "data_dir = \"data\"\n[[listener]]\naddress = \"{listener}\"\n[http]\naddress = \"off\"\n[resolver]\n\
             dnssec = false\n[delivery]\nsource_addresses = [\"{source}\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_otp-relay")).arg(command).arg("-c").arg(&file).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let finding = "; error: [delivery] source_addresses: this machine does not have the address 192.0.2.77";
    let (is_good, told) = run("check", "127.0.0.1:0", "192.0.2.77");
    assert!(!is_good && told.lines().any(|line| line == finding), "{told}");
    let (_, told) = run("check", "127.0.0.1:0", "127.0.0.1");
    assert!(!told.contains("does not have the address"), "{told}");
    // It tells of it, then ends, as it cannot listen where it should.
    let (is_good, told) = run("serve", "192.0.2.78:2525", "192.0.2.77");
    let is_warning = |line: &str| line.contains("WARN") && line.contains("delivery.source_addresses");
    assert!(!is_good && told.lines().any(|line| is_warning(line) && line.contains("192.0.2.77")), "{told}");
}
