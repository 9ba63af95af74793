//! Name servers that do not know EDNS: they refuse questions that carry it, or do not answer them at all. They are asked
//! without it (RFC 6891 section 6.2.2). Where answers are validated there is no EDNS to leave out: signatures need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

/// How long a look-up may take with all that DNSSEC has to ask for.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long name servers that answered only without EDNS are asked with it again.
const REST: Duration = Duration::from_secs(600);

/// Whether questions carry EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edns {
    On,
    Off,
}

/// Look-ups without DNSSEC. The resolver asks all its name servers before it reports a failure, so one that knows EDNS is
/// enough; what is remembered counts for all of them.
#[derive(Debug)]
pub(super) struct Unvalidated {
    with_edns: TokioResolver,
    without_edns: TokioResolver,
    /// The name servers answered only without EDNS lately.
    lacks_edns: Arc<AtomicBool>,
}

impl Unvalidated {
    pub(super) fn new(with_edns: TokioResolver, without_edns: TokioResolver) -> Self {
        Self { with_edns, without_edns, lacks_edns: Arc::default() }
    }

    /// Both resolvers; each remembers answers.
    pub(super) fn resolvers(&self) -> [&TokioResolver; 2] {
        [&self.with_edns, &self.without_edns]
    }

    /// Asks with EDNS; where name servers seem not to know it, without, and from then on for a while without at once.
    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        if self.lacks_edns.load(Ordering::Relaxed) {
            return lookup(&self.without_edns, name, kind).await;
        }
        let error = match lookup(&self.with_edns, name.clone(), kind).await {
            Err(error) if may_lack_edns(&error) => error,
            found => return found,
        };
        let found = lookup(&self.without_edns, name, kind).await;
        if !is_answer(&found) {
            return Err(error);
        }
        if !self.lacks_edns.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, "the name servers answer only without EDNS; they are asked without it for ten minutes");
            let lacks_edns = self.lacks_edns.clone();
            tokio::spawn(async move {
                tokio::time::sleep(REST).await;
                lacks_edns.store(false, Ordering::Relaxed);
            });
        }
        found
    }
}

/// One look-up within its time.
pub(super) async fn lookup(resolver: &TokioResolver, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
    tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup(name, kind)).await.unwrap_or(Err(NetError::Timeout))
}

/// RFC 6891 section 7: such a server answers FORMERR, NOTIMP or, to a version that it does not know, BADVERS. Some drop the
/// question.
fn may_lack_edns(error: &NetError) -> bool {
    let is_refusal = |code| matches!(code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS);
    matches!(error, NetError::Timeout)
        || matches!(error, NetError::Dns(DnsError::ResponseCode(code)) if is_refusal(*code))
}

/// Whether the name servers said what there is, or that there is nothing.
fn is_answer(found: &Result<Lookup, NetError>) -> bool {
    matches!(found, Ok(_) | Err(NetError::Dns(DnsError::NoRecordsFound(_))))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Mutex;

    use tokio::net::UdpSocket;

    use super::super::resolver::{Dns as _, Dnssec, HickoryDns, Settings};
    use super::*;

    /// What a name server does with a question that carries EDNS.
    #[derive(Clone, Copy)]
    enum Old {
        Says(u8),
        Drops,
        /// It answers, like those without EDNS.
        Answers,
    }

    /// A name server over UDP that knows 192.0.2.1, and whether each question that came carried EDNS.
    async fn name_server(old: Arc<Mutex<Old>>) -> (SocketAddr, Arc<Mutex<Vec<bool>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<bool>>>::default());
        let seen = asked.clone();
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((len, peer)) = socket.recv_from(&mut query).await {
                let end = 12 + query[12..len].iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
                let has_edns = query[11] > 0;
                seen.lock().unwrap().push(has_edns);
                let code = match (has_edns, *old.lock().unwrap()) {
                    (true, Old::Says(code)) => code,
                    (true, Old::Drops) => continue,
                    (false, _) | (true, Old::Answers) => 0,
                };
                let record = [&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &[192, 0, 2, 1]].concat();
                let has_record = code == 0 && query[end - 3] == 1;
                let answer = if has_record { &record[..] } else { &[] };
                let head = [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(has_record), 0, 0, 0, 0];
                let _ = socket.send_to(&[&head[..], &query[12..end], answer].concat(), peer).await;
            }
        });
        (address, asked)
    }

    fn dns(address: SocketAddr, dnssec: Dnssec) -> HickoryDns {
        HickoryDns::new(&Settings { nameservers: vec![address], dnssec, trust_anchor: None }).unwrap()
    }

    const FOUND: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))];

    #[tokio::test(flavor = "multi_thread")]
    async fn name_servers_that_refuse_or_drop_edns_are_asked_without_it() {
        for old in [Old::Says(1), Old::Says(4), Old::Drops] {
            let (address, asked) = name_server(Arc::new(Mutex::new(old))).await;
            let dns = dns(address, Dnssec::Auto);
            assert_eq!(dns.ipv4("a.test").await.unwrap().records, FOUND);
            assert_eq!(dns.validates().await, Ok(false), "DNSSEC is off");
            let before = asked.lock().unwrap().len();
            assert_eq!(dns.ipv4("b.test").await.unwrap().records, FOUND);
            assert_eq!(asked.lock().unwrap()[before..], [false], "remembered: one question, without EDNS");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_answers_have_to_be_validated_nothing_is_asked_without_edns() {
        let (address, asked) = name_server(Arc::new(Mutex::new(Old::Says(1)))).await;
        assert!(dns(address, Dnssec::On).ipv4("a.test").await.is_err());
        assert!(asked.lock().unwrap().iter().all(|has_edns| *has_edns));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn name_servers_that_know_edns_are_asked_with_it() {
        let (address, asked) = name_server(Arc::new(Mutex::new(Old::Answers))).await;
        assert_eq!(dns(address, Dnssec::Off).ipv4("a.test").await.unwrap().records, FOUND);
        assert_eq!(*asked.lock().unwrap(), [true]);
    }

    #[tokio::test]
    async fn edns_is_tried_again_after_a_while() {
        let old = Arc::new(Mutex::new(Old::Says(1)));
        let (address, asked) = name_server(old.clone()).await;
        let dns = dns(address, Dnssec::Off);
        dns.ipv4("a.test").await.unwrap();
        *old.lock().unwrap() = Old::Answers;
        tokio::time::pause();
        tokio::time::sleep(REST + Duration::from_secs(1)).await;
        tokio::time::resume();
        dns.ipv4("b.test").await.unwrap();
        assert_eq!(asked.lock().unwrap().last(), Some(&true));
    }
}
