//! The tiers, stacked: blobs by digest and place. Knows no keys, no HTTP and no index.
