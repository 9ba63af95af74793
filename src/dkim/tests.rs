use super::*;
use hickory_resolver::config::ResolverConfig;

const HEAD: &str = "From: App <otp@example.com>\r\nTo: <user@example.net>\r\nSubject: code\r\n";

fn content(head: &str, body: &str) -> Content {
    Content::split(Bytes::from(format!("{head}\r\n{body}")))
}

fn verifies(signature: &str, wire: &str, pem: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let verdicts = runtime.block_on(async {
        let resolver = crate::destination::resolver::build(ResolverConfig::default()).unwrap();
        let message = format!("{signature}{wire}");
        verify::verify_against(resolver, message.as_bytes(), &record::txt_record(pem).unwrap()).await.unwrap()
    });
    !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.result.is_ok())
}

fn terms(seconds: u64) -> Terms {
    // The verifier looks at the real time.
    let signed_at = Timestamp::from_millis(seconds * 1000);
    Terms { signed_at, life_ends_at: Timestamp::from_millis(32_503_680_000_000), sender: SenderField::Closed }
}

fn names(signature: &str) -> Vec<String> {
    let unfolded = signature.replace(['\r', '\n', '\t', ' '], "");
    let names = unfolded.split(';').find_map(|tag| tag.strip_prefix("h=")).unwrap().to_owned();
    names.split(':').map(str::to_owned).collect()
}

fn pair(pem: &str) -> Key {
    Key::from_pem("example.com", "otp1", pem).unwrap()
}

#[test]
fn both_algorithms_verify() {
    for pem in [record::generate_rsa().unwrap(), record::generate_ed25519().unwrap()] {
        let wire = format!("{HEAD}\r\nhello\r\n");
        let signature = pair(&pem).sign(&content(HEAD, "hello\r\n"), terms(1_795_255_200)).unwrap();
        assert!(signature.starts_with("DKIM-Signature: ") && signature.ends_with("\r\n"));
        assert!(signature.contains("t=1795255200") && signature.contains("c=relaxed/simple"));
        assert!(verifies(&signature, &wire, &pem));
        assert!(!verifies(&signature, &wire.replace("hello", "hallo"), &pem));
    }
}

/// What stands before the signature decides where its lines are folded.
#[test]
fn no_white_space_follows_the_signature() {
    let pem = record::generate_ed25519().unwrap();
    let key = pair(&pem);
    for fields in 0..=SIGNED.len() {
        let head: String = SIGNED.iter().take(fields).map(|name| format!("{name}: x\r\n")).collect();
        let head = format!("{HEAD}{head}");
        for digits in 0..10 {
            let signature = key.sign(&content(&head, "hello\r\n"), terms(10_u64.pow(digits))).unwrap();
            assert!(signature.ends_with("=;\r\n"), "{signature}");
            assert!(verifies(&signature, &format!("{head}\r\nhello\r\n"), &pem), "{signature}");
        }
    }
}

#[test]
fn a_second_signature_is_the_same() {
    let key = pair(&record::generate_ed25519().unwrap());
    let sign = || key.sign(&content(HEAD, "hello\r\n"), terms(7));
    assert_eq!(sign(), sign());
}

#[test]
fn nothing_can_be_added_to_what_is_signed() {
    let pem = record::generate_ed25519().unwrap();
    let signature = pair(&pem).sign(&content(HEAD, "hello\r\n"), terms(7)).unwrap();
    for added in [
        "From: other@example.org",
        "Subject: other",
        "Cc: x@example.org",
        "Reply-To: x@example.org",
        "Auto-Submitted: no",
        "Sender: x@example.org",
    ] {
        assert!(!verifies(&signature, &format!("{added}\r\n{HEAD}\r\nhello\r\n"), &pem), "{added}");
    }
    assert!(verifies(&signature, &format!("Received: by x\r\n{HEAD}\r\nhello\r\n"), &pem));
}

/// A retry is signed with the keys of its acceptance, before a change of keys and behind it.
#[test]
fn keys_go_by_the_time_of_acceptance() {
    let key = |selector: &str| Key::from_pem("app.test", selector, &record::generate_ed25519().unwrap()).unwrap();
    let at = Timestamp::from_millis;
    let mut keys = Keys::new(vec![key("configured")]);
    let before = keys.of("app.test").unwrap().clone();
    keys.replace("app.test", vec![(at(200), [key("third")].into()), (at(0), before), (at(100), [key("next")].into())]);
    for (accepted_at, expected) in
        [(0, "configured"), (99, "configured"), (100, "next"), (199, "next"), (200, "third"), (u64::MAX, "third")]
    {
        assert_eq!(keys.of_acceptance("app.test", at(accepted_at)).unwrap()[0].selector(), expected, "{accepted_at}");
    }
    assert_eq!(keys.of("app.test").unwrap()[0].selector(), "third");
    assert!(keys.of_acceptance("other.test", at(0)).is_none());
    assert_eq!(keys.all().count(), 3);
}

#[test]
fn a_signature_ends_a_day_after_the_life() {
    let key = pair(&record::generate_ed25519().unwrap());
    let signed_at = Timestamp::from_millis(1_795_255_200_000);
    let terms = Terms { signed_at, life_ends_at: signed_at.plus(Duration::from_secs(600)), sender: SenderField::Open };
    let signature = key.sign(&content(HEAD, "hello\r\n"), terms).unwrap();
    let unfolded = signature.replace("\r\n\t", " ");
    assert!(unfolded.contains("t=1795255200; x=1795342200;"), "{signature}");
}

/// A smart host that adds a Sender leaves the signature good; where none is on the way, nobody may add one.
#[test]
fn a_sender_is_signed_where_it_is_or_where_nobody_adds_one() {
    let pem = record::generate_ed25519().unwrap();
    let with = format!("Sender: otp@example.com\r\n{HEAD}");
    for (head, sender, count, may_be_added) in [
        (HEAD, SenderField::Open, 0, true),
        (HEAD, SenderField::Closed, 1, false),
        (&with, SenderField::Open, 1, true),
        (&with, SenderField::Closed, 2, false),
    ] {
        let signature = pair(&pem).sign(&content(head, "x\r\n"), Terms { sender, ..terms(7) }).unwrap();
        assert_eq!(names(&signature).iter().filter(|name| *name == SENDER).count(), count, "{signature}");
        assert!(verifies(&signature, &format!("{head}\r\nx\r\n"), &pem));
        let added = format!("Sender: other@example.org\r\n{head}\r\nx\r\n");
        assert_eq!(verifies(&signature, &added, &pem), may_be_added, "{head} {sender:?}");
        let changed = format!("{head}\r\nx\r\n").replace("Sender: otp", "Sender: other");
        assert_eq!(verifies(&signature, &changed, &pem), head == HEAD);
    }
}

#[test]
fn a_parents_key_signs_for_those_below() {
    let key = |domain: &str| Key::from_pem(domain, "s", &record::generate_ed25519().unwrap()).unwrap();
    let keys = Keys::new(vec![key("example.com"), key("own.example.com"), key("test")]);
    for (domain, expected) in [
        ("example.com", Some("example.com")),
        ("mail.example.com", Some("example.com")),
        ("a.b.example.com", Some("example.com")),
        ("own.example.com", Some("own.example.com")),
        ("below.own.example.com", Some("own.example.com")),
        ("test", Some("test")),
        ("app.test", None),
        ("notexample.com", None),
        ("com", None),
        ("[192.0.2.1]", None),
    ] {
        assert_eq!(keys.signing_domain(domain), expected, "{domain}");
    }
}

/// A body that ends in a line of blanks: the library's relaxed body hash would be wrong.
#[test]
fn odd_bodies_verify() {
    let pem = record::generate_ed25519().unwrap();
    for body in ["", "\r\n", "\r\n\r\n\r\n", " \r\n", "x\r\n \t \r\n", "x", "x\r\n\r\n", ".\r\n", "\u{fc}\r\n"] {
        let signature = pair(&pem).sign(&content(HEAD, body), terms(7)).unwrap();
        let mut wire = format!("{HEAD}\r\n{body}");
        if !wire.ends_with("\r\n") {
            wire.push_str("\r\n");
        }
        assert!(verifies(&signature, &wire, &pem), "{body:?}");
    }
}

#[test]
fn keys_of_the_wrong_kind_are_refused() {
    assert!(matches!(Key::from_pem("example.com", "s", "no key"), Err(KeyError::NotPem)));
    let ecdsa = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert!(matches!(Key::from_pem("example.com", "s", &ecdsa), Err(KeyError::Unusable(_))));
}

#[test]
fn records_are_split_into_strings() {
    let pem = record::generate_rsa().unwrap();
    let line = record::zone_line("example.com", "otp1", &record::txt_record(&pem).unwrap());
    assert!(line.starts_with("otp1._domainkey.example.com. 3600 IN TXT \"v=DKIM1; k=rsa; p=MII"));
    assert_eq!(line.matches('"').count(), 4);
}
