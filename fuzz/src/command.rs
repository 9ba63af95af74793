//! Commands printed from their values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use otp_relay::testing::mail::address::{AddressError, Mailbox, domain_key};
use otp_relay::testing::mail::envelope::{DeliverByMode, Ret};
use otp_relay::testing::smtp::command::{Command, Mail};

/// A line that means this command.
pub fn print(command: &Command) -> String {
    match command {
        Command::Ehlo(name) => format!("EHLO {name}"),
        Command::Helo(name) => format!("HELO {name}"),
        Command::Mail(mail) => print_mail(mail),
        Command::Rcpt(recipient) => {
            let mut line = format!("RCPT TO:<{}>", recipient.mailbox);
            line.extend(recipient.notify.iter().map(|notify| format!(" NOTIFY={}", notify.keyword())));
            line.extend(recipient.orcpt.iter().map(|orcpt| format!(" ORCPT={orcpt}")));
            line
        }
        Command::Bdat { size, last } => format!("BDAT {size}{}", if *last { " LAST" } else { "" }),
        Command::Auth { mechanism, initial: None } => format!("AUTH {mechanism}"),
        Command::Auth { mechanism, initial: Some(initial) } if initial.is_empty() => format!("AUTH {mechanism} ="),
        Command::Auth { mechanism, initial: Some(initial) } => format!("AUTH {mechanism} {}", BASE64.encode(initial)),
        Command::Data => "DATA".to_owned(),
        Command::Rset => "RSET".to_owned(),
        Command::Noop => "NOOP".to_owned(),
        Command::Vrfy => "VRFY".to_owned(),
        Command::Expn => "EXPN".to_owned(),
        Command::Help => "HELP".to_owned(),
        Command::Quit => "QUIT".to_owned(),
        Command::StartTls => "STARTTLS".to_owned(),
    }
}

fn print_mail(mail: &Mail) -> String {
    let parameters = &mail.parameters;
    let mut line = format!("MAIL FROM:<{}>", mail.reverse_path.as_str());
    line.extend(mail.size.iter().map(|size| format!(" SIZE={size}")));
    for (is_set, keyword) in [
        (parameters.eight_bit, " BODY=8BITMIME"),
        (parameters.smtputf8, " SMTPUTF8"),
        (parameters.require_tls, " REQUIRETLS"),
        (parameters.ret == Some(Ret::Full), " RET=FULL"),
        (parameters.ret == Some(Ret::Headers), " RET=HDRS"),
    ] {
        line.push_str(if is_set { keyword } else { "" });
    }
    line.extend(parameters.envid.iter().map(|envid| format!(" ENVID={envid}")));
    line.extend(parameters.priority.iter().map(|priority| format!(" MT-PRIORITY={priority}")));
    line.extend(parameters.deliver_by.iter().map(|by| {
        let mode = if by.mode == DeliverByMode::Return { "R" } else { "N" };
        format!(" BY={};{mode}{}", by.seconds, if by.trace { "T" } else { "" })
    }));
    line
}

/// The mailboxes in a command.
pub fn mailbox(command: &Command) -> Option<&Mailbox> {
    match command {
        Command::Mail(mail) => mail.reverse_path.mailbox(),
        Command::Rcpt(recipient) => Some(&recipient.mailbox),
        _ => None,
    }
}

/// What holds for every mailbox.
pub fn check_mailbox(mailbox: &Mailbox) {
    assert_eq!(Mailbox::parse(mailbox.as_str()).as_ref(), Ok(mailbox));
    assert_eq!(format!("{}@{}", mailbox.local_part(), mailbox.domain()), mailbox.as_str());
    assert!(!mailbox.as_str().chars().any(char::is_control));
    let key = mailbox.domain_key();
    assert!(key.is_ascii());
    if mailbox.address_literal().is_none() {
        assert_eq!(domain_key(&key).as_ref(), Some(&key));
    }
    match mailbox.to_ascii().map(|text| Mailbox::parse(&text)) {
        None => assert!(!mailbox.has_ascii_local_part()),
        Some(Ok(ascii)) => assert_eq!((ascii.local_part(), ascii.domain_key()), (mailbox.local_part(), key)),
        Some(Err(error)) => assert_eq!(error, AddressError::TooLong),
    }
}
