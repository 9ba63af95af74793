//! Content is the same however it arrives, and agrees with `line_fault`; stuffing is undone, also when the content is
//! stuffed in parts that end with their lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::smtp::data::{DataDecoder, Decoded, final_dot, line_fault, needs_stuffing, stuff};
use otp_relay::testing::smtp::line::LineFault;
use otp_relay_fuzz::{choice, pieces};

fn decode(input: &[u8], seed: u8) -> (Decoded, Vec<u8>) {
    let (mut decoder, mut before) = (DataDecoder::new(1 << 20), 0);
    for piece in pieces(input, seed) {
        match decoder.feed(piece) {
            Decoded::More => before += piece.len(),
            Decoded::Complete(used) => return (Decoded::Complete(before + used), decoder.into_content().to_vec()),
            Decoded::Fault(fault) => return (Decoded::Fault(fault), Vec::new()),
        }
    }
    (Decoded::More, Vec::new())
}

fuzz_target!(|input: &[u8]| {
    let (seed, input) = choice(input);
    let (decoded, content) = decode(input, 0);
    assert_eq!(decode(input, seed), (decoded, content.clone()));
    match decoded {
        Decoded::Complete(used) => {
            assert!(input[..used].ends_with(b".\r\n"));
            assert_eq!((line_fault(&input[..used]), line_fault(&content)), (None, None));
        }
        Decoded::Fault(fault) => assert_eq!(line_fault(input), Some(fault)),
        Decoded::More if input.ends_with(b"\r") => assert_eq!(line_fault(input), Some(LineFault::BareCr)),
        Decoded::More => assert_eq!(line_fault(input), None),
    }

    if line_fault(input).is_some() {
        return;
    }
    let cut = usize::from(seed).min(input.len());
    let cut = input[..cut].windows(2).rposition(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
    let mut wire = Vec::new();
    stuff(&input[..cut], true, &mut wire);
    stuff(&input[cut..], true, &mut wire);
    assert_eq!(wire != input, needs_stuffing(input, true));
    wire.extend_from_slice(final_dot(input));
    let mut content = input.to_vec();
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        content.extend_from_slice(b"\r\n");
    }
    assert_eq!(decode(&wire, seed), (Decoded::Complete(wire.len()), content));
});
