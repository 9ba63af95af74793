//! The program with a standard output that nobody reads: mail goes on, and the end comes when it is asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::PATIENCE;
use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::http::Http;
use crate::support::process::{Process, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use otp_relay::testing::demo::dns::{self, Answer};
use tokio::net::TcpStream;

/// At `trace` each makes more than a thousand octets of lines; the pipe of a process holds 64 KiB.
const MESSAGES: usize = 300;

async fn listens(address: SocketAddr) {
    let connect = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, connect).await.expect("the relay starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_on_when_nobody_reads_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(&["PIPELINING"]).await;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let lookup = |name: &str| {
        Some(vec![if name == "mx.test" { Answer::A(Ipv4Addr::LOCALHOST) } else { Answer::Mx(10, "mx.test".into()) }])
    };
    let dns = dns::start(loopback(0), Arc::new(lookup)).await.unwrap();
    let (smtp, http) = (loopback(free_port()), loopback(free_port()));
    let config = format!(
        "hostname = \"relay.test\"\ndata_dir = \"data\"\n[[listener]]\naddress = \"{smtp}\"\ntls = \"none\"\nauth = \"trusted\"\n\
         trusted_networks = [\"127.0.0.0/8\"]\n[[user]]\nname = \"trusted\"\nsenders = [\"*@app.test\"]\n\
         [http]\naddress = \"{http}\"\n[resolver]\nnameservers = [\"{dns}\"]\ndnssec = false\n\
         [delivery]\nport = {}\nallow_private_destinations = true\n[otp]\nrecipient_budget = \"off\"\n\
         [log]\nlevel = \"trace\"\n",
        mx.address.port()
    );
    std::fs::write(folder.path().join("relay.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
    command.args(["serve", "-c"]).arg(folder.path().join("relay.toml"));
    let mut relay = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    listens(smtp).await;
    for number in 0..MESSAGES {
        // A connection each, and a refusal: warnings, steps and events are all written down.
        let mut client = Client::connect(smtp).await;
        assert!(client.say("MAIL FROM:<ceo@bank.test>").await.starts_with("550"));
        let reply = client.submit(&[&format!("user{number}@example.test")], &mail("code")).await;
        assert!(reply.starts_with("250"), "{reply}");
    }
    let arrived = async {
        while mx.received().len() < MESSAGES {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("codes are delivered");
    let api = Http { address: http, token: String::new() };
    assert_eq!(api.get("/healthz").await.status, 200);
    let delivered = format!("otp_relay_events_total{{event=\"delivered\",lane=\"otp\"}} {MESSAGES}\n");
    // An end counts once it is on disk.
    let counted = async {
        loop {
            let metrics = api.get("/metrics").await.body;
            if metrics.contains(&delivered) {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, counted).await.expect("those who hear of events go on too");
    assert!(metrics.contains("# TYPE otp_relay_log_lines_dropped_total counter\n"), "{metrics}");
    kill(Pid::from_raw(relay.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let waiting = tokio::task::spawn_blocking(move || (relay.0.wait(), relay));
    let (status, mut relay) = tokio::time::timeout(PATIENCE, waiting).await.expect("SIGTERM ends it").unwrap();
    assert!(status.unwrap().success());
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut relay.0.stdout.take().unwrap(), &mut read).unwrap();
    assert!(read.len() >= 32 << 10, "the pipe was full: {}", read.len());
}
