//! Reading no more than is asked for never reads beyond the header, and the result is the same whatever follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::submission::proxy_header::{HEADER_MAX, Progress, parse};

fuzz_target!(|input: &[u8]| {
    let mut read = 0;
    let outcome = loop {
        match parse(&input[..read]) {
            Ok(Progress::Needs(more)) => {
                assert!(more > 0 && read + more <= HEADER_MAX);
                if read + more > input.len() {
                    return;
                }
                read += more;
            }
            outcome => break outcome,
        }
    };
    if let Ok(Progress::Complete(_, used)) = outcome {
        assert_eq!(used, read);
    }
    assert_eq!(parse(input), outcome);
});
