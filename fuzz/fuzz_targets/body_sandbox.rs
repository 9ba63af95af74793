//! Bodies of the sandbox's own paths: each is answered; a rule that is taken is shown, refuses or delays, and within its bounds; the
//! clock goes forward by a day at most.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::api::{SANDBOX, asked, converse, taken_apart};
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let line = ["PUT /sandbox/faults", "POST /sandbox/clock", "PUT /api/v1/messages", "DELETE /api/v1/messages"];
    let get = |path: &str| asked(&SANDBOX, &format!("GET {path}"), "any", b"").1;
    let ahead = || get("/sandbox/clock")["ahead_s"].as_u64().expect("seconds");
    match bits % 4 {
        0 => {
            let (status, answer) = asked(&SANDBOX, line[0], "any", body);
            if status != 200 {
                assert!([400, 413, 422].contains(&status), "{status}: {answer}");
                return;
            }
            let id = answer["id"].as_str().expect("an id");
            let rules = get("/sandbox/faults");
            let rule = rules["faults"].as_array().expect("rules").iter().find(|rule| rule["id"] == id);
            // One that holds for no time is gone.
            if let Some(rule) = rule {
                let refuses = rule["reply"].as_str().is_some_and(|reply| reply.starts_with(['4', '5']));
                assert!(refuses || rule["delay"].is_string(), "{rule}");
                assert!(!rule.to_string().contains(['\r', '\n']), "{rule}");
            }
            let remove = b"DELETE /sandbox/faults HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
            SANDBOX.runtime.block_on(converse(&SANDBOX.api, remove));
        }
        1 => {
            let before = ahead();
            let (status, answer) = asked(&SANDBOX, line[1], "any", body);
            assert!([200, 400, 413, 422].contains(&status), "{status}: {answer}");
            let moved = ahead().saturating_sub(before);
            assert!(moved <= 86_401 && (status == 200 || moved <= 1), "{moved}");
        }
        other => {
            let head = format!(
                "{} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                line[usize::from(other)],
                body.len()
            );
            let answer = SANDBOX.runtime.block_on(converse(&SANDBOX.api, &[head.as_bytes(), body].concat()));
            let (status, ..) = taken_apart(&answer).expect("every request is answered");
            assert!([200, 400, 404, 413, 422].contains(&status), "{status}");
        }
    }
});
