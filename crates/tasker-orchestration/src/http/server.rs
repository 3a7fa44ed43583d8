//! Connections: accepted, bounded, timed, and ended in order.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::error::ApiError;
use crate::engine::Engine;

/// Open connections, busy or not; more of them wait in the listener's backlog. Well below the usual limit of open
/// files once that is raised, and each idle one costs some kilobytes.
const CONNECTIONS_MAX: usize = 10_000;
/// The pause after a failed accept: the cause, mostly too many open files, needs time to go away.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How much is read, and for how long, after an answer that ends a connection: a client that is still sending would
/// otherwise be told of a reset before it reads the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// Serves the API on `listener` until `shutdown`; then ends waits and streams, lets requests finish for as long as
/// `stop.drain_ms`, and returns.
///
/// # Errors
/// Where the listener can't be used.
pub async fn serve(engine: Engine, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    listener.local_addr()?;
    let drain = Duration::from_millis(engine.config().stop.drain_ms);
    let header_timeout = Duration::from_millis(engine.config().web.header_timeout_ms);
    let router = super::routed(engine, shutdown.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(stream, router.clone(), header_timeout, shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_ended).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut off");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Router, header_timeout: Duration, shutdown: CancellationToken) {
    let service = service_fn(move |request| Box::pin(router.clone().oneshot(request)));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty() {
        // Half a request came. Who sent nothing just kept the connection open.
        let _gone = stream.write_all(late_headers().as_bytes()).await;
    }
    let _gone = stream.shutdown().await;
    let _late = tokio::time::timeout(LINGER, discard(&mut stream)).await;
}

async fn discard(stream: &mut TcpStream) {
    let mut left = LINGER_BYTES;
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

fn late_headers() -> String {
    let id = Uuid::from_u128(rand::random()).to_string();
    let error =
        ApiError::new(axum::http::StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the headers came too slowly");
    let body = error.body(&id);
    format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nx-request-id: {id}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
