//! The asynchronous calls, and HTTP over them, through sidecars inside this process.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use machnet_client::aio::{self, AsyncAttachment, AsyncFlow, AsyncListener};
use machnet_client::{AttachOptions, Error, Geometry, Wait};
use machnet_engine::config::Config;
use machnet_engine::sidecar::Sidecar;
use machnet_example_http::{ask, serve};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// No step of a test takes so long; a test that hangs ends with it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Host {
    sidecar: Option<Sidecar>,
    directory: PathBuf,
}

impl Host {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("machnet-aio-{}-{number}", std::process::id()));
        let config = Config {
            socket: directory.join("machnet.sock"),
            socket_mode: 0o600,
            address: "127.0.0.1".parse().unwrap(),
            udp_port: 0,
            ..Config::default()
        };
        Self { sidecar: Some(Sidecar::start(&config).unwrap()), directory }
    }

    async fn attach(&self) -> AsyncAttachment {
        let socket = self.directory.join("machnet.sock");
        aio::attach_with(AttachOptions::new().socket(socket).geometry(Geometry::SMALL)).await.unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.sidecar.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn listen(on: &AsyncAttachment) -> AsyncListener {
    on.listen(SocketAddr::from(([0, 0, 0, 0], 0)), 64).await.unwrap()
}

async fn pair(client: &AsyncAttachment, listener: &AsyncListener) -> (AsyncFlow, AsyncFlow) {
    let (flow, accepted) = tokio::join!(client.connect(listener.local_addr(), None), listener.accept());
    (flow.unwrap(), accepted.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_goes_over_a_stream() {
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let address = listener.local_addr();
    let serving = tokio::spawn(serve(listener));
    let large = vec![b'x'; 1_000_000];
    let requests = [("/one", "first".into()), ("/two", large.clone().into()), ("/three", "".into())];
    let answers = timeout(PATIENCE, ask(&client, address, &requests)).await.unwrap().unwrap();
    assert_eq!(&answers[0][..], b"/one\nfirst");
    assert!(answers[1][..] == [&b"/two\n"[..], &large].concat());
    assert_eq!(&answers[2][..], b"/three\n");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_many_flows_each_get_their_own() {
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let mut tasks = tokio::task::JoinSet::new();
    for flow_number in 0..20_u32 {
        let (flow, accepted) = pair(&client, &listener).await;
        tasks.spawn(async move {
            while let Ok(message) = accepted.recv().await {
                accepted.send(&message).await.unwrap();
            }
        });
        tasks.spawn(async move {
            for number in 0..200_u32 {
                let mut message = vec![0; 8 + (number as usize * 37) % 3000];
                message[..4].copy_from_slice(&flow_number.to_le_bytes());
                message[4..8].copy_from_slice(&number.to_le_bytes());
                flow.send(&message).await.unwrap();
                assert!(*flow.recv().await.unwrap() == *message);
            }
        });
    }
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.unwrap()
        }
    };
    timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_dropped_receives_loses_no_message_and_doubles_none() {
    const MESSAGES: u32 = 100_000;
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let (flow, accepted) = pair(&client, &listener).await;
    // Each receive that was dropped lets one more message go, so that both are mixed from the first to the last.
    let turns = Arc::new(Semaphore::new(1));
    let taken = Arc::clone(&turns);
    let sender = tokio::spawn(async move {
        for number in 0..MESSAGES {
            taken.acquire().await.unwrap().forget();
            flow.send(&number.to_le_bytes()).await.unwrap();
        }
        flow
    });
    let (mut next, mut dropped) = (0, 0_u32);
    let receive = async {
        while next < MESSAGES || dropped < MESSAGES {
            tokio::select! {
                biased;
                // Dropped in favour of the other branch, which is ready at its first or second poll.
                message = accepted.recv() => {
                    assert_eq!(u32::from_le_bytes(message.unwrap()[..].try_into().unwrap()), next);
                    next += 1;
                }
                () = async { if dropped % 2 == 0 { tokio::task::yield_now().await } } => {
                    dropped += 1;
                    turns.add_permits(1);
                }
            }
        }
    };
    timeout(PATIENCE, receive).await.unwrap();
    let flow = sender.await.unwrap();
    assert!(accepted.flow().try_recv().unwrap().is_none());
    let stats = Arc::new(flow).stats().await.unwrap();
    assert_eq!((stats.messages_sent, stats.local), (u64::from(MESSAGES), true));
}

#[tokio::test]
async fn the_event_fd_of_a_channel_that_a_task_serves_is_refused_by_name() {
    let host = Host::start();
    let client = host.attach().await;
    for refused in [
        client.attachment().event_fd().map(drop),
        client.attachment().take_news(&mut Vec::new(), 1).map(drop),
    ] {
        let Err(Error::InvalidArgument { what }) = refused else { panic!("{refused:?}") };
        assert!(what.contains("AsyncAttachment"), "{what}");
    }
}

#[tokio::test]
async fn streams_carry_megabytes_and_end_in_half_closes_on_one_thread() {
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let (flow, accepted) = pair(&client, &listener).await;
    let (mut here, mut there) = (flow.into_stream().unwrap(), accepted.into_stream().unwrap());
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(&mut there);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let whole = async {
        let mut back = Vec::new();
        let (mut reader, mut writer) = tokio::io::split(&mut here);
        let write = async {
            writer.write_all(&bytes).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut back));
        read.unwrap();
        assert!(back == bytes);
    };
    timeout(PATIENCE, whole).await.unwrap();
    echo.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_waiting_task_learns_that_the_sidecar_is_gone_or_the_channel_closed() {
    let mut host = Host::start();
    let (client, server, third) = (host.attach().await, host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let (flow, accepted) = pair(&client, &listener).await;
    let closing = listen(&third).await;
    let on_closed = tokio::spawn(async move { closing.accept().await.map(drop) });
    tokio::task::yield_now().await;
    third.close().await.unwrap();
    assert!(matches!(timeout(PATIENCE, on_closed).await.unwrap().unwrap(), Err(Error::Closed)));
    let waits = [
        tokio::spawn(async move { flow.recv().await.map(drop) }),
        tokio::spawn(async move { accepted.recv().await.map(drop) }),
        tokio::spawn(async move { listener.accept().await.map(drop) }),
    ];
    drop(host.sidecar.take());
    for wait in waits {
        let outcome = timeout(PATIENCE, wait).await.unwrap().unwrap();
        assert!(
            matches!(outcome, Err(Error::EngineLost | Error::Reset { .. } | Error::Closed)),
            "{outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_wait_beside_tasks_get_their_own_and_can_be_cancelled() {
    const ROUNDS: u32 = 300;
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let (mut echoes, mut asking) = (tokio::task::JoinSet::new(), Vec::new());
    for number in 0..4_u32 {
        let (flow, accepted) = pair(&client, &listener).await;
        echoes.spawn(async move {
            while let Ok(message) = accepted.recv().await {
                accepted.send(&message).await.unwrap();
            }
        });
        asking.push(if number % 2 == 0 {
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    flow.send(&round.to_le_bytes()).await.unwrap();
                    assert_eq!(*flow.recv().await.unwrap(), round.to_le_bytes());
                }
            })
        } else {
            spawn_blocking(move || {
                for round in 0..ROUNDS {
                    flow.flow().send_timeout(&round.to_le_bytes(), PATIENCE).unwrap();
                    assert_eq!(*flow.flow().recv_timeout(PATIENCE).unwrap(), round.to_le_bytes());
                }
            })
        });
    }
    let (quiet, _accepted) = pair(&client, &listener).await;
    let quiet = Arc::new(quiet);
    let canceller = client.attachment().canceller();
    let cancelled: Vec<_> = (0..2)
        .map(|_| {
            let (quiet, canceller) = (Arc::clone(&quiet), canceller.clone());
            spawn_blocking(move || quiet.flow().recv_with(Wait::until(&canceller)).map(drop))
        })
        .collect();
    for asked in asking {
        timeout(PATIENCE, asked).await.unwrap().unwrap();
    }
    canceller.cancel();
    for outcome in cancelled {
        let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_waits_drives_for_itself_once_the_tasks_are_gone() {
    let host = Host::start();
    let (client, server) = (host.attach().await, host.attach().await);
    let listener = listen(&server).await;
    let address = listener.local_addr();
    let attachment = client.attachment().clone();
    let connecting = spawn_blocking(move || attachment.connect(address).map(|flow| (flow.recv(), flow)));
    let accepted = listener.accept().await.unwrap();
    drop(client);
    accepted.send(b"to the thread").await.unwrap();
    let (message, flow) = timeout(PATIENCE, connecting).await.unwrap().unwrap().unwrap();
    assert_eq!(*message.unwrap(), *b"to the thread");
    drop(flow);
}

#[tokio::test]
async fn a_channel_that_is_polled_by_its_descriptor_is_not_taken_over() {
    let host = Host::start();
    let socket = host.directory.join("machnet.sock");
    let attachment = AttachOptions::new().socket(socket).attach().unwrap();
    attachment.event_fd().unwrap();
    let refused = AsyncAttachment::new(attachment);
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
}
