//! A name server for one machine: answers over UDP from a function, knows nothing of zones.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;

/// How long answers hold, in seconds.
const TTL_S: u32 = 60;
/// Longest query that is read.
const QUERY_MAX: usize = 1500;

/// What a name has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An MX record: preference and host.
    Mx(u16, String),
    /// An IPv4 address.
    A(std::net::Ipv4Addr),
    /// A text of any length.
    Txt(String),
}

/// Answers for a name in lower case without final dot; none: the name does not exist.
pub(crate) type Lookup = dyn Fn(&str) -> Option<Vec<Answer>> + Send + Sync;

/// Binds and serves until the task is dropped; returns where.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(bind: SocketAddr, lookup: Arc<Lookup>) -> std::io::Result<SocketAddr> {
    let socket = UdpSocket::bind(bind).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = [0; QUERY_MAX];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = respond(&buffer[..len], lookup.as_ref()) {
                // Whoever does not get its answer asks again.
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    Ok(address)
}

fn respond(query: &[u8], lookup: &Lookup) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.message_type = MessageType::Response;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    match lookup(&name) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(answers) => {
            let wanted = answers.iter().filter_map(rdata).filter(|data| data.record_type() == question.query_type());
            response.add_answers(wanted.map(|data| Record::from_rdata(question.name().clone(), TTL_S, data)));
        }
    }
    response.add_query(question);
    response.to_vec().ok()
}

fn rdata(answer: &Answer) -> Option<RData> {
    Some(match answer {
        Answer::Mx(preference, host) => RData::MX(MX::new(*preference, Name::from_ascii(format!("{host}.")).ok()?)),
        Answer::A(address) => RData::A(A(*address)),
        Answer::Txt(text) => {
            let strings = text.as_bytes().chunks(255).map(|part| String::from_utf8_lossy(part).into_owned());
            RData::TXT(TXT::new(strings.collect()))
        }
    })
}
