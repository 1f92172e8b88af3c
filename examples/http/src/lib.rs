//! HTTP/1.1 over Machnet: hyper at both ends, and a Machnet stream where a TCP connection would be.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use machnet_client::aio::{AsyncAttachment, AsyncListener};
use std::convert::Infallible;
use std::net::SocketAddr;

/// Any error, for the caller to print.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Answers each request with its path and its body.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let text = [path.as_bytes(), b"\n", &body].concat();
    Ok(Response::new(Full::new(Bytes::from(text))))
}

/// Serves every client that comes, each in a task of its own.
///
/// # Errors
/// Those of accept: the sidecar is gone, or the listener was closed.
pub async fn serve(listener: AsyncListener) -> Result<Infallible, Failure> {
    loop {
        let stream = listener.accept().await?.into_stream()?;
        tokio::spawn(async move {
            // What a client breaks off concerns only itself.
            let _ = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

/// Asks a server for each of these paths over one connection, and says its answers.
///
/// # Errors
/// Those of connect, and of HTTP.
pub async fn ask(
    machnet: &AsyncAttachment,
    server: SocketAddr,
    requests: &[(&str, Bytes)],
) -> Result<Vec<Bytes>, Failure> {
    let stream = machnet.connect(server, None).await?.into_stream()?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for (path, body) in requests {
        let request =
            Request::post(*path).header("host", server.to_string()).body(Full::new(body.clone()))?;
        sender.ready().await?;
        answers.push(sender.send_request(request).await?.into_body().collect().await?.to_bytes());
    }
    drop(sender);
    connection.await??;
    Ok(answers)
}
