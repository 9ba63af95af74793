use super::*;

fn ok(line: &str) -> Command {
    Command::parse(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e:?}"))
}

fn mail_of(line: &str) -> Mail {
    match ok(line) {
        Command::Mail(mail) => *mail,
        other => panic!("{other:?}"),
    }
}

fn refused(line: &str, expected: CommandError) {
    assert_eq!(Command::parse(line.as_bytes()), Err(expected), "{line}");
}

#[test]
fn verbs() {
    assert_eq!(ok("ehlo client.example"), Command::Ehlo("client.example".into()));
    assert_eq!(ok("EHLO [127.0.0.1]"), Command::Ehlo("[127.0.0.1]".into()));
    assert_eq!(ok("HELO my_laptop"), Command::Helo("my_laptop".into()));
    assert_eq!(ok("NOOP anything"), Command::Noop);
    assert_eq!(ok("QUIT  "), Command::Quit);
    assert_eq!(ok("BDAT 10"), Command::Bdat { size: 10, last: false });
    assert_eq!(ok("bdat 0 last"), Command::Bdat { size: 0, last: true });
    assert_eq!(ok("AUTH plain ="), Command::Auth { mechanism: "PLAIN".into(), initial: Some(vec![]) });
    assert_eq!(ok("AUTH LOGIN"), Command::Auth { mechanism: "LOGIN".into(), initial: None });
    refused("DATA now", CommandError::Syntax("no argument allowed"));
    refused("FROB", CommandError::UnknownVerb);
    refused("BDAT -1", CommandError::ChunkSize);
    refused("BDAT 99999999999999999999", CommandError::ChunkSize);
    refused("NOOP \u{1}", CommandError::Syntax("control characters in a command"));
    refused("AUTH PLAIN %%%", CommandError::NotBase64);
}

#[test]
fn a_client_is_called_whatever_its_machine_is() {
    for name in [
        "Bob's-MacBook.local",
        "[IPv6:fe80::1%en0]",
        "fe80:0:0:0:1%en0",
        "my_laptop",
        "a b",
        "client.example(comment)",
        "a\"b",
        "BÜRO-PC",
        "-",
        &"a".repeat(255),
    ] {
        for (verb, expected) in [("EHLO", Command::Ehlo(name.into())), ("helo", Command::Helo(name.into()))] {
            assert_eq!(ok(&format!("{verb}  {name} ")), expected);
        }
    }
    assert_eq!(Command::parse(b"EHLO B\xdcRO"), Ok(Command::Ehlo("B\u{fffd}RO".into())));
    for line in ["EHLO", "HELO", "EHLO   "] {
        refused(line, CommandError::Syntax("the client's name is missing"));
    }
    refused(&format!("EHLO {}", "a".repeat(256)), CommandError::Syntax("a name of more than 255 bytes"));
    refused("EHLO a\u{1}b", CommandError::Syntax("control characters in a command"));
    assert_eq!(Command::parse(b"NOOP \xdc"), Err(CommandError::Syntax("not UTF-8")));
    assert_eq!(Command::parse(b"EHLOX \xdc"), Err(CommandError::Syntax("not UTF-8")));
}

#[test]
fn mail_parameters() {
    let mail =
        mail_of("MAIL FROM:<a@example.com> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=q+2Bx BY=300;RT MT-PRIORITY=4");
    assert_eq!(mail.reverse_path.as_str(), "a@example.com");
    assert_eq!(mail.size, Some(1000));
    assert!(mail.parameters.eight_bit);
    assert_eq!(mail.parameters.ret, Some(Ret::Headers));
    assert_eq!(mail.parameters.envid.as_deref(), Some("q+2Bx"));
    let by = DeliverBy { seconds: 300, mode: DeliverByMode::Return, trace: true };
    assert_eq!(mail.parameters.deliver_by, Some(by));
    assert_eq!(mail.parameters.priority, Some(4));
    assert_eq!(mail_of("mail from: <>").reverse_path, ReversePath::NULL);
    assert_eq!(mail_of("MAIL FROM:<a@example.com> BY=-5;N").parameters.deliver_by.unwrap().seconds, -5);
    assert_eq!(mail_of("MAIL FROM:<a@example.com> MT-PRIORITY=-9").parameters.priority, Some(-9));
    assert!(mail_of("MAIL FROM:<ü@example.com> SMTPUTF8").parameters.smtputf8);
    assert_eq!(mail_of("MAIL FROM:<\"a> b\"@example.com>").reverse_path.as_str(), "\"a> b\"@example.com");

    refused("MAIL <a@example.com>", CommandError::Syntax("expected MAIL FROM:<address>"));
    refused("MAIL FROM:a@example.com", CommandError::ReversePath(AddressError::Brackets));
    refused("MAIL FROM:<a@example.com>SIZE=1", CommandError::Syntax("a space belongs behind the path"));
    refused("MAIL FROM:<a@example.com> XFOO=1", CommandError::UnknownParameter);
    refused("MAIL FROM:<a@example.com> SIZE=1 SIZE=2", CommandError::Parameter("a parameter is given twice"));
    refused("MAIL FROM:<a@example.com> SIZE=x", CommandError::Parameter("bad SIZE"));
    refused("MAIL FROM:<a@example.com> BODY=BINARYMIME", CommandError::Parameter("BODY is 7BIT or 8BITMIME"));
    refused("MAIL FROM:<a@example.com> ENVID=a=b", CommandError::Parameter("not xtext"));
    refused("MAIL FROM:<a@example.com> ENVID=a+2", CommandError::Parameter("not xtext"));
    assert_eq!(mail_of("MAIL FROM:<a@example.com> AUTH=<>").parameters, MailParameters::default());
    refused("MAIL FROM:<a@example.com> AUTH=e+3", CommandError::Parameter("not xtext"));
    refused(
        "MAIL FROM:<a@example.com> MT-PRIORITY=10",
        CommandError::Parameter("MT-PRIORITY is a number from -9 to 9"),
    );
    refused(
        "MAIL FROM:<a@example.com> BY=0;R",
        CommandError::Parameter("BY with R needs a positive number of seconds"),
    );
    refused("MAIL FROM:<ü@example.com>", CommandError::NeedsSmtpUtf8);
}

#[test]
fn rcpt_parameters() {
    let Command::Rcpt(recipient) = ok("RCPT TO:<b@example.com> NOTIFY=success,FAILURE ORCPT=rfc822;b@example.com")
    else {
        panic!("not a RCPT")
    };
    assert_eq!(recipient.mailbox.as_str(), "b@example.com");
    assert_eq!(recipient.notify, Some(Notify { success: true, failure: true, delay: false }));
    assert_eq!(recipient.notify.unwrap().keyword(), "SUCCESS,FAILURE");
    assert_eq!(recipient.orcpt.as_deref(), Some("rfc822;b@example.com"));
    assert_eq!(Notify::default().keyword(), "NEVER");
    assert!(
        matches!(ok("RCPT TO:<@a.example:b@example.com>"), Command::Rcpt(r) if r.mailbox.as_str() == "b@example.com")
    );
    refused("RCPT TO:<>", CommandError::Path(AddressError::NoDomain));
    refused("RCPT TO:<postmaster>", CommandError::Postmaster);
    refused("RCPT TO:<PostMaster> NOTIFY=NEVER", CommandError::Postmaster);
    refused(
        "RCPT TO:<b@example.com> NOTIFY=NEVER,SUCCESS",
        CommandError::Parameter("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY"),
    );
    refused("RCPT TO:<b@example.com> ORCPT=b@example.com", CommandError::Parameter("ORCPT is address-type;xtext"));
    refused("RCPT FROM:<b@example.com>", CommandError::Syntax("expected RCPT TO:<address>"));
}
