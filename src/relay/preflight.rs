//! What would keep the relay from starting, or from going on, looked at without starting it: nothing is made, and no client is
//! let in.

use std::io;

use super::data_dir;
use crate::check::{Check, Finding};
use crate::config::Config;
use crate::config::findings::Severity;
use crate::destination::lookups::{FETCHES_MAX, SOCKETS_MAX};
use crate::destination::resolver::HickoryDns;
use crate::http;
use crate::submission::listener;

/// Descriptors for files: the queue, traces, keys, the log, and what the runtime has of its own.
const RESERVE: usize = 128;

/// What there is to say, in the words of a start that fails; called on a runtime.
pub(crate) fn look(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |severity, check, text: String| found.push(Finding::new(severity, check, "", text));
    match data_dir::look(&config.data_dir) {
        Ok(None) => {}
        Ok(Some(text)) => add(Severity::Warning, Check::DataFolder, text),
        Err(error) => add(Severity::Error, Check::DataFolder, error.to_string()),
    }
    look_at_addresses(config, &mut add);
    if let Err(error) = HickoryDns::new(&config.resolver) {
        add(Severity::Error, Check::Resolver, error.to_string());
    }
    if let Some(text) = data_dir::raise_file_limit().and_then(|limit| too_few_files(limit, config)) {
        add(Severity::Warning, Check::Limits, text);
    }
    found
}

fn look_at_addresses(config: &Config, add: &mut impl FnMut(Severity, Check, String)) {
    let all = config.addresses();
    for address in &all {
        let Err(error) = listener::try_out(*address, &all) else { continue };
        if error.kind() == io::ErrorKind::AddrInUse && data_dir::is_in_use(&config.data_dir) {
            let text =
                "a relay runs with this data directory: whether its addresses could be listened at was not looked at";
            return add(Severity::Note, Check::Limits, text.to_owned());
        }
        add(Severity::Error, Check::Limits, error.to_string());
    }
}

/// Where a process may open fewer files than the configuration lets it need: each connection takes one.
pub(crate) fn too_few_files(limit: u64, config: &Config) -> Option<String> {
    let clients = config.submission.limits.connections_max;
    let api = config.http.address.map_or(0, |_| http::CONNECTIONS_MAX);
    let hosts = config.delivery.descriptors_max();
    let names = SOCKETS_MAX + FETCHES_MAX;
    let needed = [clients, api, hosts, names, config.addresses().len(), RESERVE];
    let needed = needed.iter().fold(0, |sum: usize, count| sum.saturating_add(*count));
    (limit < needed as u64).then(|| {
        format!(
            "this process may open {limit} files, and can need {needed} ({clients} for clients, {api} for the HTTP API, {hosts} \
             for mail hosts, {names} for look-ups): with none left, clients are not let in and mail waits; set \
             LimitNOFILE={needed} or more in the unit of the service, `ulimit -n {needed}` in the shell that starts it, or \
             connections_max under [submission] lower"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::from_text(text, Path::new("/nowhere"), None).0.unwrap()
    }

    #[test]
    fn each_connection_takes_a_descriptor() {
        let text = "hostname = \"relay.app.test\"\n[http]\naddress = \"off\"\n[submission]\nconnections_max = 500\n";
        let small = config(text);
        // Of these 500 for clients, 1500 for mail hosts, 464 for look-ups, 1 for the listener, 128 for files.
        let told = too_few_files(2592, &small).unwrap();
        for part in
            ["may open 2592 files, and can need 2593", "500 for clients, 0 for the HTTP API", "LimitNOFILE=2593"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert_eq!(too_few_files(2593, &small), None);
        let with_api = config(&text.replace("\"off\"", "\"127.0.0.1:8587\""));
        assert!(too_few_files(2593 + http::CONNECTIONS_MAX as u64, &with_api).is_some(), "its listener takes one too");
        assert_eq!(too_few_files(2594 + http::CONNECTIONS_MAX as u64, &with_api), None);
        assert!(too_few_files(4096, &config("hostname = \"relay.app.test\"\n")).is_some(), "the defaults");
        assert_eq!(too_few_files(1 << 16, &config("hostname = \"relay.app.test\"\n")), None);
    }
}
