//! Driver `dpdk` on DPDK's virtual devices, against another process, the kernel, or a second device of this process.
//!
//! ci/dpdk.sh builds the plugin and runs these one after the other.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod dpdk;

use dpdk::{Half, number, open, receive, send, socket_path, until_up};
use machnet_engine::driver::dpdk::DpdkQueue;
use machnet_engine::driver::frame::FrameDriver;

#[test]
#[ignore = "the other half of a test"]
fn the_other_half() {
    dpdk::be_the_other_half();
}

/// A frame of `len` bytes with a pattern, from one hardware address to another.
fn frame(len: usize, seed: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at * 7 + seed * 31 + at / 256).to_le_bytes()[0]).collect();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8]);
    // A type that nobody serves (IEEE's for experiments).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn echoed(frame: &[u8]) -> Vec<u8> {
    let mut expected = frame.to_vec();
    expected[..12].rotate_left(6);
    expected.resize(frame.len().max(60), 0);
    expected
}

/// Frames of every size go round on every queue.
fn goes_round(queues: &mut [DpdkQueue]) {
    until_up(&mut queues[0]);
    for queue in queues {
        queue.link();
        let longest = queue.mtu() + 14;
        let lengths =
            (14..=1_514).filter(|len| *len <= longest).chain((1_514..longest).step_by(501)).chain([longest]);
        for (seed, len) in lengths.enumerate() {
            let sent = frame(len, seed);
            send(queue, &sent);
            queue.flush().unwrap();
            let back = receive(queue, 1);
            assert_eq!(back.len(), 1);
            assert!(back[0] == echoed(&sent), "{len} bytes came back as {} or changed", back[0].len());
        }
        // A burst keeps its order.
        let burst: Vec<_> = (0..64).map(|seed| frame(100 + seed, seed)).collect();
        burst.iter().for_each(|frame| send(queue, frame));
        queue.flush().unwrap();
        assert!(receive(queue, burst.len()).into_iter().eq(burst.iter().map(|frame| echoed(frame))));
        let counted = queue.counters();
        assert_eq!(counted.sent, counted.received);
        assert_eq!([counted.dropped_queue_full, counted.dropped_error, counted.dropped_truncated], [0; 3]);
    }
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn two_devices_of_one_process() {
    for kind in [0, 1] {
        let socket = socket_path();
        let (x, y) = if kind == 0 {
            (
                format!("net_memif{},role=server,socket={},socket-abstract=no", number(), socket.display()),
                format!("net_memif{},role=client,socket={},socket-abstract=no", number(), socket.display()),
            )
        } else {
            (
                format!("net_vhost{},iface={},queues=1", number(), socket.display()),
                format!("net_virtio_user{},path={},queues=1", number(), socket.display()),
            )
        };
        let mut a = open(&x, 1);
        let mut b = open(&y, 1);
        until_up(&mut a[0]);
        until_up(&mut b[0]);
        for _ in 0..10 {
            send(&mut a[0], &frame(100, 1));
            a[0].flush().unwrap();
            send(&mut b[0], &frame(100, 1));
            b[0].flush().unwrap();
        }
        let mut n = [0, 0];
        for _ in 0..1000 {
            n[1] += b[0].receive(|_| ()).unwrap();
            n[0] += a[0].receive(|_| ()).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        println!("{kind}: {n:?} {:?} {:?}", a[0].counters(), b[0].counters());
        a[0].statistics(&mut |n, v| {
            if v > 0 {
                println!("a {n} {v}")
            }
        });
        b[0].statistics(&mut |n, v| {
            if v > 0 {
                println!("b {n} {v}")
            }
        });
    }
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn memif_with_one_queue() {
    let socket = socket_path();
    let with = |role: &str| {
        format!("net_memif{},role={role},socket={},socket-abstract=no", number(), socket.display())
    };
    let mut queues = open(&with("server"), 1);
    let _half = Half::start(Half::echo(&with("client"), 1));
    goes_round(&mut queues);
}
