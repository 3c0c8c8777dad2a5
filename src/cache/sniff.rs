//! A look at how a body begins, before any of it is stored: what does not look like what its path says is passed on and
//! kept nowhere, such as the page of a portal that asks for a login in the place of everything.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::model::lookup::{Expect, Sniff};
use crate::upstream::fetch::{Ends, Fetched, FetchedBody, UpstreamError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sniffed {
    AsExpected,
    Otherwise,
}

/// Looks at the beginning of an answer's body, where a form is expected. The body that comes back is whole.
///
/// *Errors*: upstream's, in the beginning of the body.
pub(super) async fn looked_at(expect: &Expect, fetched: Fetched) -> Result<(Fetched, Sniffed), UpstreamError> {
    let sniff = match expect {
        Expect::Sniff(sniff) if fetched.status.is_success() => sniff,
        Expect::Sniff(_)
        | Expect::Nothing
        | Expect::Sum(_)
        | Expect::Exactly { .. }
        | Expect::InDocument { .. }
        | Expect::Beside { .. } => {
            return Ok((fetched, Sniffed::AsExpected));
        }
    };
    let Fetched { mut body, .. } = fetched;
    let (mut chunks, mut beginning, mut ended) = (VecDeque::new(), Vec::new(), false);
    while beginning.len() < Sniff::BYTES && !ended {
        match body.chunk().await {
            Some(chunk) => {
                let chunk: Bytes = chunk?;
                beginning.extend_from_slice(&chunk[..chunk.len().min(Sniff::BYTES - beginning.len())]);
                chunks.push_back(Ok(chunk));
            }
            None => ended = true,
        }
    }
    let sniffed = if (sniff.is_sound)(&beginning) { Sniffed::AsExpected } else { Sniffed::Otherwise };
    let ends = body.ends();
    // What has ended is not asked again.
    let rest = (!ended).then_some(body);
    let rest = stream::unfold(rest, |body| async move {
        let mut body = body?;
        Some((body.chunk().await?, Some(body)))
    });
    let all = stream::iter(chunks).chain(rest).fuse();
    let body = match ends {
        Ends::Marked => FetchedBody::new(all),
        Ends::OnClose => FetchedBody::until_close(all),
    };
    Ok((Fetched { body, ..fetched }, sniffed))
}
