//! The client side: one HTTP request per connection, over the unix socket.
//!
//! Blocking to its caller, with a runtime of its own that lives on the calling thread and is gone when
//! the request is over: `run` forks, and a process that forks must have one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::descriptors;
use super::types::{ErrorBody, WARNING};

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot connect to the tunbridge daemon at {}: is it running? start it with: tunbridge daemon (or name its socket with --socket)", .0.display())]
    NotRunning(PathBuf),
    /// Not allowed to connect.
    #[error("no permission to connect to the tunbridge daemon at {}: run this as root, or as a member of the socket's group", .0.display())]
    Permission(PathBuf),
    /// Something is there, but it is no daemon, or it went away.
    #[error("no proper answer from the tunbridge daemon at {}: {problem}", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        problem: String,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// HTTP status code.
        status: u16,
        /// The daemon's sentence.
        message: String,
    },
}

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Handed over before each request.
    descriptor: Option<Arc<OwnedFd>>,
    /// For one answer.
    limit: Option<Duration>,
}

impl Client {
    /// The daemon that listens at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            descriptor: None,
            limit: None,
        }
    }

    /// The same daemon; an answer that takes longer is none, and is not waited for any more. Streams ([`Client::lines`])
    /// have no limit.
    #[must_use]
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The same daemon; `descriptor` (of a namespace) goes with each request.
    #[must_use]
    pub fn with_descriptor(mut self, descriptor: OwnedFd) -> Self {
        self.descriptor = Some(Arc::new(descriptor));
        self
    }

    /// `GET`, with a JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.send(Method::GET, target, Bytes::new())?;
        serde_json::from_slice(&body).map_err(|error| self.broken(error))
    }

    /// `POST` of a JSON body, with a JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        let answer = self.send(Method::POST, target, body.into())?;
        serde_json::from_slice(&answer).map_err(|error| self.broken(error))
    }

    /// `POST` of a JSON body; what is answered does not matter.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn tell(&self, target: &str, body: &impl Serialize) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.send(Method::POST, target, body.into()).map(drop)
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete(&self, target: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, target, Bytes::new()).map(drop)
    }

    /// `DELETE`, and what the daemon has to say to it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete_with_warning(&self, target: &str) -> Result<Option<String>, ClientError> {
        let (headers, _) = self.send_for_all(Method::DELETE, target, Bytes::new())?;
        let warning = headers.get(WARNING).and_then(|text| text.to_str().ok());
        Ok(warning.map(str::to_owned))
    }

    /// `GET` of an answer that goes on: `each` gets every line, without its end, until it says false or the
    /// daemon ends the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn lines(
        &self,
        target: &str,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        self.runtime()?.block_on(async {
            let (response, driver) = self.request(Method::GET, target, Bytes::new()).await?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            if !(200..300).contains(&status) {
                let answer = body.collect().await.map_err(|error| self.broken(error))?;
                return Err(refusal(status, &answer.to_bytes()));
            }
            let mut kept = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(error))?;
                kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = kept.iter().position(|octet| *octet == b'\n') {
                    let line: Vec<u8> = kept.drain(..=end).collect();
                    if !each(&line[..end]) {
                        return Ok(());
                    }
                }
            }
            driver.abort();
            Ok(())
        })
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime, ClientError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.broken(error))
    }

    fn send(&self, method: Method, target: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.send_for_all(method, target, body)
            .map(|(_, answer)| answer)
    }

    fn send_for_all(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(HeaderMap, Bytes), ClientError> {
        let exchange = self.exchange(method, target, body);
        let (status, headers, answer) = self.runtime()?.block_on(async {
            let Some(limit) = self.limit else {
                return exchange.await;
            };
            match timeout(limit, exchange).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let seconds = limit.as_secs_f32();
                    Err(self.broken(format_args!("it did not answer within {seconds} seconds")))
                }
            }
        })?;
        if (200..400).contains(&status) {
            return Ok((headers, answer));
        }
        Err(refusal(status, &answer))
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(u16, HeaderMap, Bytes), ClientError> {
        let (response, driver) = self.request(method, target, body).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| self.broken(error))?;
        driver.abort();
        Ok((head.status.as_u16(), head.headers, body.to_bytes()))
    }

    /// Sends it; the answer's head, its body to be read, and the task that drives the connection.
    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Driver), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => ClientError::Permission(self.socket.clone()),
                Some(libc::ENOENT | libc::ECONNREFUSED) => {
                    ClientError::NotRunning(self.socket.clone())
                }
                _ => self.broken(error),
            }
        })?;
        if let Some(descriptor) = &self.descriptor {
            let handed_over = descriptors::hand_over(&stream, descriptor.as_fd()).await;
            handed_over.map_err(|error| self.broken(error))?;
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("Host", "tunbridge")
            .header("Content-Type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error))?;
        Ok((response, driver))
    }

    fn broken(&self, problem: impl std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            problem: problem.to_string(),
        }
    }
}

/// Drives a connection; ends with the answer.
type Driver = tokio::task::JoinHandle<hyper::Result<()>>;

fn refusal(status: u16, answer: &[u8]) -> ClientError {
    let message = serde_json::from_slice::<ErrorBody>(answer).map_or_else(
        |_| format!("status {status} from the daemon"),
        |body| body.message,
    );
    ClientError::Refused { status, message }
}

/// A name or id as part of a path.
pub fn segment(reference: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(reference.len());
    for byte in reference.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_leave_their_path_segment() {
        assert_eq!(segment("web-1_a.b"), "web-1_a.b");
        assert_eq!(segment("../x?y"), "..%2Fx%3Fy");
    }

    #[test]
    fn a_missing_daemon_is_told_with_its_socket() {
        let error = Client::new(Path::new("/nonexistent/tb.sock"))
            .get::<()>("/_ping")
            .unwrap_err();
        assert!(matches!(error, ClientError::NotRunning(_)));
        assert!(error.to_string().contains("/nonexistent/tb.sock"));
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("tb.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(&socket).with_limit(Duration::from_millis(200));
        let error = client.get::<()>("/_ping").unwrap_err();
        let sentence = "it did not answer within 0.2 seconds";
        assert!(error.to_string().ends_with(sentence), "{error}");
        // And nothing is held open for it.
        let (mut stream, _) = listener.accept().unwrap();
        let asked = std::io::read_to_string(&mut stream).unwrap();
        assert!(asked.starts_with("GET /_ping"), "{asked}");
    }
}
