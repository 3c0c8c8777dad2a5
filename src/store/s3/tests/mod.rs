//! The room over a bucket in memory that fails, and over a server whose answers are written down here.

mod answers;
mod contract;
pub(crate) mod fake;
mod faults;
mod hedging;
mod probing;

/// What the contract needs, whoever runs it.
mod api {
    pub use crate::model::digest::Digest;
    pub use crate::model::place::Class;
    pub use crate::model::range::ByteRange;
    pub use crate::runtime::clock::Clock;
    pub use crate::store::s3::bucket::{Bucket, Got, Only, Put, Span, Stat, Tag, Upload};
    pub use crate::store::s3::error::S3Error;
    pub use crate::store::s3::names::probe_folder;
    pub use crate::store::s3::pack::{Packer, Pushed};
    pub use crate::store::s3::read::Wanted;
    pub use crate::store::s3::remote::{Blob, Remote};
    pub use crate::store::s3::settings::Settings;
}

#[tokio::test]
async fn the_bucket_in_memory_keeps_the_contract() {
    contract::all(std::sync::Arc::new(fake::Fake::default()), crate::runtime::clock::SystemClock::new()).await;
}
