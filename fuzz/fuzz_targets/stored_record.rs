//! Whatever is found on disk, a record is read or it is not; what was read and is written again reads the same; and a
//! relay that starts with it answers what it is asked.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::rate::Rate;
use otp_relay::testing::greylist::pending::{Greylister, Refusal};
use otp_relay::testing::greylist::table::Triplet;
use otp_relay::testing::ledger::embedded::store::sled::record::{
    decode_progress, encode_progress, read_message, write_message,
};
use otp_relay::testing::ledger::embedded::store::{Found, Table};
use otp_relay::testing::ledger::entry::{Message, Progress};
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::id::MessageId;
use otp_relay::testing::queue::inspect::Filter;
use otp_relay::testing::report::trace::{decode, encode};
use otp_relay_fuzz::choice;
use otp_relay_fuzz::relay::{NOW, Relay, runtime, user};

fn message(record: &[u8]) -> Option<Message> {
    let (message, content) = read_message(record)?;
    let written = write_message(&message, &content).expect("it was read");
    assert!(written.ends_with(&[&content.head[..], &content.body].concat()));
    assert!(record.ends_with(&[&content.head[..], &content.body].concat()));
    assert!(read_message(&written) == Some((message.clone(), content)));
    Some(message)
}

fn progress(value: &[u8]) -> Option<Progress> {
    let progress = decode_progress(value)?;
    let written = encode_progress(&progress).expect("it was read");
    assert!(decode_progress(&written) == Some(progress.clone()));
    Some(progress)
}

/// Traces of version 0.1 and of this one; what this one writes, it reads as it was.
fn traces(json: &[u8]) {
    for version in [1, 3] {
        let Some(trace) = decode(&[&[version], json].concat()) else { continue };
        assert!(trace.recipients().len() <= trace.events.len());
        let read = decode(&encode(&trace)).expect("it was written here");
        assert!(decode(&encode(&read)) == Some(read));
    }
}

/// Asks a relay that was started with it all there is to ask.
fn start(found: Vec<Found>, id: Option<MessageId>) {
    let relay = Relay::restored(found, Some(Rate { count: 2, span: Duration::from_secs(600) }));
    let (alice, path) = (Mailbox::parse("alice@example.com").expect("an address"), ReversePath::NULL);
    let user = user();
    runtime().block_on(async {
        let _ = relay.door.check_recipient(&user, &alice).await;
        assert!(relay.door.suppressions(10).await.is_ok_and(|(held, _)| held.len() <= 10));
    });
    let triplet = Triplet::new(path.as_str(), &alice.plain_key(), "mx.example");
    let greylists = relay.queue.greylists();
    if let Some(facts) = greylists.facts("example.com", "mx.example", NOW) {
        let _ = (facts.between().count(), facts.opens(), facts.hints(), facts.restart_pause());
    }
    let _ = (greylists.forecast(&triplet, NOW), greylists.standing(&triplet, NOW), greylists.greylister(&triplet));
    let by = Some(Greylister { host: "mx.example".into(), address: [192, 0, 2, 1].into() });
    let _ = greylists.accepted(&triplet, NOW);
    let _ = greylists.refused(&triplet, Refusal { asked: None, by, began: NOW, ended: NOW });
    for entry in relay.queue.list(&Filter::default(), 100).messages.iter().flat_map(|message| &message.entries) {
        if let Ok(claim) = relay.queue.claim(entry.id, NOW) {
            let _ = (claim.domain(), claim.check(NOW), claim.message().late_at());
        }
    }
    let depth = relay.queue.depth();
    assert!(depth.messages <= usize::from(id.is_some()));
    relay.queue.cancel(&Filter::default(), NOW);
    assert_eq!(relay.queue.depth().messages, 0);
}

/// The first line, and what is behind it.
fn line(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|octet| *octet == b'\n').unwrap_or(input.len());
    (&input[..end], input.get(end + 1..).unwrap_or_default())
}

/// A message's record with lengths that fit: its description stands on the first line, then its content.
fn record(text: &[u8]) -> Vec<u8> {
    let (description, content) = line(text);
    let head = content.windows(4).position(|octets| octets == b"\r\n\r\n").map_or(0, |at| at + 2);
    let lengths = [description.len(), head, 14 + description.len() + content.len()];
    let lengths = lengths.map(|length| u32::try_from(length).unwrap_or(0).to_be_bytes()).concat();
    [&[1, 0], &lengths[..], description, content].concat()
}

fuzz_target!(|input: &[u8]| {
    let (kind, input) = choice(input);
    // A row's key, or how far a message's first entry got.
    let (first, rest) = line(input);
    match kind {
        b'm' | b'j' => {
            let Some(message) = message(&if kind == b'j' { record(rest) } else { rest.to_vec() }) else { return };
            let progress = progress(&[&[1], first].concat());
            let (id, entries) = (message.id, progress.into_iter().map(|progress| (0, progress)).collect());
            start(vec![Found::Message(Box::new(message), entries)], Some(id));
        }
        b'p' => drop(progress(input)),
        b't' => traces(input),
        kind => {
            let table = Table::ALL[usize::from(kind) % Table::ALL.len()];
            // Some keys have line ends in them.
            let key = first.iter().map(|octet| if *octet == b'\t' { b'\n' } else { *octet }).collect();
            start(vec![Found::Side(table, (key, rest.into()))], None);
        }
    }
});
