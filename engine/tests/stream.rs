//! Byte streams over flows, between two applications of one sidecar; the framing as docs/protocol.md has it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use common::{PATIENCE, TestSidecar, eventually, pattern};
use machnet_client::shm::Geometry;
use machnet_client::{Attachment, Error, Flow, ResetReason, Stream, Wait};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

struct Ends {
    here: Flow,
    there: Flow,
    client: Attachment,
    _server: Attachment,
    _sidecar: TestSidecar,
}

fn flows(geometry: Geometry) -> Ends {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let attach = || sidecar.options().geometry(geometry).attach().unwrap();
    let (client, server) = (attach(), attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let here = client.connect(listener.local_addr()).unwrap();
    let there = listener.accept_timeout(PATIENCE).unwrap();
    Ends { here, there, client, _server: server, _sidecar: sidecar }
}

fn stream(flow: Flow) -> Stream {
    let stream = Stream::new(flow).unwrap();
    stream.set_read_timeout(Some(PATIENCE));
    stream.set_write_timeout(Some(PATIENCE));
    stream
}

fn all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn megabytes_go_both_ways_at_once_and_end_in_half_closes() {
    for geometry in [Geometry::SMALL, Geometry::DEFAULT] {
        let ends = flows(geometry);
        let (here, there) = (stream(ends.here), stream(ends.there));
        let (out, back) = (pattern(1, 3_000_001), pattern(2, 2_000_003));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&here).write_all(&out).unwrap();
                here.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                for piece in back.chunks(777) {
                    (&there).write_all(piece).unwrap();
                }
                there.shutdown(Shutdown::Write).unwrap();
            });
            let reader = scope.spawn(|| all(&here));
            assert!(all(&there) == out);
            assert!(reader.join().unwrap() == back);
        });
        // Both directions are over, so the flow is, at both ends.
        eventually("the flow is over", || matches!(here.flow().try_recv(), Err(Error::Closed)));
        eventually("the flow is over", || matches!(there.flow().try_recv(), Err(Error::Closed)));
        assert_eq!((&here).read(&mut [0; 8]).unwrap(), 0, "the end stays the end");
    }
}

#[test]
fn a_stream_is_on_the_wire_what_the_protocol_says() {
    let ends = flows(Geometry::DEFAULT);
    let (here, raw) = (stream(ends.here), ends.there);
    (&here).write_all(b"abc").unwrap();
    assert_eq!(&*raw.recv_timeout(PATIENCE).unwrap(), b"\0abc");
    let written = here.write_with(&vec![7; 100_000], PATIENCE).unwrap();
    assert_eq!(written, 65_535, "a message has 64 KiB with its first byte");
    assert_eq!(raw.recv_timeout(PATIENCE).unwrap().len(), 65_536);
    here.shutdown(Shutdown::Write).unwrap();
    here.shutdown(Shutdown::Write).unwrap(); // Again does nothing.
    assert_eq!(&*raw.recv_timeout(PATIENCE).unwrap(), b"\x01");
    assert_eq!((&here).write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(matches!(raw.try_recv(), Ok(None)), "the flow lives until the peer's half-close");
    raw.send(b"\0still read").unwrap();
    raw.send(b"\x01").unwrap();
    assert_eq!(all(&here), b"still read");
    eventually("then it is closed", || matches!(raw.try_recv(), Err(Error::Closed)));
}

#[test]
fn reads_take_what_is_there_in_any_portions() {
    let ends = flows(Geometry::DEFAULT);
    let (here, there) = (stream(ends.here), stream(ends.there));
    let mut buffer = [0; 4];
    assert!(here.try_read(&mut buffer).unwrap().is_none());
    assert_eq!(here.try_read(&mut []).unwrap(), Some(0));
    assert_eq!(there.try_write(b"").unwrap(), Some(0));
    assert_eq!(there.try_write(b"abcdef").unwrap(), Some(6));
    assert_eq!(here.read_with(&mut buffer, PATIENCE).unwrap(), 4);
    assert_eq!(&buffer, b"abcd");
    assert_eq!(here.try_read(&mut buffer).unwrap(), Some(2));
    let short = Duration::from_millis(1);
    assert!(matches!(here.read_with(&mut buffer, short), Err(Error::TimedOut)));
    let canceller = ends.client.canceller();
    canceller.cancel();
    assert!(matches!(here.read_with(&mut buffer, Wait::until(&canceller)), Err(Error::Cancelled)));
}

#[test]
fn a_close_in_order_is_the_end_of_the_stream_and_a_broken_pipe() {
    let ends = flows(Geometry::DEFAULT);
    let (here, raw) = (stream(ends.here), ends.there);
    raw.send(b"\0last words").unwrap();
    raw.close().unwrap(); // Without a half-close.
    assert_eq!(all(&here), b"last words");
    assert_eq!((&here).write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    here.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn a_dropped_stream_has_said_everything() {
    let ends = flows(Geometry::DEFAULT);
    let (here, there) = (stream(ends.here), stream(ends.there));
    (&here).write_all(&pattern(3, 500_000)).unwrap();
    drop(here);
    assert!(all(&there) == pattern(3, 500_000));
}

#[test]
fn a_reset_is_an_error_and_no_end() {
    let ends = flows(Geometry::DEFAULT);
    let (here, there) = (stream(ends.here), stream(ends.there));
    (&there).write_all(b"before").unwrap();
    let mut buffer = [0; 6];
    (&here).read_exact(&mut buffer).unwrap();
    there.flow().reset().unwrap();
    assert_eq!((&here).read(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!((&here).write(b"x").unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn whatever_is_no_stream_resets_the_flow_by_name() {
    for wrong in [&b"\x02"[..], b"hello", b"\0", b"\x01x", b"\xff\0"] {
        let ends = flows(Geometry::DEFAULT);
        let (here, raw) = (stream(ends.here), ends.there);
        raw.send(b"\0good").unwrap();
        raw.send(wrong).unwrap();
        let mut buffer = [0; 9];
        assert_eq!((&here).read(&mut buffer).unwrap(), 4, "what came before is read");
        assert_eq!((&here).read(&mut buffer).unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(matches!(here.try_read(&mut buffer), Err(Error::NotAStream)), "{wrong:?}");
        let reset = raw.recv_timeout(PATIENCE);
        assert!(matches!(reset, Err(Error::Reset { reason: ResetReason::Aborted, .. })), "{reset:?}");
    }
}

#[test]
fn a_channel_that_this_side_closed_is_no_end_of_the_stream() {
    let ends = flows(Geometry::DEFAULT);
    let here = stream(ends.here);
    ends.client.close().unwrap();
    assert_eq!((&here).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn several_threads_read_one_stream_and_no_byte_is_lost_or_doubled() {
    let ends = flows(Geometry::SMALL);
    let (here, there) = (stream(ends.here), stream(ends.there));
    let total: u64 = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| all(&here).iter().map(|&byte| u64::from(byte)).sum::<u64>()))
            .collect();
        (&there).write_all(&vec![1; 300_000]).unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert_eq!(total, 300_000);
}

#[test]
fn a_reader_that_ends_reading_ends_the_waits_of_the_others() {
    let ends = flows(Geometry::SMALL);
    let (here, _there) = (stream(ends.here), stream(ends.there));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| all(&here))).collect();
        here.shutdown(Shutdown::Read).unwrap();
        for reader in readers {
            assert!(reader.join().unwrap().is_empty());
        }
    });
}
