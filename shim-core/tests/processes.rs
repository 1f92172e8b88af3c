//! More than one process: rings between two of them, forked children, a sidecar that is another process and is killed; and
//! a real epoll.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(unsafe_code, reason = "fence: fork and epoll have no safe form in the standard library")]

mod fake;

use fake::{ECHO, HOLD, Sidecar};
use machnet_client::shm::atomic::Ordering;
use machnet_client::shm::layout::{LINE_BYTES, SLOT_WORDS};
use machnet_client::shm::region::{self, Mapping};
use machnet_client::shm::ring::{Consumer, Producer, SlotHead};
use machnet_client::{AttachOptions, Attachment, Error, Geometry};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn attach(sidecar: &Sidecar) -> Attachment {
    AttachOptions::new().socket(&sidecar.path).geometry(Geometry::SMALL).attach().unwrap()
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

/// Runs `child` in a forked child and says its exit code.
fn in_forked_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs plain code of this test and leaves by `_exit`, without touching what other threads held.
    let process = unsafe { libc::fork() };
    if process == 0 {
        let code = child();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made; `status` is writable.
    let waited = unsafe { libc::waitpid(process, &raw mut status, 0) };
    assert_eq!(waited, process);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
}

#[test]
fn a_forked_child_is_told_so_and_disturbs_nothing() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    flow.send_timeout(&[1; 2000], LONG).unwrap();
    let lent = flow.recv_timeout(LONG).unwrap();
    assert!(lent.is_lent());
    flow.send_timeout(b"unread", LONG).unwrap();
    let pending = attachment.start_connect(peer(HOLD), None, None).unwrap();
    let loan = flow.lend(3000).unwrap();
    let mut handles = Some((attachment, flow, listener, lent, pending, loan));
    let code = in_forked_child(|| {
        let (attachment, flow, listener, lent, pending, mut loan) = handles.take().unwrap();
        let forked = [
            matches!(flow.try_send(b"x"), Err(Error::Forked)),
            matches!(flow.send(b"x"), Err(Error::Forked)),
            matches!(flow.try_recv(), Err(Error::Forked)),
            matches!(flow.recv(), Err(Error::Forked)),
            matches!(listener.accept(), Err(Error::Forked)),
            matches!(attachment.event_fd(), Err(Error::Forked)),
            matches!(attachment.connect(peer(ECHO)), Err(Error::Forked)),
            matches!(attachment.listen("127.0.0.1:0", 0), Err(Error::Forked)),
            matches!(attachment.close(), Err(Error::Forked)),
            matches!(pending.try_finish(), Err(Error::Forked)),
            lent.is_empty(),
            loan.is_empty(),
        ];
        loan.fill(0);
        let sent = matches!(loan.send(), Err(Error::Forked));
        drop((attachment, flow, listener, lent, pending));
        i32::from(!(sent && forked.iter().all(|&right| right)))
    });
    assert_eq!(code, 0);
    let (attachment, flow, listener, lent, pending, loan) = handles.unwrap();
    assert_eq!(*flow.recv_timeout(LONG).unwrap(), *b"unread");
    assert_eq!(*lent, [1; 2000]);
    loan.send().unwrap();
    assert_eq!(flow.recv_timeout(LONG).unwrap().len(), 3000);
    assert!(listener.try_accept().unwrap().is_none());
    pending.finish(Some(LONG)).unwrap();
    attachment.close().unwrap();
}

#[test]
fn a_forked_child_may_attach_for_itself() {
    let (sidecar, for_child) = (Sidecar::start(), Sidecar::start());
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let code = in_forked_child(|| {
        let own = attach(&for_child);
        let own_flow = own.connect(peer(ECHO)).unwrap();
        own_flow.send(b"from the child").unwrap();
        let echoed = *own_flow.recv_timeout(LONG).unwrap() == *b"from the child";
        let forked = matches!(flow.try_send(b"x"), Err(Error::Forked));
        i32::from(!(echoed && forked && own.close().is_ok()))
    });
    assert_eq!(code, 0);
    flow.send(b"from the parent").unwrap();
    assert_eq!(*flow.recv_timeout(LONG).unwrap(), *b"from the parent");
}

#[test]
fn a_loop_on_a_real_epoll_misses_nothing() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let bell = attachment.event_fd().unwrap();
    // SAFETY: no pointers; the descriptor that comes back is ours alone.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
    // SAFETY: both descriptors are open and `event` is readable for the call.
    let added =
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, bell.as_raw_fd(), &raw mut event) };
    assert_eq!(added, 0);
    let (mut sent, mut received) = (0_u32, 0_u32);
    while received < 3000 {
        while sent < 3000 && flow.try_send(&sent.to_le_bytes()).is_ok() {
            sent += 1;
        }
        while let Some(message) = flow.try_recv().unwrap() {
            assert_eq!(*message, received.to_le_bytes());
            received += 1;
        }
        if received < 3000 {
            // SAFETY: `event` is writable for one event.
            let ready = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, 20_000) };
            assert_eq!(ready, 1, "after {sent} sent and {received} received");
        }
    }
}

/// The test binary as another process that runs one hidden test of it.
fn other_process(test: &str, variable: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--ignored"]).env(variable, value);
    command
}

const ROUNDS: u32 = 20_000;
const SLOTS: u32 = 64;
const REGION: usize = 4096 + SLOTS as usize * SLOT_WORDS * 8;

#[test]
fn a_ring_between_two_processes_carries_everything_in_order() {
    let ours = region::create(c"ours", REGION).unwrap();
    let theirs = region::create(c"theirs", REGION).unwrap();
    for descriptor in [&ours, &theirs] {
        // SAFETY: no pointers; lets the child inherit the descriptor.
        assert_eq!(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    }
    let numbers = format!("{},{}", theirs.as_raw_fd(), ours.as_raw_fd());
    let mut child =
        other_process("the_other_end_of_the_ring", "MACHNET_TEST_RING", &numbers).spawn().unwrap();
    ring_end(&ours, &theirs);
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "run by a_ring_between_two_processes_carries_everything_in_order"]
fn the_other_end_of_the_ring() {
    let Ok(numbers) = std::env::var("MACHNET_TEST_RING") else { return };
    let (ours, theirs) = numbers.split_once(',').unwrap();
    // SAFETY: the parent left these descriptors open for this process and nobody else here owns them.
    let [ours, theirs] = [ours, theirs].map(|raw| unsafe { OwnedFd::from_raw_fd(raw.parse().unwrap()) });
    ring_end(&ours, &theirs);
}

/// Sends numbered slots over a ring in `ours` and expects the same over the one in `theirs`.
fn ring_end(ours: &OwnedFd, theirs: &OwnedFd) {
    let ours = Mapping::writable(ours, REGION).unwrap();
    let theirs = Mapping::read_only(theirs, REGION).unwrap();
    let mut producer = Producer::<SLOT_WORDS>::new(4096, SLOTS, LINE_BYTES);
    let mut consumer = Consumer::<SLOT_WORDS>::new(4096, SLOTS, LINE_BYTES);
    let (mut sent, mut received) = (0, 0);
    while sent < ROUNDS || received < ROUNDS {
        let mut idle = true;
        while sent < ROUNDS && producer.free(&theirs, 1).unwrap() > 0 {
            producer.publish(&ours, SlotHead { kind: 1, count: 0, length: 9 }, |words| {
                for (word, add) in words[1..].iter().zip(0..) {
                    word.store(u64::from(sent) * 100 + add, Ordering::Relaxed);
                }
            });
            sent += 1;
            idle = false;
        }
        while let Some(slot) = consumer.peek(&theirs).unwrap() {
            assert_eq!(slot.head.length, 9);
            for (index, add) in (1..SLOT_WORDS).zip(0..) {
                assert_eq!(slot.word(index), u64::from(received) * 100 + add);
            }
            consumer.advance();
            received += 1;
            idle = false;
        }
        consumer.tell_head(&ours);
        if idle {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_sidecar_process_that_is_killed_ends_a_blocked_receive() {
    let path = std::env::temp_dir().join(format!("machnet-fake-other-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut child =
        other_process("a_sidecar_in_another_process", "MACHNET_TEST_SOCKET", path.to_str().unwrap())
            .spawn()
            .unwrap();
    let attachment = (0..2000)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            AttachOptions::new().socket(&path).geometry(Geometry::SMALL).attach().ok()
        })
        .expect("the other process serves");
    assert_eq!(attachment.info().sidecar_pid, child.id());
    let flow = attachment.connect(peer(ECHO)).unwrap();
    for number in 0..1000_u32 {
        flow.send_timeout(&number.to_le_bytes(), LONG).unwrap();
        assert_eq!(*flow.recv_timeout(LONG).unwrap(), number.to_le_bytes());
    }
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| flow.recv().map(drop));
        std::thread::sleep(Duration::from_millis(10));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(wait.join().unwrap(), Err(Error::EngineLost)));
    });
    assert!(matches!(flow.try_send(b"x"), Err(Error::EngineLost)));
    assert!(matches!(attachment.event_fd(), Err(Error::EngineLost)));
    // The socket file is still there, but nobody serves it.
    let error = AttachOptions::new().socket(&path).attach().unwrap_err();
    assert!(matches!(error, Error::NoSidecar { .. }));
    let _ = std::fs::remove_file(&path);
}

#[test]
#[ignore = "run by a_sidecar_process_that_is_killed_ends_a_blocked_receive"]
fn a_sidecar_in_another_process() {
    let Ok(path) = std::env::var("MACHNET_TEST_SOCKET") else { return };
    Sidecar::start_at(path.into(), |_| {}).join();
}

#[test]
fn descriptors_threads_and_mappings_stay_flat_over_many_attachments() {
    // In a process of its own, where no other test opens anything meanwhile.
    let status = other_process("many_attachments", "MACHNET_TEST_MANY", "1").status().unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "run by descriptors_threads_and_mappings_stay_flat_over_many_attachments"]
fn many_attachments() {
    if std::env::var_os("MACHNET_TEST_MANY").is_none() {
        return;
    }
    let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
    let regions = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd").count();
    let count = || (entries("/proc/self/fd"), entries("/proc/self/task"), regions());
    let round = |number: u32| {
        let mut sidecar = Sidecar::start();
        let attachment = attach(&sidecar);
        let flow = attachment.connect(peer(ECHO)).unwrap();
        flow.send_timeout(&[3; 3000], LONG).unwrap();
        let message = flow.recv_timeout(LONG).unwrap();
        if number.is_multiple_of(2) {
            sidecar.kill();
        }
        drop((attachment, flow, message));
    };
    round(0);
    let before = count();
    (0..200).for_each(round);
    assert_eq!(before, count());
}
