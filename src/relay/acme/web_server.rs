//! Answers http-01 (RFC 8555 section 8.3) while the CA asks: one path, nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Where the CA looks.
const PATH: &str = "/.well-known/acme-challenge/";
/// Connections at once; how long one may last; octets of a request's head.
const CONNECTIONS_MAX: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_LEN_MAX: usize = 8 << 10;

/// Tokens with their answers.
pub(super) type Answers = Arc<Vec<(String, String)>>;

/// Serves until it is dropped.
pub(super) async fn serve(address: SocketAddr, answers: Answers) -> std::io::Result<Infallible> {
    let listener = TcpListener::bind(address).await?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while tasks.try_join_next().is_some() {}
        // Whoever is too many is closed at once: the CA comes again.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let answers = answers.clone();
        tasks.spawn(async move {
            let _ = tokio::time::timeout(TIMEOUT, converse(stream, answers)).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, answers: Answers) {
    let service = service_fn(|request| {
        let answer = answer(&request, &answers);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).max_buf_size(HEAD_LEN_MAX).keep_alive(false);
    // Its end is of no interest.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn answer<B>(request: &Request<B>, answers: &Answers) -> Response<Full<Bytes>> {
    let token = request.uri().path().strip_prefix(PATH);
    let known = token.and_then(|token| answers.iter().find(|(known, _)| known == token));
    let mut response = Response::new(Full::from(known.map_or("", |(_, answer)| answer).to_owned()));
    if known.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_answered() {
        let answers: Answers = Arc::new(vec![("token".to_owned(), "token.print".to_owned())]);
        let check = |path: &str, expected: StatusCode| {
            assert_eq!(answer(&Request::get(path).body(()).unwrap(), &answers).status(), expected, "{path}");
        };
        check("/.well-known/acme-challenge/token", StatusCode::OK);
        check("/.well-known/acme-challenge/other", StatusCode::NOT_FOUND);
        check("/.well-known/acme-challenge/", StatusCode::NOT_FOUND);
        check("/", StatusCode::NOT_FOUND);
    }
}
