//! Commands that look after the data directory: verify, backup, restore, erase, and the change of DKIM keys.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::{copy_folder, start_relay, start_relay_from};
use otp_relay::testing::event::{Kind, stored};
use otp_relay::testing::ledger::cursor::Cursor;
use otp_relay::testing::ledger::embedded::key_ring::KeyRing;
use otp_relay::testing::ledger::embedded::store::sled::{SledStore, verify};
use otp_relay::testing::ledger::embedded::store::{Store as _, Table};
use otp_relay::testing::relay::Relay;
use otp_relay::testing::report::trace::decode;

/// What a command came to: status, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_otp-relay")).args(arguments).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of what this version left.
fn folder_of(version: &str, folder: &Path) -> std::path::PathBuf {
    let data = folder.join("data");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version).join("data"), &data);
    data
}

/// Every octet of every file, by name.
fn octets(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(octets(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_folder_of_each_version_is_verified_and_stays_as_it_is() {
    let of_0_1 =
        ["format 1", "queue: format 1, 10 messages, 10 entries that were tried", "suppression: 4 rows", "traces: 20"];
    let of_0_2 = [
        "format 2",
        "queue: format 2, 10 messages, 10 entries that were tried",
        "suppression: 3 rows",
        "verification: 2 rows",
        "changes of DKIM keys: 1",
    ];
    for (version, expected) in [("0.1", &of_0_1[..]), ("0.2", &of_0_2[..])] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder_of(version, folder.path());
        let before = octets(&data);
        let (status, out, err) = run(&["data", "verify", text_of(&data)]);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        for line in expected {
            assert!(out.lines().any(|found| found == *line), "{line} is missing in {out}");
        }
        assert!(out.ends_with("everything can be read\n"), "{out}");
        assert_eq!(octets(&data), before);
    }
}

#[test]
fn damage_and_newer_folders_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder_of("0.1", folder.path());
    let database = data.join("queue/db");
    let mut octets = fs::read(&database).unwrap();
    let middle = octets.iter().rposition(|octet| *octet != 0).unwrap() / 2;
    octets[middle] ^= 0x55;
    fs::write(&database, octets).unwrap();
    let (status, out, _) = run(&["data", "verify", text_of(&data)]);
    assert!(status == 1 && out.contains("error: 1 places of queue/db hold something else"), "{status} {out}");
    fs::write(data.join("format"), "99\n").unwrap();
    let (status, _, err) = run(&["data", "verify", text_of(&data)]);
    assert!(status == 1 && err.contains("it has format 99, which a newer otp-relay wrote"), "{status} {err}");
    let (status, _, err) = run(&["data", "verify", text_of(folder.path())]);
    assert!(status == 1 && err.contains("is no data directory"), "{status} {err}");
}

/// A relay in a folder with its configuration file, whose API and DKIM key are of use to the commands.
fn configuration(folder: &Path, mx: std::net::SocketAddr) -> (std::path::PathBuf, String) {
    let pem = otp_relay::testing::dkim::record::generate_ed25519().unwrap();
    fs::create_dir_all(folder.join("certs")).unwrap();
    fs::write(folder.join("certs/k.pem"), pem).unwrap();
    fs::set_permissions(folder.join("certs/k.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let (smtp, http) = (crate::support::process::free_port(), crate::support::process::free_port());
    let text = format!(
        "hostname = \"relay.app.test\"\n[[listener]]\naddress = \"127.0.0.1:{smtp}\"\nauth = \"trusted\"\n\
         trusted_networks = [\"127.0.0.0/8\"]\n[[user]]\nname = \"trusted\"\nsenders = [\"*@app.test\"]\n\
         [[dkim]]\ndomain = \"app.test\"\nselector = \"otp1\"\nprivate_key = \"certs/k.pem\"\n\
         [http]\naddress = \"127.0.0.1:{http}\"\n[resolver]\nnameservers = [\"127.0.0.1:9\"]\n\
         [delivery]\nport = {}\nallow_private_destinations = true\n[submission]\nverify_domain = false\n",
        mx.port()
    );
    let file = folder.join("relay.toml");
    fs::write(&file, &text).unwrap();
    (file, text)
}

async fn command(arguments: Vec<String>) -> (i32, String, String) {
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

/// What was suppressed on one machine is suppressed on another, which has the same keys and tokens; of the queue and of
/// traces nothing is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_on_an_empty_machine() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mx = FakeMx::start(&["PIPELINING"]).await;
    let (file, text) = configuration(old.path(), mx.address);
    let archive = old.path().join("backup.tar");
    let (relay, _events) = start_relay_from(old.path(), &text);
    let config = text_of(&file).to_owned();
    let (status, out, err) = command(words(&["suppression", "add", "alice@example.test", "-c", &config])).await;
    assert_eq!(status, 0, "{out}{err}");
    let (status, out, err) = command(words(&["dkim", "rotate", "app.test", "-c", &config])).await;
    assert_eq!(status, 0, "{out}{err}");
    let (status, out, err) = command(words(&["backup", text_of(&archive), "-c", &config])).await;
    assert_eq!(status, 0, "{out}{err}");
    relay.shut_down().await;
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let mut tar = tar::Archive::new(fs::File::open(&archive).unwrap());
    let names: Vec<String> =
        tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    for forbidden in ["queue", "keys", "traces", "daily-secrets", "lock"] {
        assert!(!names.iter().any(|name| name.contains(forbidden)), "{names:?}");
    }
    for needed in ["relay.toml", "beside/certs/k.pem", "data/api.token", "data/secret", "data/dkim/app.test.json"] {
        assert!(names.iter().any(|name| name == needed), "{needed} is missing in {names:?}");
    }
    let target = new.path().join("etc/relay.toml");
    let restore = ["restore", text_of(&archive), "-c", text_of(&target)];
    let (status, out, err) = command(words(&restore)).await;
    assert_eq!(status, 0, "{out}{err}");
    let (status, _, err) = command(words(&restore)).await;
    assert!(status == 1 && err.contains("nothing was restored, since these are there already"), "{err}");
    let (status, out, err) = command(words(&[&restore[..], &["--force"]].concat())).await;
    assert_eq!(status, 0, "{out}{err}");
    let same = |below: &str| {
        fs::read(old.path().join(below)).unwrap() == fs::read(new.path().join("etc").join(below)).unwrap()
    };
    assert!(same("relay.toml") && same("certs/k.pem") && same("data/api.token") && same("data/secret"));
    let (relay, _events) = start_relay_from(&new.path().join("etc"), &text);
    let mut client = Client::connect(relay.addresses()[0]).await;
    client.say("MAIL FROM:<otp@app.test>").await;
    let reply = client.say("RCPT TO:<alice@example.test>").await;
    assert!(reply.starts_with("550 5.1.1 suppressed"), "{reply}");
    relay.shut_down().await;
}

/// What a data directory that no relay uses says of anybody, by the kind of record; but for what counts against too many codes, which
/// is kept for its time.
fn decoded(data: &Path) -> BTreeMap<&'static str, String> {
    let mut said: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut ring = KeyRing::look(&data.join("keys")).unwrap().0;
    for (table, (key, value)) in verify::queue(&data.join("queue"), &mut ring).unwrap().side {
        let kind = match table {
            Table::Suppression => "suppression",
            Table::Greylist => "greylist",
            Table::Verification => "verification",
            Table::Idempotency | Table::Meta | Table::Ledger => "else",
            Table::Budget => continue,
        };
        *said.entry(kind).or_default() += &(String::from_utf8_lossy(&key) + String::from_utf8_lossy(&value));
    }
    let mut store = SledStore::open(&data.join("queue"), ring).unwrap();
    store.open_events(Cursor::default()).unwrap();
    let mut at = Cursor::default();
    loop {
        let (events, next) = store.events(at).unwrap();
        if events.is_empty() {
            break;
        }
        for (_, event) in &events {
            let mut octets = Vec::new();
            stored::write(event, usize::MAX, &mut octets);
            *said.entry("events").or_default() += &String::from_utf8_lossy(&octets);
        }
        at = next;
    }
    let traces = said.entry("traces").or_default();
    verify::traces(&data.join("traces"), |value| {
        assert!(decode(value).is_some());
        *traces += &String::from_utf8_lossy(value);
    })
    .unwrap();
    for (path, octets) in octets(data) {
        if !["queue", "traces", "keys"].iter().any(|folder| path.starts_with(data.join(folder))) {
            *said.entry("files").or_default() += &String::from_utf8_lossy(&octets);
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_is_erased_from_everything() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mx = FakeMx::start(&["PIPELINING"]).await;
    let (file, _) = configuration(folder.path(), mx.address);
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    let mut client = Client::connect(relay.addresses()[0]).await;
    for recipient in ["alice@example.test", "bob@example.test"] {
        assert!(client.submit(&[recipient], &mail("code")).await.starts_with("250"));
        events.next(Kind::Delivered).await;
    }
    // Alice is greylisted once more, and then nobody waits for her code any longer.
    mx.trick("RCPT", Trick::Say("450 4.7.1 Greylisted, please try again in 300 seconds"), 1);
    let reply = client.submit(&["alice@example.test"], &mail("code")).await;
    assert!(reply.starts_with("250"));
    let waiting = events.next(Kind::Greylisted).await.entry().unwrap().to_string();
    let token = data.join("api.token");
    let at = |relay: &Relay, line: &[&str]| {
        let url = format!("http://{}", relay.http_address().unwrap());
        words(&[line, &["--url", &url, "--token-file", text_of(&token), "-c", text_of(&file)]].concat())
    };
    assert_eq!(command(at(&relay, &["queue", "cancel", &waiting])).await.0, 0);
    events.next(Kind::Cancelled).await;
    assert_eq!(command(at(&relay, &["suppression", "add", "alice@example.test"])).await.0, 0);
    // The folder as it is on disk now: a stop would take old events away.
    let image = |name: &str| {
        let copy = folder.path().join(name);
        copy_folder(&data, &copy);
        decoded(&copy)
    };
    // Traces come to the disk a moment later than what they tell of.
    let kinds = ["suppression", "greylist", "events", "traces"];
    let are_there = |number: u32| {
        let before = image(&format!("before{number}"));
        kinds.iter().all(|kind| before.get(kind).is_some_and(|said| said.contains("alice@example.test")))
    };
    let is_all_there = (0..500).any(are_there);
    assert!(is_all_there, "{kinds:?}: {:?}", image("last"));

    let (status, out, err) = command(at(&relay, &["recipient", "erase", "Alice@example.test"])).await;
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("is erased from 2 traces and ") && out.ends_with("it is no longer suppressed\n"), "{out}");
    let (status, _, _) = command(at(&relay, &["trace", "alice@example.test"])).await;
    assert_eq!(status, 3, "nothing is found");
    assert_eq!(command(at(&relay, &["trace", "bob@example.test"])).await.0, 0);
    let after = image("after");
    relay.shut_down().await;
    for (kind, said) in after.iter().chain(&decoded(&data)) {
        assert!(!said.to_lowercase().contains("alice"), "{kind}: {said}");
    }
    for kind in ["events", "traces"] {
        assert!(after[kind].contains("bob@example.test"), "{kind} of others stay");
    }
}

/// The first look finds no name server that shows the records, so nothing changes; asked again, the same keys are named.
#[tokio::test(flavor = "multi_thread")]
async fn next_dkim_keys_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = configuration(folder.path(), "127.0.0.1:9".parse().unwrap());
    let rotate = ["dkim", "rotate", "app.test", "-c", text_of(&file)];
    let (status, first, err) = command(words(&rotate)).await;
    assert_eq!(status, 0, "{first}{err}");
    assert_eq!(first.matches("_domainkey.app.test. 3600 IN TXT").count(), 2, "{first}");
    let (_, again, _) = command(words(&rotate)).await;
    let records =
        |text: &str| text.lines().filter(|line| line.contains(" IN TXT")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(records(&first), records(&again));
    let (_, out, _) = command(words(&["dkim", "record", "app.test", "-c", text_of(&file)])).await;
    assert!(out.starts_with("otp1._domainkey.app.test.") && out.contains("; The next keys:"), "{out}");
    let mode =
        |name: &str| fs::metadata(folder.path().join("data/dkim").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("app.test.json"), 0o600);
    let (status, _, err) = command(words(&["dkim", "rotate", "other.test", "-c", text_of(&file)])).await;
    assert!(status == 3 && err.contains("dkim generate other.test otp1"), "{status} {err}");
}
