//! The sum by which stored bytes are checked: XXH3 of 64 bits, without seed or secret. The widest instructions that the
//! machine has are found out when it runs: every byte served from disk passes through here.

use std::hash::Hasher;

use bytes::Bytes;
use twox_hash::XxHash3_64;

/// XXH3 of `bytes`. It is part of the format on disk.
pub(super) fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// XXH3 of each `size` bytes of what the parts make together; the last may be shorter.
pub(super) fn xxh3_64_of_each(parts: &[Bytes], size: usize) -> Vec<u64> {
    let (mut sums, mut open, mut missing) = (Vec::new(), None, size);
    for mut part in parts.iter().cloned() {
        while !part.is_empty() {
            let some = part.split_to(part.len().min(missing));
            missing -= some.len();
            if open.is_none() && missing == 0 {
                sums.push(xxh3_64(&some));
                missing = size;
                continue;
            }
            let state = open.get_or_insert_with(XxHash3_64::new);
            state.write(&some);
            if missing == 0 {
                sums.extend(open.take().map(|state| state.finish()));
                missing = size;
            }
        }
    }
    sums.extend(open.map(|state| state.finish()));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_no_difference() {
        let bytes: Bytes = (0..=255).cycle().take(10_000).collect();
        let whole: Vec<u64> = bytes.chunks(3000).map(xxh3_64).collect();
        for step in [1, 7, 1000, 2999, 3000, 3001, 6000, 10_000] {
            let parts: Vec<Bytes> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
            assert_eq!(xxh3_64_of_each(&parts, 3000), whole, "{step}");
        }
        assert!(xxh3_64_of_each(&[], 3000).is_empty());
    }

    /// *Source*: `xxhsum -H3` of the reference implementation.
    #[test]
    fn it_is_what_the_reference_computes() {
        let bytes: Vec<u8> = (0..=255).cycle().take(256 * 1024).collect();
        let known = [
            (0, 0x2d06_8005_38d3_94c2),
            (3, 0x5f42_99fc_161c_9cbb),
            (16, 0x8355_e3a6_f617_70db),
            (100, 0x004e_4f92_1a64_bd1c),
            (240, 0x375a_384d_957f_e865),
            (256 * 1024, 0xf34c_c5c9_153c_3287),
        ];
        for (len, sum) in known {
            assert_eq!(xxh3_64(&bytes[..len]), sum, "{len}");
        }
    }
}
