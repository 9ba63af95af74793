//! What strangers publish about TLS: a policy that is read and written again is the same, and allows no host that it does
//! not name; an id is one; a TLSA record read and written again is the same, and no record believes in no certificate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::destination::dane::{self, usable};
use otp_relay::testing::destination::mta_sts::{Mode, POLICY_LEN_MAX, Policy, announced_id};
use otp_relay::testing::destination::tlsa::TlsaRecord;
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (seed, input) = choice(input);
    if let Ok(policy) = Policy::parse(input) {
        assert!(input.len() <= POLICY_LEN_MAX);
        assert_eq!(Policy::parse(policy.to_string().as_bytes()), Ok(policy.clone()));
        let text = policy.to_string();
        let hosts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("mx: ")).collect();
        assert!(policy.mode == Mode::None || !hosts.is_empty());
        for host in &hosts {
            assert!(policy.allows(&host.replace('*', "a")));
            assert!(!policy.allows(&host.replace('*', "a.b")) || hosts.len() > 1 || !host.starts_with('*'));
        }
        assert!(!policy.allows("") && !policy.allows("nobody-names-this.invalid."));
    }
    let text = String::from_utf8_lossy(input);
    let records: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Some(id) = announced_id(&records) {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric()));
    }
    // From the wire, cut into records of a length that the seed says; and from a zone file.
    let from_wire = input.chunks(usize::from(seed).max(4)).filter_map(TlsaRecord::from_octets);
    let all: Vec<TlsaRecord> = from_wire.chain(records.iter().filter_map(|line| line.parse().ok())).collect();
    for record in &all {
        assert_eq!(record.to_string().parse(), Ok(record.clone()));
    }
    let usable = usable(all.clone());
    assert!(usable.iter().all(|record| all.contains(record) && matches!(record.usage, 2 | 3)));
    let now = Timestamp::from_millis(0);
    assert!(dane::verify(&usable, &[], &["mx.example"], now).is_err());
    assert!(dane::verify(&[], &[input.to_vec().into()], &["mx.example"], now).is_err());
    // Octets that are no certificate are only themselves.
    let _ = dane::verify(&usable, &[input.to_vec().into(), input.to_vec().into()], &["mx.example"], now);
});
