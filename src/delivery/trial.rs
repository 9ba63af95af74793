//! A session with a smart host for a look only: connection, TLS and login, as mail would have them, then QUIT.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::pace::Pulse;
use super::security::{Handshake, starttls};
use super::smart_host::{SmartHost, Tls};
use super::steps::Steps;
use super::transact::{Connection, Fresh};
use crate::base::clock::Clock;
use crate::destination::demand::TlsOption;
use crate::net::Network;
use crate::policy::cause::of_failure;
use crate::smtp::client_session::{ClientSettings, Failure, Stage, StartTls};
use crate::tls::opportunistic_connector;
use crate::tls::verify::Roots;

/// How long the connection may take, and all of it.
const CONNECT_MAX: Duration = Duration::from_millis(1_500);
const TIME_MAX: Duration = Duration::from_secs(4);

/// Tries a smart host at one of its addresses.
pub(crate) async fn try_out(
    host: &SmartHost,
    address: SocketAddr,
    (hostname, ca_file): (&str, Option<&Path>),
    network: &dyn Network,
    clock: Arc<dyn Clock>,
) -> Result<(), String> {
    let connecting = tokio::time::timeout(CONNECT_MAX, network.connect(address, None)).await;
    let stream = connecting.map_err(|_| format!("{address} does not answer"))?;
    let stream = stream.map_err(|error| format!("{address}: {error}"))?;
    let demand = Arc::new(host.tls.demand(TlsOption::default()).map_err(|error| error.to_string())?);
    let starttls = if host.tls == Tls::Implicit { StartTls::Implicit } else { starttls(&demand) };
    let stage = if starttls == StartTls::Implicit { Stage::Tls } else { Stage::StartTls };
    let login = host.login().map_err(|failure| described(&failure))?;
    let settings = ClientSettings { hostname: hostname.to_owned(), starttls, login };
    let connector = opportunistic_connector().map_err(|error| error.to_string())?;
    let roots = Roots::load(ca_file).map_err(|error| error.to_string())?;
    let (news, _nobody) = tokio::sync::mpsc::unbounded_channel();
    let pulse = Pulse { number: 0, news, paces: Arc::default() };
    let fresh = Fresh { stream, host: host.host.clone(), address, source: None, pulse, clock: clock.clone() };
    let handshake = Handshake { connector: &connector, roots: &roots, demand: &demand, clock: clock.as_ref(), stage };
    let mut steps = Steps::new(clock.instant());
    let opening = Connection::establish(fresh, settings, &handshake, &mut steps);
    let connection =
        tokio::time::timeout(TIME_MAX, opening).await.map_err(|_| "it does not answer in time".to_owned())?;
    connection.map_err(|unopened| described(&unopened.failure))?.quit().await;
    Ok(())
}

fn described(failure: &Failure) -> String {
    let meaning = of_failure(failure).cause.meaning();
    let reply = failure.reply().map_or_else(String::new, |reply| format!(": {reply}"));
    format!("at {}{reply} ({})", failure.stage.name(), meaning.trim_end_matches('.'))
}
