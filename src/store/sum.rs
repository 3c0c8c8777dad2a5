//! The sum by which stored bytes are checked: XXH3 of 64 bits, without seed or secret. The widest instructions that the
//! machine has are found out when it runs: every byte served from disk passes through here.

use twox_hash::XxHash3_64;

/// XXH3 of `bytes`. It is part of the format on disk.
pub(super) fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
