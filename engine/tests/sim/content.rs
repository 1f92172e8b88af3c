//! Message bytes that can be made again from a key, so that nothing has to be stored to be compared.

use crate::dice::mix;

/// The key of message `number` that side `side` of connection `connection` sends in the run of `seed`.
pub(crate) const fn key(seed: u64, connection: usize, side: usize, number: u32) -> u64 {
    mix(mix(seed ^ ((connection as u64) << 1 | side as u64)).wrapping_add(number as u64))
}

const fn word(key: u64, index: u64) -> [u8; 8] {
    let value = (key ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (value ^ (value >> 29)).to_le_bytes()
}

/// Writes the bytes of the message from `offset` on.
pub(crate) fn fill(key: u64, offset: usize, out: &mut [u8]) {
    let mut index = (offset / 8) as u64;
    let skip = offset % 8;
    let head = if skip == 0 { 0 } else { (8 - skip).min(out.len()) };
    if head > 0 {
        out[..head].copy_from_slice(&word(key, index)[skip..skip + head]);
        index += 1;
    }
    let mut chunks = out[head..].chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word(key, index));
        index += 1;
    }
    let tail = chunks.into_remainder();
    let len = tail.len();
    tail.copy_from_slice(&word(key, index)[..len]);
}

/// Whether `bytes` are the message from its start.
pub(crate) fn matches(key: u64, bytes: &[u8]) -> bool {
    let mut expected = [0; 1024];
    bytes.chunks(expected.len()).enumerate().all(|(index, chunk)| {
        let expected = &mut expected[..chunk.len()];
        fill(key, index * 1024, expected);
        expected == chunk
    })
}

/// The Internet checksum (RFC 1071) as UDP uses it over its payload.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}
