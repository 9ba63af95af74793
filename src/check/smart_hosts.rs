//! Smart hosts: that each can be connected to, shows the right certificate, and knows the account.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;

use super::finding::{Check, Finding};
use super::look::Look;
use crate::config::findings::Severity;
use crate::delivery::smart_host::SmartHost;
use crate::delivery::trial;

pub(super) async fn look(look: &Look<'_>) {
    join_all(look.config.smart_hosts.iter().map(|host| of_host(look, host))).await;
}

async fn of_host(look: &Look<'_>, host: &SmartHost) {
    let addresses = match host.host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => match look.addresses(&host.host).await {
            Some(addresses) => addresses,
            None => return,
        },
    };
    let add = |text: String| {
        let finding = Finding::new(Severity::Error, Check::SmartHost, &*host.name, text);
        look.add(finding.mend("compare address, tls, username and password_file with what the host's owner says"));
    };
    let Some(address) = addresses.first() else { return add("its name has no address in DNS".to_owned()) };
    let (delivery, to) = (&look.config.delivery, SocketAddr::new(*address, host.port));
    let means = (delivery.hostname.as_str(), delivery.ca_file.as_deref());
    if let Err(text) = trial::try_out(host, to, means, look.network, look.clock.clone()).await {
        add(format!("mail cannot go by it: {text}"));
    }
}
