//! Connections: accepting them, bounding their number and their idleness, and letting them end when
//! the server stops.

use super::gate::Peer;
use super::log;
use super::state::State;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Sleep, sleep};

/// For a request's headers; also how long a connection may wait for its next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// For a client that does not take what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Request line and headers at most.
const HEADER_BYTES: usize = 16 << 10;

/// Connections that are open.
#[derive(Default)]
struct Open {
    count: AtomicUsize,
    one_ended: Notify,
}

/// Accepts connections until the server is told to stop, then until every connection has ended, at
/// most for the time that the settings give.
pub(super) async fn run(listener: TcpListener, state: Arc<State>, router: Router) -> Result<()> {
    let open = Arc::new(Open::default());
    let mut stopping = state.stopping.subscribe();
    let stopped = async {
        until_true(&mut stopping).await;
        let all_ended = async {
            while open.count.load(Ordering::Acquire) > 0 {
                open.one_ended.notified().await;
            }
        };
        let in_time = tokio::time::timeout(state.settings.shutdown_timeout, all_ended).await;
        if in_time.is_err() {
            log::event("warn", "stopped_with_open_connections", json!({}));
        }
    };
    tokio::select! {
        result = accept(&listener, &open, &state, &router) => result,
        () = stopped => Ok(()),
    }
}

async fn accept(
    listener: &TcpListener,
    open: &Arc<Open>,
    state: &Arc<State>,
    router: &Router,
) -> Result<()> {
    let most = state.settings.max_connections.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a client that was quick to leave; going round at full
                // speed helps nobody.
                log::event(
                    "error",
                    "accept_failed",
                    json!({"reason": error.to_string()}),
                );
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        open.count.fetch_add(1, Ordering::AcqRel);
        // Without a place the next ones wait in the system's own queue.
        let place = places.clone().acquire_owned().await.context("no places")?;
        let (open, state, router) = (open.clone(), state.clone(), router.clone());
        tokio::spawn(async move {
            state.metrics.connections.fetch_add(1, Ordering::Relaxed);
            serve(stream, peer, state.stopping.subscribe(), router).await;
            state.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
            open.count.fetch_sub(1, Ordering::AcqRel);
            // Remembered where nobody waits yet.
            open.one_ended.notify_one();
        });
    }
}

/// One connection to its end. What goes wrong on it is the client's affair.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
    router: Router,
) {
    // A stream's pieces are small and each is waited for.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        let router = router.clone();
        async move { call(router, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = until_true(&mut stopping), if !told => {
                told = true;
                // The request under way is finished, the next is not read.
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn until_true(flag: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server.
    let _ = flag.wait_for(|flag| *flag).await;
}

async fn call(
    mut router: Router,
    request: Request<Body>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    use tower_service::Service;
    std::future::poll_fn(|context| Service::<Request<Body>>::poll_ready(&mut router, context))
        .await?;
    router.call(request).await
}

/// A stream whose writer gives up when nothing could be written for [`WRITE_TIMEOUT`].
struct Patient {
    stream: TcpStream,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            waiting: None,
        }
    }

    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        waiting
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(context, result)
    }
}
