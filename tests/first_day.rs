//! What somebody meets who sets the relay up: files are where the configuration looks for them, and every mistake says how to mend
//! it.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the relay in a folder, with these words behind its name.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otp-relay"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

fn out(folder: &Path, arguments: &[&str]) -> String {
    String::from_utf8(run(folder, arguments).stdout).unwrap()
}

/// What `dkim generate` prints: the zone, and on standard error what goes into the configuration.
fn generate(folder: &Path, more: &[&str]) -> (String, String) {
    let printed = run(folder, &[&["dkim", "generate", "app.test", "otp1"], more].concat());
    let (zone, told) = (String::from_utf8(printed.stdout).unwrap(), String::from_utf8(printed.stderr).unwrap());
    assert!(is_zone(&zone), "{zone}");
    let sections = told[told.find("[[dkim]]").unwrap()..].to_owned();
    (zone, sections)
}

/// Whether every line can be pasted into a zone: it is empty, a comment, or a record.
fn is_zone(text: &str) -> bool {
    text.lines().all(|line| line.is_empty() || line.starts_with(';') || line.contains(". 3600 IN "))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

const TOP: &str = "hostname = \"relay.app.test\"\n[http]\naddress = \"off\"\n\
                   [[user]]\nname = \"shop\"\nsenders = [\"*@app.test\"]\n";

/// Wherever the configuration is and wherever one stands: what is printed, pasted, is good.
#[test]
fn keys_are_made_where_the_configuration_looks() {
    for (file, more) in [
        ("config/relay.toml", &[][..]),
        ("elsewhere/relay.toml", &["-c", "elsewhere/relay.toml"]),
        ("relay.toml", &["-c", "relay.toml"]),
        ("config/relay.toml", &["--out", "keys"]),
        ("elsewhere/relay.toml", &["-c", "elsewhere/relay.toml", "--out", "elsewhere/keys"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        write(&path, TOP);
        let (_, sections) = generate(folder.path(), more);
        write(&path, &format!("{TOP}{sections}"));
        let told = out(Path::new("/"), &["check", "--offline", "-c", path.to_str().unwrap()]);
        assert!(told.contains("no errors") && !told.contains("private_key"), "{file} {more:?}: {told}");
        assert_eq!(told.matches("._domainkey.app.test. 3600 IN TXT \"v=DKIM1; k=").count(), 2, "{told}");
    }
    // Before there is a file, what is printed holds for any.
    let folder = tempfile::tempdir().unwrap();
    let (_, sections) = generate(folder.path(), &[]);
    let path = folder.path().join("config/relay.toml");
    write(&path, &format!("{TOP}{sections}"));
    assert!(out(folder.path(), &["check", "--offline"]).contains("no errors"));
}

/// DNS may have the record of the key that is missed.
#[test]
fn a_missing_key_is_to_be_put_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let key = "[[dkim]]\ndomain = \"app.test\"\nselector = \"otp1\"\nprivate_key = \"certs/dkim/otp1.pem\"\n";
    write(&folder.path().join("config/relay.toml"), &format!("{TOP}{key}"));
    let told = out(folder.path(), &["check", "--offline"]);
    let place = folder.path().join("config/certs/dkim/otp1.pem").display().to_string();
    assert!(told.contains(&format!("{place}: No such file or directory")), "{told}");
    assert!(told.contains(&format!("cp KEY.pem {place} && chmod 600 {place}")), "{told}");
    assert!(!told.contains("dkim generate"), "{told}");
}

/// One that is made for a name is looked for under it, and the whole zone goes with it.
#[test]
fn the_whole_zone_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config/relay.toml"), TOP);
    let (generated, sections) = generate(folder.path(), &[]);
    write(&folder.path().join("config/relay.toml"), &format!("{TOP}{sections}"));
    let checked = out(folder.path(), &["check", "--offline"]);
    for printed in [&generated, &checked] {
        for record in [
            "app.test. 3600 IN TXT \"v=spf1 ",
            "_dmarc.app.test. 3600 IN TXT \"v=DMARC1; p=none",
            "; PTR, the way back",
        ] {
            assert!(
                printed.lines().any(|line| line.trim_start_matches("; ").starts_with(record.trim_start_matches("; "))),
                "{record} in {printed}"
            );
        }
        let strings = printed
            .lines()
            .filter(|line| line.contains(" IN TXT "))
            .flat_map(|line| line.split('"').skip(1).step_by(2));
        assert!(strings.map(str::len).all(|len| len <= 255), "{printed}");
    }
    assert!(is_zone(&checked), "{checked}");
    assert!(checked.lines().last().unwrap().starts_with("; ok: "), "{checked}");
    // Nothing else, on demand.
    let zone = out(folder.path(), &["check", "--offline", "--zone"]);
    assert!(is_zone(&zone) && checked.contains(&format!("\n{zone}\n")), "{zone}");
    let again = run(folder.path(), &["dkim", "generate", "app.test", "otp1"]);
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(1) && told.contains("otp-relay dkim record app.test"), "{told}");
}

/// A short-lived one, by openssl, which is what people have.
fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn keys_and_certificates_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("relay.toml");
    for name in ["a", "b"] {
        openssl(
            folder.path(),
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN=relay.app.test -addext subjectAltName=DNS:relay.app.test"
            ),
        );
    }
    openssl(folder.path(), "pkey -in a.key -aes256 -passout pass:x -out sealed.key");
    openssl(folder.path(), "rsa -in a.key -aes256 -passout pass:x -traditional -out old.key");
    let told = |more: &str| {
        write(&config, &format!("{TOP}{more}"));
        out(Path::new("/"), &["check", "--offline", "-c", config.to_str().unwrap()])
    };
    let tls = |certificate: &str, key: &str| {
        told(&format!("[tls]\ncertificate = \"{certificate}\"\nprivate_key = \"{key}\"\n"))
    };
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert!(tls("a.pem", "a.key").contains("no errors"));
    let other = tls("a.pem", "b.key");
    assert!(
        other.contains(&format!(
            "the private key in {} is not the one of the first certificate in {}",
            path("b.key"),
            path("a.pem")
        )),
        "{other}"
    );
    let command = |name: &str| format!("openssl pkey -in {} -out ", path(name));
    for name in ["sealed.key", "old.key"] {
        let sealed = tls("a.pem", name);
        assert!(
            sealed.contains(&format!("{} is encrypted", path(name))) && sealed.contains(&command(name)),
            "{sealed}"
        );
    }
    let dkim = told("[[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"sealed.key\"\n");
    assert!(dkim.contains("is encrypted") && dkim.contains(&command("sealed.key")), "{dkim}");
    let missing = tls("none.pem", "a.key");
    assert!(missing.contains(&format!("{}: No such file", path("none.pem"))), "{missing}");
}

/// The script for development writes to where `[tls]` looks, and keeps the authority that clients trust.
#[test]
fn development_certificates_are_made_where_the_configuration_looks() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("site/relay.toml");
    write(&config, &format!("{TOP}[tls]\ncertificate = \"certs/relay.pem\"\nprivate_key = \"certs/relay.key\"\n"));
    let make = |arguments: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make-dev-certs.sh");
        let done = Command::new(script).arg("-c").arg(&config).args(arguments).current_dir("/").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(folder.path().join("site/certs/ca.pem")).unwrap()
    };
    let check = || out(Path::new("/"), &["check", "--offline", "-c", config.to_str().unwrap()]);
    let authority = make(&[]);
    let told = check();
    assert!(told.contains("no errors") && !told.contains("certificate"), "{told}");
    assert_eq!(make(&["other.app.test"]), authority, "clients go on trusting it");
    let told = check();
    assert!(told.contains("is not for \"relay.app.test\""), "{told}");
}

/// Runs a command as nobody, if this is root; otherwise there is nobody to be kept out.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Option<(i32, String)> {
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    // What is built may lie where nobody gets in.
    let relay = folder.join("otp-relay");
    if !relay.exists() {
        fs::copy(env!("CARGO_BIN_EXE_otp-relay"), &relay).unwrap();
    }
    let done = Command::new(relay).args(arguments).current_dir(folder).uid(65534).gid(65534).output().unwrap();
    Some((done.status.code().unwrap(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap()))
}

#[test]
fn folders_and_files_of_others_say_whose_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(folder.path(), 0o755);
    let config = folder.path().join("relay.toml");
    write(&config, "[http]\naddress = \"off\"\n[resolver]\ndnssec = false\n[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let told = |arguments: &[&str], status: i32, expected: &str| {
        let Some((code, text)) = as_nobody(folder.path(), arguments) else { return };
        assert_eq!(code, status, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{expected} in {text}");
    };
    let shown = |name: &str| folder.path().join(name).display().to_string();
    let chown = |name: &str| {
        format!("and this process runs as nobody; `sudo chown -R nobody {}`, or run it as root", shown(name))
    };
    let of_root = |what: &str, name: &str, mode: &str, mend: &str| {
        format!("{what}: {} belongs to root:root (mode {mode}), {mend}", shown(name))
    };
    let serve = ["serve", "-c", "relay.toml"];
    let (unread, unusable) = ("the configuration cannot be read", "the data directory cannot be used");
    told(&serve, 77, &of_root(unread, "relay.toml", "0600", &chown("relay.toml")));
    open(&config, 0o644);
    // A check finds the same.
    let told = |arguments: &[&str], status: i32, expected: &str| {
        told(arguments, status, expected);
        told(&["check", "-c", "relay.toml"], 1, &format!("error: {expected}"));
    };
    // Where the folder would be made.
    let text = format!("{unusable}: {} belongs to root:root (mode 0755), ", folder.path().display());
    told(&serve, 77, &text);
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    open(&data, 0o777);
    told(&serve, 77, &of_root(unusable, "data", "0777", &chown("data")));
    // One that is its own, in which root has worked.
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).unwrap_or_default();
    write(&data.join("lock"), "");
    told(&serve, 77, &of_root(unusable, "data/lock", "0600", &chown("data")));
    // What belongs to the file system is nobody's business; it goes on, and cannot listen where it should.
    fs::remove_file(data.join("lock")).unwrap();
    fs::create_dir(data.join("lost+found")).unwrap();
    let text = "[http]\naddress = \"off\"\n[resolver]\ndnssec = false\n[[listener]]\naddress = \"192.0.2.78:2525\"\n";
    fs::write(&config, text).unwrap();
    told(&serve, 1, "192.0.2.78:2525");
    let told = |arguments: &[&str], status: i32, expected: &str| {
        let Some((code, text)) = as_nobody(folder.path(), arguments) else { return };
        assert!(code == status && text.contains(expected), "{expected} in {text}");
    };
    let key = "[[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"k.pem\"\n";
    write(&folder.path().join("k.pem"), "");
    fs::write(&config, key).unwrap();
    let check = ["check", "--offline", "-c", "relay.toml"];
    told(&check, 1, &of_root("private_key", "k.pem", "0600", &chown("k.pem")));
}

/// Where a start fails, a check says why in the same words.
#[track_caller]
fn found_by_check(served: &Output, checked: &Output, expected: &str) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    let (served_text, checked_text) = (text(&served.stderr), text(&checked.stdout));
    assert!(!served.status.success() && served_text.contains(expected), "{expected} in {served_text}");
    let fault = served_text.lines().last().unwrap().strip_prefix("otp-relay: ").unwrap();
    assert!(checked_text.lines().any(|line| line == format!("; error: {fault}")), "{fault} in {checked_text}");
    assert_eq!(checked.status.code(), Some(1), "{checked_text}");
}

#[test]
fn check_finds_what_serve_would_not_start_with() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (data, listener, expected) in [
        ("file", "127.0.0.1:0", "File exists"),
        ("file/data", "127.0.0.1:0", "a part of this path is a file, not a folder"),
        ("data", "192.0.2.78:2525", "192.0.2.78:2525: Cannot assign requested address"),
        ("data", &taken, "Address already in use"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("config/file"), "");
        let text = format!(
            "data_dir = \"{data}\"\n[http]\naddress = \"off\"\n[resolver]\ndnssec = false\n[[listener]]\naddress = \"{listener}\"\n"
        );
        write(&folder.path().join("config/relay.toml"), &text);
        let checked = run(folder.path(), &["check"]);
        assert!(!folder.path().join("config/data").exists(), "a check makes nothing");
        found_by_check(&run(folder.path(), &["serve"]), &checked, expected);
    }
}

/// What only whoever mounts can set up, in a namespace of its own where the system lets one have it.
#[test]
fn check_finds_a_missing_name_server_and_a_data_folder_that_is_read_only() {
    for (mount, nameservers, expected) in [
        ("mount --bind empty /etc/resolv.conf", "", "/etc/resolv.conf names none; set resolver.nameservers"),
        ("mount -t tmpfs -o ro none config/data", "nameservers = [\"127.0.0.1:53\"]\n", "mounted read-only"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("empty"), "# none\n");
        fs::create_dir_all(folder.path().join("config/data")).unwrap();
        let text = format!(
            "[http]\naddress = \"off\"\n[resolver]\ndnssec = false\n{nameservers}[[listener]]\naddress = \"127.0.0.1:0\"\n"
        );
        write(&folder.path().join("config/relay.toml"), &text);
        let inside = |command: &str| {
            let line = format!("{mount} || exit 99; exec {} {command}", env!("CARGO_BIN_EXE_otp-relay"));
            Command::new("timeout")
                .args(["20", "unshare", "-rm", "sh", "-c", &line])
                .current_dir(folder.path())
                .output()
                .unwrap()
        };
        let checked = inside("check");
        if checked.stdout.is_empty() {
            return;
        }
        found_by_check(&inside("serve"), &checked, expected);
    }
}

/// A password in a file is none that is shown once: a shell's `serve > relay.log` has a terminal for all but the output.
#[test]
fn serve_without_a_configuration_shows_its_password_to_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("{} serve > relay.log", env!("CARGO_BIN_EXE_otp-relay"));
    // One that starts would not end.
    let mut script = Command::new("timeout");
    let script = script.args(["20", "script", "-qec", &line, "/dev/null"]).current_dir(folder.path());
    let done = script.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.code() == Some(78) && told.contains("there is no configuration: "), "{told}");
    assert_eq!(fs::read_to_string(folder.path().join("relay.log")).unwrap(), "");
    assert!(!folder.path().join("data").exists() && !folder.path().join("config").exists(), "nothing is made up");
}

/// A `user hash` at a terminal of its own.
struct AtTerminal {
    child: std::process::Child,
    terminal: String,
    shown: String,
}

impl AtTerminal {
    fn new() -> Self {
        let line = format!("tty; exec {} user hash", env!("CARGO_BIN_EXE_otp-relay"));
        // One that does not ask would wait for ever.
        let mut script = Command::new("timeout");
        let script =
            script.args(["20", "script", "-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut own = Self { child: script.spawn().unwrap(), terminal: String::new(), shown: String::new() };
        own.read_to("\n");
        own.terminal = own.shown.trim().to_owned();
        own
    }

    fn read_to(&mut self, end: &str) {
        let mut octet = [0];
        while !self.shown.ends_with(end) {
            self.child.stdout.as_mut().unwrap().read_exact(&mut octet).unwrap();
            self.shown.push(char::from(octet[0]));
        }
    }

    /// Once the terminal shows the prompt, and nothing that is typed.
    fn answer(&mut self, prompt: &str, typed: &str) {
        self.read_to(prompt);
        let hides = || {
            let state = Command::new("stty").args(["-F", &self.terminal, "-a"]).output().unwrap().stdout;
            String::from_utf8(state).unwrap().contains(" -echo ")
        };
        assert!((0..500).any(|_| hides()), "the terminal shows what is typed");
        self.child.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
    }

    fn end(mut self) -> (bool, String) {
        self.child.stdout.take().unwrap().read_to_string(&mut self.shown).unwrap();
        (self.child.wait().unwrap().success(), self.shown)
    }
}

#[test]
fn a_password_is_asked_for_twice_without_echo() {
    let typed = |again: &str| {
        let mut terminal = AtTerminal::new();
        terminal.answer("Password (not shown): ", "open sesame\n");
        terminal.answer("The same again: ", again);
        terminal.end()
    };
    let (is_done, shown) = typed("open sesame\n");
    assert!(is_done && shown.contains("SCRAM-SHA-256$100000:"), "{shown}");
    assert!(!shown.contains("sesame"), "{shown}");
    let (is_done, shown) = typed("open simsim\n");
    assert!(!is_done && shown.contains("the two are not the same"), "{shown}");
}
