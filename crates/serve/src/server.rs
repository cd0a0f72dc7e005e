//! Listening: connections in, within limits; and out again, in peace, when the server is to end.

use crate::app::App;
use crate::connection::Patient;
use crate::guard::Guard;
use crate::router::router;
use crate::tls::Tls;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// How long the head of a request may take, and before that the beginning of TLS.
    pub head_time: Duration,
    /// How long a reader may take nothing.
    pub write_time: Duration,
    /// How long answers may take to end when the server is to end.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4096,
            head_time: Duration::from_secs(10),
            write_time: Duration::from_secs(30),
            drain_time: Duration::from_secs(30),
        }
    }
}

/// Where connections come in, and whether they are encrypted.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    /// Takes encrypted connections only.
    pub fn encrypted(tcp: TcpListener, tls: Arc<Tls>) -> Listener {
        Listener { tcp, tls: Some(tls) }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Listener {
        Listener { tcp, tls: None }
    }
}

/// Header fields of a request at most, and bytes of its head.
const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 64 << 10;

/// Serves until `shutdown` comes, then lets answers end, as long as the limits allow.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: impl Into<Listener>,
    app: Arc<App>,
    guard: Guard,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { tcp, tls } = listener.into();
    let router = router(app.clone(), Arc::new(guard));
    let permits = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let ending = async {
        shutdown.await;
        app.drain();
        // New requests are refused from here on; those that are in may end.
        let idle = async {
            while app.model.service.status().requests > 0 || Arc::strong_count(&app.in_rounds) > 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Who does not end in time is broken off.
        let _ = tokio::time::timeout(limits.drain_time, idle).await;
    };
    tokio::pin!(ending);
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.expect("nobody closes the semaphore");
            (permit, tcp.accept().await)
        };
        // The end is heard while all permits are out, too.
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut ending => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Too many open files, or a connection that was gone already: neither ends the server.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A token is sent when it is there, not when there are more.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, limits.write_time);
        let service = TowerToHyperService::new(router.clone());
        let (http, watcher, tls) = (http.clone(), graceful.watcher(), tls.clone());
        tokio::spawn(async move {
            // A connection that breaks is its client's affair.
            let _ = match tls {
                None => watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await,
                Some(tls) => match tokio::time::timeout(limits.head_time, tls.accept(stream)).await {
                    Ok(Ok(stream)) => watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await,
                    _ => Ok(()),
                },
            };
            drop(permit);
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), graceful.shutdown()).await;
    Ok(())
}
