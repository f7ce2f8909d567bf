//! Before the end: an answer says that it is the last of its connection, and new ones are served.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::header::CONNECTION;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use warp::Filter;

use crate::callback::{Limits, Listener, Mode};
use crate::metrics::Metrics;
use crate::testing;

struct Server {
    address: SocketAddr,
    closing: CancellationToken,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let (closing, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Limits::default())
            .await
            .unwrap()
            .closing_on(closing.clone());
        let address = listener.address();
        let service = warp::service(warp::any().map(|| "done"));
        let serving = listener.serve(Mode::Plain, service, Metrics::new(), shutdown.clone());
        Self {
            address,
            closing,
            shutdown,
            serving: tokio::spawn(serving),
        }
    }

    async fn connect(&self) -> TokioIo<TcpStream> {
        TokioIo::new(TcpStream::connect(self.address).await.unwrap())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }
}

fn request(version: Version) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.version_mut() = version;
    *request.uri_mut() = "http://endpoint/".parse().unwrap();
    request
}

async fn ends(connection: impl Future<Output = Result<(), hyper::Error>>) {
    let ended = tokio::time::timeout(testing::SOON, connection).await;
    ended.expect("it ends by itself").expect("and in order");
}

#[tokio::test]
async fn the_last_answer_over_http1_says_so_and_ends_its_connection() {
    let server = Server::start().await;
    for opened_before in [true, false] {
        if !opened_before {
            server.closing.cancel();
        }
        let (mut client, connection) = http1::handshake(server.connect().await).await.unwrap();
        let connection = tokio::spawn(connection);
        if opened_before {
            let answer = client
                .send_request(request(Version::HTTP_11))
                .await
                .unwrap();
            assert_eq!(answer.headers().get(CONNECTION), None);
            answer.into_body().collect().await.unwrap();
            client.ready().await.unwrap();
            server.closing.cancel();
        }
        let answer = client
            .send_request(request(Version::HTTP_11))
            .await
            .unwrap();
        assert_eq!(answer.headers()[CONNECTION], "close");
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes(),
            "done"
        );
        ends(async { connection.await.unwrap() }).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn over_http2_a_connection_is_left_after_its_next_answer_and_all_under_way_are_answered() {
    let server = Server::start().await;
    for opened_before in [true, false] {
        if !opened_before {
            server.closing.cancel();
        }
        let io = server.connect().await;
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        if opened_before {
            let answer = client.send_request(request(Version::HTTP_2)).await.unwrap();
            answer.into_body().collect().await.unwrap();
            server.closing.cancel();
        }
        let all = (0..5).map(|_| client.send_request(request(Version::HTTP_2)));
        for answer in futures::future::join_all(all).await {
            let body = answer.unwrap().into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), "done");
        }
        ends(async { connection.await.unwrap() }).await;
        assert!(client.is_closed());
    }
    server.stop().await;
}
