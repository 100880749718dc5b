//! Connections: accepted up to a number, given a time for each request's head, and dropped if nothing can be
//! written to them for a while. A client that says half a sentence, or does not listen, costs one
//! connection for that time and nothing after it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::middleware;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

use super::super::descriptors::{Descriptors, Receiving};
use super::routes::{Api, router};
use super::{Backend, Peer, versions};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For the head of a request, counted from the end of the one before.
    head: Duration,
    /// Without taking a single octet that is written to it.
    stall: Duration,
}

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(30),
    stall: Duration::from_secs(15),
};

/// After an error of `accept` that is not the connection's own, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `backend` on `listener` until `shutdown` completes, and then until the requests that are being
/// answered are; streams of events end at once.
///
/// # Errors
/// Never now; the type leaves room for a listener that fails for good.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (close, closing) = watch::channel(false);
    let app = router(Arc::new(Api::new(backend, closing)));
    // The version must go before routing, hence a layer around the whole router.
    let app = Router::new()
        .fallback_service(app)
        .layer(middleware::from_fn(versions::negotiate));
    accept(listener, app, close, shutdown).await
}

/// The same limits for another protocol over HTTP.
///
/// # Errors
/// As [`serve`].
pub async fn serve_router(
    listener: UnixListener,
    app: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    accept(listener, app, watch::Sender::new(false), shutdown).await
}

/// Answers with `app` until `shutdown` completes; says so by `close`, and lets what has begun come to its end.
async fn accept(
    listener: UnixListener,
    app: Router,
    close: watch::Sender<bool>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            // Never closed.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (accepted, slot) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, app.clone(), close.subscribe(), PATIENCE);
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Fails only if nobody is left to hear it.
    let _ = close.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn connection(
    stream: UnixStream,
    app: Router,
    mut closing: watch::Receiver<bool>,
    patience: Patience,
) {
    let credentials = stream.peer_cred().ok();
    let peer = Peer {
        pid: credentials.as_ref().and_then(tokio::net::unix::UCred::pid),
        uid: credentials.as_ref().map(tokio::net::unix::UCred::uid),
    };
    let descriptors = Descriptors::default();
    let stream = Receiving::new(stream, descriptors.clone());
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        tracing::debug!(method = %request.method(), path = %request.uri(), pid = peer.pid, uid = peer.uid, "request");
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(descriptors.clone());
        app.call(request)
    });
    let io = TokioIo::new(Stalling::new(stream, patience.stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, pid = peer.pid, "a connection ended");
    }
}

/// Returns when the server is to end.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the server has ended already.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// A stream whose writes fail when nothing could be written for a time.
#[derive(Debug)]
struct Stalling<S> {
    stream: S,
    patience: Duration,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: None,
        }
    }

    /// Passes an outcome on, unless it has been pending for too long.
    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.deadline = None;
            return outcome;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, octets);
        self.judge(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, octets);
        self.judge(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        // A socket's flush is always ready: it must not end the waiting of a write.
        match outcome {
            Poll::Ready(_) => outcome,
            Poll::Pending => self.judge(outcome, context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_that_makes_no_progress_fails() {
        let (near, mut far) = duplex(4);
        let mut stream = Stalling::new(near, Duration::from_millis(200));
        let begun = Instant::now();
        let writer = tokio::spawn(async move { stream.write_all(&[0; 64]).await });
        sleep(Duration::from_millis(150)).await;
        // Every octet that is taken gives it more time.
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 1);
        let error = writer.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(350));
    }

    /// What a client gets that sends `request` and then nothing, and how long it is kept.
    async fn silent_after(request: &str) -> (String, Duration) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (_close, closing) = watch::channel(false);
        let app = Router::new().fallback(|| async { "hello" });
        let patience = Patience {
            head: Duration::from_millis(200),
            stall: Duration::from_secs(9),
        };
        let begun = Instant::now();
        let serving = tokio::spawn(connection(server, app, closing, patience));
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        serving.await.unwrap();
        (answer, begun.elapsed())
    }

    #[tokio::test]
    async fn who_says_half_a_head_or_nothing_more_is_let_go() {
        for (request, answered) in [
            ("", false),
            ("GET / HTTP/1.1\r\nHost:", false),
            ("GET / HTTP/1.1\r\nHost: d\r\n\r\n", true),
        ] {
            let (answer, kept) = silent_after(request).await;
            assert_eq!(answer.ends_with("hello"), answered, "{answer}");
            assert!(
                (150..5000).contains(&kept.as_millis()),
                "{request}: {kept:?}"
            );
        }
    }
}
