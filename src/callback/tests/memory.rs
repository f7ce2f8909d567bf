//! What clients that may come in can make the endpoint hold: `cargo test --lib memory -- --ignored
//! --nocapture` prints it. The clients are another process, so that theirs does not count.

use std::process::Stdio;

use futures::{Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::AsyncBufReadExt;
use tokio::process::Command;

use super::*;
use crate::callback::Share;

const CONNECTIONS: usize = 1024;
const STREAMS: usize = 32;
/// Tells the other process where the endpoint is, and what to show.
const ADDRESS: &str = "KRAKE_MEMORY_ADDRESS";
const FILES: &str = "KRAKE_MEMORY_FILES";

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    kibibytes.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn connections_and_requests_to_the_full() {
    // As many of this one address as there may be of all.
    let limits = Limits::default().of(Share {
        total: CONNECTIONS,
        per_source: CONNECTIONS,
    });
    let served = Served::start(true, limits, "").await;
    let issued = client_certificate(
        &served.authority,
        "trainer",
        testing::HOOK_UID,
        Timestamp::now(),
    );
    let files = std::env::temp_dir().join(format!("krake-memory-{}", std::process::id()));
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("chain"), &issued.chain_pem).unwrap();
    std::fs::write(files.join("key"), issued.key_pem.expose_secret()).unwrap();
    std::fs::write(files.join("root"), served.authority.root()).unwrap();
    let before = resident();
    let mut clients = Command::new(std::env::current_exe().unwrap())
        .args([
            "callback::tests::memory::clients",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(ADDRESS, served.address.to_string())
        .env(FILES, &files)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(clients.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let open = served.metrics.connections().get();
        println!(
            "{line}: {open} connections, {} KiB more",
            resident() - before
        );
    }
    std::fs::remove_dir_all(files).unwrap();
    served.stop().await;
}

/// The other process.
#[tokio::test]
#[ignore = "a part of the measurement"]
async fn clients() {
    let (Ok(address), Ok(files)) = (std::env::var(ADDRESS), std::env::var(FILES)) else {
        return;
    };
    let address: SocketAddr = address.parse().unwrap();
    let read = |name: &str| std::fs::read(std::path::Path::new(&files).join(name)).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("chain")).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(read("root").into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![tls::HTTP2.to_vec()];
    let client = TlsConnector::from(Arc::new(config));
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = connect(address, &client).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        open.push(sender);
    }
    println!("idle");
    // Heads of nearly 8 KiB, and bodies of nearly 8 KiB that do not end.
    let mut waiting = Vec::new();
    for sender in &mut open {
        for _ in 0..STREAMS {
            // With as many streams as there may be it is not ready again.
            let request = Request::put(format!("https://localhost{SHUTDOWN}"))
                .header("x", "x".repeat(7000))
                .body(unending())
                .unwrap();
            waiting.push(tokio::spawn(sender.send_request(request)));
        }
    }
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        println!("to the full");
    }
}

/// Most of a body, and no end.
fn unending() -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Unpin>
{
    let most = Frame::data(Bytes::from(vec![b' '; 8000]));
    StreamBody::new(futures::stream::iter([Ok(most)]).chain(futures::stream::pending()))
}
