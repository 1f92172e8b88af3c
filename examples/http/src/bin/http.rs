//! `http server PORT` serves; `http client ADDRESS:PORT PATH` asks and prints the answer.

use machnet_client::aio;
use machnet_example_http::{Failure, ask, serve};
use std::net::{Ipv4Addr, SocketAddr};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let machnet = aio::attach().await?;
    match arguments[..] {
        ["server", port] => {
            let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse()?));
            let listener = machnet.listen(local, 128).await?;
            println!("serving on {}", listener.local_addr());
            match serve(listener).await? {}
        }
        ["client", server, path] => {
            for answer in ask(&machnet, server.parse()?, &[(path, "hello".into())]).await? {
                println!("{}", String::from_utf8_lossy(&answer));
            }
            Ok(machnet.close().await?)
        }
        _ => Err("usage: http server PORT | http client ADDRESS:PORT PATH".into()),
    }
}
