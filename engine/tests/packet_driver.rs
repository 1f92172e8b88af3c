//! Driver packet on veth pairs in namespaces of its own.
#![allow(clippy::unwrap_used, reason = "a test that meets an error ends")]

mod netns;

use netns::{End, Link};
use std::net::UdpSocket;
use std::time::Duration;

#[test]
fn two_namespaces_in_one_process_are_two_hosts() {
    let Some(link) = Link::new() else { return };
    let open = |end| link.run_in(end, || UdpSocket::bind((link.address(end), 7_000)).unwrap());
    let (left, right) = (open(End::Left), open(End::Right));
    left.send_to(b"hello", right.local_addr().unwrap()).unwrap();
    right.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = [0; 16];
    assert_eq!(right.recv_from(&mut bytes).unwrap(), (5, left.local_addr().unwrap()));
    let mac = link.mac(End::Left);
    link.delete();
    link.create();
    assert_ne!(link.mac(End::Left), mac);
    link.set_down(End::Right);
    assert!(link.ip(End::Left, "-oneline link show mn0").contains("NO-CARRIER"));
}
