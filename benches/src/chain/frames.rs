//! Bare frames: what a frame driver costs without anything above it. Each message is an Ethernet frame with the headers of a
//! UDP datagram, because that is what drivers filter by.

use super::{Link, message, number_of};
use crate::MESSAGE_BYTES;
use machnet_engine::driver::frame::{FrameDriver, SentChecksum};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

const ETHERNET_BYTES: usize = 14;
const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const PAYLOAD_AT: usize = ETHERNET_BYTES + IP_BYTES + UDP_BYTES;
const FRAME_BYTES: usize = PAYLOAD_AT + MESSAGE_BYTES;
const IP_LENGTH: u16 = 20 + 8 + 64;
const UDP_LENGTH: u16 = 8 + 64;
const _: () = assert!(MESSAGE_BYTES == 64);

/// Where one end of the link is.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its address.
    pub ip: Ipv4Addr,
}

/// A frame driver as a link.
#[derive(Debug)]
pub struct Frames<F> {
    driver: F,
    /// A whole frame, but for the number.
    template: [u8; FRAME_BYTES],
    port: u16,
}

impl<F: FrameDriver> Frames<F> {
    /// Frames from the driver's interface to another, from and to one UDP port.
    pub fn new(driver: F, own: Ipv4Addr, to: Station, port: u16) -> Self {
        let mut template = [0; FRAME_BYTES];
        template[0..6].copy_from_slice(&to.mac);
        template[6..12].copy_from_slice(&driver.mac().0);
        template[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        template[14] = 0x45; // IPv4, a header of five words.
        template[16..18].copy_from_slice(&IP_LENGTH.to_be_bytes());
        template[20] = 0x40; // Not to be fragmented.
        (template[22], template[23]) = (64, 17); // Hops; UDP.
        template[26..30].copy_from_slice(&own.octets());
        template[30..34].copy_from_slice(&to.ip.octets());
        let sum = header_checksum(&template[ETHERNET_BYTES..ETHERNET_BYTES + IP_BYTES]);
        template[24..26].copy_from_slice(&sum.to_be_bytes());
        template[34..36].copy_from_slice(&port.to_be_bytes());
        template[36..38].copy_from_slice(&port.to_be_bytes());
        template[38..40].copy_from_slice(&UDP_LENGTH.to_be_bytes()); // Behind it no checksum, as UDP allows.
        template[PAYLOAD_AT..].copy_from_slice(&message(0));
        Self { driver, template, port }
    }
}

fn header_checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from(!((folded & 0xffff) + (folded >> 16)) & 0xffff).unwrap_or(0)
}

impl<F: FrameDriver> Link for Frames<F> {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let port = self.port.to_be_bytes();
        let mut count = 0;
        self.driver.begin_cycle();
        self.driver.receive(|frame| {
            let bytes = frame.bytes;
            let is_ours = bytes.len() >= FRAME_BYTES && bytes[23] == 17 && bytes[36..38] == port;
            if let Some(number) = is_ours.then(|| number_of(&bytes[PAYLOAD_AT..])).flatten() {
                each(number);
                count += 1;
            }
        })?;
        if self.driver.is_transmit_pending() {
            self.driver.flush()?;
        }
        Ok(count)
    }

    #[inline]
    fn put(&mut self, number: u64) -> io::Result<()> {
        self.template[PAYLOAD_AT..PAYLOAD_AT + 8].copy_from_slice(&number.to_be_bytes());
        if self.driver.lend(FRAME_BYTES).is_none() {
            self.driver.flush()?;
        }
        // Without room it is lost, and that it is missing is noticed.
        if let Some(room) = self.driver.lend(FRAME_BYTES) {
            room[..FRAME_BYTES].copy_from_slice(&self.template);
            self.driver.commit(FRAME_BYTES, SentChecksum::Complete);
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.driver.flush()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.driver.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.driver.prepare_sleep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_checksum_is_that_of_a_known_header() {
        let header: [u8; 20] =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(header_checksum(&header), 0xb861);
    }
}
