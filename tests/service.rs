//! The program as a service: what a service manager hears from it, what SIGHUP takes on, and what a start needs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::http::Http;
use crate::support::process::{Process, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A service manager with the relay that it started.
struct Managed {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    relay: Process,
    log: BufReader<ChildStdout>,
    smtp: SocketAddr,
    http: SocketAddr,
}

impl Managed {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (smtp, http) = (loopback(free_port()), loopback(free_port()));
        let file = folder.path().join("relay.toml");
        fs::write(&file, configuration(smtp, http, "relay.test", "")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
        command.args(["serve", "-c"]).arg(file).env("NOTIFY_SOCKET", folder.path().join("notify"));
        let mut relay = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let log = BufReader::new(relay.0.stdout.take().unwrap());
        Self { folder, socket, relay, log, smtp, http }
    }

    /// The next thing that the manager is told.
    fn told(&self) -> Vec<String> {
        let mut octets = [0; 4096];
        let length = self.socket.recv(&mut octets).expect("the manager is told");
        String::from_utf8_lossy(&octets[..length]).lines().map(str::to_owned).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.relay.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Has the relay read this file, and returns what the manager is told at the beginning and at the end.
    fn reload(&self, text: &str) -> (Vec<String>, Vec<String>) {
        fs::write(self.folder.path().join("relay.toml"), text).unwrap();
        self.signal(Signal::SIGHUP);
        (self.told(), self.told())
    }

    /// The next line of the log with this in it.
    fn logged(&mut self, part: &str) -> String {
        self.log.by_ref().lines().map(Result::unwrap).find(|line| line.contains(part)).expect(part)
    }

    async fn banner(&self) -> String {
        Client::connect_only("127.0.0.1", self.smtp).await.hear().await
    }

    async fn knows(&self, token: &str) -> bool {
        Http { address: self.http, token: token.to_owned() }.get("/v1/queue").await.status == 200
    }
}

fn configuration(smtp: SocketAddr, http: SocketAddr, hostname: &str, more: &str) -> String {
    format!(
        "hostname = \"{hostname}\"\n[[listener]]\naddress = \"{smtp}\"\n[http]\naddress = \"{http}\"\n[resolver]\n\
         nameservers = [\"127.0.0.1:1\"]\ndnssec = false\n{more}"
    )
}

fn user(name: &str, token: &str) -> String {
    let hash = otp_relay::testing::accounts::user::token_hash(token);
    format!("[[user]]\nname = \"{name}\"\nsenders = [\"*@app.test\"]\ntoken_hash = \"{hash}\"\n")
}

fn monotonic_us() -> i64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    i64::try_from(std::time::Duration::from(time).as_micros()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_start_reload_and_stop() {
    let mut managed = Managed::start();
    assert_eq!(managed.told(), ["READY=1", "STATUS=no live entries"]);
    let (smtp, http) = (managed.smtp, managed.http);

    let before = monotonic_us();
    let (begun, done) = managed.reload(&configuration(smtp, http, "relay.test", &user("shop", "first")));
    assert_eq!((begun[0].as_str(), begun.len()), ("RELOADING=1", 3), "{begun:?}");
    let at: i64 = begun[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!((before..=monotonic_us()).contains(&at), "{begun:?}");
    assert_eq!(done, ["READY=1", "STATUS=no live entries; reloaded"]);
    assert!(managed.knows("first").await);

    // What needs a restart is named, and nothing of it is taken on; the rest is.
    let text = configuration(smtp, http, "other.test", &(user("shop", "second") + "[delivery]\nport = 26\n"));
    let (_, done) = managed.reload(&text);
    assert_eq!(done, ["READY=1", "STATUS=no live entries; reloaded; hostname, delivery.port need a restart"]);
    let line = managed.logged("by a restart only");
    assert!(
        line.contains("WARN") && line.ends_with("changed, and taken on by a restart only: hostname, delivery.port")
    );
    assert!(managed.banner().await.starts_with("220 relay.test "), "the name stays until there is a restart");
    assert!(managed.knows("second").await && !managed.knows("first").await);

    // It is named again as long as the file differs from what is in force, and no longer.
    let (_, done) = managed.reload(&configuration(smtp, http, "other.test", &user("shop", "second")));
    assert_eq!(done[1], "STATUS=no live entries; reloaded; hostname needs a restart");
    let (_, done) = managed.reload(&configuration(smtp, http, "relay.test", &user("shop", "second")));
    assert_eq!(done[1], "STATUS=no live entries; reloaded");

    // A check beside it does not take its own addresses for somebody else's.
    let file = managed.folder.path().join("relay.toml");
    let checked = Command::new(env!("CARGO_BIN_EXE_otp-relay")).args(["check", "-c"]).arg(file).output().unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("a relay runs with this data directory"), "{text}");

    managed.signal(Signal::SIGTERM);
    assert_eq!(managed.told()[0], "STOPPING=1");
    assert!(managed.relay.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_fault_changes_nothing() {
    let mut managed = Managed::start();
    managed.told();
    let (smtp, http) = (managed.smtp, managed.http);
    managed.reload(&configuration(smtp, http, "relay.test", &user("shop", "first")));
    for fault in [
        "[submission]\nidle_timout = \"5m\"\n",
        "[[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"none.pem\"\n",
        "[[smart_host]]\naddress = \"a.test:587\"\nusername = \"u\"\npassword_file = \"none\"\n",
        "[tls\n",
    ] {
        let text = configuration(smtp, http, "relay.test", &(user("shop", "second") + fault));
        let (begun, done) = managed.reload(&text);
        assert_eq!(begun[0], "RELOADING=1");
        let expected = ["READY=1", "STATUS=no live entries; not reloaded: the configuration has errors"];
        assert_eq!(done, expected, "a reload ends for the manager also where it fails");
        managed.logged("error: ");
        managed.logged("not reloaded: the configuration has errors; all stays as it was");
        assert!(managed.knows("first").await && !managed.knows("second").await, "{fault}");
    }
    fs::remove_file(managed.folder.path().join("relay.toml")).unwrap();
    managed.signal(Signal::SIGHUP);
    managed.told();
    let told = managed.told();
    assert!(
        told[1].starts_with("STATUS=no live entries; not reloaded: ") && told[1].contains("No such file"),
        "{told:?}"
    );
    assert!(managed.knows("first").await);
}

/// What `serve` says on standard error, and its status, in a folder without a configuration.
fn serve_in(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
    let output = command.arg("serve").args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A password that is shown once is made only where somebody is there to read it, or asked for it.
#[test]
fn without_a_configuration_nothing_is_made_up_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let (status, told) = serve_in(folder.path(), &[]);
    assert_eq!((status, told.lines().count()), (Some(78), 1), "{told}");
    let here = folder.path().canonicalize().unwrap();
    let looked = format!("neither {}/config/relay.toml nor /etc/otp-relay/relay.toml is there", here.display());
    for part in [looked.as_str(), "`otp-relay config > FILE`", "`otp-relay serve --first-run`"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    // One that is named has to be there.
    let (status, told) = serve_in(folder.path(), &["--first-run", "-c", "none.toml"]);
    assert!(status.is_some_and(|status| status > 0) && told.contains("none.toml"), "{told}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

/// Asked for, it is made up, and shown.
#[test]
fn a_first_run_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
    command.args(["serve", "--first-run"]).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut relay = Process(command.spawn().unwrap());
    let log = BufReader::new(relay.0.stdout.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("  password    ")));
    // It may not start: the ports that it takes can be in use on the machine that runs the tests.
    relay.0.kill().unwrap();
    assert!(folder.path().join("data/app.password-hash").exists());
}

/// The commented file is printed whatever state the configuration is in; what is in force only of one without errors.
#[test]
fn the_configuration_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |text: &str, arguments: &[&str]| {
        fs::write(folder.path().join("relay.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
        let output =
            command.arg("config").args(arguments).arg("-c").arg(folder.path().join("relay.toml")).output().unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, out, _) = run("[tls\n", &[]);
    assert_eq!((status, out.as_str()), (Some(0), include_str!("../config/relay.toml")));
    let (status, out, told) = run("[tls\n", &["--effective"]);
    assert!(status != Some(0) && out.is_empty() && told.contains("relay.toml:1: "), "{told}");
    let (status, out, _) = run(&user("shop", "first"), &["--effective"]);
    assert_eq!(status, Some(0));
    for part in
        ["[submission]\n", "idle_timeout = \"5m\"\n", "[[user]]\nname = \"shop\"\n# token_hash is set, and not shown\n"]
    {
        assert!(out.contains(part), "{part} is missing in {out}");
    }
    assert!(!out.contains(&otp_relay::testing::accounts::user::token_hash("first")));
}
