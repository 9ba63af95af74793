//! Web servers that the relay talks to: those of webhooks, and the CA's. That each can be reached and shows a certificate that
//! is believed; and what time they have. A server is asked for its head at `/`, and is told nothing of mail.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONNECTION, DATE, HOST, USER_AGENT};
use tokio_rustls::TlsConnector;

use super::clock;
use super::finding::{Check, Finding};
use super::look::Look;
use crate::config::findings::Severity;
use crate::net::http::{self, Session};
use crate::net::{BoxStream, Stream};
use crate::report::webhooks::endpoint::Target;
use crate::tls::verify::Roots;
use crate::tls::wording;

/// How long finding the address, the connection, the handshake and the answer may take, each.
const STEP_MAX: Duration = Duration::from_millis(1_000);
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 2;

/// All of them, beside each other.
pub(super) async fn look(look: &Look<'_>) {
    let webhooks = look.config.webhooks.iter().map(|endpoint| async {
        let mend =
            "see that the app's server runs, and that its certificate is whole; delivery.ca_file adds an authority";
        of_server(look, &endpoint.target, Check::Webhook, mend).await;
    });
    let ca = async {
        let acme = &look.config.acme;
        if let Some(target) = Target::parse(&acme.directory).filter(|_| !acme.domains.is_empty()) {
            of_server(look, &target, Check::Certificate, "see to it before the certificate ends").await;
        }
    };
    tokio::join!(join_all(webhooks), ca);
}

async fn of_server(look: &Look<'_>, target: &Target, check: Check, mend: &str) {
    // The path and the query of a webhook may be secret.
    let subject = format!("{}:{}", target.host, target.port);
    match reach(look, target, check).await {
        Ok(Some(seconds)) => clock::compare(look, &target.host, seconds),
        Ok(None) => {}
        Err(text) => look.add(Finding::new(Severity::Error, check, subject, text).mend(mend)),
    }
}

/// The time of an answer, in seconds since 1970, where it came by TLS.
async fn reach(look: &Look<'_>, target: &Target, check: Check) -> Result<Option<u64>, String> {
    let addresses = addresses(look, target, check).await?;
    let mut last = "its name has no address".to_owned();
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        let to = SocketAddr::new(address, target.port);
        match in_time(look.network.connect(to, None)).await {
            Ok(stream) if target.is_tls => return asked(look, target, stream, check).await,
            Ok(_) => return Ok(None),
            Err(error) => last = format!("no connection to {to}: {error}"),
        }
    }
    Err(last)
}

/// As the relay finds them: those of webhooks by the system's ways, the CA's by its resolver.
async fn addresses(look: &Look<'_>, target: &Target, check: Check) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = target.host.parse() {
        return Ok(vec![address]);
    }
    if check != Check::Webhook {
        return look.addresses(&target.host).await.ok_or_else(|| "its name cannot be looked up".to_owned());
    }
    let found = in_time(tokio::net::lookup_host((target.host.as_str(), target.port))).await;
    let found = found.map_err(|error| format!("its name has no address: {error}"))?;
    Ok(found.map(|address| address.ip()).collect())
}

async fn asked(look: &Look<'_>, target: &Target, stream: BoxStream, check: Check) -> Result<Option<u64>, String> {
    let own = look.config.acme.ca_file.as_deref().filter(|_| check != Check::Webhook);
    let roots = Roots::load(own.or(look.config.delivery.ca_file.as_deref())).map_err(|error| error.to_string())?;
    let config = roots.client_config().map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(Arc::new(config));
    let connecting = tokio::time::timeout(STEP_MAX, http::encrypt(&tls, &target.host, stream));
    let stream = connecting.await.map_err(|_| "the TLS handshake does not end in time".to_owned())?;
    let stream = stream.map_err(|error| format!("no TLS session: {}", wording::of_stream(&error)))?;
    // Whoever takes posts need not answer this.
    Ok(tokio::time::timeout(STEP_MAX, date(target, stream)).await.ok().flatten())
}

async fn date(target: &Target, stream: impl Stream + 'static) -> Option<u64> {
    let request = Request::head("/").header(HOST, &*target.authority).header(USER_AGENT, http::USER_AGENT);
    let request = request.header(CONNECTION, "close").body(Full::default()).ok()?;
    let answer = Session::new(stream).await.ok()?.ask(request).await.ok()?;
    clock::seconds_in(answer.headers().get(DATE)?.to_str().ok()?.trim())
}

async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let done = tokio::time::timeout(STEP_MAX, work).await;
    done.map_err(|_| "it does not answer in time".to_owned())?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, found};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_webhook_s_host_is_reached_or_told() {
        let mut world = World::sound();
        world.webhook = Some("http://203.1.113.80:8080/hook?key=secret");
        let told = async |world: &World| found(world, |look| Box::pin(super::look(look))).await;
        let refused = told(&world).await;
        assert!(refused.len() == 1 && refused[0].check == Check::Webhook, "{refused:?}");
        assert_eq!((refused[0].severity, refused[0].subject.as_str()), (Severity::Error, "203.1.113.80:8080"));
        assert!(!refused[0].line().contains("secret") && refused[0].text.contains("no connection"), "{refused:?}");
        world.says("203.1.113.80", "");
        assert_eq!(told(&world).await, []);
        world.webhook = Some("https://203.1.113.80:8443/hook");
        let silent = told(&world).await;
        assert!(silent.len() == 1 && silent[0].text.contains("TLS"), "{silent:?}");
    }
}
