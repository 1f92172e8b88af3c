//! Datagrams that a kernel joined.
//!
//! A sender may give its kernel a run of datagrams in one piece (UDP GSO), to be cut up by the network card. Between two hosts on one
//! machine there is no card: the run arrives whole, looking like one long datagram. What cuts it up is here. The header that the
//! kernel puts in front of a frame on packet sockets (`struct virtio_net_hdr`) tells such a run from a datagram.

/// Bytes of the kernel's header in front of a frame (linux/virtio_net.h): flags, kind of run, header length, segment length,
/// where a checksum begins and where it is written.
pub(super) const VIRTIO_HEADER_BYTES: usize = 10;

/// `VIRTIO_NET_HDR_GSO_NONE` and `VIRTIO_NET_HDR_GSO_UDP_L4`.
const NO_RUN: u8 = 0;
const RUN_OF_DATAGRAMS: u8 = 5;

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const UDP_BYTES: usize = 8;
/// Ethernet with a tag, IPv4 with all its options, UDP.
const MOST_HEADER_BYTES: usize = ETHERNET_BYTES + TAG_BYTES + 60 + UDP_BYTES;

/// The longest IP packet, in its frame.
const MOST_FRAME_BYTES: usize = 65_535 + ETHERNET_BYTES + TAG_BYTES;

/// What the kernel's header says of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// It is one frame.
    Whole,
    /// It is a run of datagrams with so many bytes each; the last may be shorter.
    Run(usize),
    /// It is a run of something that is not ours.
    Other,
}

impl Piece {
    pub(super) fn read(header: [u8; VIRTIO_HEADER_BYTES]) -> Self {
        let segment_bytes = usize::from(u16::from_ne_bytes([header[4], header[5]]));
        match header[1] {
            NO_RUN => Self::Whole,
            RUN_OF_DATAGRAMS if segment_bytes > 0 => Self::Run(segment_bytes),
            _ => Self::Other,
        }
    }
}

/// The kernel's header of a frame that is to be sent as it is. The first `linear_bytes` of it are copied rather than referred to, which
/// is faster where frames are short.
pub(super) fn header_of_a_frame(linear_bytes: u16) -> [u8; VIRTIO_HEADER_BYTES] {
    let [low, high] = linear_bytes.to_ne_bytes();
    [0, NO_RUN, low, high, 0, 0, 0, 0, 0, 0]
}

/// A run that is being handed over, datagram by datagram.
#[derive(Debug)]
pub(super) struct Run {
    /// Room in front of the frame for the kernel's header, then the frame.
    room: Box<[u8]>,
    headers: [u8; MOST_HEADER_BYTES],
    headers_bytes: usize,
    /// Where the IPv4 header begins.
    ip_at: usize,
    segment_bytes: usize,
    /// Where the rest begins and ends, in the frame.
    at: usize,
    end: usize,
}

impl Run {
    pub(super) fn new() -> Self {
        Self {
            // Untouched memory costs nothing.
            room: vec![0; VIRTIO_HEADER_BYTES + MOST_FRAME_BYTES].into_boxed_slice(),
            headers: [0; MOST_HEADER_BYTES],
            headers_bytes: 0,
            ip_at: 0,
            segment_bytes: 1,
            at: 0,
            end: 0,
        }
    }

    /// Whether all of it was handed over.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// Forgets what was not handed over.
    pub(super) fn clear(&mut self) {
        (self.at, self.end) = (0, 0);
    }

    /// Where the kernel may write its header and a frame.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    /// What the header at the beginning of the room says.
    pub(super) fn piece_in_room(&self) -> Piece {
        Piece::read(*self.room.first_chunk().expect("the room begins with the header"))
    }

    /// Takes a run over. `false`: it makes no sense.
    pub(super) fn fill(&mut self, frame: &[u8], segment_bytes: usize) -> bool {
        let fits = frame.len() <= MOST_FRAME_BYTES;
        if fits {
            self.room[VIRTIO_HEADER_BYTES..][..frame.len()].copy_from_slice(frame);
        }
        fits && self.begin(frame.len(), segment_bytes)
    }

    /// The same with a frame of so many bytes that is in the room already.
    pub(super) fn begin(&mut self, frame_bytes: usize, segment_bytes: usize) -> bool {
        self.begin_checked(frame_bytes, segment_bytes).is_some()
    }

    fn begin_checked(&mut self, frame_bytes: usize, segment_bytes: usize) -> Option<()> {
        self.clear();
        let frame = self.room.get(VIRTIO_HEADER_BYTES..VIRTIO_HEADER_BYTES + frame_bytes)?;
        let type_at = if frame.get(12..14)? == [0x81, 0x00] { 12 + TAG_BYTES } else { 12 };
        let ip_at = type_at + 2;
        let ip = frame.get(ip_at..)?;
        let is_udp = frame.get(type_at..ip_at)? == [0x08, 0x00] && *ip.get(9)? == 17;
        let ip_bytes = usize::from(ip.first()? & 0x0f) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let headers_bytes = ip_at + ip_bytes + UDP_BYTES;
        let end = ip_at + total_bytes;
        if !is_udp || ip_bytes < 20 || end > frame.len() || headers_bytes >= end || segment_bytes == 0 {
            return None;
        }
        self.headers[..headers_bytes].copy_from_slice(&frame[..headers_bytes]);
        (self.headers_bytes, self.ip_at, self.segment_bytes) = (headers_bytes, ip_at, segment_bytes);
        (self.at, self.end) = (headers_bytes, end);
        Some(())
    }

    /// The next datagram in a frame of its own. Its headers take the place of what came before it and is handed over already.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let bytes = self.segment_bytes.min(self.end - self.at);
        let start = VIRTIO_HEADER_BYTES + self.at - self.headers_bytes;
        let frame = &mut self.room[start..start + self.headers_bytes + bytes];
        self.at += bytes;
        frame[..self.headers_bytes].copy_from_slice(&self.headers[..self.headers_bytes]);
        let udp_at = self.headers_bytes - UDP_BYTES;
        let length = |from: usize| u16::try_from(self.headers_bytes - from + bytes).unwrap_or(u16::MAX);
        frame[self.ip_at + 2..self.ip_at + 4].copy_from_slice(&length(self.ip_at).to_be_bytes());
        frame[self.ip_at + 10..self.ip_at + 12].fill(0);
        let sum = internet_checksum(&frame[self.ip_at..udp_at]);
        frame[self.ip_at + 10..self.ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        frame[udp_at + 4..udp_at + 6].copy_from_slice(&length(udp_at).to_be_bytes());
        // None: the run never was on a cable, and its sum is that of the whole.
        frame[udp_at + 6..udp_at + 8].fill(0);
        Some(frame)
    }
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: bool, words: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        if tag {
            frame.extend([0x81, 0x00, 0, 7]);
        }
        frame.extend([0x08, 0x00, 0x40 | words, 0]);
        let total = u16::try_from(usize::from(words) * 4 + UDP_BYTES + payload).unwrap();
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, 17, 9, 9, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.resize(frame.len() + usize::from(words - 5) * 4, 1);
        frame.extend([0x46, 0x50, 0x46, 0x51]);
        frame.extend((total - u16::from(words) * 4).to_be_bytes());
        frame.extend([0xab, 0xcd]);
        frame.extend((0..payload).map(|at| u8::try_from(at % 251).unwrap()));
        frame
    }

    #[test]
    fn a_run_is_cut_into_the_datagrams_that_were_joined() {
        for (tag, words, payload, segment) in [
            (false, 5, 2_400, 1_200),
            (true, 5, 3_000, 1_472),
            (false, 15, 100, 7),
            (false, 5, 65_000, 1),
            (true, 5, 10, 10),
        ] {
            let whole = frame(tag, words, payload);
            let headers = whole.len() - payload;
            let mut run = Run::new();
            assert!(run.fill(&whole, segment));
            let mut seen = Vec::new();
            while let Some(one) = run.next() {
                let ip = &one[if tag { 18 } else { 14 }..];
                assert_eq!(internet_checksum(&ip[..usize::from(words) * 4]), 0, "the header's sum is right");
                assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
                let udp = &ip[usize::from(words) * 4..];
                assert_eq!(udp[..4], [0x46, 0x50, 0x46, 0x51]);
                assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
                assert_eq!(udp[6..8], [0, 0]);
                assert_eq!(one[..12], whole[..12]);
                assert!(one.len() - headers == segment || seen.len() + one.len() - headers == payload);
                seen.extend_from_slice(&one[headers..]);
            }
            assert!(seen == whole[headers..], "{payload} by {segment}");
            assert!(run.is_empty());
        }
    }

    #[test]
    fn what_is_no_run_of_datagrams_is_refused_wherever_it_is_cut() {
        let whole = frame(true, 5, 50);
        let mut run = Run::new();
        for cut in 0..whole.len() {
            assert!(!run.fill(&whole[..cut], 10) && run.is_empty(), "{cut}");
        }
        assert!(!run.fill(&frame(false, 5, 0), 10), "without a payload");
        let mut tcp = whole.clone();
        tcp[18 + 9] = 6;
        assert!(!run.fill(&tcp, 10));
        let mut short = whole;
        short[18] = 0x44;
        assert!(!run.fill(&short, 10));
        assert!(!run.fill(&vec![0; MOST_FRAME_BYTES + 1], 10));
    }

    #[test]
    fn the_kernels_header_tells_runs_from_frames() {
        let header = |kind: u8, bytes: u16| {
            let [low, high] = bytes.to_ne_bytes();
            [1, kind, 42, 0, low, high, 0, 0, 0, 0]
        };
        assert_eq!(Piece::read(header_of_a_frame(60)), Piece::Whole);
        assert_eq!(Piece::read(header(5, 1_200)), Piece::Run(1_200));
        for (kind, bytes) in [(5, 0), (1, 1_200), (3, 1_200), (4, 1_200), (0x85, 1_200)] {
            assert_eq!(Piece::read(header(kind, bytes)), Piece::Other);
        }
    }
}
