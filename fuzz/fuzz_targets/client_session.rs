//! Whatever a server says: what we send is whole lines of known commands, content goes out when it may, each transaction
//! ends once, as delivered only by a yes to the content, and how the octets arrive makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::choice;
use otp_relay_fuzz::client::{TlsOption, play, watch};

fuzz_target!(|input: &[u8]| {
    let (option, input) = choice(input);
    let (seed, script) = choice(input);
    let option = TlsOption(option);
    watch(option, script);
    if option.compares() {
        assert_eq!(play(option, script, 0), play(option, script, seed));
    }
});
