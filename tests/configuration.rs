//! The commented configuration that comes with the relay.

use std::path::Path;

use otp_relay::testing::config::Config;
use otp_relay::testing::config::findings::Severity;
use otp_relay::testing::relay::{Environment, Relay};
use otp_relay::testing::report::log::Output;

const TEXT: &str = include_str!("../config/relay.toml");

/// Its settings, uncommented.
fn all_settings() -> String {
    let is_setting = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let settings: Vec<&str> = TEXT.lines().filter_map(|line| line.strip_prefix('#')).filter(is_setting).collect();
    settings.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, TEXT).unwrap();
    let (config, findings) = Config::load(&path).unwrap();
    let mut config = config.unwrap_or_else(|| panic!("{findings}"));
    assert_eq!(config.data_dir, folder.path().join("data"));
    // The port may be in use on the machine that runs the tests.
    config.listeners[0].address.set_port(0);
    config.http.address.as_mut().unwrap().set_port(0);
    let relay =
        Relay::start(config, Environment { output: Output::new(std::io::sink()), ..Environment::default() }).unwrap();
    assert_eq!(relay.addresses().len(), 1);
    relay.shut_down().await;
}

/// Told, and the relay starts all the same.
#[test]
fn files_that_others_can_read_are_named() {
    use std::os::unix::fs::PermissionsExt as _;
    // Not in memory, where a file of root's passes for a mounted secret.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    set(folder.path(), 0o755);
    let key = write("o'key.pem", &otp_relay::testing::dkim::record::generate_ed25519().unwrap());
    let password = write("password", "secret\n");
    let token = write("token", &"t".repeat(43));
    let hash = "0".repeat(64);
    let file = write(
        "relay.toml",
        &format!(
            "[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\n[[dkim]]\ndomain = \"app.test\"\n\
             selector = \"s\"\nprivate_key = \"o'key.pem\"\n[[smart_host]]\naddress = \"a.test:587\"\nusername = \"u\"\n\
             password_file = \"password\"\n[http]\ntoken_file = \"{}\"\n",
            token.display()
        ),
    );
    let told = || {
        let (config, findings) = Config::load(&file).unwrap();
        assert!(config.is_some(), "{findings}");
        let warnings = findings.0.into_iter().filter(|finding| finding.severity == Severity::Warning);
        warnings.map(|finding| finding.text).filter(|text| text.contains("chmod")).collect::<Vec<_>>()
    };
    for path in [&key, &password, &token, &file] {
        set(path, 0o600);
    }
    assert_eq!(told(), Vec::<String>::new());
    for path in [&key, &password, &token, &file] {
        set(path, 0o644);
    }
    let all = told();
    assert_eq!(all.len(), 4, "{all:#?}");
    let shown = format!("{}/o'\\''key.pem", folder.path().display());
    let expected = format!("anybody on this machine can read it; `chmod 600 '{shown}'`");
    assert!(all[0].starts_with("[dkim] private_key: ") && all[0].contains(&expected), "{all:#?}");
    set(folder.path(), 0o700);
    assert_eq!(told(), Vec::<String>::new(), "nobody else gets into the folder");
}

/// Uncommented, every line is a known setting with a valid value; only the example files are missing.
#[test]
fn every_setting_in_it_is_known() {
    let (_, findings) = Config::from_text(&all_settings(), Path::new("/nowhere"), None);
    let errors = findings.0.iter().filter(|finding| finding.severity == Severity::Error);
    for error in errors {
        // Where files are named and a certificate authority too, only one of them can be meant.
        let is_expected = error.text.contains("No such file") || error.text.contains("remove either");
        assert!(is_expected, "{}", error.text);
    }
}

/// What is commented out is the default, unless it is marked as an example.
#[test]
fn what_is_commented_out_is_the_default() {
    let mut settings = String::new();
    let (mut is_example, mut is_repeated, mut count) = (false, false, 0);
    for line in TEXT.lines() {
        match line.strip_prefix('#') {
            Some(comment) if comment.starts_with(' ') => is_example = comment.ends_with("(example)"),
            Some(heading) if heading.starts_with('[') => {
                is_repeated = heading.starts_with("[[");
                if !is_repeated {
                    settings.push_str(&format!("{heading}\n"));
                }
            }
            Some(setting) if !is_example && !is_repeated && !setting.is_empty() => {
                settings.push_str(&format!("{setting}\n"));
                count += 1;
            }
            _ => is_example = false,
        }
    }
    assert!(count > 30, "{settings}");
    let read = |text: &str| {
        let (config, findings) = Config::from_text(text, Path::new("/srv"), None);
        config.unwrap_or_else(|| panic!("{findings}"))
    };
    let (with, without) = (read(&settings), read(""));
    assert_eq!(with.in_force(), without.in_force());
    assert_eq!(format!("{:?}", with.submission), format!("{:?}", without.submission));
    assert_eq!(format!("{:?}", with.intake), format!("{:?}", without.intake));
    assert_eq!(format!("{:?}", with.delivery), format!("{:?}", without.delivery));
    assert_eq!(format!("{:?}", with.resolver), format!("{:?}", without.resolver));
    assert_eq!(format!("{:?}", with.http), format!("{:?}", without.http));
}

/// The file that comes with the relay is what the table of keys prints; `otp-relay config > config/relay.toml` mends it.
#[test]
fn the_committed_file_is_what_the_table_prints() {
    assert!(TEXT == otp_relay::testing::config::commented(), "config/relay.toml is not what `otp-relay config` prints");
}

/// Settings in force are a configuration that comes to the same, and hold no secret.
#[test]
fn what_is_in_force_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k"), otp_relay::testing::dkim::record::generate_ed25519().unwrap()).unwrap();
    std::fs::write(folder.path().join("p"), "pencil").unwrap();
    let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let text = format!(
        "hostname = \"Relay.App.test\"\n[otp]\nrecipient_budget = \"30/h\"\n[submission]\nmessage_size_max = \"2048KiB\"\n\
         [delivery]\nreverse_path = \"a@app.test\"\nsource_addresses = [\"::1\"]\n[http]\naddress = \"off\"\n\
         [resolver]\ndnssec = false\nnameservers = [\"127.0.0.1\"]\n[log]\nrecipients = \"hashed\"\n\
         [[listener]]\naddress = \"[::1]:587\"\nauth = \"trusted\"\ntrusted_networks = [\"10.1.2.3/8\"]\n\
         [[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\nrate = \"3/1s\"\n\
         [[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"k\"\n\
         [[destination]]\ndomains = [\"*.a.test\"]\navoid = [\"chunking\", \"starttls\"]\n\
         [[smart_host]]\naddress = \"[::1]:2525\"\ntls = \"verify\"\nusername = \"u\"\npassword_file = \"p\"\n"
    );
    let read = |text: &str| {
        let (config, findings) = Config::from_text(text, folder.path(), None);
        config.unwrap_or_else(|| panic!("{findings}\n{text}")).in_force()
    };
    let shown = read(&text);
    for part in [
        "hostname = \"relay.app.test\"\n",
        "recipient_budget_total = \"30/10m\"",
        "message_size_max = \"2MiB\"",
        "nameservers = [\"127.0.0.1:53\"]",
        "address = \"off\"",
        "trusted_networks = [\"10.0.0.0/8\"]",
        "# token_hash is set, and not shown\n",
        "rate = \"3/s\"",
        "avoid = [\"chunking\", \"starttls\"]",
        "when = \"deadline\"",
    ] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    for secret in [hash, "pencil"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let again = shown.replace("# token_hash is set, and not shown", &format!("token_hash = \"{hash}\""));
    assert_eq!(read(&again), shown);
}
